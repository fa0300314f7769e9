import errno
import os
import re
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_safetensors import crc32c

from sllm_store import _core
from sllm_store.errors import CheckpointNotFoundError, InternalError, StoreIOError
from sllm_store.layout import PlannedPartition, lay_out
from sllm_store.manifest import decode_manifest
from sllm_store.sources.base import Buffer, Source, SourceTensor
from sllm_store.writing import check_free_space, copy_files, write_manifest, write_partition, write_weights

MIB = 1 << 20


def tensor(name: str, parts: list[bytes], nbytes: int | None = None) -> SourceTensor:
    def slices() -> Iterator[Buffer]:
        yield from parts

    total = sum(map(len, parts)) if nbytes is None else nbytes
    return SourceTensor(name, "U8", (total,), total, slices)


def plan(*tensors: SourceTensor) -> PlannedPartition:
    (planned,) = lay_out(Source(tensors))
    return planned


def ignore(nbytes: int) -> None:
    pass


@pytest.mark.parametrize("sizes", [[], [1], [4096 * 255], [4096 * 255 + 1], [MIB, MIB], [3 * MIB + 5, 7, 100_000]])
def test_the_file_is_header_and_slices_and_each_span_is_proven(tmp_path: Path, sizes: list[int]) -> None:
    content = os.urandom(sum(sizes))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [content[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    planned = plan(tensor("t", parts))
    proof = write_partition(tmp_path / planned.name, planned, ignore)
    written = (tmp_path / planned.name).read_bytes()
    assert written == planned.header + content
    assert proof.bytes == len(written)
    spans = [written[start : start + MIB] for start in range(0, len(written), MIB)]
    assert list(proof.span_crcs()) == [_core.crc32c(span) for span in spans]
    assert crc32c(spans[-1][:9000]) == _core.crc32c(spans[-1][:9000])
    assert int(proof.header_crc32c, 16) == crc32c(planned.header)


def test_progress_counts_every_byte_of_the_tensors_once(tmp_path: Path) -> None:
    heard: list[int] = []
    planned = plan(tensor("a", [b"x" * 10, b"y" * 5]), tensor("b", []))
    write_partition(tmp_path / planned.name, planned, heard.append)
    assert heard == [10, 5]


@pytest.mark.parametrize("nbytes", [9, 11])
def test_a_source_that_gives_other_than_it_said_is_a_bug(tmp_path: Path, nbytes: int) -> None:
    planned = plan(tensor("t", [b"0123456789"], nbytes))
    with pytest.raises(InternalError, match=f"tensor t gave 10 of {nbytes} bytes"):
        write_partition(tmp_path / planned.name, planned, ignore)


def test_the_manifest_lists_what_was_written(tmp_path: Path) -> None:
    source = Source((tensor("a", [b"12"]), tensor("b", [b"34"])), tied={"c": "a"})
    files = write_weights(tmp_path, lay_out(source, 2), ignore)
    write_manifest(tmp_path, files, source.tied)
    manifest = decode_manifest((tmp_path / "sllm.json").read_bytes(), "it")
    assert manifest.files == files
    assert manifest.tied == {"c": "a"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "sllm.json",
        "model.safetensors.index.json",
        *(file.name for file in files),
    }


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_writing import ignore, plan, tensor
from sllm_store.errors import StoreIOError
from sllm_store.writing import write_partition
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    write_partition(Path(sys.argv[1]), plan(tensor("t", [bytes(1 << 19)] * 4)), ignore)
except StoreIOError as error:
    sys.exit(str(error))
"""


def test_a_write_that_stops_half_way_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    command = [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == f"cannot write {path}: {os.strerror(errno.EFBIG).lower()}"
    assert path.stat().st_size == 1 << 20


Stats = namedtuple("Stats", "f_bavail f_frsize f_blocks")


def test_too_little_space_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: Stats(10, 4096, 100))
    check_free_space(tmp_path, 40960)
    expected = f"{tmp_path} has 40960 bytes free, the checkpoint needs 40961"
    with pytest.raises(StoreIOError, match=re.escape(expected)):
        check_free_space(tmp_path, 40961)
    monkeypatch.setattr(os, "statvfs", lambda path: Stats(0, 4096, 0))
    check_free_space(tmp_path, 40961)


def test_copies_are_whole_and_follow_links(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"text")
    (tmp_path / "config.json").symlink_to("blob")
    (tmp_path / "gone.json").symlink_to("nothing")
    folder = tmp_path / "folder"
    folder.mkdir()
    copy_files([tmp_path / "config.json"], folder)
    assert not (folder / "config.json").is_symlink()
    assert (folder / "config.json").read_bytes() == b"text"
    with pytest.raises(CheckpointNotFoundError, match=r"cannot copy .*gone\.json: no such file"):
        copy_files([tmp_path / "gone.json"], folder)
