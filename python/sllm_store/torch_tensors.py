"""Memory of ours as torch tensors."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from sllm_store.checkpoint import Checkpoint
from sllm_store.dtypes import DTYPES
from sllm_store.errors import UnsupportedError
from sllm_store.header import StoredTensor

if TYPE_CHECKING:
    import torch

    from sllm_store.reading import Loaded


def check_dtypes(checkpoint: Checkpoint, names: list[str]) -> None:
    """Raise UnsupportedError for the first tensor that this torch cannot hold."""
    for name in names:
        tensor = checkpoint.locate(name).tensor
        if torch_dtype(tensor.dtype) is None or _unpackable(tensor):
            raise UnsupportedError(
                f"tensor {name} has dtype {tensor.dtype} and shape {list(tensor.shape)}, which this torch lacks; "
                f"hint: load it with raw=True"
            )


@cache
def torch_dtype(dtype: str) -> "torch.dtype | None":
    """What this torch calls a safetensors dtype; None where it lacks it."""
    import torch

    name = DTYPES[dtype].torch_name
    return getattr(torch, name, None) if name else None


def check_devices(devices: list[str]) -> None:
    """Raise UnsupportedError for the first device that this torch lacks."""
    others = [device for device in devices if device != "cpu"]
    if not others:
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in others:
        number = device.partition(":")[2] or "0"
        if count == 0 or (number.isdecimal() and int(number) >= count):
            raise UnsupportedError(
                f"cannot load onto device {device}: this torch has {count} CUDA devices; "
                f"hint: framework=None gives tensors that need no torch"
            )


def to_torch(loaded: "Loaded", *, raw: bool) -> "dict[str, torch.Tensor]":
    """A tensor for each name, on memory that the buffers share with it; tied names get the same memory."""
    with _no_collections():
        parts = _parts(loaded)
        tensors = {}
        for name in loaded.names:
            tensor = loaded.tensor(name)
            part = parts[tensor.name]
            tensors[name] = part.view(-1) if raw else _shaped(part, tensor)
    return tensors


def _parts(loaded: "Loaded") -> "dict[str, torch.Tensor]":
    """The bytes of each stored tensor, in one dimension."""
    from torch.utils.dlpack import from_dlpack

    parts = {}
    for target, buffer in enumerate(loaded.buffers):
        places = {name: place.offset for name, place in loaded.plan.places.items() if place.target == target}
        capsules = buffer.export_ranges(list(places.values()), [loaded.tensor(name).nbytes for name in places])
        parts.update({name: from_dlpack(capsule) for name, capsule in zip(places, capsules, strict=True)})
    return parts


@contextmanager
def _no_collections() -> Iterator[None]:
    """Thousands of new tensors, none of them garbage, would have the collector look through all of them again and
    again, which takes longer than making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _unpackable(tensor: StoredTensor) -> bool:
    per_element = DTYPES[tensor.dtype].per_element
    return per_element > 1 and (not tensor.shape or tensor.shape[-1] % per_element != 0)


def _shaped(part: "torch.Tensor", tensor: StoredTensor) -> "torch.Tensor":
    dtype = torch_dtype(tensor.dtype)
    shape = tensor.shape
    per_element = DTYPES[tensor.dtype].per_element
    if per_element > 1:
        shape = (*shape[:-1], shape[-1] // per_element)
    return part.view(dtype).view(shape)
