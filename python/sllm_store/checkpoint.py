"""A checkpoint folder, opened: its partitions and tensors, everything in it checked before anyone relies on it.

Three kinds of path are checkpoints: a converted folder (with `sllm.json`), a plain Hugging Face folder of
safetensors, and a single safetensors file. The last two have no CRCs, so what is read from them is unverified.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from sllm_store import _core
from sllm_store.errors import (
    CorruptCheckpointError,
    InvalidArgumentError,
    from_os_error,
)
from sllm_store.header import LENGTH_BYTES, Header, StoredTensor, decode_header, header_length
from sllm_store.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, ManifestFile, decode_manifest
from sllm_store.weight_files import Index, find_weights

if TYPE_CHECKING:
    from sllm_store.protocol import Described

# Device, inode, bytes and modification time in ns.
Identity = tuple[int, int, int, int]


class Partition(NamedTuple):
    """One data file. `proof` is its entry in the manifest, or None where it is unverified.

    `identity` tells the file that was opened from any later state.
    """

    path: Path
    identity: Identity
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


class FileHead(NamedTuple):
    """The beginning of a partition, from wherever: its header includes the eight bytes that say its length."""

    name: str
    identity: Identity
    header: bytes


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the checkpoint at `path`, reading its headers and its manifest and nothing else.

    Raises CheckpointNotFoundError, PermissionDeniedError, CorruptCheckpointError, or UnsupportedError where
    a newer sllm wrote it.
    """
    root = Path(path)
    manifest = None if root.is_file() else _read_manifest(root)
    if manifest:
        heads = [_read_head(root / file.name, file) for file in manifest.files]
        return _assemble(str(root), heads, manifest, None)
    files, listing = find_weights(root)
    return _assemble(str(root), [_read_head(file, None) for file in files], None, listing)


def make_checkpoint(root: str, heads: Sequence[FileHead], manifest: bytes, index: Index | None = None) -> Checkpoint:
    """The checkpoint of which somebody else read the headers and the manifest (empty where it has none).

    `root` is its path or its URL. Raises CorruptCheckpointError and UnsupportedError as `open_checkpoint` does.
    """
    proven = decode_manifest(manifest, f"{root}/{MANIFEST_NAME}") if manifest else None
    return _assemble(root, heads, proven, index)


def checkpoint_of(path: str, described: "Described") -> Checkpoint:
    """The checkpoint that a store's daemon described; `path` is what it was asked for."""
    heads = [FileHead(file.name, file.identity, file.header) for file in described.files]
    return make_checkpoint(path, heads, described.manifest)


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


def _read_head(path: Path, proof: ManifestFile | None) -> FileHead:
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            check_size(size, proof, str(path))
            prefix = os.pread(file.fileno(), 8, 0)
            text = _read_exactly(file.fileno(), header_length(prefix, size, str(path)), 8, path)
    except FileNotFoundError as error:
        raise CorruptCheckpointError(f"{path} is missing: its checkpoint is incomplete") from error
    except OSError as error:
        raise from_os_error(error, f"cannot open {path}") from error
    return FileHead(path.name, (status.st_dev, status.st_ino, size, status.st_mtime_ns), prefix + text)


def check_size(size: int, proof: ManifestFile | None, origin: str) -> None:
    """Raise CorruptCheckpointError for a file whose manifest says another size."""
    if proof is not None and size != proof.bytes:
        raise CorruptCheckpointError(
            f"{origin} has {size} bytes, the manifest says {proof.bytes}: it was truncated or replaced"
        )


def _assemble(root: str, heads: Sequence[FileHead], manifest: Manifest | None, listing: Index | None) -> Checkpoint:
    proofs: Sequence[ManifestFile | None] = manifest.files if manifest else [None] * len(heads)
    if manifest and [head.name for head in heads] != [file.name for file in manifest.files]:
        raise CorruptCheckpointError(f"{root}/{MANIFEST_NAME} lists other files than those that were read")
    partitions = tuple(_make_partition(root, head, proof) for head, proof in zip(heads, proofs, strict=True))
    tensors = _locate_all(partitions)
    if listing:
        _check_index(listing, tensors, partitions)
    tied = dict(manifest.tied) if manifest else {}
    _check_tied(tied, tensors, f"{root}/{MANIFEST_NAME}")
    return Checkpoint(Path(root), partitions, MappingProxyType(tensors), MappingProxyType(tied), manifest is not None)


def _make_partition(root: str, head: FileHead, proof: ManifestFile | None) -> Partition:
    # A checkpoint that is a single file is that file's path.
    origin = root if root.rpartition("/")[2] == head.name else f"{root}/{head.name}"
    size = head.identity[2]
    check_size(size, proof, origin)
    length = header_length(head.header, size, origin)
    if len(head.header) != LENGTH_BYTES + length:
        raise CorruptCheckpointError(f"{origin} has a header of {length} bytes, of which not all were read")
    if proof is not None:
        _check_header(head.header, origin, proof)
    return Partition(Path(origin), head.identity, decode_header(head.header[LENGTH_BYTES:], size, origin), proof)


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


def _check_header(header: bytes, path: str, proof: ManifestFile) -> None:
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


def _check_tied(tied: Mapping[str, str], tensors: Mapping[str, Location], origin: str) -> None:
    for name, stored in tied.items():
        if name in tensors or stored not in tensors:
            raise CorruptCheckpointError(f"{origin} ties {name} to {stored}, which its files contradict")
