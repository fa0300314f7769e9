"""Where every tensor of a new checkpoint lies: pure, so that the layout can be judged without writing a byte.

The rules are docs/format.md's, "Order" and "Partitions".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.header import DATA_ALIGNMENT, MAX_HEADER_BYTES, MAX_TENSORS, StoredTensor, encode_header
from sllm_store.sources.base import Source, SourceTensor
from sllm_store.weight_files import INDEX_SUFFIX

DEFAULT_PARTITION_BYTES: Final = 16 << 30


class PlannedPartition(NamedTuple):
    """One file to be written: `header`, then the bytes of `tensors` in order."""

    name: str
    header: bytes
    tensors: tuple[SourceTensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


def alignment_class(nbytes: int) -> int:
    """The largest power of two that divides a tensor's size, capped at DATA_ALIGNMENT."""
    return min(nbytes & -nbytes, DATA_ALIGNMENT) if nbytes else DATA_ALIGNMENT


def lay_out(source: Source, partition_bytes: int = DEFAULT_PARTITION_BYTES) -> tuple[PlannedPartition, ...]:
    """The files of a checkpoint that holds `source`, at least one; `partition_bytes` limits each one's tensors.

    Raises InvalidArgumentError for names that a header cannot hold and a limit that makes no sense, and
    UnsupportedError for a header over the format's limit.
    """
    if partition_bytes <= 0:
        raise InvalidArgumentError(f"partition size {partition_bytes} is not above 0")
    _check_names(source)
    metadata = {"format": "pt", **source.metadata}
    groups = _fill(source.tensors, partition_bytes)
    names = partition_names(len(groups), source.stem)
    return tuple(_plan(name, group, metadata) for name, group in zip(names, groups, strict=True))


def partition_names(count: int, stem: str) -> list[str]:
    """The file names of `count` partitions, as Hugging Face names them."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def index_name(plan: Sequence[PlannedPartition]) -> str:
    """The file name of the index of several partitions."""
    return plan[0].name.partition("-00001-of-")[0] + INDEX_SUFFIX


def encode_index(plan: Sequence[PlannedPartition]) -> bytes:
    """The index that tells other libraries which file has which tensor."""
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for planned in plan for tensor in planned.tensors)},
        "weight_map": {tensor.name: planned.name for planned in plan for tensor in planned.tensors},
    }
    return msgspec.json.format(msgspec.json.encode(index), indent=2) + b"\n"


def _fill(tensors: Iterable[SourceTensor], partition_bytes: int) -> list[list[SourceTensor]]:
    groups: list[list[SourceTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        is_full = filled + tensor.nbytes > partition_bytes or len(groups[-1]) == MAX_TENSORS
        if is_full and groups[-1]:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    return groups


def _plan(name: str, group: list[SourceTensor], metadata: Mapping[str, str]) -> PlannedPartition:
    ordered = sorted(group, key=lambda tensor: -alignment_class(tensor.nbytes))
    stored = []
    start = 0
    for tensor in ordered:
        stored.append(StoredTensor(tensor.name, tensor.dtype, tensor.shape, start, tensor.nbytes))
        start += tensor.nbytes
    header = encode_header(stored, metadata)
    if len(header) - 8 > MAX_HEADER_BYTES:
        raise UnsupportedError(
            f"{name} needs a header of {len(header) - 8} bytes, over the limit of {MAX_HEADER_BYTES}"
            "; hint: a smaller partition size makes smaller headers"
        )
    return PlannedPartition(name, header, tuple(ordered))


def _check_names(source: Source) -> None:
    seen = set()
    for name in (*(tensor.name for tensor in source.tensors), *source.tied):
        if name in seen:
            raise InvalidArgumentError(f"two tensors have the name {name}")
        if name == "__metadata__" or not _is_utf8(name):
            raise InvalidArgumentError(f"a tensor cannot have the name {name!r}")
        seen.add(name)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
