"""A reservation as the native store's are, in Python: who writes to it breaks none of its rules, or hears of it."""

import os
import threading
from collections.abc import Iterable, Sequence

from sllm_store import _core
from sllm_store.errors import CorruptCheckpointError, InvalidArgumentError
from sllm_store.manifest import SPAN_BYTES

CHUNK_BYTES = 4 << 20
PAGE_BYTES = 4096


class FakeReservation:
    """Holds all of the files, or the chunks that touch `ranges` of (file, begin, end)."""

    def __init__(
        self,
        sizes: Sequence[int],
        crcs: Sequence[Sequence[int] | None],
        ranges: Iterable[tuple[int, int, int]] | None = None,
    ) -> None:
        self.sizes, self.crcs = list(sizes), list(crcs)
        self.memory = [bytearray(size) for size in sizes]
        wanted = [(file, 0, size) for file, size in enumerate(sizes)] if ranges is None else list(ranges)
        self.parts = {
            (file, start, min(start + CHUNK_BYTES, sizes[file]))
            for file, begin, end in wanted
            for start in range(begin // CHUNK_BYTES * CHUNK_BYTES, end, CHUNK_BYTES)
        }
        self.claimed: set[tuple[int, int, int]] = set()
        self.elsewhere: set[tuple[int, int, int]] = set()  # what another reservation has claimed
        self.written: list[tuple[int, int, int]] = []
        self.local_fills = 0
        self.lock = threading.Lock()

    def claim(self) -> list[tuple[int, int, int, int]]:
        with self.lock:
            taken = sorted(part for part in self.parts - self.claimed - self.elsewhere if not self.is_there(part))
            self.claimed |= set(taken)
        return [piece for part in taken for piece in _pieces(*part)]

    def abandon(self) -> None:
        with self.lock:
            self.claimed = {part for part in self.claimed if self.is_there(part)}
            self.written = [one for one in self.written if any(_is_in(one, part) for part in self.claimed)]

    def write(self, file: int, offset: int, data: "memoryview | bytes") -> None:
        span = (file, offset, offset + len(data))
        is_whole = offset % SPAN_BYTES == 0 and (len(data) % SPAN_BYTES == 0 or span[2] == self.sizes[file])
        if not is_whole or not any(_is_in(span, part) for part in self.claimed):
            raise InvalidArgumentError(f"{span} is not whole spans of one claimed part")
        for start in range(0, len(data), SPAN_BYTES):
            crcs = self.crcs[file]
            if crcs and _core.crc32c(data[start : start + SPAN_BYTES]) != crcs[(offset + start) // SPAN_BYTES]:
                raise CorruptCheckpointError(f"the crc32c of {span} does not match")
        self.memory[file][offset : span[2]] = data
        with self.lock:
            self.written.append(span)

    def fill(self, files: Sequence, options: object, stop: object) -> dict:
        self.local_fills += 1
        nbytes = 0
        try:
            for file, begin, end in sorted(part for part in self.claimed if not self.is_there(part)):
                path, identity, _ = files[file]
                status = os.stat(path)
                assert identity == (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                with open(path, "rb") as opened:
                    self.write(file, begin, os.pread(opened.fileno(), end - begin, begin))
                nbytes += end - begin
        except BaseException:
            self.abandon()
            raise
        return {"bytes_read": nbytes, "total_s": 0.0}

    def is_there(self, part: tuple[int, int, int]) -> bool:
        spans = {(file, start) for file, begin, end in self.written for start in range(begin, end, SPAN_BYTES)}
        return all((part[0], start) in spans for start in range(part[1], part[2], SPAN_BYTES))

    @property
    def is_complete(self) -> bool:
        return all(self.is_there(part) for part in self.parts)


def _pieces(file: int, begin: int, end: int) -> list[tuple[int, int, int, int]]:
    """A part's pieces: one that shares chunks with others may lie in several, cut between pages."""
    if end - begin == CHUNK_BYTES or end - begin <= 2 * PAGE_BYTES:
        return [(file, begin, -(-(end - begin) // PAGE_BYTES) * PAGE_BYTES, begin)]
    cut = begin + 2 * PAGE_BYTES
    rest = -(-(end - cut) // PAGE_BYTES) * PAGE_BYTES
    return [(file, begin, cut - begin, begin), (file, cut, rest, 1 << 30)]


def _is_in(one: tuple[int, int, int], part: tuple[int, int, int]) -> bool:
    return one[0] == part[0] and part[1] <= one[1] and one[2] <= part[2]
