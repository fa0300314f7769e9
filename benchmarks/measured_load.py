"""One load by one loader, timed: until it returns, and until every byte of every tensor was checksummed."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import accounting
from compared_files import Files
from loaders import LOADERS, Load

from sllm_store import _core


def prepare(
    loader: str, files: dict[str, Any], warmup: dict[str, Any], setting: int | None
) -> Callable[[], dict[str, Any]]:
    """Import, load the small checkpoint once, so that no import or first call is timed, and allocate."""
    chosen = LOADERS[loader]
    _digests(chosen.prepare(Files(**warmup), setting)()[0])
    before = accounting.restart_peak()
    load = chosen.prepare(Files(**files), setting)
    # What imports left is no loader's garbage: a collection that looks through all of it would fall into one loader's
    # time and not into another's.
    gc.collect()
    gc.freeze()
    held = accounting.restart_peak() - before if chosen.holds_memory else 0
    return lambda: {**_measure(load), "held_bytes": held}


def _measure(load: Load) -> dict[str, Any]:
    resident = accounting.restart_peak()
    cpu, start = accounting.cpu_s(), time.perf_counter()
    tensors, report = load()
    returned, cpu_returned = time.perf_counter(), accounting.cpu_s()
    digests = _digests(tensors)
    ready, cpu_ready = time.perf_counter(), accounting.cpu_s()
    peak = accounting.peak_bytes()
    return {
        "return_s": returned - start,
        "ready_s": ready - start,
        "cpu_return_s": cpu_returned - cpu,
        "cpu_ready_s": cpu_ready - cpu,
        "resident_before_bytes": resident,
        "peak_bytes": peak,
        "mapped_bytes": accounting.mapped_bytes({(t.data_ptr(), t.nbytes) for t in tensors.values()}),
        "report": report,
        "digests": digests,
    }


def _digests(tensors: Mapping[str, Any]) -> dict[str, int]:
    """One pass over every byte, in one thread and in the order of the names given; shared bytes once."""
    import torch

    seen: dict[tuple[int, int], int] = {}
    digests = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.nbytes)
        if place not in seen:
            seen[place] = _core.crc32c(tensor.detach().reshape(-1).view(torch.uint8).numpy())
        digests[name] = seen[place]
    return digests
