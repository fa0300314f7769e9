"""Reading a source's file in slices, proven by a manifest's CRCs where there is one.

Each span is checked once, when the first tensor that touches it is read: a read is widened to whole spans where one
at its edge is not yet checked, which costs at most that span and needs no pass of its own.
"""

import array
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sllm_store import _core
from sllm_store.errors import CorruptCheckpointError, from_os_error
from sllm_store.manifest import SPAN_BYTES
from sllm_store.sources.base import SLICE_BYTES, Buffer


class SourceFile:
    """A file of `size` bytes, whose spans are checked where their CRCs are given.

    It is open only while a tensor is read. The buffer is shared by all its tensors: a slice is valid until the next
    one of any of them.
    """

    def __init__(self, path: Path, size: int, crcs: "array.array[int] | None" = None) -> None:
        self._path: Final = path
        self._size: Final = size
        self._crcs: Final = crcs
        self._checked = bytearray(-(-size // SPAN_BYTES))
        self._buffer = bytearray()
        self._ahead = 0

    def slices(self, offset: int, nbytes: int, step: int) -> Iterator[Buffer]:
        """The `nbytes` bytes at `offset`, in buffers of `step` bytes and a shorter last one.

        Raises CorruptCheckpointError where a span's CRC does not match or the file ends too soon.
        """
        if nbytes == 0:
            return
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise from_os_error(error, f"cannot open {self._path}") from error
        try:
            for start in range(offset, offset + nbytes, step):
                end = min(start + step, offset + nbytes)
                view = self._read(fd, start, end)
                self._read_ahead(fd, end)
                yield view
        finally:
            os.close(fd)

    def _read_ahead(self, fd: int, position: int) -> None:
        # Tensors mostly follow each other in the file, so what comes next is the next tensor, or more of this one.
        if self._ahead - 2 * SLICE_BYTES < position < self._ahead:
            return
        os.posix_fadvise(fd, position, SLICE_BYTES, os.POSIX_FADV_WILLNEED)
        self._ahead = position + SLICE_BYTES

    def _read(self, fd: int, start: int, end: int) -> memoryview:
        low, high = self._widen(start, end)
        if len(self._buffer) < high - low:
            self._buffer = bytearray(high - low)
        view = memoryview(self._buffer)[: high - low]
        self._fill(fd, view, low)
        self._check(view, low)
        return view[start - low : end - low]

    def _widen(self, start: int, end: int) -> tuple[int, int]:
        if self._crcs is None:
            return start, end
        first, last = start // SPAN_BYTES, (end - 1) // SPAN_BYTES
        low = start if self._checked[first] else first * SPAN_BYTES
        high = end if self._checked[last] else min((last + 1) * SPAN_BYTES, self._size)
        return low, high

    def _fill(self, fd: int, view: memoryview, offset: int) -> None:
        while len(view):
            try:
                count = os.preadv(fd, [view], offset)
            except OSError as error:
                raise from_os_error(error, f"cannot read {len(view)} bytes at {offset} from {self._path}") from error
            if count == 0:
                raise CorruptCheckpointError(f"{self._path} was truncated at {offset} while it was read")
            view = view[count:]
            offset += count

    def _check(self, view: memoryview, low: int) -> None:
        if self._crcs is None:
            return
        for span in range(low // SPAN_BYTES, -(-(low + len(view)) // SPAN_BYTES)):
            if self._checked[span]:
                continue
            begin = span * SPAN_BYTES
            if _core.crc32c(view[begin - low : begin - low + SPAN_BYTES]) != self._crcs[span]:
                end = min(begin + SPAN_BYTES, self._size)
                raise CorruptCheckpointError(
                    f"{self._path} is damaged: the crc32c of span {span}, bytes {begin} to {end}, does not match"
                )
            self._checked[span] = 1
