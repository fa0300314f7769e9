"""A GGUF becomes, tensor for tensor, what transformers makes of it, in slices and in little memory."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tiny_gguf  # noqa: E402
from safetensors import safe_open  # noqa: E402

from sllm_store.errors import (  # noqa: E402
    CheckpointNotFoundError,
    CorruptCheckpointError,
    InvalidArgumentError,
    UnsupportedError,
)
from sllm_store.sources import gguf_values  # noqa: E402
from sllm_store.sources.base import SLICE_BYTES, Source  # noqa: E402
from sllm_store.sources.gguf import open_gguf  # noqa: E402

HERE = Path(__file__).parent
KINDS = gguf.GGMLQuantizationType
REAL = os.environ.get("SLLM_TEST_GGUF")
# name: architecture, type of its matrices, whether its head is tied, dtype to load it in
TINY = {
    "llama": ("llama", KINDS.Q8_0, False, "default"),
    "llama-half": ("llama", KINDS.BF16, True, "bfloat16"),
    "gemma3": ("gemma3", KINDS.Q4_1, True, "default"),
    "qwen3moe": ("qwen3moe", KINDS.Q5_0, False, "default"),
    "lfm2": ("lfm2", KINDS.F16, True, "float16"),
    "qwen35": ("qwen35", KINDS.Q8_0, False, "default"),
    "gpt2": ("gpt2", KINDS.F32, True, "default"),
}
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1"}


def consult_oracle(*files: tuple[Path, str]) -> None:
    arguments = [text for path, dtype in files for text in (str(path), dtype)]
    subprocess.run([sys.executable, HERE / "gguf_oracle.py", *arguments], check=True, env=OFFLINE, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each tiny model in a GGUF, and what transformers makes of it beside it."""
    folder = tmp_path_factory.mktemp("gguf")
    paths = {name: folder / f"{name}.gguf" for name in TINY}
    for name, (architecture, kind, tied, _) in TINY.items():
        tiny_gguf.write(paths[name], architecture, kind, tied=tied)
    consult_oracle(*((paths[name], TINY[name][3]) for name in TINY))
    return folder


def read_all(source: Source) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """All tensors, tied ones too, with their slices joined."""
    read = {}
    for tensor in source.tensors:
        slices = [bytes(part) for part in tensor.slices()]
        assert max(map(len, slices)) <= SLICE_BYTES
        assert sum(map(len, slices)) == tensor.nbytes
        read[tensor.name] = (tensor.dtype, tensor.shape, b"".join(slices))
    return read | {name: read[stored] for name, stored in source.tied.items()}


def read_oracle(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    with safe_open(path.with_suffix(".safetensors"), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {
        name: (names[tensor.dtype], tuple(tensor.shape), tensor.view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("slice_bytes", [SLICE_BYTES, 1024])
@pytest.mark.parametrize("name", TINY)
def test_every_tensor_has_the_bytes_that_transformers_loads(
    folder: Path, name: str, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_values, "SLICE_BYTES", slice_bytes)
    path = folder / f"{name}.gguf"
    source = open_gguf(path)
    assert read_all(source) == read_oracle(path)
    assert source.tied == ({"lm_head.weight": source.tensors[0].name} if TINY[name][2] else {})


@pytest.mark.skipif(REAL is None, reason="SLLM_TEST_GGUF names no real GGUF file")
def test_a_real_file_has_the_bytes_that_transformers_loads(tmp_path: Path) -> None:
    path = tmp_path / "real.gguf"
    path.symlink_to(Path(str(REAL)).resolve())
    consult_oracle((path, "default"))
    source = open_gguf(path)
    assert read_all(source) == read_oracle(path)
    assert source.write_companions is not None
    source.write_companions(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "real.tokenizer/tokenizer.json").read_bytes()


@pytest.mark.parametrize("name", ["llama", "llama-half", "gemma3", "qwen3moe", "lfm2"])
def test_companions_are_those_of_transformers(folder: Path, name: str, tmp_path: Path) -> None:
    path = folder / f"{name}.gguf"
    source = open_gguf(path)
    assert source.write_companions is not None
    source.write_companions(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    assert config["architectures"] == [type(model).__name__]
    assert config["dtype"] == {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[source.tensors[0].dtype]
    assert config["tie_word_embeddings"] == TINY[name][2]
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 2
    for file in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / file).read_bytes() == (path.with_suffix(".tokenizer") / file).read_bytes()


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_saved_tokenizer_starts_as_the_file_says(name: str, adds_bos: bool, tmp_path: Path) -> None:
    source = open_gguf(tiny_gguf.write(tmp_path / "a.gguf", name, KINDS.F32, adds_bos=adds_bos))
    (tmp_path / "out").mkdir()
    assert source.write_companions is not None
    source.write_companions(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("A").input_ids
    assert (ids[0] == 1) == adds_bos


def test_the_stretched_wavelengths_of_llama_3_come_back(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=16, rope_parameters=rope)
    stretched, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    factors = (10000.0 ** -(torch.arange(8) / 8)) / stretched
    source = open_gguf(write_with_rope(tmp_path / "a.gguf", factors))
    assert source.write_companions is not None
    source.write_companions(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["rope_parameters"] == rope


def test_wavelengths_that_follow_no_rule_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="rope_freqs"):
        open_gguf(write_with_rope(tmp_path / "a.gguf", torch.linspace(1, 9, 8)))


def write_with_rope(path: Path, factors: object) -> Path:
    writer = tiny_gguf.begin(path, "llama")
    for name, shape in tiny_gguf.shapes_of("llama", False):
        writer.add_tensor(name, torch.zeros(shape).numpy())
    writer.add_tensor("rope_freqs.weight", factors.float().numpy())  # type: ignore[attr-defined]
    tiny_gguf.finish(writer)
    return path


MEASURE = """
import resource, sys
from pathlib import Path
from sllm_store.sources.gguf import open_gguf
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
written = sum(len(part) for tensor in open_gguf(Path(sys.argv[1])).tensors for part in tensor.slices())
print(written, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


def test_a_tensor_larger_than_the_bound_is_read_within_it(tmp_path: Path) -> None:
    path = tiny_gguf.write_sparse(tmp_path / "a.gguf", (2 << 30) // (4 * tiny_gguf.HIDDEN))
    command = [sys.executable, "-c", MEASURE, str(path)]
    output = subprocess.run(command, check=True, env=OFFLINE, capture_output=True, text=True).stdout
    written, peak = map(int, output.split())
    assert written > 2 << 30
    assert peak < 1 << 30


def test_a_large_tensor_that_cannot_be_sliced_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_values, "SLICE_BYTES", 1024)
    monkeypatch.setattr(gguf_values, "WHOLE_BYTES", 1024)
    with pytest.raises(UnsupportedError, match=r"attn_qkv\.weight"):
        open_gguf(folder / "gpt2.gguf")


def test_one_changed_byte_changes_one_tensor(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "llama.gguf").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a.gguf").write_bytes(content)
    found, expected = read_all(open_gguf(tmp_path)), read_oracle(folder / "llama.gguf")
    assert len([name for name in found if found[name] != expected[name]]) == 1


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    writer = tiny_gguf.begin(tmp_path / "a.gguf", "eagle9")
    tiny_gguf.finish(writer)
    with pytest.raises(UnsupportedError, match="architecture eagle9"):
        open_gguf(tmp_path)


@pytest.mark.parametrize(
    ("extra", "left_out", "message"),
    [
        ("blk.0.attn_q.bias", "", r"attn_q\.bias"),
        ("", "blk.1.ffn_up.weight", r"no tensor for model\.layers\.1\.mlp\.up_proj\.weight"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_named(tmp_path: Path, extra: str, left_out: str, message: str) -> None:
    writer = tiny_gguf.begin(tmp_path / "a.gguf", "llama")
    for name, shape in tiny_gguf.shapes_of("llama", False):
        if name != left_out:
            writer.add_tensor(name, torch.zeros(shape).numpy())
    if extra:
        writer.add_tensor(extra, torch.zeros(64).numpy())
    tiny_gguf.finish(writer)
    with pytest.raises(UnsupportedError, match=message):
        open_gguf(tmp_path)


def test_a_file_cut_anywhere_is_corrupt(folder: Path, tmp_path: Path) -> None:
    content = (folder / "llama.gguf").read_bytes()
    path = tmp_path / "a.gguf"
    for size in [*range(0, 6000, 61), *range(6000, len(content), 9001), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(CorruptCheckpointError, match=str(path)):
            open_gguf(path)


def test_what_is_no_gguf_of_ours_is_refused(folder: Path, tmp_path: Path) -> None:
    content = (folder / "llama.gguf").read_bytes()
    path = tmp_path / "a.gguf"
    path.write_bytes(b"PK" + content[2:])
    with pytest.raises(CorruptCheckpointError, match="does not start with GGUF"):
        open_gguf(path)
    path.write_bytes(content[:4] + struct.pack(">I", 3) + content[8:])
    with pytest.raises(UnsupportedError, match="other order"):
        open_gguf(path)


def test_one_part_of_several_says_how_to_join_them(tmp_path: Path) -> None:
    writer = tiny_gguf.begin(tmp_path / "a.gguf", "llama")
    writer.add_uint16("split.count", 3)
    tiny_gguf.finish(writer)
    with pytest.raises(UnsupportedError, match="llama-gguf-split --merge"):
        open_gguf(tmp_path)


def test_a_folder_has_to_hold_exactly_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError):
        open_gguf(tmp_path / "absent.gguf")
    with pytest.raises(CheckpointNotFoundError):
        open_gguf(tmp_path)
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(InvalidArgumentError, match=r"2 \.gguf files"):
        open_gguf(tmp_path)


def test_a_missing_package_is_named_with_what_installs_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UnsupportedError, match=r"without gguf; hint: pip install 'sllm\[gguf\]'"):
        open_gguf(folder / "llama.gguf")


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_converted_file_loads_as_transformers_would_load_the_original(
    folder: Path, dtype: str | None, tmp_path: Path
) -> None:
    import sllm_store

    report = sllm_store.convert(folder / "gemma3.gguf", tmp_path / "out", dtype=dtype)
    model = sllm_store.load_model(tmp_path / "out")
    with safe_open(folder / "gemma3.safetensors", "pt") as file:
        expected = {name: file.get_tensor(name).to(model.dtype) for name in file.keys()}  # noqa: SIM118
    state = model.state_dict()
    assert report.tied == 1
    assert model.dtype == (torch.bfloat16 if dtype else torch.float32)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert model.lm_head.weight is model.model.embed_tokens.weight
