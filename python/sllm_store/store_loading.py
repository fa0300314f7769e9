"""A load through the store: its pool's pages mapped into this process, instead of bytes read into its memory.

1. The plan is made here, as for any load; the daemon is asked for a lease of the ranges that it touches.
2. Of the lease and the pieces that come back a region is mapped, privately, copy-on-write. Tensors that the file packs
   tighter than memory has them, and slices, are copied.
3. The connection ends; the lease lives as long as the mapping does.

With "auto" whatever the store cannot do is done in this process, as if there were none; the report says why. What is at
a URL this process cannot do.
"""

import os
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from sllm_store import _core
from sllm_store.accounts import Account, sum_up
from sllm_store.checkpoint import Checkpoint
from sllm_store.client import StoreClient, find_store
from sllm_store.devices import choose_targets
from sllm_store.errors import (
    CancelledError,
    DeviceError,
    InvalidArgumentError,
    SllmError,
    UnsupportedError,
)
from sllm_store.plan import Extent, LoadPlan, make_plan
from sllm_store.pooled_pieces import region_pieces, wanted_ranges
from sllm_store.protocol import Load, LoadOnto
from sllm_store.reading import Buffer, Loaded, LoadRequest, choose_slices, load_in_process, select_names
from sllm_store.store_onto import copy_leased, copy_onto

# What is waited for room in the pool: this process can do without where it may.
_WAIT_S: Final = 30.0
_AUTO_WAIT_S: Final = 1.0


def load_through_store(checkpoint: Checkpoint, request: LoadRequest, stop: _core.StopFlag) -> Loaded:
    """Load as `request.store` says: a path is that store or an error, "auto" any or none."""
    if request.store != "auto" or request.url:
        if _reason_against(request):
            raise InvalidArgumentError("memory is a HostBuffer, but a store gives memory of its own; hint: store=None")
        socket = find_store() if request.store == "auto" else Path(str(request.store))
        return _load(checkpoint, request, stop, socket)
    if reason := _reason_against(request):
        return load_in_process(checkpoint, request, stop)._replace(store=reason)
    try:
        return _load(checkpoint, request, stop, find_store())
    except CancelledError:
        raise
    except SllmError as error:
        return load_in_process(checkpoint, request, stop)._replace(store=error.code)


def _reason_against(request: LoadRequest) -> str:
    """Why a store is not even asked; nothing, where it is."""
    return "buffer" if isinstance(request.memory, _core.HostBuffer) else ""


class _Part(NamedTuple):
    """One target, filled: what happened, in the native core's stages, and in a word."""

    buffer: Buffer
    is_verified: bool
    account: Account
    how: str


def _load(checkpoint: Checkpoint, request: LoadRequest, stop: _core.StopFlag, socket: Path) -> Loaded:
    start = time.perf_counter()
    names = select_names(checkpoint, request.names)
    targets = choose_targets(checkpoint, names, request.device)
    slices = choose_slices(checkpoint, request)
    plan = make_plan(checkpoint, names, targets, slices)
    planned = time.perf_counter()
    if not plan.extents:
        return load_in_process(checkpoint, request, stop)
    identities = [part.identity for part in checkpoint.partitions]
    wait_s = _AUTO_WAIT_S if request.store == "auto" else _WAIT_S
    asked = Load(request.url or str(checkpoint.path.absolute()), identities, [], wait_s)
    with StoreClient(socket, stop.is_set) as client:
        parts = [_bring(client, asked, plan, target, stop) for target in enumerate(targets.devices)]
    stages = {**sum_up(part.account for part in parts), "plan_s": planned - start}
    stages["load_s"] = time.perf_counter() - planned
    how = ", ".join(dict.fromkeys(part.how for part in parts))
    verified = all(part.is_verified for part in parts)
    buffers = [part.buffer for part in parts]
    return Loaded(checkpoint, names, verified, "pool", targets.devices, buffers, plan, slices, stages, how)


def _bring(client: StoreClient, asked: Load, plan: LoadPlan, target: tuple[int, str], stop: _core.StopFlag) -> _Part:
    number, device = target
    extents = [extent._replace(target=0) for extent in plan.extents if extent.target == number]
    nbytes = plan.target_bytes[number]
    if device == "cpu":
        return _map(client, asked, extents, nbytes)
    onto = LoadOnto(asked.path, asked.identities, "", nbytes, b"", [(*extent,) for extent in extents], asked.wait_s)
    try:
        buffer, copied = copy_onto(client, device, onto)
    except (UnsupportedError, DeviceError, InvalidArgumentError):
        # The daemon does not reach the device, or its driver does not open the memory; what else there is fails again.
        buffer = _core.find_device(device).allocate(nbytes)
        here = copy_leased(client, asked, extents, buffer, stop)
        return _Part(buffer, here.is_verified, here.copies, "staged")
    return _Part(buffer, copied.is_verified, copied.copies, "copied")


def _map(client: StoreClient, asked: Load, extents: list[Extent], nbytes: int) -> _Part:
    wanted = msgspec.structs.replace(asked, ranges=wanted_ranges(extents))
    leased, fd = client.request_lease(wanted)
    try:
        pieces = region_pieces(extents, leased.pieces)
    except SllmError:
        os.close(fd)
        raise
    return _Part(_core.MappedRegion(fd, pieces, nbytes), leased.is_verified, leased.fill, "mapped")
