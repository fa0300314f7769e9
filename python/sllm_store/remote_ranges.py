"""Which bytes are brought together: claimed pieces as ranges of whole spans, in the order of the claim.

A claim's pieces are whole pages. One that begins with a span begins a part of the store's, which is written by itself;
one that begins inside a span is the rest of the part before it, which lies in the pool in several pieces.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sllm_store.manifest import SPAN_BYTES

Piece = tuple[int, int, int, int]


@dataclass
class Range:
    """Neighbouring bytes of a file. `parts` are those of its pieces that the reservation gets, none for the disk alone.

    `is_there` says that the disk has it all.
    """

    file: int
    begin: int
    end: int
    is_there: bool = False
    parts: list[tuple[int, int]] = field(default_factory=list)


def claimed_parts(pieces: Iterable[Piece], sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(file, begin, end) of each claimed part, as whole spans or up to the file's end."""
    last: tuple[int, int, int] | None = None
    for file, offset, nbytes, _ in pieces:
        end = min(-(-(offset + nbytes) // SPAN_BYTES) * SPAN_BYTES, sizes[file])
        if last and last[0] == file and offset % SPAN_BYTES and offset <= last[2]:
            last = (file, last[1], max(last[2], end))
            continue
        if last:
            yield last
        last = (file, offset // SPAN_BYTES * SPAN_BYTES, end)
    if last:
        yield last


def ranges_of(
    parts: Iterable[tuple[int, int, int]],
    range_bytes: int,
    *,
    is_there: Callable[[int, int], bool],
    is_claimed: bool,
) -> Iterator[Range]:
    """The parts cut and joined to ranges of at most `range_bytes`, each wholly on the disk or wholly not."""
    current: Range | None = None
    for file, begin, end, there in _runs(parts, range_bytes, is_there):
        is_next = current and (current.file, current.end, current.is_there) == (file, begin, there)
        if current is None or not is_next or end - current.begin > range_bytes:
            if current:
                yield current
            current = Range(file, begin, end, there)
        current.end = end
        if is_claimed:
            current.parts.append((begin, end))
    if current:
        yield current


def _runs(
    parts: Iterable[tuple[int, int, int]], range_bytes: int, is_there: Callable[[int, int], bool]
) -> Iterator[tuple[int, int, int, bool]]:
    for file, first, last in parts:
        begin = end = first
        there = is_there(file, first // SPAN_BYTES)
        while end < last:
            if end > begin and (is_there(file, end // SPAN_BYTES) != there or end - begin >= range_bytes):
                yield file, begin, end, there
                begin, there = end, is_there(file, end // SPAN_BYTES)
            end = min(end + SPAN_BYTES, last)
        if end > begin:
            yield file, begin, end, there
