"""The header of a GGUF file: its metadata and where each tensor lies, decoded once, into valid values or an error.

The `gguf` package's own reader makes several numpy arrays for each word of the vocabulary: 700 MB and ten seconds
for a vocabulary of 262144, and more with its merges. Here an array costs nothing but its length.

    magic "GGUF", u32 version, u64 tensors, u64 members
    members:  string key, u32 type, value         (a string is a u64 length and UTF-8)
    tensors:  string name, u32 dimensions, u64 each (fastest first), u32 type, u64 offset from the data
    padding up to the alignment, then the data
"""

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, TypeAlias

from sllm_store.errors import CorruptCheckpointError, UnsupportedError, from_os_error

Scalar: TypeAlias = int | float | bool | str

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_DIMENSIONS: Final = 4
_SCALARS: Final = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING: Final = 8
_ARRAY: Final = 9
_UINT32: Final = 4
# What makes a header large, and what transformers reads of it for a config: nothing but the number of tokens.
_VOCABULARY: Final = frozenset(f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges"))


class GgufTensor(NamedTuple):
    """One tensor: `shape` slowest first, `kind` its number among GGML's types, `offset` from the file's start."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    row_bytes: int

    @property
    def rows(self) -> int:
        """How many rows of `row_bytes` it has: all dimensions but the last."""
        return math.prod(self.shape[:-1])


class GgufHeader(NamedTuple):
    """`metadata` has scalars and strings as they are, and of each array its length."""

    path: Path
    metadata: dict[str, Scalar]
    tensors: tuple[GgufTensor, ...]
    bare: bytes

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the kind of model."""
        return str(self.metadata["general.architecture"])

    def names(self) -> list[str]:
        """The names of all tensors, in the order of the file."""
        return [tensor.name for tensor in self.tensors]

    @contextmanager
    def bare_copy(self) -> Iterator[Path]:
        """A sparse file with this header less the vocabulary: all that transformers needs to make a config."""
        with TemporaryDirectory(prefix="sllm-gguf-") as folder:
            path = Path(folder, self.path.name)
            with path.open("wb") as file:
                file.write(self.bare)
                # Every tensor's range has to exist, or the gguf package's reader refuses the file.
                file.truncate(len(self.bare) + self.path.stat().st_size)
            yield path


def read_header(path: Path) -> GgufHeader:
    """Decode the header of the GGUF file at `path`.

    Raises CorruptCheckpointError for what is no whole GGUF file, UnsupportedError for a version, byte order or
    element type that cannot be read, or for one part of a file that was split.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            header = _decode(path, _Cursor(content))
    except OSError as error:
        raise from_os_error(error, f"cannot read {path}") from error
    except (ValueError, struct.error) as error:
        raise CorruptCheckpointError(f"{path} is no valid GGUF file: {error}") from error
    if "general.architecture" not in header.metadata:
        raise CorruptCheckpointError(f"{path} is no valid GGUF file: it names no architecture")
    if int(header.metadata.get("split.count", 0)) > 1:
        hint = "join them with llama-gguf-split --merge"
        raise UnsupportedError(f"{path} is one of {header.metadata['split.count']} parts; hint: {hint}")
    return header


class _Cursor:
    """A place in the file; every read is checked against its end."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 0

    def number(self, letter: str) -> int:
        value: int = struct.unpack_from("<" + letter, self.content, self.at)[0]
        self.at += struct.calcsize("<" + letter)
        return value

    def text(self) -> str:
        start, self.at = self.at, self.at
        self.skip(self.number("Q"))
        return self.content[start + 8 : self.at].decode()

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.content):
            raise ValueError(f"it ends at {len(self.content)}, inside its header")

    def value(self, kind: int) -> Scalar:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"unknown type {kind} of a value at {self.at}")
        element, count = self.number("I"), self.number("Q")
        if element in _SCALARS:
            self.skip(struct.calcsize("<" + _SCALARS[element]) * count)
        elif element == _STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise ValueError(f"unknown type {element} of an array at {self.at}")
        return count


def _decode(path: Path, cursor: _Cursor) -> GgufHeader:
    cursor.skip(len(_MAGIC))
    if cursor.content[: cursor.at] != _MAGIC:
        raise ValueError("it does not start with GGUF")
    version, tensors, members = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
    if version not in _VERSIONS:
        order = " (or its bytes are in the other order)" if version > 0xFFFF else ""
        raise UnsupportedError(f"{path} is of GGUF version {version}{order}, this sllm reads 2 and 3")
    metadata: dict[str, Scalar] = {}
    kept = []
    for _ in range(members):
        start, key = cursor.at, cursor.text()
        metadata[key] = cursor.value(cursor.number("I"))
        if key not in _VOCABULARY:
            kept.append(cursor.content[start : cursor.at])
    kept += _vocabulary_size(metadata)
    start = cursor.at
    listed = [_decode_tensor(cursor) for _ in range(tensors)]
    bare = struct.pack("<4sIQQ", _MAGIC, version, tensors, len(kept)) + b"".join(kept)
    bare += cursor.content[start : cursor.at]
    data = -(-cursor.at // _alignment(metadata)) * _alignment(metadata)
    placed = tuple(_place(path, tensor, data, len(cursor.content)) for tensor in listed)
    if len({tensor.name for tensor in placed}) != len(placed):
        raise ValueError("two of its tensors have the same name")
    return GgufHeader(path, metadata, placed, bare)


def _vocabulary_size(metadata: dict[str, Scalar]) -> list[bytes]:
    key = f"{metadata.get('general.architecture')}.vocab_size"
    tokens = metadata.get("tokenizer.ggml.tokens")
    if key in metadata or not isinstance(tokens, int):
        return []
    name = key.encode()
    return [struct.pack(f"<Q{len(name)}sII", len(name), name, _UINT32, tokens)]


def _alignment(metadata: dict[str, Scalar]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {alignment}")
    return alignment


def _decode_tensor(cursor: _Cursor) -> GgufTensor:
    name, dimensions = cursor.text(), cursor.number("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise ValueError(f"{name} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
    if 0 in shape:
        raise ValueError(f"{name} has the shape {list(shape)}")
    return GgufTensor(name, shape, cursor.number("I"), cursor.number("Q"), 0)


def _place(path: Path, tensor: GgufTensor, data: int, file_bytes: int) -> GgufTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if tensor.kind not in {int(kind) for kind in GGML_QUANT_SIZES}:
        raise UnsupportedError(f"{tensor.name} of {path} has the unknown GGML type {tensor.kind}")
    elements, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    if tensor.shape[-1] % elements:
        raise ValueError(f"a row of {tensor.name}, {tensor.shape[-1]} elements, ends inside a block of {elements}")
    placed = tensor._replace(offset=data + tensor.offset, row_bytes=tensor.shape[-1] // elements * block_bytes)
    end = placed.offset + placed.rows * placed.row_bytes
    if end > file_bytes:
        raise ValueError(f"it is truncated: {tensor.name} ends at {end} of {file_bytes} bytes")
    return placed
