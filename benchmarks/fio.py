"""fio reading the file that the loaders read, by a written grid of ways: the best of them is what the drive gives.

Each way reads the file once with direct I/O, its jobs a part each, in whole blocks, so that up to a block a job at the
end of the file stays unread; the rate counts what was read.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click

_MIB = 1 << 20
_INSTALL = Path(__file__).parents[1] / "tools" / "debian.sh"


@dataclass(frozen=True)
class Way:
    """One way to read: jobs side by side, each with `depth` reads of `block_bytes` in flight."""

    engine: str
    jobs: int
    depth: int
    block_bytes: int
    is_registered: bool = False

    @property
    def name(self) -> str:
        """As it is shown."""
        registered = ", registered" if self.is_registered else ""
        return f"{self.engine} {self.jobs} x {self.depth} x {self.block_bytes // _MIB} MiB{registered}"

    def can_read(self, nbytes: int) -> bool:
        """Whether a file of this size has a block for each job."""
        return nbytes >= self.jobs * self.block_bytes

    def arguments(self, path: str, nbytes: int) -> list[str]:
        """fio's arguments."""
        part = nbytes // self.jobs // self.block_bytes * self.block_bytes
        options = {
            "name": "read",
            "filename": path.replace(":", r"\:"),
            "rw": "read",
            "direct": 1,
            "ioengine": self.engine,
            "iodepth": self.depth,
            "bs": self.block_bytes,
            "numjobs": self.jobs,
            "size": part,
            "offset_increment": part,
            "allow_file_create": 0,
            "output-format": "json",
        }
        if self.is_registered:
            options["fixedbufs"] = 1  # an option of the engine, which has to be named before it
        return ["--readonly", "--thread", "--group_reporting", *(f"--{key}={value}" for key, value in options.items())]


GRID = (
    *(Way("psync", jobs, 1, 4 * _MIB) for jobs in (4, 8, 16)),
    *(
        Way("io_uring", jobs, depth, block * _MIB, is_registered)
        for jobs, depth, block, is_registered in product((1, 2), (8, 32), (1, 4, 16), (False, True))
    ),
)


def find() -> str:
    """fio's version. Installed where that is allowed; ClickException with the package's name where it is not."""
    if not shutil.which("fio") and subprocess.run([_INSTALL, "fio"], check=False).returncode:
        raise click.ClickException("fio is missing, which measures the drive: install it, or go without by --no-fio")
    return subprocess.check_output(["fio", "--version"], text=True).strip()


def read(way: Way, path: str) -> dict[str, Any]:
    """One run: bytes and seconds, or {"error": why not}."""
    arguments = way.arguments(path, Path(path).stat().st_size)
    done = subprocess.run(["fio", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": ((done.stderr or done.stdout).strip().splitlines() or ["no words"])[0][:300]}
    return parse(done.stdout)


def parse(output: str) -> dict[str, Any]:
    """What fio's JSON says of the one group of jobs."""
    # Notes may stand before the JSON.
    (job,) = json.loads(output[output.index("{") :])["jobs"]
    if job["error"]:
        return {"error": f"error {job['error']}"}
    return {"nbytes": job["read"]["io_bytes"], "seconds": job["read"]["runtime"] / 1000}
