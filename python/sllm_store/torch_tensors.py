"""Memory of ours as torch tensors."""

from functools import cache
from typing import TYPE_CHECKING

from sllm_store.checkpoint import Checkpoint
from sllm_store.collecting import paused_collections
from sllm_store.dtypes import DTYPES
from sllm_store.errors import UnsupportedError
from sllm_store.header import StoredTensor

if TYPE_CHECKING:
    import torch

    from sllm_store.reading import Loaded


def check_dtypes(checkpoint: Checkpoint, names: list[str]) -> None:
    """Raise UnsupportedError for the first tensor that this torch cannot hold."""
    if all(torch_dtype(dtype) and DTYPES[dtype].per_element == 1 for dtype in checkpoint.dtypes()):
        return
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
    with paused_collections():
        stored = _stored_tensors(loaded, raw=raw)
        tied = loaded.checkpoint.tied
        return {name: stored[tied.get(name, name)] for name in loaded.names}


def _stored_tensors(loaded: "Loaded", *, raw: bool) -> "dict[str, torch.Tensor]":
    from torch.utils.dlpack import from_dlpack

    made = {}
    for target, buffer in enumerate(loaded.buffers):
        tensors = [loaded.tensor(name) for name, place in loaded.plan.places.items() if place.target == target]
        offsets = [place.offset for place in loaded.plan.places.values() if place.target == target]
        shapes = [(tensor.nbytes,) if raw else _shape_in_bytes(tensor) for tensor in tensors]
        for tensor, capsule in zip(tensors, buffer.export_bytes(offsets, shapes), strict=True):
            part = from_dlpack(capsule)
            made[tensor.name] = part if raw else _typed(part, tensor)
    return made


def _shape_in_bytes(tensor: StoredTensor) -> tuple[int, ...]:
    """The shape as uint8, so that viewing it as the dtype gives the tensor's own; a scalar has one dimension."""
    if not tensor.shape:
        return (tensor.nbytes,)
    return (*tensor.shape[:-1], tensor.shape[-1] * DTYPES[tensor.dtype].bits // 8)


def _typed(part: "torch.Tensor", tensor: StoredTensor) -> "torch.Tensor":
    typed = part.view(torch_dtype(tensor.dtype))
    return typed if tensor.shape else typed.view(())


def _unpackable(tensor: StoredTensor) -> bool:
    per_element = DTYPES[tensor.dtype].per_element
    return per_element > 1 and (not tensor.shape or tensor.shape[-1] % per_element != 0)
