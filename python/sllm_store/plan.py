"""Where each tensor of a load goes in memory, and which bytes of which file bring it there.

A run of tensors that are neighbours in a file and in a target stays one extent. In host memory, where the file aligns
them to TENSOR_ALIGNMENT, as a converted one does, the run lies as it lies in the file, modulo the block size of direct
I/O, so that it is read without a copy; a long one modulo the size of a huge page, so that huge pages of the page cache
can be mapped as such. Tensors that the file packs tighter are placed apart, each one aligned.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple

from sllm_store.checkpoint import Checkpoint, Location
from sllm_store.manifest import SPAN_BYTES
from sllm_store.slicing import Slice, byte_rows

TENSOR_ALIGNMENT: Final = 64
DEVICE_ALIGNMENT: Final = 256
BLOCK_BYTES: Final = 4096
HUGE_PAGE_BYTES: Final = 2 << 20

# What is left free in front of a run of this length is at most an eighth of it.
_LONG_RUN_BYTES: Final = 8 * HUGE_PAGE_BYTES
# Whole spans of the file that lie between two rows need not be read.
_GAP_BYTES: Final = 2 * SPAN_BYTES


class Extent(NamedTuple):
    """Bytes of a partition, by its number, and their offset in a target, by its number.

    With row_bytes they are rows, from_pitch bytes apart in the file and to_pitch bytes apart in the target, of each of
    which the first row_bytes are wanted; the last row ends with those.
    """

    partition: int
    offset: int
    nbytes: int
    target: int
    destination: int
    row_bytes: int = 0
    from_pitch: int = 0
    to_pitch: int = 0


class Place(NamedTuple):
    """Where a tensor begins: `offset` bytes into a target, by its number."""

    target: int
    offset: int


class LoadPlan(NamedTuple):
    """`places` has each stored tensor that is loaded; targets are as large as `target_bytes` says."""

    extents: tuple[Extent, ...]
    places: dict[str, Place]
    target_bytes: tuple[int, ...]


class Targets(NamedTuple):
    """Which memories a load fills, by the devices' names, and which of them each stored tensor goes to."""

    devices: tuple[str, ...]
    of: Mapping[str, int] | None = None

    def target(self, name: str) -> int:
        """The number of a stored tensor's target; the only one, unless they are told apart."""
        return self.of[name] if self.of is not None else 0


HOST: Final = Targets(("cpu",))
WHOLE: Final[Mapping[str, Slice]] = MappingProxyType({})


def make_plan(
    checkpoint: Checkpoint, names: Iterable[str], targets: Targets = HOST, slices: Mapping[str, Slice] = WHOLE
) -> LoadPlan:
    """Plan the load of the named tensors, tied names included, and of some of them a slice, by their stored names.

    Raises InvalidArgumentError for an unknown name.
    """
    wanted = {location.tensor.name: location for location in map(checkpoint.locate, names)}
    in_order = sorted(wanted.values(), key=attrgetter("partition", "offset"))
    extents: list[Extent] = []
    places: dict[str, Place] = {}
    ends = [0] * len(targets.devices)
    for target, run in _runs(in_order, targets, slices):
        device = targets.devices[target]
        if run[0].tensor.name in slices:
            start = round_up(ends[target], alignment_of(device))
            placed = list(_slice_extents(run[0], slices[run[0].tensor.name], target, start))
            places[run[0].tensor.name] = Place(target, start)
        else:
            placed = [_place(run, target, ends[target], is_host=device == "cpu")]
            shift = placed[0].destination - placed[0].offset
            for location in run:
                places[location.tensor.name] = Place(target, location.offset + shift)
        extents += placed
        ends[target] = max([ends[target], *map(_end, placed)])
        if device == "cpu" and _lies_as_in_file(placed):
            # Nothing else begins in its last block: a direct read writes whole blocks, and pages are mapped whole.
            ends[target] = round_up(ends[target], BLOCK_BYTES)
    extents.sort(key=attrgetter("partition", "offset"))
    return LoadPlan(tuple(extents), places, tuple(round_up(end, BLOCK_BYTES) for end in ends))


def alignment_of(device: str) -> int:
    """What a tensor's address is a multiple of there."""
    return TENSOR_ALIGNMENT if device == "cpu" else DEVICE_ALIGNMENT


def _lies_as_in_file(placed: Sequence[Extent]) -> bool:
    first = placed[0]
    return len(placed) == 1 and not first.row_bytes and (first.destination - first.offset) % BLOCK_BYTES == 0


def _end(extent: Extent) -> int:
    if not extent.row_bytes:
        return extent.destination + extent.nbytes
    rows = (extent.nbytes - extent.row_bytes) // extent.from_pitch
    return extent.destination + rows * extent.to_pitch + extent.row_bytes


def _runs(
    in_order: Sequence[Location], targets: Targets, slices: Mapping[str, Slice]
) -> Iterator[tuple[int, list[Location]]]:
    """Neighbours in a file with one target, each as far from the first of its run as the alignment allows.

    A tensor that is sliced is by itself.
    """
    run: list[Location] = []
    partition, target, start, end = -1, -1, 0, 0
    for location in in_order:
        offset, its_target = location.offset, targets.target(location.tensor.name)
        is_next = location.partition == partition and its_target == target and offset == end
        is_next = is_next and not (run[0].tensor.name in slices or location.tensor.name in slices)
        if not is_next or (offset - start) % alignment_of(targets.devices[target]):
            if run:
                yield target, run
            run = []
            partition, target, start = location.partition, its_target, offset
        run.append(location)
        end = offset + location.tensor.nbytes
    if run:
        yield target, run


def _place(run: Sequence[Location], target: int, end: int, *, is_host: bool) -> Extent:
    first, last = run[0], run[-1]
    nbytes = last.offset + last.tensor.nbytes - first.offset
    start = _start_in_host(first.offset, nbytes, end) if is_host else round_up(end, DEVICE_ALIGNMENT)
    return Extent(first.partition, first.offset, nbytes, target, start)


def _slice_extents(location: Location, part: Slice, target: int, start: int) -> Iterator[Extent]:
    """The slice's bytes, dense from `start` on: as rows, or apart where what lies between them need not be read."""
    rows = byte_rows(location.tensor, part)
    offset = location.offset + rows.offset
    if not rows.row_bytes:
        yield Extent(location.partition, offset, rows.nbytes, target, start)
    elif rows.pitch - rows.row_bytes < _GAP_BYTES:
        shape = (rows.row_bytes, rows.pitch, rows.row_bytes)
        yield Extent(location.partition, offset, rows.nbytes, target, start, *shape)
    else:
        for number in range((rows.nbytes - rows.row_bytes) // rows.pitch + 1):
            at = start + number * rows.row_bytes
            yield Extent(location.partition, offset + number * rows.pitch, rows.row_bytes, target, at)


def _start_in_host(offset: int, nbytes: int, end: int) -> int:
    if offset % TENSOR_ALIGNMENT:
        return round_up(end, TENSOR_ALIGNMENT)
    # A block of its own on either side.
    own = round_up(end, BLOCK_BYTES)
    multiple = HUGE_PAGE_BYTES if nbytes >= _LONG_RUN_BYTES else BLOCK_BYTES
    return own + (offset - own) % multiple


def round_up(value: int, multiple: int) -> int:
    """The next multiple, or the value itself."""
    return -(-value // multiple) * multiple
