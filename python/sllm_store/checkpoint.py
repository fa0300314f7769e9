"""A checkpoint folder, opened: its partitions and tensors, everything in it checked before anyone relies on it.

Three kinds of path are checkpoints: a converted folder (with `sllm.json`), a plain Hugging Face folder of
safetensors, and a single safetensors file. The last two have no CRCs, so what is read from them is unverified.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from sllm_store import _core
from sllm_store.errors import (
    CorruptCheckpointError,
    InvalidArgumentError,
    from_os_error,
)
from sllm_store.header import Header, StoredTensor, decode_header, header_length
from sllm_store.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, ManifestFile, decode_manifest
from sllm_store.weight_files import Index, find_weights


class Partition(NamedTuple):
    """One data file. `proof` is its entry in the manifest, or None where it is unverified.

    `identity` (device, inode, bytes, modification time in ns) tells the file that was opened from any later state.
    """

    path: Path
    identity: tuple[int, int, int, int]
    header: Header
    proof: ManifestFile | None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.identity[2]


# Not for the garbage collector: a hundred thousand of them would make it run, and they are in no cycle.
class Location(msgspec.Struct, frozen=True, gc=False):
    """Where a tensor's bytes lie: `offset` is counted from the first byte of the partition's file."""

    partition: int
    offset: int
    tensor: StoredTensor


class Checkpoint(NamedTuple):
    """An opened checkpoint. `tensors` holds the stored ones; `tied` maps further names onto them."""

    path: Path
    partitions: tuple[Partition, ...]
    tensors: Mapping[str, Location]
    tied: Mapping[str, str]
    is_verifiable: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(location.tensor.nbytes for location in self.tensors.values())

    def locate(self, name: str) -> Location:
        """The bytes of a tensor, a tied one's included. Raises InvalidArgumentError for an unknown name."""
        location = self.tensors.get(self.tied.get(name, name))
        if location is None:
            raise InvalidArgumentError(f"no tensor {name} in {self.path}")
        return location

    def dtypes(self) -> set[str]:
        """The element types that its tensors have."""
        return {location.tensor.dtype for location in self.tensors.values()}

    def names(self) -> list[str]:
        """The names of all tensors: the stored ones in the order of their bytes, then the tied ones."""
        return [*self.tensors, *self.tied]


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the checkpoint at `path`, reading its headers and its manifest and nothing else.

    Raises CheckpointNotFoundError, PermissionDeniedError, CorruptCheckpointError, or UnsupportedError where
    a newer sllm wrote it.
    """
    root = Path(path)
    manifest = None if root.is_file() else _read_manifest(root)
    listing = None
    if manifest:
        partitions = tuple(_open_partition(root / file.name, file) for file in manifest.files)
    else:
        files, listing = find_weights(root)
        partitions = tuple(_open_partition(file, None) for file in files)
    tensors = _locate_all(partitions)
    if listing:
        _check_index(listing, tensors, partitions)
    tied = dict(manifest.tied) if manifest else {}
    _check_tied(tied, tensors, root / MANIFEST_NAME)
    return Checkpoint(root, partitions, MappingProxyType(tensors), MappingProxyType(tied), manifest is not None)


def _read_manifest(root: Path) -> Manifest | None:
    path = root / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_MANIFEST_BYTES:
                raise CorruptCheckpointError(f"{path} has {size} bytes, over the limit of {MAX_MANIFEST_BYTES}")
            return decode_manifest(file.read(), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, f"cannot read {path}") from error


def _open_partition(path: Path, proof: ManifestFile | None) -> Partition:
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            if proof is not None and size != proof.bytes:
                raise CorruptCheckpointError(
                    f"{path} has {size} bytes, the manifest says {proof.bytes}: it was truncated or replaced"
                )
            prefix = os.pread(file.fileno(), 8, 0)
            text = _read_exactly(file.fileno(), header_length(prefix, size, str(path)), 8, path)
    except FileNotFoundError as error:
        raise CorruptCheckpointError(f"{path} is missing: its checkpoint is incomplete") from error
    except OSError as error:
        raise from_os_error(error, f"cannot open {path}") from error
    if proof is not None:
        _check_header(prefix + text, path, proof)
    identity = (status.st_dev, status.st_ino, size, status.st_mtime_ns)
    return Partition(path, identity, decode_header(text, size, str(path)), proof)


def _read_exactly(fd: int, count: int, offset: int, path: Path) -> bytes:
    parts = []
    while count > 0:
        part = os.pread(fd, count, offset)
        if not part:
            raise CorruptCheckpointError(f"{path} was truncated at {offset} while it was read")
        parts.append(part)
        offset += len(part)
        count -= len(part)
    return b"".join(parts)


def _check_header(header: bytes, path: Path, proof: ManifestFile) -> None:
    if len(header) != proof.header_bytes or _core.crc32c(header) != int(proof.header_crc32c, 16):
        raise CorruptCheckpointError(
            f"{path} is damaged: the crc32c of its header, bytes 0 to {len(header)}, does not match"
        )


def _locate_all(partitions: tuple[Partition, ...]) -> dict[str, Location]:
    tensors: dict[str, Location] = {}
    for number, partition in enumerate(partitions):
        base = partition.header.data_start
        for tensor in partition.header.tensors:
            tensors[tensor.name] = Location(number, base + tensor.start, tensor)
    if len(tensors) != sum(len(partition.header.tensors) for partition in partitions):
        raise CorruptCheckpointError(f"{_first_duplicate(partitions)} is in two files of {partitions[0].path.parent}")
    return tensors


def _first_duplicate(partitions: tuple[Partition, ...]) -> str:
    seen: set[str] = set()
    for partition in partitions:
        names = {tensor.name for tensor in partition.header.tensors}
        if both := seen & names:
            return f"tensor {min(both)}"
        seen |= names
    return "no tensor"


def _check_index(index: Index, tensors: Mapping[str, Location], partitions: tuple[Partition, ...]) -> None:
    for name, file in index.weight_map.items():
        location = tensors.get(name)
        if location is None or partitions[location.partition].path.name != file:
            raise CorruptCheckpointError(f"{index.path} says that {file} has tensor {name}, which it has not")


def _check_tied(tied: Mapping[str, str], tensors: Mapping[str, Location], origin: Path) -> None:
    for name, stored in tied.items():
        if name in tensors or stored not in tensors:
            raise CorruptCheckpointError(f"{origin} ties {name} to {stored}, which its files contradict")
