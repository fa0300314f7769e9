"""Which reads does a drive like best? Extent size, depth and threads of the read queue, swept.

    python benchmarks/reading.py [--shape llama-4gb] [--rounds 5] [--output FOLDER]

Cold loads with verification into one buffer that was filled before, through the native core, each round in another
order, drawn from a fixed seed. The core's defaults (csrc/load/options.h) are among the best of its results. Writes
results/reading-SHAPE.json and prints a table.
"""

import random
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import click
from compared_files import SHAPE_NAMES, find_files
from measuring import RESULTS, drop_page_cache, make_console, save, summarise
from rich.table import Table

from sllm_store import _core
from sllm_store.checkpoint import open_checkpoint
from sllm_store.plan import make_plan
from sllm_store.reading import is_main_thread, native_plan

SEED = 5

console = make_console()


class Way(NamedTuple):
    """One setting of the read queue."""

    queue: str
    extent_mib: int
    depth: int


GRID = (
    *(Way("io_uring", extent, depth) for extent, depth in product((1, 2, 4, 8, 16, 32), (4, 8, 16, 32))),
    *(Way("threads", extent, depth) for extent, depth in product((2, 4, 8, 16), (4, 8, 16))),
)
_KINDS = {"io_uring": _core.QueueKind.URING, "threads": _core.QueueKind.THREADS}


class Loads:
    """Loads of one checkpoint into one buffer."""

    def __init__(self, folder: str) -> None:
        checkpoint = open_checkpoint(folder)
        plan = make_plan(checkpoint, checkpoint.names())
        self.nbytes = checkpoint.nbytes
        self._plan = native_plan(checkpoint, plan, verify=True)
        self._buffer = _core.HostBuffer(plan.target_bytes[0])
        self.run(GRID[0])

    def run(self, way: Way) -> dict[str, Any]:
        """One of them, cold. ClickException where the page cache cannot be dropped."""
        if not drop_page_cache():
            raise click.ClickException("cannot drop the page cache; run as root")
        options = _core.LoadOptions(queue=_KINDS[way.queue], depth=way.depth, extent_bytes=way.extent_mib << 20)
        return _core.load(self._plan, [self._buffer], options, _core.StopFlag(), is_main_thread())


@click.command()
@click.option("--shape", type=click.Choice(SHAPE_NAMES), default="llama-4gb", show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Where results go.")
def main(*, shape: str, rounds: int, output: Path) -> None:
    """Sweep the read queue's settings."""
    loads = Loads(find_files(shape).folder)
    order = random.Random(SEED)
    runs: dict[Way, list[dict[str, Any]]] = {way: [] for way in GRID}
    for number in range(rounds):
        for way in order.sample(GRID, len(GRID)):
            runs[way].append(loads.run(way))
        console.print(f"[dim]round {number + 1}/{rounds}[/]")
    ways = [_summary(way, of_way, loads.nbytes) for way, of_way in runs.items()]
    cold = "the page cache was dropped before each load"
    report({"shape": shape, "nbytes": loads.nbytes, "seed": SEED, "cold": cold, "ways": ways}, output)


def _summary(way: Way, runs: list[dict[str, Any]], nbytes: int) -> dict[str, Any]:
    rates = [round(nbytes / run["total_s"] / 1e9, 3) for run in runs]
    cpu = summarise([run["cpu_s"] / nbytes * 1e9 for run in runs])["median"]
    return {**way._asdict(), "gb_per_s": summarise(rates), "cpu_s_per_gb": round(cpu, 4), "runs": rates}


def report(result: dict[str, Any], folder: Path) -> None:
    """Print and save the sweep, the fastest way first."""
    table = Table("queue", "extent MiB", "depth", "GB/s, median", "min", "max", "CPU s/GB")
    for way in sorted(result["ways"], key=lambda way: -way["gb_per_s"]["median"]):
        rate = way["gb_per_s"]
        figures = (rate["median"], rate["min"], rate["max"], way["cpu_s_per_gb"])
        table.add_row(way["queue"], str(way["extent_mib"]), str(way["depth"]), *(f"{value:.3f}" for value in figures))
    console.print(table)
    console.print(str(save(f"reading-{result['shape']}", result, folder)))


if __name__ == "__main__":
    main()
