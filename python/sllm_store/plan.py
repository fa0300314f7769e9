"""Where each tensor of a load goes in memory, and which bytes of which file bring it there.

A run of tensors that are neighbours in a file stays one extent. Where the file aligns them to TENSOR_ALIGNMENT, as
a converted one does, the run lies in memory as it lies in the file, modulo the block size of direct I/O, so that
it is read without a copy. Tensors that the file packs tighter are placed apart, each one aligned.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from sllm_store.checkpoint import Checkpoint, Location

TENSOR_ALIGNMENT: Final = 64
BLOCK_BYTES: Final = 4096


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
    in_order = sorted(wanted.values(), key=lambda location: (location.partition, location.offset))
    extents: list[Extent] = []
    offsets: dict[str, int] = {}
    end = 0
    for location in in_order:
        tensor = location.tensor
        extents, destination = _place(extents, location, end)
        offsets[tensor.name] = destination
        end = destination + tensor.nbytes
    return LoadPlan(tuple(extents), offsets, _round_up(end, BLOCK_BYTES))


def _place(extents: list[Extent], location: Location, end: int) -> tuple[list[Extent], int]:
    nbytes = location.tensor.nbytes
    last = extents[-1] if extents else None
    if last and end % TENSOR_ALIGNMENT == 0 and _follows(last, location):
        extents[-1] = last._replace(nbytes=last.nbytes + nbytes)
        return extents, end
    destination = _start_of_run(location.offset, end)
    extents.append(Extent(location.partition, location.offset, nbytes, destination))
    return extents, destination


def _follows(last: Extent, location: Location) -> bool:
    return last.partition == location.partition and last.offset + last.nbytes == location.offset


def _start_of_run(offset: int, end: int) -> int:
    if offset % TENSOR_ALIGNMENT:
        return _round_up(end, TENSOR_ALIGNMENT)
    # A block of its own on either side: a direct read writes whole blocks.
    return _round_up(end, BLOCK_BYTES) + offset % BLOCK_BYTES


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
