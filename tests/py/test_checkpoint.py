"""Opening finds the weights that a Hugging Face user means, and refuses a folder that contradicts itself."""

import json
import time
from pathlib import Path

import pytest
from checkpoints import entry, every_dtype, write_safetensors

from sllm_store.checkpoint import Checkpoint, FileHead, checkpoint_of, make_checkpoint, open_checkpoint
from sllm_store.errors import CheckpointNotFoundError, CorruptCheckpointError, InvalidArgumentError
from sllm_store.protocol import Described, DescribedFile

FROZEN = Path(__file__).parents[1] / "data/checkpoint-v1"
ONE = {"a": entry("U8", [4], 0, 4)}
OTHER = {"b": entry("U8", [2], 0, 2)}


def write_index(folder, weight_map, stem="model"):
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_opens_one_file_by_its_path_or_its_folder(tmp_path):
    path = write_safetensors(tmp_path / "model.safetensors", ONE, b"abcd")
    for opened in (open_checkpoint(path), open_checkpoint(tmp_path)):
        assert opened.names() == ["a"]
        assert opened.nbytes == 4
        assert not opened.is_verifiable


@pytest.mark.parametrize("stem", ["model", "adapter_model", "diffusion_pytorch_model"])
def test_takes_the_index_before_stray_files(tmp_path, stem):
    write_safetensors(tmp_path / "x-1.safetensors", ONE, b"abcd")
    write_safetensors(tmp_path / "x-2.safetensors", OTHER, b"ef")
    write_safetensors(tmp_path / "stray.safetensors", ONE, b"abcd")
    write_index(tmp_path, {"a": "x-1.safetensors", "b": "x-2.safetensors"}, stem)
    assert sorted(open_checkpoint(tmp_path).names()) == ["a", "b"]


def test_takes_the_model_before_the_consolidated_copy(tmp_path):
    write_safetensors(tmp_path / "consolidated.safetensors", OTHER, b"ef")
    write_safetensors(tmp_path / "model.safetensors", ONE, b"abcd")
    assert open_checkpoint(tmp_path).names() == ["a"]


def test_asks_which_of_several_files_is_meant(tmp_path):
    for name in ("x", "y"):
        write_safetensors(tmp_path / f"{name}.safetensors", ONE, b"abcd")
    with pytest.raises(InvalidArgumentError, match="2 safetensors files"):
        open_checkpoint(tmp_path)


def test_says_what_is_missing(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointNotFoundError, match="is no checkpoint"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError, match="hint: sllm-store convert"):
        open_checkpoint(tmp_path)


def test_a_partition_that_the_index_names_must_be_there_and_inside(tmp_path):
    write_index(tmp_path, {"a": "gone.safetensors"})
    with pytest.raises(CorruptCheckpointError, match=r"gone\.safetensors is missing"):
        open_checkpoint(tmp_path)
    write_index(tmp_path, {"a": "../up.safetensors"})
    with pytest.raises(CorruptCheckpointError, match="outside its folder"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CorruptCheckpointError, match="not a valid index"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("promised", [{"b": "x-1.safetensors"}, {"c": "x-2.safetensors"}])
def test_an_index_that_the_files_contradict_is_refused(tmp_path, promised):
    write_safetensors(tmp_path / "x-1.safetensors", ONE, b"abcd")
    write_safetensors(tmp_path / "x-2.safetensors", OTHER, b"ef")
    write_index(tmp_path, {"a": "x-1.safetensors", "b": "x-2.safetensors", **promised})
    with pytest.raises(CorruptCheckpointError, match=r"index\.json says that .* which it has not"):
        open_checkpoint(tmp_path)


def test_a_name_in_two_files_is_refused(tmp_path):
    write_safetensors(tmp_path / "x-1.safetensors", ONE, b"abcd")
    write_safetensors(tmp_path / "x-2.safetensors", ONE, b"abcd")
    write_index(tmp_path, {"a": "x-1.safetensors", "b": "x-2.safetensors"})
    with pytest.raises(CorruptCheckpointError, match="tensor a is in two files"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 20, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path, keep):
    members, data = every_dtype()
    path = write_safetensors(tmp_path / "model.safetensors", members, data)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)


def test_opens_a_hundred_thousand_tensors_within_a_second(tmp_path):
    members, offset = {}, 0
    for index in range(100_000):
        members[f"model.layers.{index // 1000}.experts.{index % 1000}.weight"] = entry(
            "BF16", [2, 4], offset, offset + 16
        )
        offset += 16
    write_safetensors(tmp_path / "model.safetensors", members, bytes(offset))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert len(open_checkpoint(tmp_path).tensors) == 100_000
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


def heads_of(checkpoint: Checkpoint) -> list[FileHead]:
    return [
        FileHead(part.path.name, part.identity, part.path.read_bytes()[: part.header.data_start])
        for part in checkpoint.partitions
    ]


def test_a_checkpoint_is_made_of_what_somebody_else_read():
    opened = open_checkpoint(FROZEN)
    manifest = (FROZEN / "sllm.json").read_bytes()
    made = make_checkpoint(str(FROZEN), heads_of(opened), manifest)
    assert made == opened
    unproven = make_checkpoint("s3://bucket/model", heads_of(opened), b"")
    assert not unproven.is_verifiable
    assert dict(unproven.tensors) == dict(opened.tensors)


def test_a_daemon_describes_what_its_client_cannot_see():
    opened = open_checkpoint(FROZEN)
    files = [DescribedFile(*head) for head in heads_of(opened)]
    assert checkpoint_of(str(FROZEN), Described(files, (FROZEN / "sllm.json").read_bytes())) == opened


def test_heads_that_somebody_else_read_are_checked():
    opened = open_checkpoint(FROZEN)
    manifest = (FROZEN / "sllm.json").read_bytes()
    first, second = heads_of(opened)
    damaged = first._replace(header=first.header[:-1] + b"x")
    short = first._replace(header=first.header[:-1])
    resized = first._replace(identity=(0, 0, first.identity[2] + 1, 0))
    for heads, text in [
        ([damaged, second], "crc32c of its header"),
        ([short, second], "not all were read"),
        ([resized, second], "the manifest says"),
        ([second, first], "lists other files"),
        ([first], "lists other files"),
    ]:
        with pytest.raises(CorruptCheckpointError, match=text):
            make_checkpoint("s3://bucket/model", heads, manifest)
