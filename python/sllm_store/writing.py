"""Writing the files of a checkpoint into a folder, front to back, its proof made on the way.

Nothing here is atomic: the folder is a temporary one, and publishing.py makes it visible at once.
"""

import ctypes
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from sllm_store import _core
from sllm_store._version import __version__
from sllm_store.errors import InternalError, SllmError, StoreIOError, from_os_error
from sllm_store.layout import PlannedPartition, encode_index, index_name
from sllm_store.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    SPAN_BYTES,
    Manifest,
    ManifestFile,
    encode_manifest,
    span_hex,
)
from sllm_store.sources.base import Buffer, SourceTensor

Advance: TypeAlias = Callable[[int], None]

_WRITEBACK_BYTES: Final = 16 << 20
_SYNC_FILE_RANGE_WRITE: Final = 2


@contextmanager
def os_errors(failed: str) -> Iterator[None]:
    """Translate what the operating system raises in the block; `failed` says what could not be done."""
    try:
        yield
    except SllmError:
        raise
    except OSError as error:
        raise from_os_error(error, failed) from error


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise StoreIOError if `folder`'s file system says that it has less than `needed_bytes`."""
    with os_errors(f"cannot ask for the free space of {folder}"):
        stats = os.statvfs(folder)
    # Some network file systems answer 0 blocks, which means that they do not know.
    free_bytes = stats.f_bavail * stats.f_frsize
    if stats.f_blocks and free_bytes < needed_bytes:
        raise StoreIOError(f"{folder} has {free_bytes} bytes free, the checkpoint needs {needed_bytes}")


def write_weights(folder: Path, plan: Sequence[PlannedPartition], advance: Advance) -> tuple[ManifestFile, ...]:
    """Write and sync the partitions, and the index if there are several; `advance` hears of tensor bytes written."""
    files = tuple(write_partition(folder / planned.name, planned, advance) for planned in plan)
    if len(plan) > 1:
        write_file(folder / index_name(plan), encode_index(plan))
    return files


def write_manifest(folder: Path, files: tuple[ManifestFile, ...], tied: Mapping[str, str]) -> None:
    """Write and sync the manifest, which says that all other files are there."""
    manifest = Manifest("sllm-checkpoint", FORMAT_VERSION, SPAN_BYTES, files, dict(tied), f"sllm {__version__}")
    write_file(folder / MANIFEST_NAME, encode_manifest(manifest))


def write_partition(path: Path, planned: PlannedPartition, advance: Advance) -> ManifestFile:
    """Write one partition, sync it, and return its proof.

    Raises what the tensors' sources raise, and StoreIOError naming `path`, on a full disk for example.
    """
    crcs = _SpanCrcs()
    with os_errors(f"cannot write {path}"), path.open("xb", buffering=0) as file:
        writeback = _Writeback(file.fileno())
        crcs.update(planned.header)
        _write_all(file, memoryview(planned.header))
        for piece in chain.from_iterable(map(_exactly, planned.tensors)):
            view = memoryview(piece)
            crcs.update(view)
            _write_all(file, view)
            writeback.advance(file.tell())
            advance(len(view))
        os.fsync(file.fileno())
    header_crc = f"{_core.crc32c(planned.header):08x}"
    return ManifestFile(path.name, planned.nbytes, len(planned.header), header_crc, span_hex(crcs.finish()))


def write_file(path: Path, content: bytes) -> None:
    """Write a small file and sync it."""
    with os_errors(f"cannot write {path}"), path.open("xb", buffering=0) as file:
        _write_all(file, memoryview(content))
        os.fsync(file.fileno())


def copy_files(files: Iterable[Path], folder: Path) -> None:
    """Copy files, links followed, into `folder` under their own names, and sync them."""
    for path in files:
        with os_errors(f"cannot copy {path}"):
            copy = shutil.copyfile(path, folder / path.name)
        sync(copy)


def sync(path: Path) -> None:
    """Bring a file's or a folder's own content to the disk."""
    with os_errors(f"cannot sync {path}"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class _SpanCrcs:
    """The CRC32C of each span of a file whose bytes come front to back, in buffers of any size."""

    def __init__(self) -> None:
        self._crcs: list[int] = []
        self._crc = 0
        self._filled = 0

    def update(self, buffer: Buffer) -> None:
        view = memoryview(buffer)
        start = 0
        while start < len(view):
            part = view[start : start + SPAN_BYTES - self._filled]
            self._crc = _core.crc32c(part, self._crc)
            self._filled += len(part)
            start += len(part)
            if self._filled == SPAN_BYTES:
                self._close_span()

    def finish(self) -> list[int]:
        if self._filled:
            self._close_span()
        return self._crcs

    def _close_span(self) -> None:
        self._crcs.append(self._crc)
        self._crc = self._filled = 0


class _Writeback:
    """Has the kernel write what is there already, without waiting: else the disk idles until the file is synced."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._started = 0
        self._start = getattr(ctypes.CDLL(None), "sync_file_range", None)

    def advance(self, end: int) -> None:
        nbytes = end - self._started
        if self._start is None or nbytes < _WRITEBACK_BYTES:
            return
        # It may fail where a file system has no such thing. What counts is the sync at the end.
        self._start(self._fd, ctypes.c_int64(self._started), ctypes.c_int64(nbytes), _SYNC_FILE_RANGE_WRITE)
        self._started = end


def _exactly(tensor: SourceTensor) -> Iterator[Buffer]:
    total = 0
    for piece in tensor.slices():
        total += len(piece)
        yield piece
    if total != tensor.nbytes:
        raise InternalError(f"the source of tensor {tensor.name} gave {total} of {tensor.nbytes} bytes")


def _write_all(file: BinaryIO, view: memoryview) -> None:
    while len(view):
        view = view[file.write(view) :]
