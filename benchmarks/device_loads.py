"""Loads onto a device by one loader, in a process of its own: the first one and those after it, cold and warm.

The process has imported its loader and has the device's context, and has loaded nothing before the first load is timed.
A load is over when its tensors are there and the device has finished all work. Then every tensor's digest is compared
with that of the bytes that were written, and the tensors are wiped, so that no later load finds its bytes there, and
let go. torch keeps the memory that it was given: loaders that allocate by it find memory from the second load on.
"""

import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accounting
from budget import Deadline
from device_checkpoint import DeviceFiles
from device_digests import digest_by, fault_of
from device_loaders import LOADERS, finish_device, is_simulated, start_device, use_site, version_of
from measuring import drop_page_cache, forget, resident_share, warm_page_cache

_COLD_SHARE, _WARM_SHARE = 0.001, 0.999


def prepare(
    loader: str, files: dict[str, Any], device: str, limits: dict[str, Any], site: str | None
) -> Callable[[], dict[str, Any]]:
    """Import the loader, from a folder of its own where there is one, and start the device.

    limits: "counts", how many runs of each state, and "seconds", in which they have to be done.
    """
    use_site(site)
    start_device(device)
    chosen = LOADERS[loader]
    load = chosen.prepare(files["folder"], files["safetensors"], device)
    version = version_of(chosen)
    return lambda: {"version": version, "runs": _run_all(load, DeviceFiles(**files), limits)}


def _run_all(load: Callable[[], Mapping[str, Any]], files: DeviceFiles, limits: dict[str, Any]) -> list[dict[str, Any]]:
    """As many runs of each state as were asked for, and there is time for; none after one that went wrong."""
    deadline, counts = Deadline(limits["seconds"]), limits["counts"]
    runs: list[dict[str, Any]] = []
    longest = 0.0
    for state in (state for state, count in counts.items() for _ in range(count)):
        if runs and (runs[-1]["fault"] or not deadline.has(longest)):
            break
        start = time.perf_counter()
        runs.append({"state": state, "is_first": not runs, **_run(load, files, state)})
        longest = time.perf_counter() - start
    return runs


def _run(load: Callable[[], Mapping[str, Any]], files: DeviceFiles, state: str) -> dict[str, Any]:
    share = reach_state(files.path, state)
    finish_device()
    cpu, start = accounting.cpu_s(), time.perf_counter()
    tensors = load()
    returned = time.perf_counter()
    finish_device()
    ready, cpu_ready = time.perf_counter(), accounting.cpu_s()
    fault = fault_of(tensors, files.reference(), digest_by(files.digest_kind))
    _wipe(tensors)
    del tensors
    gc.collect()
    return {
        "return_s": returned - start,
        "ready_s": ready - start,
        "cpu_s": cpu_ready - cpu,
        "cached_share": round(share, 4),
        "fault": fault,
    }


def _wipe(tensors: Mapping[str, Any]) -> None:
    if is_simulated():
        return  # memory that is freed there is gone
    for tensor in tensors.values():
        tensor.zero_()
    finish_device()


def reach_state(path: Path, state: str) -> float:
    """Put the page cache into a state, by root's means where the file alone cannot be forgotten; the file's share of
    it that was reached."""
    if state == "warm":
        if (share := resident_share(path)) < _WARM_SHARE:
            warm_page_cache([path])
            share = resident_share(path)
        return share
    forget([path])
    if (share := resident_share(path)) > _COLD_SHARE:
        drop_page_cache()
        share = resident_share(path)
    return share
