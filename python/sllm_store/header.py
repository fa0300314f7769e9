"""The header of one safetensors file: decoded once, totally, into valid values or an error.

A safetensors file is an unsigned 64-bit little-endian length N, N bytes of JSON, and the tensors' bytes
without holes. docs/format.md has the rules that this module enforces, with their limits.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec

from sllm_store.dtypes import DTYPES
from sllm_store.errors import CorruptCheckpointError

DATA_ALIGNMENT: Final = 4096
MAX_HEADER_BYTES: Final = 100_000_000
MAX_TENSORS: Final = 1_000_000
MAX_DIMENSIONS: Final = 64
MAX_TENSOR_BYTES: Final = 2**62
LENGTH_BYTES: Final = 8

_METADATA: Final = "__metadata__"
_KEYS: Final = (b'"dtype"', b'"shape"', b'"data_offsets"')

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class StoredTensor(msgspec.Struct, frozen=True, gc=False):
    """One tensor as it lies in a file. `start` is counted from the file's first data byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


class Header(msgspec.Struct, frozen=True):
    """A valid header: its tensors in the order of their bytes, and where those begin in the file."""

    tensors: tuple[StoredTensor, ...]
    metadata: dict[str, str]
    data_start: int


class _Entry(msgspec.Struct, gc=False):
    dtype: str
    shape: Annotated[list[_Size], msgspec.Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[_Size, _Size]


_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_entry: Final = msgspec.json.Decoder(_Entry).decode
_decode_metadata: Final = msgspec.json.Decoder(dict[str, str]).decode


def tensor_nbytes(dtype: str, shape: Iterable[int]) -> int:
    """Bytes that a tensor takes in a file; ValueError for an unknown dtype or one that ends inside a byte."""
    known = DTYPES.get(dtype)
    if known is None:
        raise ValueError(f"unknown dtype {dtype}")
    bits = math.prod(shape) * known.bits
    if bits % 8 != 0:
        raise ValueError(f"{bits} bits do not end at a byte")
    return bits // 8


def header_length(prefix: bytes, file_bytes: int, origin: str) -> int:
    """Bytes of JSON that the first 8 bytes of a file announce, checked against the file and the limit."""
    if len(prefix) < LENGTH_BYTES:
        raise CorruptCheckpointError(f"{origin} is truncated: {file_bytes} bytes hold no safetensors header")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise CorruptCheckpointError(f"{origin} has a header of {length} bytes, over the limit of {MAX_HEADER_BYTES}")
    if LENGTH_BYTES + length > file_bytes:
        raise CorruptCheckpointError(
            f"{origin} is truncated: its header ends at {LENGTH_BYTES + length} of {file_bytes} bytes"
        )
    return length


def decode_header(text: bytes, file_bytes: int, origin: str) -> Header:
    """Decode the JSON of a header. `origin` names the file in errors.

    Raises CorruptCheckpointError for anything that docs/format.md forbids.
    """
    try:
        members = _decode_members(text)
        metadata = _decode_metadata(members.pop(_METADATA)) if _METADATA in members else {}
        if len(members) > MAX_TENSORS:
            raise ValueError(f"{len(members)} tensors are over the limit of {MAX_TENSORS}")
        tensors = tuple(sorted((_decode_tensor(*member) for member in members.items()), key=_place))
        _check_cover(tensors, file_bytes - LENGTH_BYTES - len(text))
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(f"{origin} has an invalid header: {error}") from error
    return Header(tensors, metadata, LENGTH_BYTES + len(text))


def encode_header(tensors: Iterable[StoredTensor], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file: length, JSON, and spaces up to DATA_ALIGNMENT."""
    members: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    for tensor in tensors:
        end = tensor.start + tensor.nbytes
        members[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (tensor.start, end),
        }
    text = msgspec.json.encode(members)
    padding = -(LENGTH_BYTES + len(text)) % DATA_ALIGNMENT
    return (len(text) + padding).to_bytes(LENGTH_BYTES, "little") + text + b" " * padding


def _decode_members(text: bytes) -> dict[str, msgspec.Raw]:
    if text[:1] != b"{":
        raise ValueError("it does not begin with an object")
    members = _decode_object(text)
    # A JSON object decodes with its last duplicate alone. Each tensor spells each key once, so a count that
    # differs from the members' says that there may be a duplicate, unless an escape hides a spelling.
    count = len(members) - (_METADATA in members)
    if any(text.count(key) != count for key in _KEYS) or b"\\u" in text:
        json.loads(text, object_pairs_hook=_refuse_duplicates)
    elif text.count(b'"__metadata__"') > 1:
        raise ValueError("it names __metadata__ twice")
    return members


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"it names {name} twice")
        seen.add(name)


def _decode_tensor(name: str, text: msgspec.Raw) -> StoredTensor:
    try:
        entry = _decode_entry(text)
        nbytes = tensor_nbytes(entry.dtype, entry.shape)
        start, end = entry.data_offsets
        if end - start != nbytes or nbytes > MAX_TENSOR_BYTES:
            shape = "x".join(map(str, entry.shape))
            raise ValueError(f"{entry.dtype} of shape [{shape}] takes {nbytes} bytes, not those from {start} to {end}")
    except ValueError as error:
        raise ValueError(f"tensor {name}: {error}") from error
    return StoredTensor(name, entry.dtype, tuple(entry.shape), start, nbytes)


def _place(tensor: StoredTensor) -> tuple[int, int]:
    return tensor.start, tensor.nbytes


def _check_cover(tensors: tuple[StoredTensor, ...], data_bytes: int) -> None:
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            fault = "a hole before" if tensor.start > end else "an overlap at"
            raise ValueError(f"{fault} tensor {tensor.name}, which starts at {tensor.start} and not at {end}")
        end += tensor.nbytes
    if end > data_bytes:
        raise ValueError(f"its tensors end at {end} of {data_bytes} data bytes: the file is truncated")
    if end < data_bytes:
        raise ValueError(f"{data_bytes - end} bytes behind the last tensor belong to none")
