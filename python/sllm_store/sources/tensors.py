"""Torch tensors as a source, wherever they lie and whatever their strides.

A slice is copied into one reused buffer, which makes it contiguous, brings it from a device, and works for dtypes
that torch can hold but not compute with.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from sllm_store.dtypes import DTYPES
from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.sources.base import SLICE_BYTES, Buffer, Source, SourceTensor

if TYPE_CHECKING:
    import torch

IsAlias: TypeAlias = Callable[[str], bool]
Release: TypeAlias = Callable[["torch.Tensor"], None]

_BY_TORCH_NAME: Final = {f"torch.{dtype.torch_name}": dtype for dtype in DTYPES.values() if dtype.torch_name}
# Memory that one copy may touch.
_REACH_BYTES: Final = 64 << 20
# Of each element size, the name of a dtype that torch can copy everywhere.
_BITS: Final = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


def open_tensors(
    tensors: "Mapping[str, torch.Tensor]",
    *,
    is_alias: IsAlias = lambda name: False,
    write_companions: Callable[[Path], None] | None = None,
) -> Source:
    """Tensors in memory, in order, those that are the same view stored once (`tie` has the rule)."""
    import torch

    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise InvalidArgumentError(f"{name!r} is a {type(tensor).__name__}, not a tensor with a name")
    tied = tie(tensors, is_alias)
    return Source(source_tensors(tensors, tied), tied, write_companions=write_companions)


def tie(tensors: "Mapping[str, torch.Tensor]", is_alias: IsAlias = lambda name: False) -> dict[str, str]:
    """Names that need not be stored, each with the stored name whose bytes it shares.

    Tensors are tied if they are the same view of the same storage. The first is stored, unless `is_alias` says
    of it, and not of all of them, that its model makes it out of another one.
    """
    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        check_dense(name, tensor)
        if tensor.numel():
            groups.setdefault(_view_of(tensor), []).append(name)
    tied: dict[str, str] = {}
    for names in groups.values():
        stored = next((name for name in names if not is_alias(name)), names[0])
        tied |= {name: stored for name in names if name != stored}
    return tied


def check_dense(name: str, tensor: "torch.Tensor") -> None:
    """Raise unless `tensor` is a plain one with data, of a dtype that safetensors has."""
    import torch

    if tensor.layout != torch.strided or tensor.is_nested:
        raise UnsupportedError(f"tensor {name} is not dense: safetensors holds nothing else")
    if str(tensor.dtype) not in _BY_TORCH_NAME:
        raise UnsupportedError(f"tensor {name} has dtype {tensor.dtype}, which safetensors does not have")
    if tensor.is_meta:
        raise InvalidArgumentError(f"tensor {name} is on the meta device: it has no data")


def source_tensors(
    tensors: "Mapping[str, torch.Tensor]", tied: Mapping[str, str], release: Release = lambda tensor: None
) -> tuple[SourceTensor, ...]:
    """All tensors but the tied ones, in order. `release` hears of each tensor that a slice was copied from."""
    copier = _Copier(release)
    return tuple(_source_tensor(name, tensor.detach(), copier) for name, tensor in tensors.items() if name not in tied)


def _source_tensor(name: str, tensor: "torch.Tensor", copier: "_Copier") -> SourceTensor:
    dtype = _BY_TORCH_NAME[str(tensor.dtype)]
    shape = list(tensor.shape)
    if dtype.per_element > 1 and shape:
        shape[-1] *= dtype.per_element
    nbytes = tensor.numel() * tensor.element_size()
    return SourceTensor(name, dtype.name, tuple(shape), nbytes, partial(copier.slices, tensor))


def _view_of(tensor: "torch.Tensor") -> object:
    storage = tensor.untyped_storage()
    view = (
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        tensor.is_conj(),
        tensor.is_neg(),
    )
    return tensor.device, storage.data_ptr(), view


class _Copier:
    """Copies slices of tensors into one buffer, which all tensors of a source share."""

    def __init__(self, release: Release) -> None:
        self._stage = bytearray()
        self._release = release

    def slices(self, tensor: "torch.Tensor") -> Iterator[Buffer]:
        import torch

        for piece in _pieces(tensor):
            nbytes = piece.numel() * piece.element_size()
            if len(self._stage) < nbytes:
                self._stage = bytearray(nbytes)
            bits = piece.resolve_conj().resolve_neg().view(getattr(torch, _BITS[piece.element_size()]))
            target = torch.frombuffer(self._stage, dtype=bits.dtype, count=bits.numel())
            self._copy(target.view(bits.shape), bits)
            yield memoryview(self._stage)[:nbytes]

    def _copy(self, target: "torch.Tensor", piece: "torch.Tensor") -> None:
        """Copy a piece in parts that each touch little memory: one of a transposed tensor may touch all of it."""
        reaches = [(size - 1) * stride for size, stride in zip(piece.shape, piece.stride(), strict=True)]
        if sum(reaches) * piece.element_size() <= _REACH_BYTES:
            target.copy_(piece)
            self._release(piece)
            return
        widest = reaches.index(max(reaches))
        half = piece.shape[widest] // 2
        for start, length in ((0, half), (half, piece.shape[widest] - half)):
            self._copy(target.narrow(widest, start, length), piece.narrow(widest, start, length))


def _pieces(tensor: "torch.Tensor") -> "Iterator[torch.Tensor]":
    """Parts of a tensor in the order of its elements, none of them empty or larger than a slice."""
    if tensor.numel() == 0:
        return
    if tensor.numel() * tensor.element_size() <= SLICE_BYTES:
        yield tensor
        return
    if tensor.is_contiguous():
        yield from tensor.view(-1).split(SLICE_BYTES // tensor.element_size())
        return
    rows = SLICE_BYTES * len(tensor) // (tensor.numel() * tensor.element_size())
    if rows:
        yield from tensor.split(rows)
        return
    for row in tensor:
        yield from _pieces(row)
