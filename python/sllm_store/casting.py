"""Changing the floating dtype of what is converted, slice by slice.

Tensors of F64, F32, F16 and BF16 are cast; integers, booleans, complex and the small float types stay as they
are: those mean something else than a number of lower precision.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from sllm_store.cast_dtypes import CASTABLE
from sllm_store.dtypes import DTYPES
from sllm_store.sources.base import SLICE_BYTES, Buffer, Source, SourceTensor

if TYPE_CHECKING:
    import torch


def cast(source: Source, dtype: str) -> Source:
    """The source with its floating tensors as `dtype`, rounded to nearest even as torch does."""
    return replace(source, tensors=tuple(_cast_tensor(tensor, dtype) for tensor in source.tensors))


def cast_config(config: dict[str, object], dtype: str) -> bytes:
    """A model's config as JSON, with `dtype` wherever it says one of its own or of its parts."""
    name = str(DTYPES[dtype].torch_name)
    return msgspec.json.format(msgspec.json.encode(_with_dtype(config, name)), indent=2) + b"\n"


def _with_dtype(config: dict[str, object], name: str) -> dict[str, object]:
    changed = dict(config)
    for key, value in config.items():
        if key in ("dtype", "torch_dtype"):
            changed[key] = name
        elif key.endswith("_config") and key != "quantization_config" and isinstance(value, dict):
            changed[key] = _with_dtype(value, name)
    return changed


def _cast_tensor(tensor: SourceTensor, dtype: str) -> SourceTensor:
    if tensor.dtype not in CASTABLE or tensor.dtype == dtype:
        return tensor
    nbytes = tensor.nbytes * DTYPES[dtype].bits // DTYPES[tensor.dtype].bits
    return replace(tensor, dtype=dtype, nbytes=nbytes, slices=partial(_cast_slices, tensor, dtype, nbytes))


def _cast_slices(tensor: SourceTensor, name: str, nbytes: int) -> Iterator[Buffer]:
    import torch

    dtype = _torch_dtype(name)
    stage = bytearray(min(SLICE_BYTES, nbytes))
    for piece in tensor.slices():
        values = torch.frombuffer(_writable(piece), dtype=_torch_dtype(tensor.dtype))
        for part in values.split(SLICE_BYTES // dtype.itemsize):
            target = torch.frombuffer(stage, dtype=dtype, count=len(part))
            target.copy_(part)
            yield memoryview(stage)[: len(part) * dtype.itemsize]


def _writable(piece: Buffer) -> Buffer:
    # torch warns of read-only memory, which it cannot represent.
    return bytearray(piece) if memoryview(piece).readonly else piece


def _torch_dtype(name: str) -> "torch.dtype":
    import torch

    dtype: torch.dtype = getattr(torch, str(DTYPES[name].torch_name))
    return dtype
