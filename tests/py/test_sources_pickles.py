import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from raw_safetensors import read_folder

from sllm_store import convert, open_checkpoint
from sllm_store.checking import verify_checkpoint
from sllm_store.errors import CheckpointNotFoundError, CorruptCheckpointError, InvalidArgumentError, UnsupportedError

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

MIB = 1 << 20


def loaded(folder: Path) -> dict[str, Any]:
    """All tensors as safetensors itself reads them, tied names included."""
    stored = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    return stored | {name: stored[of] for name, of in open_checkpoint(folder).tied.items()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name].view(-1).view(torch.uint8), tensor.contiguous().view(-1).view(torch.uint8)), name


def state() -> dict[str, Any]:
    torch.manual_seed(0)
    weight = torch.randn(50, 70)
    return {
        "embed": weight,
        "half": torch.randn(33, 5).half(),
        "bf16": torch.randn(129).bfloat16(),
        "fp8": torch.randn(8, 8).to(torch.float8_e4m3fn),
        "mask": torch.tensor([True, False, True]),
        "complex": torch.randn(3, 3, dtype=torch.complex64),
        "steps": torch.tensor(7),
        "nothing": torch.empty(0, 4),
        "transposed": torch.randn(40, 30).t(),
        "strided": torch.arange(100)[::3],
        "expanded": torch.tensor([1.5]).expand(6),
        "row": weight[3],
        "flipped": weight.t(),
        "head": weight,
        "imag": torch.randn(4, dtype=torch.complex64).conj().imag,
    }


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.pth"])
def test_a_file_of_either_format_becomes_what_torch_reads_from_it(tmp_path: Path, name: str, *, is_zip: bool) -> None:
    tensors = state()
    if not is_zip:
        del tensors["fp8"]  # torch writes these, and cannot read them again
    torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=is_zip)
    warnings: list[str] = []
    report = convert(tmp_path / name, tmp_path / "dst", on_warning=warnings.append)
    assert_same(loaded(tmp_path / "dst"), torch.load(tmp_path / name, weights_only=True))
    assert verify_checkpoint(tmp_path / "dst").bad == ()
    assert open_checkpoint(tmp_path / "dst").tied == {"head": "embed"}
    assert (report.source, report.tied) == ("pickle", 1)
    assert warnings == ([] if is_zip else [
        f"{tmp_path / name} is in a format of torch that cannot be mapped: it needs its size in memory"
    ])  # fmt: skip


def test_torch_is_warned_of_legacy_files_by_default(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match="cannot be mapped"):
        convert(tmp_path / "a.bin", tmp_path / "dst")


@pytest.mark.parametrize("member", ["state_dict", "model"])
def test_a_state_dict_inside_a_training_state_is_found(tmp_path: Path, member: str) -> None:
    torch.save({"epoch": 3, member: {"a": torch.ones(2)}, "optimizer": {"lr": 1}}, tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "dst")
    assert_same(loaded(tmp_path / "dst"), {"a": torch.ones(2)})


def make_folder(folder: Path, tie_word_embeddings: object) -> dict[str, Any]:
    folder.mkdir()
    tensors = state()
    tied = {name: tensors.pop(name) for name in ("embed", "row", "head", "flipped")}
    files = {"pytorch_model-00001-of-00002.bin": tied, "pytorch_model-00002-of-00002.bin": tensors}
    for name, part in files.items():
        torch.save(part, folder / name)
    weight_map = {tensor: name for name, part in files.items() for tensor in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    torch.save({}, folder / "training_args.bin")
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tie_word_embeddings}))
    return {**tied, **tensors}


def test_a_folder_with_an_index_is_read_whole_in_model_order(tmp_path: Path) -> None:
    expected = make_folder(tmp_path / "src", tie_word_embeddings=True)
    report = convert(tmp_path / "src", tmp_path / "dst", partition_size=4000)
    assert_same(loaded(tmp_path / "dst"), expected)
    assert report.companions == ("config.json",)
    assert report.left_out == ("training_args.bin",)
    assert open_checkpoint(tmp_path / "dst").tied == {"head": "embed"}


def test_a_config_that_says_untied_has_both_stored(tmp_path: Path) -> None:
    expected = make_folder(tmp_path / "src", tie_word_embeddings=False)
    report = convert(tmp_path / "src", tmp_path / "dst")
    assert report.tied == 0
    assert read_folder(tmp_path / "dst").keys() == expected.keys()
    assert_same(loaded(tmp_path / "dst"), expected)


def test_safetensors_are_preferred_and_two_nameless_pickles_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x.bin")
    torch.save({"a": torch.ones(1)}, tmp_path / "y.pt")
    with pytest.raises(InvalidArgumentError, match="has 2 PyTorch files and no index; name one of them"):
        convert(tmp_path, tmp_path.parent / "dst")


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ('{"weight_map": {"a": "../x.bin"}}', CorruptCheckpointError, "names a file outside its folder"),
        ('{"weight_map": {"a": "x.bin"}}', CorruptCheckpointError, "x.bin is missing"),
        ('{"weight_map": 3}', CorruptCheckpointError, "is not a valid index"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, index: str, error: type[Exception], message: str) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "pytorch_model.bin.index.json").write_text(index)
    (tmp_path / "src" / "other.bin").write_bytes(b"")
    with pytest.raises(error, match=message):
        convert(tmp_path / "src", tmp_path / "dst")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_in_a_pickle_is_executed(tmp_path: Path, *, is_zip: bool) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.bin", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UnsupportedError, match=r"evil\.bin needs to run .*exec.* which is refused; hint"):
        convert(tmp_path / "evil.bin", tmp_path / "dst", on_warning=str)
    assert not (tmp_path / "dst").exists()


def damaged(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_the_part_of_a_file_is_damaged(tmp_path: Path, kept: float, *, is_zip: bool) -> None:
    torch.save(state(), tmp_path / "whole.bin", _use_new_zipfile_serialization=is_zip)
    content = (tmp_path / "whole.bin").read_bytes()
    part = damaged(tmp_path / "part.bin", content[: int(len(content) * kept)])
    with pytest.raises(CorruptCheckpointError, match=re.escape(str(part))):
        convert(part, tmp_path / "dst", on_warning=str)


def test_what_is_no_state_dict_is_said(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.bin")
    with pytest.raises(InvalidArgumentError, match="holds a list, not a state dict"):
        convert(tmp_path / "list.bin", tmp_path / "dst")
    torch.save({"a": torch.ones(1), "lr": 0.1}, tmp_path / "mixed.bin")
    with pytest.raises(InvalidArgumentError, match="its member lr is a float"):
        convert(tmp_path / "mixed.bin", tmp_path / "dst")
    torch.save({"a": torch.ones(1, dtype=torch.complex128)}, tmp_path / "wide.bin")
    with pytest.raises(UnsupportedError, match="tensor a has dtype torch.complex128"):
        convert(tmp_path / "wide.bin", tmp_path / "dst")
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "sparse.bin")
    with pytest.raises(UnsupportedError, match="tensor a is not dense"):
        convert(tmp_path / "sparse.bin", tmp_path / "dst")


def test_a_folder_of_leftovers_has_no_weights(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    torch.save({}, tmp_path / "src" / "optimizer.pt")
    with pytest.raises(CheckpointNotFoundError):
        convert(tmp_path / "src", tmp_path / "dst")


LARGE = """
import re, sys
from pathlib import Path
import torch
import sllm_store
def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) << 10
torch.load(Path(sys.argv[1]).with_name("small.bin"), weights_only=True, mmap=True)
before = peak()
sllm_store.convert(sys.argv[1], sys.argv[2])
sys.stdout.write(str(peak() - before))
"""


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_mapped_file_does_not_fill_memory(tmp_path: Path, *, is_transposed: bool) -> None:
    tensor = torch.arange(64 << 20, dtype=torch.int32).view(-1, 4096)
    torch.save({"a": tensor.t() if is_transposed else tensor}, tmp_path / "large.bin")
    torch.save({"a": torch.ones(1)}, tmp_path / "small.bin")
    command = [sys.executable, "-c", LARGE, str(tmp_path / "large.bin"), str(tmp_path / "dst")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 150 * MIB
    assert torch.equal(load_file(tmp_path / "dst" / "model.safetensors")["a"], tensor.t() if is_transposed else tensor)
