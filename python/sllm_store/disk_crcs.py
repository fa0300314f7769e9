"""CRCs of partitions that have no manifest, kept where the store found them out, one small file a partition.

A file is what a checksum of its own proves, so a torn or damaged one is none at all; and it counts only for the very
file, by path and identity, that it was computed from. It is written beside its place and renamed into it.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from sllm_store import _core
from sllm_store.checkpoint import Checkpoint, Identity, Partition
from sllm_store.errors import InvalidArgumentError
from sllm_store.manifest import SPAN_BYTES
from sllm_store.writing import os_errors, write_file

MAX_FILES: Final = 4096

_SUFFIX: Final = ".crcs"
_CHECK_BYTES: Final = 4


class _Kept(msgspec.Struct, frozen=True):
    path: str
    identity: Identity
    crcs: list[int]


class CrcFiles:
    """The folder of them, with a bounded number of files; the oldest go. Thread-safe within one process."""

    def __init__(self, folder: Path, max_files: int = MAX_FILES) -> None:
        self._folder = folder
        self._max_files = max_files
        self._lock = threading.Lock()

    def keep(self, partition: Partition, crcs: Sequence[int]) -> None:
        """Remember the CRC of each span. Raises InvalidArgumentError for another number of them, StoreIOError."""
        spans = -(-partition.size // SPAN_BYTES)
        if len(crcs) != spans:
            raise InvalidArgumentError(f"{len(crcs)} crcs for {partition.path}, which has {spans} spans")
        kept = msgspec.msgpack.encode(_Kept(str(partition.path), partition.identity, list(crcs)))
        place = self._place(partition.path)
        temp = place.with_suffix(".tmp")
        with self._lock, os_errors(f"cannot keep the crcs of {partition.path} in {self._folder}"):
            temp.unlink(missing_ok=True)
            write_file(temp, kept + _core.crc32c(kept).to_bytes(_CHECK_BYTES, "little"))
            temp.rename(place)
            self._drop_oldest()

    def known(self, partition: Partition) -> list[int] | None:
        """What was kept for this very file, or None."""
        try:
            content = self._place(partition.path).read_bytes()
        except OSError:
            return None
        text, check = content[:-_CHECK_BYTES], content[-_CHECK_BYTES:]
        if _core.crc32c(text).to_bytes(_CHECK_BYTES, "little") != check:
            return None
        try:
            kept = msgspec.msgpack.decode(text, type=_Kept)
        except msgspec.MsgspecError:
            return None
        is_it = kept.path == str(partition.path) and kept.identity == partition.identity
        return kept.crcs if is_it and len(kept.crcs) == -(-partition.size // SPAN_BYTES) else None

    def known_of(self, checkpoint: Checkpoint) -> dict[int, list[int]]:
        """What was kept for a checkpoint's partitions, by their numbers."""
        found = {number: self.known(partition) for number, partition in enumerate(checkpoint.partitions)}
        return {number: crcs for number, crcs in found.items() if crcs is not None}

    def _place(self, path: Path) -> Path:
        return self._folder / (hashlib.sha256(os.fsencode(path)).hexdigest()[:32] + _SUFFIX)

    def _drop_oldest(self) -> None:
        files = list(self._folder.glob(f"*{_SUFFIX}"))
        if len(files) <= self._max_files:
            return
        files.sort(key=lambda path: path.stat().st_mtime_ns)
        for path in files[: len(files) - self._max_files]:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
