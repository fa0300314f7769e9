"""A checkpoint's bytes, read into this process's memory as planned; what they mean to torch is not known here."""

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from sllm_store import _core
from sllm_store.checkpoint import Checkpoint, Partition
from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.plan import LoadPlan, make_plan
from sllm_store.report import LoadReport

Memory = Literal["own", "map", "auto"] | _core.HostBuffer
Queue = Literal["auto", "io_uring", "threads"]

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
    """How to load, checked by `check_request`; the fields mean what load_tensors' arguments do."""

    names: Iterable[str] | None = None
    verify: bool = True
    memory: Memory = "own"
    queue: Queue = "auto"


class Loaded(NamedTuple):
    """Tensors' bytes in memory: `plan.offsets` says where each stored one begins in `buffer`."""

    checkpoint: Checkpoint
    names: list[str]
    verified: bool
    memory: str
    buffer: _core.HostBuffer
    plan: LoadPlan
    stages: dict[str, float | int | str]


class Times(NamedTuple):
    """What the native core does not see of a load, in seconds; the fields are LoadReport's."""

    open_s: float
    handover_s: float
    total_s: float
    skeleton_s: float = 0.0


def check_request(request: LoadRequest, device: str) -> None:
    """Raise InvalidArgumentError or UnsupportedError for what cannot be, before a byte is read."""
    if not isinstance(request.memory, _core.HostBuffer) and request.memory not in _CACHE_USES:
        raise InvalidArgumentError(f"memory {request.memory!r} is no HostBuffer and none of {', '.join(_CACHE_USES)}")
    if request.queue not in _QUEUES:
        raise InvalidArgumentError(f"queue {request.queue!r} is none of {', '.join(_QUEUES)}")
    if device.partition(":")[0] != "cpu":
        raise UnsupportedError(f"cannot load onto device {device}: this version loads onto the cpu")


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
    """Read the named tensors into memory; `stop` ends it from another thread with CancelledError."""
    start = time.perf_counter()
    names = select_names(checkpoint, request.names)
    plan = make_plan(checkpoint, names)
    native = native_plan(checkpoint, plan, verify=request.verify)
    planned = time.perf_counter()
    buffer, options = _prepare_memory(checkpoint, plan, request)
    stages = _core.load(native, buffer, options, stop, is_main_thread())
    load_s = time.perf_counter() - planned
    stages.update(plan_s=planned - start, load_s=load_s)
    memory = request.memory if isinstance(request.memory, str) else "reused"
    return Loaded(checkpoint, names, request.verify and checkpoint.is_verifiable, memory, buffer, plan, stages)


def _prepare_memory(
    checkpoint: Checkpoint, plan: LoadPlan, request: LoadRequest
) -> tuple[_core.HostBuffer, _core.LoadOptions]:
    queue = _QUEUES[request.queue]
    if isinstance(request.memory, str):
        options = _core.LoadOptions(queue=queue, cache=_CACHE_USES[request.memory])
        return _core.HostBuffer(plan.destination_bytes), options
    if len(request.memory) < plan.destination_bytes:
        raise InvalidArgumentError(
            f"memory has {len(request.memory)} bytes, {checkpoint.path} needs {plan.destination_bytes}"
        )
    return request.memory, _core.LoadOptions(queue=queue, cache=_core.CacheUse.COPY)


def native_plan(checkpoint: Checkpoint, plan: LoadPlan, *, verify: bool) -> _core.LoadPlan:
    """The plan as the native core takes it."""
    used = sorted({extent.partition for extent in plan.extents})
    numbers = {partition: number for number, partition in enumerate(used)}
    files = native_files([checkpoint.partitions[partition] for partition in used], verify=verify)
    extents = [extent._replace(partition=numbers[extent.partition]) for extent in plan.extents]
    return _core.LoadPlan(files, extents, plan.destination_bytes)


def is_main_thread() -> bool:
    """Whether signal handlers run in the calling thread."""
    return threading.current_thread() is threading.main_thread()


def make_report(loaded: Loaded, times: Times) -> LoadReport:
    """The account of a load: what the native core measured, and the times around it."""
    stages = {name: value for name, value in loaded.stages.items() if name != "total_s"}
    tensors = loaded.checkpoint.tensors
    return LoadReport(
        path=str(loaded.checkpoint.path),
        tensors=len(loaded.names),
        nbytes=sum(tensors[name].tensor.nbytes for name in loaded.plan.offsets),
        verified=loaded.verified,
        memory=loaded.memory,
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
