"""The staircase of the ablation onto a device, from reading tensor by tensor to the pipeline: each step on top of those
before it.

1. read by tensor: a buffered read of one tensor into host memory that is there, then its copy to the device;
2. bulk reads: all tensors in reads of the core's default size, then one copy of all;
3. direct I/O: around the page cache;
4. depth: as many reads in flight as the core's default, where the paper has threads;
5. pinned memory: what is read into is known to the driver, so that the copy engine takes it from there;
6. pipeline: copies run while the next reads do;
7. verification: every span's CRC beside them, which the paper does not have.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import accounting
from budget import Deadline
from device_checkpoint import DeviceFiles
from device_loaders import start_device
from device_loads import reach_state
from device_source import Source

from sllm_store import _core

_BULK, _DIRECT, _DEEP, _PINNED, _PIPELINED, _VERIFIED = range(1, 7)


@dataclass(frozen=True)
class Step:
    """One step: how many of the choices above it makes, in their order. `paper_gain` is the gain over the step before
    that the paper has (ServerlessLLM, OSDI 2024, figure 7)."""

    name: str
    level: int
    paper_gain: float | None

    def has(self, choice: int) -> bool:
        """Whether it makes that choice."""
        return self.level >= choice


STEPS = (
    Step("read by tensor", 0, None),
    Step("+ bulk reads", _BULK, 1.2),
    Step("+ direct I/O", _DIRECT, 2.1),
    Step("+ depth", _DEEP, 2.3),
    Step("+ pinned memory", _PINNED, 1.4),
    Step("+ pipeline", _PIPELINED, 1.5),
    Step("+ verification", _VERIFIED, None),
)
_MOST_ROUNDS = 5


def prepare(files: dict[str, Any], device: str, seconds: float) -> Callable[[], dict[str, Any]]:
    """Start the device, take the memory, and touch all of it by a first load."""
    start_device(device)
    source = Source(DeviceFiles(**files), device)
    source.read(_core.LoadOptions())
    return lambda: _climb(source, Deadline(seconds))


def _climb(source: Source, deadline: Deadline) -> dict[str, Any]:
    """The runs of each step, in rounds, as long as there is time."""
    runs: list[list[dict[str, Any]]] = [[] for _ in STEPS]
    faults: dict[str, str] = {}
    longest = 0.0
    for _ in range(_MOST_ROUNDS):
        if not deadline.has(longest):
            break
        start = time.perf_counter()
        for step, of_step in zip(STEPS, runs, strict=True):
            if not deadline.has(0):
                break
            source.wipe()
            of_step.append(_take(source, step))
            if fault := source.fault():
                faults[step.name] = fault
        longest = time.perf_counter() - start
    return {"steps": runs, "faults": faults}


def _take(source: Source, step: Step) -> dict[str, Any]:
    """One step from the cold file to the device."""
    pin = source.device.pin(source.host) if step.level == _PINNED else None
    reach_state(source.files.path, "cold")
    cpu, start = accounting.cpu_s(), time.perf_counter()
    if step.has(_PIPELINED):
        source.load(_options(source, step), verify=step.has(_VERIFIED))
    elif step.has(_BULK):
        source.read(_options(source, step))
        source.copy(_options(source, step))
    else:
        for name in source.names:
            source.read_alone(name, _options(source, step))
            source.copy_alone(name, _options(source, step))
    taken = {"ready_s": time.perf_counter() - start, "cpu_s": accounting.cpu_s() - cpu}
    del pin
    return taken


def _options(source: Source, step: Step) -> _core.LoadOptions:
    chosen: dict[str, Any] = {"cache": _core.CacheUse.NONE}
    if not step.has(_BULK):
        largest = max(source.checkpoint.locate(name).tensor.nbytes for name in source.names)
        chosen["extent_bytes"] = -(-largest // (1 << 20)) * (1 << 20) + (1 << 20)
    if not step.has(_DIRECT):
        chosen["access"] = _core.FileAccess.BUFFERED
    if not step.has(_DEEP):
        chosen["depth"] = 1
    return _core.LoadOptions(**chosen)
