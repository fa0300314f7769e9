import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from raw_safetensors import read, read_folder

from sllm_store import convert, open_checkpoint, save_model, save_tensors
from sllm_store.checking import verify_checkpoint
from sllm_store.errors import ConflictError, InvalidArgumentError, UnsupportedError

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402


def same(found: Any, expected: Any) -> bool:
    return found.dtype == expected.dtype and torch.equal(found, expected)


def test_tensors_of_every_torch_dtype_are_what_safetensors_reads(tmp_path: Path) -> None:
    floats = ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz"]
    others = ["bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "complex64"]
    tensors = {name: torch.arange(24).view(2, 3, 4).to(getattr(torch, name)) for name in [*floats, *others]}
    tensors |= {f"{name} permuted": tensor.permute(2, 0, 1) for name, tensor in tensors.items()}
    report = save_tensors(tensors, tmp_path / "dst")
    found = load_file(tmp_path / "dst" / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name].view(torch.uint8), tensors[name].contiguous().view(torch.uint8)) for name in found
    )
    assert (report.source, report.tensors, report.tied) == ("tensors", len(tensors), 0)


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no fp4")
def test_packed_fp4_is_written_with_its_elements_counted(tmp_path: Path) -> None:
    packed = torch.arange(12, dtype=torch.uint8).view(3, 4).view(torch.float4_e2m1fn_x2)
    save_tensors({"a": packed}, tmp_path / "dst")
    (tensor,) = read_folder(tmp_path / "dst").values()
    assert (tensor.dtype, tensor.shape, tensor.data) == ("F4", [3, 8], bytes(range(12)))


def test_large_tensors_with_any_strides_are_written_contiguous(tmp_path: Path) -> None:
    base = torch.arange(13 << 20, dtype=torch.int32)
    cube = base[: 12 << 20].view(3, 1 << 11, 1 << 11)
    tensors = {"t": base.view(13, -1).t(), "cube": cube.permute(2, 0, 1), "steps": base[::2], "wide": cube[:, ::3, :]}
    tensors["huge row"] = base[: 10 << 20].view(-1, 2).t()
    save_tensors(tensors, tmp_path / "dst")
    found = load_file(tmp_path / "dst" / "model.safetensors")
    assert all(same(found[name], tensor) for name, tensor in tensors.items())
    assert verify_checkpoint(tmp_path / "dst").bad == ()


def test_only_identical_views_are_tied_and_the_first_is_stored(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    tensors = {"base": base, "again": base.view(12), "shaped": base.view(3, 4), "part": base[:6], "later": base[6:]}
    tensors |= {"bits": base.view(torch.int32), "equal": base.clone(), "empty": base[:0], "empty too": base[:0]}
    report = save_tensors(tensors, tmp_path / "dst")
    assert open_checkpoint(tmp_path / "dst").tied == {"again": "base"}
    assert read_folder(tmp_path / "dst").keys() == tensors.keys() - {"again"}
    assert report.tied == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "BF16", "bf16", torch.bfloat16])
def test_a_cast_changes_floating_tensors_only_and_as_torch_does(tmp_path: Path, dtype: Any) -> None:
    tensors = {
        name: torch.randn(1000, 3).to(getattr(torch, name)) for name in ("float64", "float32", "float16", "bfloat16")
    }
    kept = {"ids": torch.arange(5), "mask": torch.ones(3).bool(), "fp8": torch.randn(4).to(torch.float8_e5m2)}
    kept["complex"] = torch.randn(2, dtype=torch.complex64)
    special = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-45, 3.4e38, 1.00390625])
    save_tensors({**tensors, **kept, "special": special}, tmp_path / "dst", dtype=dtype)
    found = load_file(tmp_path / "dst" / "model.safetensors")
    assert all(same(found[name], tensor.bfloat16()) for name, tensor in tensors.items())
    assert torch.equal(found["special"].view(torch.int16), special.bfloat16().view(torch.int16))
    assert all(torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)) for name, tensor in kept.items())


def test_a_cast_that_widens_stays_within_slices(tmp_path: Path) -> None:
    tensor = torch.randn(9 << 20).half()
    save_tensors({"a": tensor}, tmp_path / "dst", dtype="float64")
    assert same(load_file(tmp_path / "dst" / "model.safetensors")["a"], tensor.double())


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    for dtype in ("int8", "float8_e5m2", "half"):
        with pytest.raises(InvalidArgumentError, match=f"cannot cast to {dtype}; hint: one of F64, F32, F16, BF16"):
            save_tensors({}, tmp_path / "dst", dtype=dtype)
    with pytest.raises(InvalidArgumentError, match="tensor a is on the meta device"):
        save_tensors({"a": torch.ones(2, device="meta")}, tmp_path / "dst")
    with pytest.raises(UnsupportedError, match=r"tensor a has dtype torch\.complex128"):
        save_tensors({"a": torch.ones(2, dtype=torch.complex128)}, tmp_path / "dst")
    with pytest.raises(InvalidArgumentError, match="'a' is a int, not a tensor"):
        save_tensors({"a": 1}, tmp_path / "dst")  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_no_tensors_at_all_are_a_checkpoint_too(tmp_path: Path) -> None:
    save_tensors({}, tmp_path / "dst")
    assert load_file(tmp_path / "dst" / "model.safetensors") == {}
    assert read(tmp_path / "dst" / "model.safetensors")[1] == {"format": "pt"}
    with pytest.raises(ConflictError):
        save_tensors({}, tmp_path / "dst")
    save_tensors({}, tmp_path / "dst", overwrite=True)


def test_a_plain_module_is_its_state_dict(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module.register_buffer("passing", torch.ones(1), persistent=False)
    report = save_model(module, tmp_path / "dst")
    found = load_file(tmp_path / "dst" / "model.safetensors")
    assert found.keys() == module.state_dict().keys()
    assert all(same(found[name], tensor) for name, tensor in module.state_dict().items())
    assert (report.source, report.companions) == ("module", ())


# Reads with transformers alone, in a process of its own.
LOGITS = """
import sys
import torch, transformers
model, loading = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(loading.values()), loading
torch.save((str(model.dtype), type(model).__name__, model(torch.arange(6)[None]).logits), sys.argv[2])
"""


def logits(folder: Path, out: Path) -> Any:
    ran = subprocess.run(
        [sys.executable, "-c", LOGITS, str(folder), str(out)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return torch.load(out)


def tiny(name: str, **options: object) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
    config = transformers.AutoConfig.for_model(name, **{**sizes, "max_position_embeddings": 32, **options})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


MODELS: dict[str, dict[str, object]] = {
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "llama": {"intermediate_size": 32, "tie_word_embeddings": False},
    "qwen2": {"intermediate_size": 32, "num_key_value_heads": 2, "tie_word_embeddings": True},
}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_opens_a_saved_model_as_it_is(tmp_path: Path, name: str) -> None:
    model = tiny(name, **MODELS[name])
    architectures = model.config.architectures
    report = save_model(model, tmp_path / "dst", partition_size=4000)
    assert report.partitions > 1
    assert report.tied == (name != "llama")
    assert {"config.json", "generation_config.json"} <= set(report.companions)
    dtype, found, values = logits(tmp_path / "dst", tmp_path / "logits.pt")
    assert (dtype, found) == ("torch.float32", type(model).__name__)
    assert torch.equal(values, model(torch.arange(6)[None]).logits)
    assert model.config.architectures == architectures


def test_the_name_that_transformers_keeps_is_the_stored_one(tmp_path: Path) -> None:
    model = tiny("opt", **MODELS["opt"])
    save_model(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    assert read_folder(tmp_path / "ours").keys() == read_folder(tmp_path / "theirs").keys()


def test_a_cast_model_says_so_in_its_config(tmp_path: Path) -> None:
    model = tiny("llama", **MODELS["llama"])
    save_model(model, tmp_path / "dst", dtype="bfloat16")
    assert json.loads((tmp_path / "dst" / "config.json").read_text())["dtype"] == "bfloat16"
    dtype, _, values = logits(tmp_path / "dst", tmp_path / "logits.pt")
    assert dtype == "torch.bfloat16"
    assert torch.equal(values, model.bfloat16()(torch.arange(6)[None]).logits)


@pytest.mark.parametrize("name", ["opt", "llama"])
def test_transformers_opens_a_converted_pickle_as_it_is(tmp_path: Path, name: str) -> None:
    model = tiny(name, **MODELS[name])
    model.config.save_pretrained(tmp_path / "src")
    torch.save(model.state_dict(), tmp_path / "src" / "pytorch_model.bin")
    convert(tmp_path / "src", tmp_path / "dst")
    _, _, values = logits(tmp_path / "dst", tmp_path / "logits.pt")
    assert torch.equal(values, model(torch.arange(6)[None]).logits)
