import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from raw_safetensors import BITS, Raw, raw, read, read_folder, write
from safetensors import safe_open

import sllm_store
from sllm_store import convert, open_checkpoint
from sllm_store.checking import verify_checkpoint
from sllm_store.errors import CheckpointNotFoundError, ConflictError, InvalidArgumentError, StoreIOError

F4_AND_F6_SHAPE = [4, 6]


def make_source(folder: Path, tensors: dict[str, Raw] | None = None) -> dict[str, Raw]:
    folder.mkdir(parents=True)
    tensors = tensors or {"a": raw("F32", [3, 5], 1), "b": raw("BF16", [64, 32], 2), "c": raw("I64", [], 3)}
    write(folder / "model.safetensors", tensors, {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "opt"}')
    return tensors


def assert_proven(folder: Path) -> None:
    assert verify_checkpoint(folder).bad == ()


def test_bytes_and_companions_arrive_and_the_report_counts_them(tmp_path: Path) -> None:
    tensors = make_source(tmp_path / "src")
    heard: list[tuple[int, int]] = []
    report = convert(tmp_path / "src", tmp_path / "dst", on_progress=lambda done, total: heard.append((done, total)))
    assert read_folder(tmp_path / "dst") == tensors
    assert_proven(tmp_path / "dst")
    nbytes = sum(len(tensor.data) for tensor in tensors.values())
    assert heard[-1] == (nbytes, nbytes)
    assert (report.source, report.nbytes, report.tensors) == ("safetensors", nbytes, 3)
    assert (report.tied, report.partitions) == (0, 1)
    assert (report.companions, report.left_out) == (("config.json",), ())
    assert report.path == str(tmp_path / "dst")
    assert report.seconds > 0


def test_the_report_is_a_value_of_the_package() -> None:
    assert sllm_store.convert is convert
    assert sllm_store.ConvertReport.__name__ == "ConvertReport"


EVERY_DTYPE = """
import sys
import sllm_store
sllm_store.convert(sys.argv[1], sys.argv[2])
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""


def test_every_dtype_is_copied_bytewise_and_without_torch(tmp_path: Path) -> None:
    tensors = {dtype: raw(dtype, F4_AND_F6_SHAPE, seed) for seed, dtype in enumerate(BITS)}
    tensors |= {f"{dtype} empty": raw(dtype, [0, 3]) for dtype in BITS}
    tensors |= {f"{dtype} scalar": raw(dtype, []) for dtype, bits in BITS.items() if bits >= 8}
    make_source(tmp_path / "src", tensors)
    command = [sys.executable, "-c", EVERY_DTYPE, str(tmp_path / "src"), str(tmp_path / "dst")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert read_folder(tmp_path / "dst") == tensors
    assert_proven(tmp_path / "dst")


@pytest.mark.parametrize("nbytes", [(16 << 20) - 1, 16 << 20, (16 << 20) + 1, (33 << 20) + 12345])
def test_tensors_around_a_slice_arrive_whole(tmp_path: Path, nbytes: int) -> None:
    big = Raw("U8", [nbytes], (bytes(range(256)) * (nbytes // 256 + 1))[:nbytes])
    tensors = {"a": raw("U8", [3]), "big": big, "z": raw("U8", [5])}
    make_source(tmp_path / "src", tensors)
    convert(tmp_path / "src", tmp_path / "one")
    assert read_folder(tmp_path / "one") == tensors
    convert(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "model.safetensors").read_bytes() == (
        tmp_path / "one" / "model.safetensors"
    ).read_bytes()
    assert_proven(tmp_path / "two")


def test_several_files_become_partitions_of_the_asked_size(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    parts = [{f"t{i}{j}": raw("F32", [100, i + j + 1], i * 5 + j) for j in range(5)} for i in range(3)]
    for number, part in enumerate(parts):
        write(src / f"model-0000{number}-of-00003.safetensors", part)
    weight_map = {
        name: f"model-0000{number}-of-00003.safetensors" for number, part in enumerate(parts) for name in part
    }
    (src / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    report = convert(src, tmp_path / "dst", partition_size=5000)
    assert report.partitions > 3
    assert report.companions == ()
    assert read_folder(tmp_path / "dst") == {name: tensor for part in parts for name, tensor in part.items()}
    index = json.loads((tmp_path / "dst" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == report.nbytes
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "dst" / file, "pt") as opened:
            assert name in opened.keys()  # noqa: SIM118
    for path in (tmp_path / "dst").glob("*.safetensors"):
        assert read(path)[1] == {"format": "pt"}
    assert_proven(tmp_path / "dst")


def test_metadata_of_one_file_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors", {"a": raw("U8", [1])}, {"author": "me", "format": "np"})
    report = convert(tmp_path / "one.safetensors", tmp_path / "dst")
    assert read(tmp_path / "dst" / "model.safetensors")[1] == {"author": "me", "format": "np"}
    assert report.companions == ()


BESIDE = ["LICENSE", "README.md", "chat_template.jinja", "generation_config.json", "merges.txt", "tokenizer.json"]
BESIDE += ["tokenizer.model", "vocab.json"]
CODE = ["modeling_x.py", "optimizer.pt", "state.pkl", "training_args.bin"]
NOT_TAKEN = [".gitattributes", "model.gguf", "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"]
NOT_TAKEN += ["flax_model.msgpack", "rust_model.ot", "onnx/model.onnx", "consolidated.00.pth", "sllm.json.d/x"]


@pytest.mark.parametrize("include_code", [False, True])
def test_what_describes_the_model_comes_along_and_code_only_when_asked(tmp_path: Path, *, include_code: bool) -> None:
    src = tmp_path / "src"
    make_source(src)
    for name in [*BESIDE, *CODE, *NOT_TAKEN]:
        (src / name).parent.mkdir(exist_ok=True)
        (src / name).write_text(f"content of {name}")
    report = convert(src, tmp_path / "dst", include_code=include_code)
    expected = sorted(["config.json", *BESIDE, *(CODE if include_code else [])])
    assert list(report.companions) == expected
    written = {path.name for path in (tmp_path / "dst").iterdir()}
    assert written == {"model.safetensors", "sllm.json", *expected}
    assert all((tmp_path / "dst" / name).read_text() == f"content of {name}" for name in BESIDE)
    assert report.left_out == ((() if include_code else tuple(CODE)) + ("onnx/", "sllm.json.d/"))


def test_a_checkpoint_replaces_itself(tmp_path: Path) -> None:
    tensors = make_source(tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "dst")
    with pytest.raises(ConflictError):
        convert(tmp_path / "dst", tmp_path / "dst")
    report = convert(tmp_path / "dst", tmp_path / "dst", overwrite=True, partition_size=100)
    assert report.partitions > 1
    assert report.companions == ("config.json",)
    assert read_folder(tmp_path / "dst") == tensors
    assert_proven(tmp_path / "dst")


def test_a_plain_folder_is_not_replaced_by_itself(tmp_path: Path) -> None:
    make_source(tmp_path / "src")
    with pytest.raises(ConflictError, match="no checkpoint that sllm wrote"):
        convert(tmp_path / "src", tmp_path / "src", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "src").iterdir()) == ["config.json", "model.safetensors"]


def test_source_and_destination_must_not_contain_each_other(tmp_path: Path) -> None:
    make_source(tmp_path / "src")
    with pytest.raises(InvalidArgumentError, match=r"destination .* is inside the source"):
        convert(tmp_path / "src", tmp_path / "src" / "dst")
    convert(tmp_path / "src", tmp_path / "dst")
    with pytest.raises(InvalidArgumentError, match=r"source .* is inside the destination"):
        convert(tmp_path / "dst" / "model.safetensors", tmp_path / "dst", overwrite=True)


def test_a_source_without_weights_is_not_found(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(CheckpointNotFoundError, match=re.escape(f"cannot open {missing}: no such file")):
        convert(missing, tmp_path / "dst")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(CheckpointNotFoundError, match="is no checkpoint: it has no safetensors, PyTorch or GGUF"):
        convert(tmp_path / "empty", tmp_path / "dst")
    with pytest.raises(InvalidArgumentError, match="has none of the endings"):
        convert(tmp_path / "empty" / "config.json", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_a_disk_that_is_too_small_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source(tmp_path / "src")

    def full(folder: Path, needed_bytes: int) -> None:
        raise StoreIOError(f"{folder} has 0 bytes free, the checkpoint needs {needed_bytes}")

    monkeypatch.setattr("sllm_store.converting.check_free_space", full)
    size = 4096 + 60 + 4096 + 8 + len('{"model_type": "opt"}')
    with pytest.raises(StoreIOError, match=f"needs {size}$"):
        convert(tmp_path / "src", tmp_path / "dst")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_tied_names_of_a_checkpoint_stay_tied(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.arange(6.0)
    sllm_store.save_tensors({"a": weight, "b": weight}, tmp_path / "one")
    report = convert(tmp_path / "one", tmp_path / "two")
    assert report.tied == 1
    assert open_checkpoint(tmp_path / "two").tied == {"b": "a"}


# One tensor of 640 MiB in a file with holes: what is converted is large, what is read from the disk is not.
LARGE = """
import json, os, re, sys
from pathlib import Path
import sllm_store
def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) << 10
src, dst = Path(sys.argv[1]), Path(sys.argv[2])
nbytes = 5 << 27
header = json.dumps({"t": {"dtype": "BF16", "shape": [nbytes // 2], "data_offsets": [0, nbytes]}}).encode()
with src.open("wb") as file:
    file.write(len(header).to_bytes(8, "little") + header)
    file.truncate(8 + len(header) + nbytes)
before = peak()
report = sllm_store.convert(src, dst)
assert report.nbytes == nbytes
print(peak() - before)
"""


def test_memory_is_bounded_by_slices_and_not_by_tensors(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LARGE, str(tmp_path / "one.safetensors"), str(tmp_path / "dst")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 256 << 20


@pytest.mark.parametrize("stem", ["model", "adapter_model", "diffusion_pytorch_model"])
def test_weights_keep_the_name_that_their_library_looks_for(tmp_path: Path, stem: str) -> None:
    source = make_source(tmp_path / "src")
    (tmp_path / "src" / "model.safetensors").rename(tmp_path / "src" / f"{stem}.safetensors")
    convert(tmp_path / "src", tmp_path / "one")
    assert (tmp_path / "one" / f"{stem}.safetensors").is_file()
    convert(tmp_path / "src", tmp_path / "many", partition_size=1)
    assert (tmp_path / "many" / f"{stem}.safetensors.index.json").is_file()
    assert set(open_checkpoint(tmp_path / "many").tensors) == set(source)
