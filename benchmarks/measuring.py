"""What every benchmark needs: the machine it runs on, the page cache in a known state, results as JSON."""

import ctypes
import json
import mmap
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

RESULTS = Path(__file__).parent / "results"


_FILE_WIDTH = 200


def make_console() -> Console:
    """Where progress and tables go; in a file no row is folded."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _FILE_WIDTH)


def describe_machine() -> dict[str, object]:
    """Processor, memory, kernel and Python, as results are filed under."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def describe_commit() -> str:
    """The commit that was measured, marked where the tree has changes, other than in results. $SLLM_COMMIT names it
    where git cannot."""
    if named := os.environ.get("SLLM_COMMIT"):
        return named
    root = RESULTS.parents[1]
    try:
        commit = _git(root, "describe", "--always")
        changes = _git(root, "status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], text=True, cwd=folder, stderr=subprocess.DEVNULL).strip()


def drop_page_cache() -> bool:
    """Whether the page cache could be dropped, which needs root."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def warm_page_cache(paths: Sequence[Path]) -> None:
    """Read the files once, so that the next reader finds them in memory."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def forget(paths: Sequence[Path]) -> None:
    """Put the files out of the page cache, so that they need not be evicted while something is measured."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def resident_share(path: Path) -> float:
    """How much of a file the page cache has, from 0 to 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapping:
        pages = -(-len(mapping) // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * pages)()
        start = (ctypes.c_char * 1).from_buffer(mapping)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapping)), states)
        del start  # an exported buffer keeps the mapping from being closed
        if failed:
            raise OSError(ctypes.get_errno(), f"cannot ask what is resident of {path}")
        return sum(state & 1 for state in bytes(states)) / pages


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Median and spread."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": statistics.median(values),
        "min": min(values),
        "q1": quartiles[0],
        "q3": quartiles[2],
        "max": max(values),
        "runs": len(values),
    }


def save(name: str, result: dict[str, object], folder: Path = RESULTS) -> Path:
    """Write a result beside those of other runs: machine, commit, command and time are added here."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    command = "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    context = {
        "machine": describe_machine(),
        "commit": describe_commit(),
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    path.write_text(json.dumps({**context, **result}, indent=1) + "\n")
    return path


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
