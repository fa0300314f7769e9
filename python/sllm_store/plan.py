"""Where each tensor of a load goes in memory, and which bytes of which file bring it there.

A run of tensors that are neighbours in a file stays one extent. Where the file aligns them to TENSOR_ALIGNMENT, as
a converted one does, the run lies in memory as it lies in the file, modulo the block size of direct I/O, so that
it is read without a copy; a long one modulo the size of a huge page, so that huge pages of the page cache can be
mapped as such. Tensors that the file packs tighter are placed apart, each one aligned.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from sllm_store.checkpoint import Checkpoint, Location

TENSOR_ALIGNMENT: Final = 64
BLOCK_BYTES: Final = 4096
HUGE_PAGE_BYTES: Final = 2 << 20

# What is left free in front of a run of this length is at most an eighth of it.
_LONG_RUN_BYTES: Final = 8 * HUGE_PAGE_BYTES


class Extent(NamedTuple):
    """Bytes of a partition, by its number, and their offset in the destination."""

    partition: int
    offset: int
    nbytes: int
    destination: int


class LoadPlan(NamedTuple):
    """`offsets` maps each stored tensor that is loaded to its offset in a destination of `destination_bytes`."""

    extents: tuple[Extent, ...]
    offsets: dict[str, int]
    destination_bytes: int


def make_plan(checkpoint: Checkpoint, names: Iterable[str]) -> LoadPlan:
    """Plan the load of the named tensors, tied names included. Raises InvalidArgumentError for an unknown name."""
    wanted = {location.tensor.name: location for location in map(checkpoint.locate, names)}
    extents: list[Extent] = []
    offsets: dict[str, int] = {}
    end = 0
    for run in _runs(sorted(wanted.values(), key=attrgetter("partition", "offset"))):
        extent = _place(run, end)
        extents.append(extent)
        end = extent.destination + extent.nbytes
        shift = extent.destination - extent.offset
        for location in run:
            offsets[location.tensor.name] = location.offset + shift
    return LoadPlan(tuple(extents), offsets, _round_up(end, BLOCK_BYTES))


def _runs(in_order: Sequence[Location]) -> Iterator[list[Location]]:
    """Neighbours in a file, each as far from the first of its run as TENSOR_ALIGNMENT allows."""
    run: list[Location] = []
    partition, start, end = -1, 0, 0
    for location in in_order:
        offset = location.offset
        if location.partition != partition or offset != end or (offset - start) % TENSOR_ALIGNMENT:
            if run:
                yield run
            run = []
            partition, start = location.partition, offset
        run.append(location)
        end = offset + location.tensor.nbytes
    if run:
        yield run


def _place(run: Sequence[Location], end: int) -> Extent:
    first, last = run[0], run[-1]
    nbytes = last.offset + last.tensor.nbytes - first.offset
    return Extent(first.partition, first.offset, nbytes, _start_of_run(first.offset, nbytes, end))


def _start_of_run(offset: int, nbytes: int, end: int) -> int:
    if offset % TENSOR_ALIGNMENT:
        return _round_up(end, TENSOR_ALIGNMENT)
    # A block of its own on either side: a direct read writes whole blocks.
    own = _round_up(end, BLOCK_BYTES)
    multiple = HUGE_PAGE_BYTES if nbytes >= _LONG_RUN_BYTES else BLOCK_BYTES
    return own + (offset - own) % multiple


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
