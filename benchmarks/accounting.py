"""What this process used: processor seconds, memory, and whose pages its tensors lie on."""

import bisect
import resource
from collections.abc import Iterable
from pathlib import Path


def cpu_s() -> float:
    """User and system seconds of this process, children excluded."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def restart_peak() -> int:
    """Forget the peak of resident memory so far; returns what is resident."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """The most memory that was resident since `restart_peak`, mapped files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def mapped_bytes(ranges: Iterable[tuple[int, int]]) -> int:
    """How many bytes of (address, size) ranges lie in mappings of files on a disk."""
    starts, ends = _file_mappings()
    found = 0
    for address, nbytes in ranges:
        index = bisect.bisect_right(starts, address) - 1
        if index >= 0 and address < ends[index]:
            found += nbytes
    return found


def _file_mappings() -> tuple[list[int], list[int]]:
    starts, ends = [], []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/") and not fields[5].startswith(("/memfd:", "/dev/")):
            start, end = fields[0].split("-")
            starts.append(int(start, 16))
            ends.append(int(end, 16))
    return starts, ends
