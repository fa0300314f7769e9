"""`load_into`: a checkpoint's bytes into tensors that are there already."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from sllm_store import _core
from sllm_store.checkpoint import Checkpoint, Location, open_checkpoint
from sllm_store.errors import InvalidArgumentError
from sllm_store.loading import OnReport
from sllm_store.plan import WHOLE, Extent, LoadPlan, Place, Targets
from sllm_store.reading import (
    Loaded,
    LoadRequest,
    Queue,
    Times,
    check_request,
    is_main_thread,
    load_options,
    make_report,
    native_plan,
)
from sllm_store.torch_tensors import torch_dtype

if TYPE_CHECKING:
    import torch

# Every address: the offset of a tensor is where it lies.
_ALL_ADDRESSES = 2**64 - 1


class _Filling(NamedTuple):
    """One tensor to fill. `into` is the tensor itself, or, where its elements lie apart, a dense one beside it."""

    location: Location
    tensor: "torch.Tensor"
    into: "torch.Tensor"


def load_into(
    destination: "torch.nn.Module | Mapping[str, torch.Tensor]",
    path: str | os.PathLike[str],
    *,
    strict: bool = True,
    verify: bool = True,
    queue: Queue = "auto",
    on_report: OnReport | None = None,
) -> None:
    """Fill tensors that exist with a checkpoint's bytes: for reloads, and to update weights in place.

    destination: a module, whose parameters and persistent buffers are filled, or tensors by name; on the host or on
        devices, of any strides. Shapes and dtypes are the checkpoint's. Work that a device has queued on them is waited
        for first; autograd is not told that they changed.
    strict: every tensor of the checkpoint has a destination, and the other way round; without it, what both have.
    verify, queue, on_report: as in load_tensors.

    Returns when every byte is in place and verified. Where it raises, everything that was to be filled is undefined,
    but for errors found before a byte is read: InvalidArgumentError (names, shapes or dtypes that don't fit) and what
    open_checkpoint raises. Raises what load_tensors raises.
    """
    start = time.perf_counter()
    request = LoadRequest(verify=verify, queue=queue)
    check_request(request)
    checkpoint = open_checkpoint(path)
    fillings = list(_match(checkpoint, _tensors_of(destination), strict=strict))
    targets = Targets(tuple(dict.fromkeys(str(filling.into.device) for filling in fillings)))
    opened = time.perf_counter()
    _wait_for_devices(targets)
    plan = _make_plan(fillings, targets)
    planned = time.perf_counter()
    memory = [_core.AddressSpace(None if name == "cpu" else _core.find_device(name)) for name in targets.devices]
    native = native_plan(checkpoint, plan, verify=verify)
    stages = _core.load(native, memory, load_options(request), _core.StopFlag(), is_main_thread())
    stages.update(plan_s=planned - opened, load_s=time.perf_counter() - planned)
    read = time.perf_counter()
    for filling in fillings:
        if filling.into is not filling.tensor:
            filling.tensor.copy_(filling.into)
    if on_report is not None:
        end = time.perf_counter()
        names = list(plan.places)
        verified = verify and checkpoint.is_verifiable
        loaded = Loaded(checkpoint, names, verified, "caller's", targets.devices, [], plan, WHOLE, stages)
        on_report(make_report(loaded, Times(opened - start, end - read, end - start)))


def _tensors_of(destination: "torch.nn.Module | Mapping[str, torch.Tensor]") -> "Mapping[str, torch.Tensor]":
    if isinstance(destination, Mapping):
        return destination
    tensors: Mapping[str, torch.Tensor] = destination.state_dict()
    return tensors


def _match(checkpoint: Checkpoint, tensors: "Mapping[str, torch.Tensor]", *, strict: bool) -> Iterator[_Filling]:
    """Each piece of memory once, in the order of the checkpoint's bytes."""
    known = checkpoint.names()
    strangers = sorted(tensors.keys() - set(known))
    # A tied name may be left out where the stored one is filled.
    filled = {checkpoint.locate(name).tensor.name for name in tensors if name not in strangers}
    missing = sorted(checkpoint.tensors.keys() - filled)
    if strict and (strangers or missing):
        raise InvalidArgumentError(
            f"{checkpoint.path} has no tensors {strangers[:3]}"
            if strangers
            else f"nothing is there to fill for tensors {missing[:3]} of {checkpoint.path}"
        )
    seen = set()
    for name in sorted(tensors.keys() - set(strangers), key=lambda name: _place(checkpoint.locate(name))):
        tensor, location = tensors[name].detach(), checkpoint.locate(name)
        _check_fit(name, tensor, location)
        memory = (str(tensor.device), tensor.data_ptr(), tuple(tensor.stride()))
        if memory in seen or tensor.numel() == 0:
            continue
        seen.add(memory)
        yield _Filling(location, tensor, tensor if _has_dense_rows(tensor) else tensor.new_empty(tensor.shape))


def _place(location: Location) -> tuple[int, int]:
    return location.partition, location.offset


def _check_fit(name: str, tensor: "torch.Tensor", location: Location) -> None:
    stored = location.tensor
    if tensor.dtype != torch_dtype(stored.dtype) or tuple(tensor.shape) != stored.shape:
        raise InvalidArgumentError(
            f"tensor {name} is {stored.dtype} {list(stored.shape)} in the checkpoint, not {tensor.dtype} "
            f"{list(tensor.shape)}"
        )


def _has_dense_rows(tensor: "torch.Tensor") -> bool:
    """Whether the bytes of its innermost dimension lie side by side."""
    return bool(tensor.dim() == 0 or tensor.shape[-1] == 1 or tensor.stride(-1) == 1)


def _make_plan(fillings: list[_Filling], targets: Targets) -> LoadPlan:
    extents = [extent for filling in fillings for extent in _extents(filling, targets)]
    extents.sort(key=lambda extent: (extent.partition, extent.offset))
    places = {
        filling.location.tensor.name: Place(targets.devices.index(str(filling.into.device)), filling.into.data_ptr())
        for filling in fillings
    }
    return LoadPlan(tuple(extents), places, (_ALL_ADDRESSES,) * len(targets.devices))


def _extents(filling: _Filling, targets: Targets) -> Iterator[Extent]:
    """Dense blocks, as rows of the innermost dimension that is not dense with what lies within it."""
    into, location = filling.into, filling.location
    target = targets.devices.index(str(into.device))
    size = into.element_size()
    shape, strides = list(into.shape), list(into.stride())
    block = size
    while shape and (shape[-1] == 1 or strides[-1] * size == block):
        block *= shape.pop()
        strides.pop()
    rows = shape.pop() if shape else 1
    pitch = strides.pop() * size if strides else block
    for index, place in enumerate(_outer_places(shape, strides)):
        start = into.data_ptr() + place * size
        offset = location.offset + index * rows * block
        if rows == 1:
            yield Extent(location.partition, offset, block, target, start)
        else:
            yield Extent(location.partition, offset, rows * block, target, start, block, block, pitch)


def _outer_places(shape: list[int], strides: list[int]) -> Iterator[int]:
    """Where each index of the outer dimensions begins, in elements, the last dimension fastest."""
    for number in range(math.prod(shape)):
        place = 0
        for count, stride in zip(reversed(shape), reversed(strides), strict=True):
            number, index = divmod(number, count)
            place += index * stride
        yield place


def _wait_for_devices(targets: Targets) -> None:
    import torch

    for name in targets.devices:
        if name != "cpu":
            torch.cuda.synchronize(name)
