"""A part of a tensor along one dimension, and which of its bytes that is."""

from math import prod
from typing import NamedTuple

from sllm_store.dtypes import DTYPES
from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.header import StoredTensor, tensor_nbytes


class Slice(NamedTuple):
    """Elements `start` to `stop` of dimension `dim`, which counts from 0.

    A dimension may hold `groups` equally long tensors packed behind each other (gate and up projections of an MLP):
    `start` and `stop` are then counted in each of them, and what is cut from them lies side by side in the result.
    """

    dim: int
    start: int
    stop: int
    groups: int = 1


class ByteRows(NamedTuple):
    """Bytes of a tensor, in the order that they have in the result, which is dense.

    `offset` is the first of them, counted from the tensor's own first byte. With `row_bytes` 0 they are one range of
    `nbytes`. Else they are the first `row_bytes` of each row: rows begin `pitch` bytes apart, there are at least two,
    and `nbytes` reaches from the first row's first byte to the last row's last one that is wanted.
    """

    offset: int
    nbytes: int
    row_bytes: int
    pitch: int


def byte_rows(tensor: StoredTensor, part: Slice) -> ByteRows:
    """The bytes of a part; an empty one is 0 bytes at 0.

    Raises InvalidArgumentError for a part that the tensor has not, and UnsupportedError for one that begins or ends
    inside a byte.
    """
    size = _group_size(tensor, part)
    wanted = part.stop - part.start
    if wanted == size:
        return ByteRows(0, tensor.nbytes, 0, 0)
    if wanted == 0 or tensor.nbytes == 0:
        return ByteRows(0, 0, 0, 0)
    step_bits = prod(tensor.shape[part.dim + 1 :]) * DTYPES[tensor.dtype].bits
    rows = prod(tensor.shape[: part.dim]) * part.groups
    bits = (part.start * step_bits, wanted * step_bits, size * step_bits)
    if any(count % 8 for count in bits):
        raise UnsupportedError(f"{_describe(tensor, part)} begin or end inside a byte, as {tensor.dtype} is stored")
    offset, row_bytes, pitch = (count // 8 for count in bits)
    if rows == 1:
        return ByteRows(offset, row_bytes, 0, 0)
    return ByteRows(offset, (rows - 1) * pitch + row_bytes, row_bytes, pitch)


def sliced_shape(tensor: StoredTensor, part: Slice) -> tuple[int, ...]:
    """The shape of the result. Raises InvalidArgumentError for a part that the tensor has not."""
    _group_size(tensor, part)
    size = (part.stop - part.start) * part.groups
    return (*tensor.shape[: part.dim], size, *tensor.shape[part.dim + 1 :])


def sliced_tensor(tensor: StoredTensor, part: Slice) -> StoredTensor:
    """The result as a tensor of its own, which begins at 0."""
    shape = sliced_shape(tensor, part)
    return StoredTensor(tensor.name, tensor.dtype, shape, 0, tensor_nbytes(tensor.dtype, shape))


def _group_size(tensor: StoredTensor, part: Slice) -> int:
    if not 0 <= part.dim < len(tensor.shape):
        raise InvalidArgumentError(f"tensor {tensor.name} of shape {list(tensor.shape)} has no dimension {part.dim}")
    size, rest = divmod(tensor.shape[part.dim], part.groups) if part.groups > 0 else (0, 1)
    if rest:
        raise InvalidArgumentError(
            f"dimension {part.dim} of tensor {tensor.name}, {tensor.shape[part.dim]}, is not {part.groups} equal parts"
        )
    if not 0 <= part.start <= part.stop <= size:
        raise InvalidArgumentError(f"{_describe(tensor, part)} are not all among its {size}")
    return size


def _describe(tensor: StoredTensor, part: Slice) -> str:
    return f"elements {part.start} to {part.stop} of dimension {part.dim} of tensor {tensor.name}"
