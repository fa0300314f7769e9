"""Where a load's extents lie in a store's pool: pure arithmetic on what the daemon said."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

from sllm_store.errors import UnavailableError
from sllm_store.plan import BLOCK_BYTES, Extent, round_up
from sllm_store.protocol import FileRange, PooledPiece

# Destination in a region, offset in the pool, bytes.
RegionPiece = tuple[int, int, int]


def wanted_ranges(extents: Iterable[Extent]) -> list[FileRange]:
    """What a load needs of the files, neighbours in one range; the extents are sorted by partition and offset."""
    ranges: list[FileRange] = []
    for extent in extents:
        begin, end = extent.offset, extent.offset + extent.nbytes
        if ranges and ranges[-1][0] == extent.partition and begin <= round_up(ranges[-1][2], BLOCK_BYTES):
            ranges[-1] = (extent.partition, ranges[-1][1], max(end, ranges[-1][2]))
        elif end > begin:
            ranges.append((extent.partition, begin, end))
    return ranges


def region_pieces(extents: Sequence[Extent], pieces: Sequence[PooledPiece]) -> list[RegionPiece]:
    """What of the pool belongs where in memory, for each extent, cut where it lies in several pieces.

    An extent whose destination is congruent to its offset modulo the page size is taken from the beginning of its first
    page on, so that it can be mapped; the plan leaves that page to it. Raises UnavailableError where the daemon left
    something out.
    """
    ordered = sorted(pieces)
    starts = [piece[:2] for piece in ordered]
    found: list[RegionPiece] = []
    for extent in extents:
        for offset, destination, nbytes in _rows(extent):
            found += _cut(ordered, starts, (extent.partition, offset, destination, nbytes))
    found.sort(key=itemgetter(0))
    return found


def portions(extents: Iterable[Extent], nbytes: int) -> Iterator[list[Extent]]:
    """The extents in their order, in lists of about `nbytes`; long ones are cut, but for rows, which stay together."""
    portion: list[Extent] = []
    taken = 0
    for extent in extents:
        for part in _parts(extent, nbytes):
            portion.append(part)
            taken += part.nbytes
            if taken >= nbytes:
                yield portion
                portion, taken = [], 0
    if portion:
        yield portion


def _parts(extent: Extent, nbytes: int) -> Iterator[Extent]:
    if extent.row_bytes:
        yield extent
        return
    # Cut where the file's own multiples are, so that no part shares a chunk of it with the next one.
    begin, end = extent.offset, extent.offset + extent.nbytes
    while begin < end:
        cut = min(end, (begin // nbytes + 1) * nbytes)
        destination = extent.destination + begin - extent.offset
        yield extent._replace(offset=begin, nbytes=cut - begin, destination=destination)
        begin = cut


def _rows(extent: Extent) -> Iterator[tuple[int, int, int]]:
    """Offset in the file, destination and bytes of each contiguous part."""
    if extent.row_bytes:
        for row in range((extent.nbytes - extent.row_bytes) // extent.from_pitch + 1):
            yield extent.offset + row * extent.from_pitch, extent.destination + row * extent.to_pitch, extent.row_bytes
    elif extent.nbytes:
        before = extent.offset % BLOCK_BYTES if is_mappable(extent) else 0
        yield extent.offset - before, extent.destination - before, extent.nbytes + before


def is_mappable(extent: Extent) -> bool:
    """Whether its bytes lie in memory as they lie in the file, modulo a page."""
    return not extent.row_bytes and (extent.destination - extent.offset) % BLOCK_BYTES == 0


def _cut(
    pieces: Sequence[PooledPiece], starts: Sequence[tuple[int, ...]], wanted: tuple[int, int, int, int]
) -> Iterator[RegionPiece]:
    file, offset, destination, left = wanted
    at = bisect_right(starts, (file, offset)) - 1
    while left > 0:
        its_file, start, nbytes, pool_offset = pieces[at] if 0 <= at < len(pieces) else (-1, 0, 0, 0)
        skipped = offset - start
        if its_file != file or not 0 <= skipped < nbytes:
            raise UnavailableError(f"the store left out byte {offset} of file {file}")
        taken = min(nbytes - skipped, left)
        yield destination, pool_offset + skipped, taken
        offset, destination, left, at = offset + taken, destination + taken, left - taken, at + 1
