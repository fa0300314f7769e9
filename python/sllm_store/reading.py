"""A checkpoint's bytes, read into this process's memory as planned; what they mean to torch is not known here."""

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from sllm_store import _core
from sllm_store.checkpoint import Checkpoint, Partition
from sllm_store.collecting import paused_collections
from sllm_store.devices import DeviceChoice, choose_targets, device_names
from sllm_store.errors import InvalidArgumentError, UnavailableError
from sllm_store.header import StoredTensor
from sllm_store.plan import WHOLE, LoadPlan, make_plan
from sllm_store.report import LoadReport
from sllm_store.slicing import Slice, sliced_tensor
from sllm_store.store_paths import socket_paths
from sllm_store.tensor_parallel import tp_slices

FilledBuffer = _core.HostBuffer | _core.DeviceBuffer
Buffer = FilledBuffer | _core.MappedRegion
Memory = Literal["own", "map", "auto"] | _core.HostBuffer
Queue = Literal["auto", "io_uring", "threads"]
TpPlan = Mapping[str, str | int]

_QUEUES: Final = {
    "auto": _core.QueueKind.AUTO,
    "io_uring": _core.QueueKind.URING,
    "threads": _core.QueueKind.THREADS,
}
_CACHE_USES: Final = {
    "own": _core.CacheUse.COPY,
    "map": _core.CacheUse.MAP,
    "auto": _core.CacheUse.MAP_CACHED,
}


class LoadRequest(NamedTuple):
    """How to load, checked by `check_request`; the fields mean what load_tensors' arguments do.

    `store` is by default none at all: who asks for "auto" says so. `url` is where the checkpoint is, if not in the file
    system.
    """

    names: Iterable[str] | None = None
    verify: bool = True
    memory: Memory = "own"
    queue: Queue = "auto"
    device: DeviceChoice = "cpu"
    shard: tuple[int, int] | None = None
    tp_plan: TpPlan | None = None
    store: str | os.PathLike[str] | None = None
    url: str = ""


class Loaded(NamedTuple):
    """Tensors' bytes in memory: `plan.places` says where each stored one begins in which of `buffers`.

    `store` is LoadReport's.
    """

    checkpoint: Checkpoint
    names: list[str]
    verified: bool
    memory: str
    devices: tuple[str, ...]
    buffers: Sequence[Buffer]
    plan: LoadPlan
    slices: Mapping[str, Slice]
    stages: dict[str, float | int | str]
    store: str = ""

    def tensor(self, name: str) -> StoredTensor:
        """What was loaded under a name, a tied one included: the stored tensor, or the slice of it as one by itself."""
        stored = self.checkpoint.locate(name).tensor
        part = self.slices.get(stored.name)
        return stored if part is None else sliced_tensor(stored, part)


class Times(NamedTuple):
    """What the native core does not see of a load, in seconds; the fields are LoadReport's."""

    open_s: float
    handover_s: float
    total_s: float
    skeleton_s: float = 0.0


def check_request(request: LoadRequest) -> None:
    """Raise InvalidArgumentError or UnsupportedError for what cannot be, before a byte is read."""
    if not isinstance(request.memory, _core.HostBuffer) and request.memory not in _CACHE_USES:
        raise InvalidArgumentError(f"memory {request.memory!r} is no HostBuffer and none of {', '.join(_CACHE_USES)}")
    if request.queue not in _QUEUES:
        raise InvalidArgumentError(f"queue {request.queue!r} is none of {', '.join(_QUEUES)}")
    if (request.shard is None) != (request.tp_plan is None):
        raise InvalidArgumentError("shard and tp_plan go together: a rank, and how tensors are cut for it")
    devices = device_names(request.device)
    if "cpu" not in devices and isinstance(request.memory, _core.HostBuffer):
        raise InvalidArgumentError(f"memory is a HostBuffer, but nothing is loaded onto the cpu: {', '.join(devices)}")


def select_names(checkpoint: Checkpoint, names: Iterable[str] | None) -> list[str]:
    """The tensors that are asked for, in the checkpoint's order, each once."""
    if names is None:
        return checkpoint.names()
    if isinstance(names, str):
        raise InvalidArgumentError(f"names is one string, {names!r}; a list of names is wanted")
    wanted = set(names)
    for name in wanted:
        checkpoint.locate(name)
    return [name for name in checkpoint.names() if name in wanted]


def load_bytes(checkpoint: Checkpoint, request: LoadRequest, stop: _core.StopFlag) -> Loaded:
    """Bring the named tensors into memory; `stop` ends it from another thread with CancelledError."""
    if request.store is None:
        return load_in_process(checkpoint, request, stop)
    if request.store == "auto" and not request.url and not any(map(os.path.exists, socket_paths())):
        # Most processes have no store, and need no client to find that out.
        return load_in_process(checkpoint, request, stop)._replace(store=UnavailableError.code)
    from sllm_store.store_loading import load_through_store

    return load_through_store(checkpoint, request, stop)


def load_in_process(checkpoint: Checkpoint, request: LoadRequest, stop: _core.StopFlag) -> Loaded:
    """Read the named tensors into memory of this process; `stop` as above."""
    start = time.perf_counter()
    with paused_collections():
        names = select_names(checkpoint, request.names)
        targets = choose_targets(checkpoint, names, request.device)
        slices = choose_slices(checkpoint, request)
        plan = make_plan(checkpoint, names, targets, slices)
        native = native_plan(checkpoint, plan, verify=request.verify)
    planned = time.perf_counter()
    buffers = [_allocate(checkpoint, plan, request, target) for target in enumerate(targets.devices)]
    stages = _core.load(native, buffers, load_options(request), stop, is_main_thread())
    load_s = time.perf_counter() - planned
    stages.update(plan_s=planned - start, load_s=load_s)
    memory = request.memory if isinstance(request.memory, str) else "reused"
    verified = request.verify and checkpoint.is_verifiable
    return Loaded(checkpoint, names, verified, memory, targets.devices, buffers, plan, slices, stages)


def choose_slices(checkpoint: Checkpoint, request: LoadRequest) -> Mapping[str, Slice]:
    """The slice of each stored tensor of which the request's rank has a part alone."""
    if request.shard is None:
        return WHOLE
    stored = [location.tensor for location in checkpoint.tensors.values()]
    rank, world = request.shard
    return tp_slices(stored, request.tp_plan or {}, rank, world, checkpoint.tied)


def _allocate(checkpoint: Checkpoint, plan: LoadPlan, request: LoadRequest, target: tuple[int, str]) -> FilledBuffer:
    number, device = target
    nbytes = plan.target_bytes[number]
    if device != "cpu":
        return _core.find_device(device).allocate(nbytes)
    if isinstance(request.memory, str):
        return _core.HostBuffer(nbytes)
    if len(request.memory) < nbytes:
        raise InvalidArgumentError(f"memory has {len(request.memory)} bytes, {checkpoint.path} needs {nbytes}")
    return request.memory


def load_options(request: LoadRequest) -> _core.LoadOptions:
    """What the request means to the native core."""
    cache = _CACHE_USES[request.memory] if isinstance(request.memory, str) else _core.CacheUse.COPY
    return _core.LoadOptions(queue=_QUEUES[request.queue], cache=cache)


def native_plan(checkpoint: Checkpoint, plan: LoadPlan, *, verify: bool) -> _core.LoadPlan:
    """The plan as the native core takes it."""
    used = sorted({extent.partition for extent in plan.extents})
    numbers = {partition: number for number, partition in enumerate(used)}
    files = native_files([checkpoint.partitions[partition] for partition in used], verify=verify)
    extents = [extent._replace(partition=numbers[extent.partition]) for extent in plan.extents]
    return _core.LoadPlan(files, extents, plan.target_bytes)


def is_main_thread() -> bool:
    """Whether signal handlers run in the calling thread."""
    return threading.current_thread() is threading.main_thread()


def make_report(loaded: Loaded, times: Times) -> LoadReport:
    """The account of a load: what the native core measured, and the times around it."""
    stages = {name: value for name, value in loaded.stages.items() if name != "total_s"}
    return LoadReport(
        path=str(loaded.checkpoint.path),
        tensors=len(loaded.names),
        nbytes=sum(loaded.tensor(name).nbytes for name in loaded.plan.places),
        verified=loaded.verified,
        memory=loaded.memory,
        device=", ".join(loaded.devices),
        store=loaded.store,
        **times._asdict(),
        **stages,  # type: ignore[arg-type]
    )


def native_files(
    partitions: Sequence[Partition], *, verify: bool
) -> list[tuple[str, tuple[int, int, int, int], list[int]]]:
    """Path, identity and span CRCs of each; no CRCs where there are none or none are wanted."""
    return [
        (str(part.path), part.identity, list(part.proof.span_crcs()) if verify and part.proof else [])
        for part in partitions
    ]
