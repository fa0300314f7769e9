"""The values of a GGUF's tensors: rows read, de-quantised and cast, one slice at a time.

Nothing is mapped: each slice is a read of its own, so memory holds one slice and its temporaries, whatever the
sizes. A row is independent of all others, in every quantised type, so rows can be read in any order.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

import gguf
import numpy as np
import torch

from sllm_store.dtypes import DTYPES
from sllm_store.errors import CorruptCheckpointError, UnsupportedError, from_os_error
from sllm_store.sources.base import SLICE_BYTES, Buffer
from sllm_store.sources.gguf_header import GgufTensor

Array: TypeAlias = np.ndarray[Any, Any]
Convert: TypeAlias = Callable[[str, Array], Array]
Slices: TypeAlias = Callable[[], Iterator[Buffer]]

# A tensor that has to be changed as a whole takes about four times this while it is.
WHOLE_BYTES: Final = 64 << 20
_F32_BYTES: Final = 4
# gguf.dequantize works on 16 rows at a time; short ones are joined, so that Python's share stays small.
_JOINED_ELEMENTS: Final = 8192


class Output(NamedTuple):
    """What a tensor becomes: its shape, and its dtype by the name that safetensors uses."""

    shape: tuple[int, ...]
    dtype: str


def check_kinds(tensors: tuple[GgufTensor, ...], path: Path) -> None:
    """Raise UnsupportedError for a type that the gguf package cannot de-quantise."""
    for kind in {tensor.kind for tensor in tensors}:
        known = gguf.GGMLQuantizationType(kind)
        block = np.zeros((1, gguf.GGML_QUANT_SIZES[known][1]), np.uint8)
        try:
            _dequantize(block, kind)
        except NotImplementedError as error:
            raise UnsupportedError(f"{path} has tensors of type {known.name}, which gguf cannot de-quantise") from error


def stream(path: Path, tensor: GgufTensor, convert: Convert, output: Output) -> Slices:
    """How one tensor is read, as `SourceTensor.slices`; `convert` says what becomes of it.

    Raises UnsupportedError where it is too large to be held and `convert` does more than reorder rows.
    """
    f32_bytes = tensor.rows * tensor.shape[-1] * _F32_BYTES
    if f32_bytes <= SLICE_BYTES:
        return lambda: _whole(path, tensor, convert, output)
    order = row_order(tensor, convert)
    if order is not None and tensor.shape[-1] * _F32_BYTES <= SLICE_BYTES:
        in_place = bool((order == np.arange(len(order))).all())
        return lambda: _rows(path, tensor, range(tensor.rows) if in_place else order, output.dtype)
    if f32_bytes <= WHOLE_BYTES:
        return lambda: _whole(path, tensor, convert, output)
    raise UnsupportedError(f"{tensor.name} of {path} would have to be rearranged in memory: {f32_bytes} bytes")


def stream_merged(path: Path, parts: tuple[GgufTensor, GgufTensor], dtype: str) -> Slices:
    """Two tensors of experts joined: of each expert the rows of the first, then those of the second."""
    rows = parts[0].shape[1]

    def slices() -> Iterator[Buffer]:
        for start in range(0, parts[0].rows, rows):
            for part in parts:
                yield from _rows(path, part, range(start, start + rows), dtype)

    return slices


def row_order(tensor: GgufTensor, convert: Convert) -> Array | None:
    """Which row of the file each row of the result is, or None where `convert` does anything else.

    Found by converting an array of the same rows, two columns wide, that counts: a pair stays one only if whole
    rows move. (One column would let a transposition pass.)
    """
    counted = np.arange(2 * tensor.rows).reshape(*tensor.shape[:-1], 2)
    try:
        pairs = convert(tensor.name, counted).reshape(-1, 2)
    except (ValueError, IndexError, RuntimeError, TypeError):
        return None
    first, second = pairs[:, 0], pairs[:, 1]
    if not (second == first + 1).all() or not (np.sort(first) == counted.reshape(-1, 2)[:, 0]).all():
        return None
    order: Array = first.astype(np.int64) // 2
    return order


def _rows(path: Path, tensor: GgufTensor, order: "range | Array", dtype: str) -> Iterator[Buffer]:
    count = SLICE_BYTES // (tensor.shape[-1] * _F32_BYTES)
    try:
        with path.open("rb") as file:
            for start in range(0, len(order), count):
                raw = _read_rows(file, tensor, order[start : start + count])
                yield _cast(_dequantize(raw, tensor.kind), dtype)
    except OSError as error:
        raise from_os_error(error, f"cannot read {tensor.name} of {path}") from error


def _read_rows(file: BinaryIO, tensor: GgufTensor, order: "range | Array") -> Array:
    raw = np.empty((len(order), tensor.row_bytes), np.uint8)
    if isinstance(order, range):
        _read_into(file, tensor, order.start, raw)
    else:
        for row, source in zip(raw, order.tolist(), strict=True):
            _read_into(file, tensor, source, row)
    return raw


def _read_into(file: BinaryIO, tensor: GgufTensor, row: int, target: Array) -> None:
    offset = tensor.offset + row * tensor.row_bytes
    file.seek(offset)
    if file.readinto(target.data.cast("B")) != target.nbytes:  # type: ignore[attr-defined]
        raise CorruptCheckpointError(f"{file.name} was truncated at {offset} while it was read")


def _whole(path: Path, tensor: GgufTensor, convert: Convert, output: Output) -> Iterator[Buffer]:
    try:
        with path.open("rb") as file:
            raw = _read_rows(file, tensor, range(tensor.rows))
    except OSError as error:
        raise from_os_error(error, f"cannot read {tensor.name} of {path}") from error
    values = convert(tensor.name, _dequantize(raw, tensor.kind).reshape(tensor.shape))
    if values.shape != output.shape:
        raise UnsupportedError(
            f"{tensor.name} of {path} has shape {list(values.shape)}, its model {list(output.shape)}"
        )
    content = memoryview(_cast(np.ascontiguousarray(values), output.dtype))
    for start in range(0, len(content), SLICE_BYTES):
        yield content[start : start + SLICE_BYTES]


def _dequantize(raw: Array, kind: int) -> Array:
    """Rows of bytes as rows of float32."""
    joined = max(1, _JOINED_ELEMENTS // raw.shape[-1])
    if raw.shape[0] % joined == 0:
        raw = raw.reshape(raw.shape[0] // joined, -1)
    # A scale that is not finite is the file's; it must come out as it is, not as a warning.
    with np.errstate(all="ignore"):
        values: Array = gguf.dequantize(raw, gguf.GGMLQuantizationType(kind))
    return values


def _cast(values: Array, dtype: str) -> Buffer:
    if dtype == "F32":
        return values.data.cast("B")
    tensor = torch.from_numpy(values).to(getattr(torch, str(DTYPES[dtype].torch_name)))
    content: Array = tensor.view(torch.uint8).numpy()
    return content.data.cast("B")
