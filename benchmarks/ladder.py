"""The steps of the ablation: the native core from its plainest use to its defaults, each on top of those before."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import accounting
from compared_files import Files

from sllm_store import _core
from sllm_store.checkpoint import Checkpoint, open_checkpoint
from sllm_store.plan import LoadPlan, make_plan
from sllm_store.reading import is_main_thread, native_plan


@dataclass(frozen=True)
class Step:
    """One step, with the gain over the one before that the paper has (ServerlessLLM, OSDI 2024, figure 7).

    Where a choice is not made, it is the core's default.
    """

    name: str
    paper_gain: float | None
    is_bulk: bool = True
    is_direct: bool = True
    is_deep: bool = True
    is_reused: bool = True
    is_overlapped: bool = True


STEPS = (
    Step("read by tensor", None, is_bulk=False, is_direct=False, is_deep=False, is_reused=False, is_overlapped=False),
    Step("+ bulk reads", 1.2, is_direct=False, is_deep=False, is_reused=False, is_overlapped=False),
    Step("+ direct I/O", 2.1, is_deep=False, is_reused=False, is_overlapped=False),
    Step("+ depth", 2.3, is_reused=False, is_overlapped=False),
    Step("+ memory that is there", 1.4, is_overlapped=False),
    Step("+ verification overlapped", 1.5),
)


@dataclass(frozen=True)
class _Work:
    checkpoint: Checkpoint
    plan: LoadPlan
    step: Step

    def load_into(self, buffer: _core.HostBuffer) -> None:
        """Read all, and verify on the way where the step does."""
        plans = [self.plan] if self.step.is_bulk else self._plans_by_tensor()
        for plan in plans:
            native = native_plan(self.checkpoint, plan, verify=self.step.is_overlapped)
            _core.load(native, [buffer], self._options(), _core.StopFlag(), is_main_thread())

    def digests(self, buffer: _core.HostBuffer) -> dict[str, int]:
        """A pass over every tensor's bytes."""
        view = memoryview(buffer)
        sizes = {name: self.checkpoint.tensors[name].tensor.nbytes for name in self.plan.places}
        return {name: _core.crc32c(view[at : at + sizes[name]]) for name, (_, at) in self.plan.places.items()}

    def _plans_by_tensor(self) -> list[LoadPlan]:
        """A plan a tensor, in the places that the whole plan gives them."""
        plans = []
        for name, place in self.plan.places.items():
            part = make_plan(self.checkpoint, [name])
            (extent,) = part.extents
            plans.append(self.plan._replace(extents=(extent._replace(destination=place.offset),)))
        return plans

    def _options(self) -> _core.LoadOptions:
        chosen: dict[str, Any] = {"cache": _core.CacheUse.NONE}
        if not self.step.is_bulk:
            largest = max(location.tensor.nbytes for location in self.checkpoint.tensors.values())
            chosen["extent_bytes"] = -(-largest // (1 << 20)) * (1 << 20) + (1 << 20)
        if not self.step.is_direct:
            chosen["access"] = _core.FileAccess.BUFFERED
        if not self.step.is_deep:
            chosen["depth"] = 1
        return _core.LoadOptions(**chosen)


def prepare(step: int, files: dict[str, Any], warmup: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Plan, take the step once on the small checkpoint, and fill memory where the step has it already."""
    small = _work(Files(**warmup), STEPS[step])
    _measure(small, _buffer(small))
    work = _work(Files(**files), STEPS[step])
    buffer = _buffer(work)
    return lambda: _measure(work, buffer)


def _work(files: Files, step: Step) -> _Work:
    checkpoint = open_checkpoint(files.folder)
    return _Work(checkpoint, make_plan(checkpoint, checkpoint.names()), step)


def _buffer(work: _Work) -> _core.HostBuffer:
    """Fresh memory, or memory that a load has filled before."""
    buffer = _core.HostBuffer(work.plan.target_bytes[0])
    if work.step.is_reused:
        native = native_plan(work.checkpoint, work.plan, verify=False)
        _core.load(native, [buffer], _core.LoadOptions(), _core.StopFlag(), is_main_thread())
    return buffer


def _measure(work: _Work, buffer: _core.HostBuffer) -> dict[str, Any]:
    cpu, start = accounting.cpu_s(), time.perf_counter()
    work.load_into(buffer)
    read = time.perf_counter()
    digests = {} if work.step.is_overlapped else work.digests(buffer)
    verified, cpu_verified = time.perf_counter(), accounting.cpu_s()
    return {
        "read_s": read - start,
        "ready_s": verified - start,
        "cpu_s": cpu_verified - cpu,
        # Of what was verified on the way, the digests are only for the comparison.
        "digests": digests or work.digests(buffer),
    }
