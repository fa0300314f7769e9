"""What this machine's memory and processor give at best: first touch, memcpy, CRC."""

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import accounting

from sllm_store import _core

_MADV_POPULATE_WRITE = 23  # Linux 5.14

# Functions of the C library, called without the interpreter's lock.
_libc = ctypes.CDLL(None, use_errno=True)


class _Region:
    """Fresh anonymous memory in small pages, as a load's destination is; unmapped with the object."""

    def __init__(self, nbytes: int) -> None:
        self._mapping = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        self.nbytes = nbytes

    def touch(self, offset: int, nbytes: int) -> None:
        """Fault the pages in, by a system call or, where the kernel has none, by writing to them."""
        start = ctypes.c_void_p(self.address + offset)
        if _libc.madvise(start, ctypes.c_size_t(nbytes), _MADV_POPULATE_WRITE):
            _libc.memset(start, 1, ctypes.c_size_t(nbytes))

    def bytes(self) -> memoryview:
        """Its bytes."""
        return memoryview(self._mapping)


def prepare(nbytes: int) -> Callable[[], dict[str, Any]]:
    """Nothing is needed beforehand: fresh memory must be fresh."""
    return lambda: _measure(nbytes)


def _measure(nbytes: int) -> dict[str, Any]:
    cores = os.cpu_count() or 1
    region, source = _Region(nbytes), _Region(nbytes)
    first_touch_s, cpu_s = _timed(lambda: region.touch(0, nbytes))
    spread_s, _ = _timed(lambda: _touch_with(source, cores))
    copy_s, copy_cpu_s = _timed(lambda: ctypes.memmove(region.address, source.address, nbytes))
    crc_s, crc_cpu_s = _timed(lambda: _core.crc32c(region.bytes()))
    return {
        "nbytes": nbytes,
        "first_touch_s": first_touch_s,
        "first_touch_cpu_s": cpu_s,
        "first_touch_all_cores_s": spread_s,
        "memcpy_s": copy_s,
        "memcpy_cpu_s": copy_cpu_s,
        "crc32c_s": crc_s,
        "crc32c_cpu_s": crc_cpu_s,
    }


def _touch_with(region: _Region, threads: int) -> None:
    part = region.nbytes // threads // mmap.PAGESIZE * mmap.PAGESIZE
    with ThreadPoolExecutor(threads) as executor:
        for _ in executor.map(lambda number: region.touch(number * part, part), range(threads)):
            pass


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    cpu, start = accounting.cpu_s(), time.perf_counter()
    work()
    return time.perf_counter() - start, accounting.cpu_s() - cpu
