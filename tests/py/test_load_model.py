"""`load_model` gives the model that `from_pretrained` gives, bit for bit, and cleans up after itself."""

import json
import subprocess
import sys
import threading

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

import sllm_store
from sllm_store import load_model
from sllm_store.errors import CorruptCheckpointError, InvalidArgumentError, UnsupportedError

SMALL = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
}

# Parameters, buffers (the non-persistent ones too) and what they are tied to.
DIGESTS = """
import hashlib, json, sys, torch
def digests(model):
    found, places = {}, {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        data = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        tie = places.setdefault(tensor.data_ptr(), name)
        digest = hashlib.sha256(data).hexdigest()
        found[name] = [str(tensor.dtype), list(tensor.shape), digest, tie, tensor.requires_grad]
    generation = model.generation_config.to_dict() if model.can_generate() else None
    return {"tensors": found, "training": model.training, "class": type(model).__name__, "generation": generation}
"""
ORACLE = (
    DIGESTS
    + """
import transformers
transformers.utils.logging.disable_progress_bar()
cls = getattr(transformers, sys.argv[2])
options = {"dtype": getattr(torch, sys.argv[3])} if len(sys.argv) > 3 else {}
print(json.dumps(digests(cls.from_pretrained(sys.argv[1], **options))))
"""
)
namespace: dict = {}
exec(DIGESTS, namespace)
digests = namespace["digests"]


def oracle(folder, cls, *dtype):
    """What from_pretrained makes of the folder, in another process."""
    command = [sys.executable, "-c", ORACLE, str(folder), cls, *dtype]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def make_llama(folder, *, tied, dtype=torch.bfloat16):
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied)).to(dtype)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, eos_token_id=3)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_equals_from_pretrained_of_the_unconverted_folder(tmp_path, tied):
    make_llama(tmp_path / "hf", tied=tied)
    sllm_store.convert(tmp_path / "hf", tmp_path / "it")
    expected = oracle(tmp_path / "hf", "LlamaForCausalLM")
    for folder in ("it", "hf"):
        assert digests(load_model(tmp_path / folder)) == expected
    assert expected["tensors"]["lm_head.weight"][3] == ("model.embed_tokens.weight" if tied else "lm_head.weight")


def test_the_oracle_sees_one_changed_weight(tmp_path):
    model = make_llama(tmp_path / "hf", tied=True)
    expected = oracle(tmp_path / "hf", "LlamaForCausalLM")
    with torch.no_grad():
        model.model.norm.weight[5] += 1
    model.save_pretrained(tmp_path / "hf")
    assert oracle(tmp_path / "hf", "LlamaForCausalLM") != expected


def test_a_mixture_of_experts_is_merged_as_transformers_does(tmp_path):
    torch.manual_seed(2)
    MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4)).to(torch.bfloat16).save_pretrained(tmp_path / "hf")
    sllm_store.convert(tmp_path / "hf", tmp_path / "it")
    assert digests(load_model(tmp_path / "it")) == oracle(tmp_path / "hf", "MixtralForCausalLM")


def test_pickled_weights_with_shared_storage_load_as_from_pretrained_loads_them(tmp_path):
    model = make_llama(tmp_path / "hf", tied=True)
    torch.save(model.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
    (tmp_path / "hf" / "model.safetensors").unlink()
    sllm_store.convert(tmp_path / "hf", tmp_path / "it")
    assert digests(load_model(tmp_path / "it")) == oracle(tmp_path / "hf", "LlamaForCausalLM")


def test_dtype_casts_as_from_pretrained_does(tmp_path):
    make_llama(tmp_path / "hf", tied=True)
    sllm_store.convert(tmp_path / "hf", tmp_path / "it")
    assert digests(load_model(tmp_path / "it", dtype=torch.float32)) == oracle(
        tmp_path / "hf", "LlamaForCausalLM", "float32"
    )


def test_save_model_round_trips(tmp_path):
    model = make_llama(tmp_path / "hf", tied=True)
    sllm_store.save_model(model, tmp_path / "it")
    expected = oracle(tmp_path / "hf", "LlamaForCausalLM")
    assert digests(load_model(tmp_path / "it")) == expected
    assert oracle(tmp_path / "it", "LlamaForCausalLM") == expected


def test_generates_the_same_tokens(tmp_path):
    model = make_llama(tmp_path / "hf", tied=True, dtype=torch.float32).eval()
    sllm_store.convert(tmp_path / "hf", tmp_path / "it")
    prompt = torch.tensor([[1, 17, 99]])
    expected = model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert torch.equal(load_model(tmp_path / "it").generate(prompt, max_new_tokens=12, do_sample=False), expected)


def test_the_report_covers_the_whole_call(tmp_path):
    make_llama(tmp_path / "hf", tied=True)
    sllm_store.convert(tmp_path / "hf", tmp_path / "it")
    reports = []
    model = load_model(tmp_path / "it", on_report=reports.append)
    assert reports[0].verified
    assert reports[0].total_s > reports[0].load_s > 0
    assert reports[0].skeleton_s > 0
    assert model.name_or_path == str(tmp_path / "it")


def test_weights_are_used_where_they_were_read_to(tmp_path):
    make_llama(tmp_path / "hf", tied=True)
    sllm_store.convert(tmp_path / "hf", tmp_path / "it")
    places = sorted(p.data_ptr() for p in load_model(tmp_path / "it").parameters())
    assert places[-1] - places[0] < 2 * (tmp_path / "it" / "model.safetensors").stat().st_size


def test_a_failed_load_leaves_no_thread(tmp_path):
    make_llama(tmp_path / "hf", tied=True)
    sllm_store.convert(tmp_path / "hf", tmp_path / "it")
    path = tmp_path / "it" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors is damaged"):
        load_model(tmp_path / "it")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sllm")]


def test_a_failure_of_transformers_ends_the_load(tmp_path):
    make_llama(tmp_path / "hf", tied=True)
    with pytest.raises((TypeError, ValueError)):
        load_model(tmp_path / "hf", attn_implementation="no such attention")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sllm")]


def test_says_what_a_folder_lacks(tmp_path):
    sllm_store.save_tensors({"a": torch.ones(2)}, tmp_path / "it")
    with pytest.raises(InvalidArgumentError, match="has no config"):
        load_model(tmp_path / "it")
    (tmp_path / "it" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InvalidArgumentError, match="names no architecture"):
        load_model(tmp_path / "it")
    (tmp_path / "it" / "config.json").write_text('{"model_type": "llama", "architectures": ["NoSuchModel"]}')
    with pytest.raises(UnsupportedError, match="has no NoSuchModel"):
        load_model(tmp_path / "it")
    with pytest.raises(UnsupportedError, match="device cuda"):
        load_model(tmp_path / "it", device_map="cuda")


def test_python_files_of_the_folder_run_only_when_trusted(tmp_path):
    make_llama(tmp_path / "hf", tied=True)
    code = "from transformers import LlamaForCausalLM\nclass MyLlama(LlamaForCausalLM):\n    marker = 7\n"
    (tmp_path / "hf" / "mine.py").write_text(code)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config |= {"architectures": ["MyLlama"], "auto_map": {"AutoModelForCausalLM": "mine.MyLlama"}}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    sllm_store.convert(tmp_path / "hf", tmp_path / "it", include_code=True)
    with pytest.raises(UnsupportedError, match="has no MyLlama"):
        load_model(tmp_path / "it")
    assert load_model(tmp_path / "it", trust_remote_code=True).marker == 7


def test_save_model_uses_the_names_that_checkpoints_have(tmp_path):
    from safetensors import safe_open

    torch.manual_seed(2)
    model = MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "hf")
    sllm_store.save_model(model, tmp_path / "it")
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as theirs:
        assert set(sllm_store.open_checkpoint(tmp_path / "it").tensors) == set(theirs.keys())
    assert digests(load_model(tmp_path / "it")) == oracle(tmp_path / "hf", "MixtralForCausalLM")


def test_a_model_through_a_store_is_the_same(tmp_path, monkeypatch):
    from store_process import running_store

    make_llama(tmp_path / "plain", tied=True)
    sllm_store.convert(tmp_path / "plain", tmp_path / "it")
    alone = digests(load_model(tmp_path / "it", store=None))
    reports = []
    with running_store(tmp_path / "s") as running:
        monkeypatch.setenv("SLLM_STORE", str(running.path))
        through = digests(load_model(tmp_path / "it", on_report=reports.append))
    assert through == alone
    assert reports[0].store == "mapped"
