"""What bounds a load onto a device: the link from pinned memory, and the drive. And what a resident source reaches.

The drive is read around the page cache, by our own read queue into memory that was read into before, and by threads
with preadv(2), as fio's psync engine does it; the best of all ways counts. The link is measured with torch's pinned
memory and the device's own clock, copies of a size queued one after another, and the best size counts; and through our
stream, as loads of one resident checkpoint that are cut into reads of that size.
"""

import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from budget import Deadline
from device_checkpoint import DeviceFiles, open_direct
from device_loaders import is_simulated, start_device
from device_loads import reach_state
from device_source import Source

from sllm_store import _core

_MIB = 1 << 20
_COPY_MIB = (16, 64, 256)
_QUEUED_BYTES = 1 << 30
_DEFAULT = "as loads are cut"
_QUEUE_WAYS = {
    f"{queue.name.lower()} {depth} x {extent} MiB": {"queue": queue, "depth": depth, "extent_bytes": extent * _MIB}
    for queue, depth, extent in (
        (_core.QueueKind.URING, 8, 8),
        (_core.QueueKind.URING, 32, 4),
        (_core.QueueKind.URING, 32, 8),
        (_core.QueueKind.URING, 16, 16),
        (_core.QueueKind.THREADS, 16, 8),
    )
}
_THREAD_WAYS = ((16, 4 * _MIB), (32, 4 * _MIB), (8, 16 * _MIB))
_MOST_RUNS = 5


def prepare(files: dict[str, Any], device: str, seconds: float) -> Callable[[], dict[str, Any]]:
    """Start the device and take the memory."""
    start_device(device)
    source = Source(DeviceFiles(**files), device)
    return lambda: _measure(source, device, Deadline(seconds))


def _measure(source: Source, device: str, deadline: Deadline) -> dict[str, Any]:
    drive = _drive(source, deadline.part(0.5))
    torch_link = {} if is_simulated() else _torch_link(device, deadline.part(0.3))
    source.read(_core.LoadOptions())
    start = time.perf_counter()
    pin = source.device.pin(source.host)
    pinned_s = time.perf_counter() - start
    resident = _resident(source, deadline)
    del pin
    return {"nbytes": source.files.nbytes, "drive": drive, "link": torch_link, "pin_s": pinned_s, **resident}


def _drive(source: Source, deadline: Deadline) -> dict[str, list[float]]:
    """GB/s of each way to read the file, in rounds."""
    source.read(_core.LoadOptions())
    file_bytes = os.stat(source.files.safetensors).st_size
    ways: dict[str, Callable[[], int]] = {
        name: lambda options=options: source.read(_core.LoadOptions(**options))["bytes_read"]
        for name, options in _QUEUE_WAYS.items()
    }
    for threads, block in _THREAD_WAYS:
        if file_bytes >= threads * block:
            ways[f"preadv {threads} x {block // _MIB} MiB"] = _ThreadedReads(source.files.safetensors, threads, block)
    return _in_rounds(ways, deadline, lambda: reach_state(source.files.path, "cold"))


def _torch_link(device: str, deadline: Deadline) -> dict[str, list[float]]:
    """GB/s of copies of each size from torch's pinned memory, by the device's clock."""
    import torch

    pinned = torch.empty(_QUEUED_BYTES, dtype=torch.uint8, pin_memory=True).random_()
    target = torch.empty(_QUEUED_BYTES, dtype=torch.uint8, device=device)

    def copy_all(part_bytes: int) -> tuple[int, float]:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for place in range(0, _QUEUED_BYTES, part_bytes):
            target[place : place + part_bytes].copy_(pinned[place : place + part_bytes], non_blocking=True)
        end.record()
        end.synchronize()
        return _QUEUED_BYTES, begin.elapsed_time(end) / 1e3

    sizes = [*(size * _MIB for size in _COPY_MIB), _QUEUED_BYTES]
    copy_all(sizes[0])
    rates: dict[str, list[float]] = {f"{size // _MIB} MiB": [] for size in sizes}
    for _ in range(_MOST_RUNS):
        if not deadline.has(1.0):
            break
        for size in sizes:
            nbytes, seconds = copy_all(size)
            rates[f"{size // _MIB} MiB"].append(nbytes / seconds / 1e9)
    return rates


def _resident(source: Source, deadline: Deadline) -> dict[str, Any]:
    """Seconds of loads whose file is in pinned memory, the first one apart, at each size of copies."""
    options = {_DEFAULT: _core.LoadOptions()}
    options |= {f"{size} MiB": _core.LoadOptions(extent_bytes=size * _MIB) for size in _COPY_MIB}
    source.wipe()
    first_s = _timed(lambda: source.copy(options[_DEFAULT]))
    fault = source.fault()
    runs: dict[str, list[float]] = {name: [] for name in options}
    for _ in range(_MOST_RUNS):
        if fault or not deadline.has(2 * first_s):
            break
        for name, each in options.items():
            runs[name].append(_timed(lambda each=each: source.copy(each)))
    source.wipe()
    if not fault:
        source.copy(options["16 MiB"])
        fault = source.fault()
    return {"resident_first_s": first_s, "resident_s": runs, "fault": fault}


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _in_rounds(
    ways: dict[str, Callable[[], int]], deadline: Deadline, before: Callable[[], None]
) -> dict[str, list[float]]:
    """GB/s of each way's bytes; the way that is slowest decides whether there is time for another round."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    longest = 0.0
    for number in range(_MOST_RUNS):
        for name, way in ways.items():
            if number and not deadline.has(longest):
                return rates
            before()
            start = time.perf_counter()
            nbytes = way()
            seconds = time.perf_counter() - start
            longest = max(longest, seconds)
            rates[name].append(nbytes / seconds / 1e9)
    return rates


class _ThreadedReads:
    """Reads a file once around the page cache, each thread a part of it, in whole blocks; returns how many bytes."""

    def __init__(self, path: str, threads: int, block_bytes: int) -> None:
        self._path, self._threads, self._block = path, threads, block_bytes
        self._buffers = [mmap.mmap(-1, block_bytes) for _ in range(threads)]
        self._blocks = os.stat(path).st_size // block_bytes // threads

    def __call__(self) -> int:
        fd = open_direct(self._path)
        try:
            with ThreadPoolExecutor(self._threads) as executor:
                return sum(executor.map(lambda number: self._read_part(fd, number), range(self._threads)))
        finally:
            os.close(fd)

    def _read_part(self, fd: int, number: int) -> int:
        first = number * self._blocks
        return sum(
            os.preadv(fd, [self._buffers[number]], block * self._block) for block in range(first, first + self._blocks)
        )
