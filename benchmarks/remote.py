"""How fast is a checkpoint fetched from a web server, against curl with as many connections?

    python benchmarks/remote.py [--shape llama-2gb] [--rounds 7] [--in-flight 16] [--range 4] [--output FOLDER]

The server (file_server.py) sends from the page cache over the loopback. Both sides are measured twice: with the bytes
thrown away (curl) or into the store's pool, verified (ours); and with the bytes in files as well, where ours also
checks them against the manifest and keeps a journal. curl's files are not synced, and neither side's sync of the last
bytes is counted: a load is over when the pool has it; when the copy was synced and published stands beside it.

Rounds are interleaved, each in an order of its own drawn from a fixed seed. Writes results/remote.json. The bound is
0.8 of curl's rate for each of the two, and that the first bytes are there before the last are asked for.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import children
import click
from ballast import Ballast
from compared_files import SHAPE_NAMES, find_files
from measuring import RESULTS, make_console, save, summarise, warm_page_cache
from rich.table import Table

SEED = 11
BOUND = 0.8

console = make_console()

# What is measured, and what each is compared with.
WAYS = ("curl, discarded", "sllm, pool", "curl, files", "sllm, pool and disk")
PAIRS = (("sllm, pool", "curl, discarded"), ("sllm, pool and disk", "curl, files"))


class Settings(NamedTuple):
    """What all measurements have in common; files are written below `scratch`."""

    in_flight: int
    range_mib: int
    scratch: str
    ballast: Ballast


@contextmanager
def served(folder: str) -> Iterator[str]:
    """The folder's URL, as long as its server runs."""
    command = [sys.executable, str(Path(__file__).with_name("file_server.py")), folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait(30)


def curl(url: str, path: Path, connections: int, folder: str) -> dict[str, Any]:
    """As many curl processes, each with an equal part of the file, to nowhere or into files of the folder."""
    nbytes = path.stat().st_size
    step = -(-nbytes // connections)
    commands = []
    for number, begin in enumerate(range(0, nbytes, step)):
        output = str(Path(folder, str(number))) if folder else "/dev/null"
        part = f"{begin}-{min(begin + step, nbytes) - 1}"
        commands.append(["curl", "-sf", "--range", part, "-o", output, f"{url}/{path.name}"])
    start = time.perf_counter()
    processes = [subprocess.Popen(command) for command in commands]
    codes = [process.wait(600) for process in processes]
    seconds = time.perf_counter() - start
    if any(codes):
        raise click.ClickException(f"curl ended with {max(codes)}")
    return {"load_s": seconds, "nbytes": nbytes}


def measure(way: str, url: str, path: Path, settings: Settings) -> dict[str, Any]:
    """One transfer of the whole checkpoint, with the memory for it there."""
    disk = settings.scratch if way in ("curl, files", "sllm, pool and disk") else ""
    try:
        if way.startswith("curl"):
            with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
                settings.ballast.release()
                return curl(url, path, settings.in_flight, folder if disk else "")
        job = {"url": url, "disk": disk, "range_mib": settings.range_mib, "in_flight": settings.in_flight}
        run = children.measure("remote load", job, settings.ballast.release)
        if "error" in run:
            raise click.ClickException(run["error"])
        return run
    finally:
        settings.ballast.hold()


@click.command()
@click.option("--shape", type=click.Choice(SHAPE_NAMES), default="llama-2gb", show_default=True)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--in-flight", default=16, show_default=True, type=click.IntRange(min=1), help="Connections of both.")
@click.option("--range", "range_mib", default=4, show_default=True, type=click.IntRange(min=1), help="MiB a range.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Where results go.")
def main(*, shape: str, rounds: int, in_flight: int, range_mib: int, output: Path) -> None:
    """Compare fetching with curl."""
    files = find_files(shape)
    path = Path(files.safetensors)
    order = random.Random(SEED)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with served(files.folder) as url, tempfile.TemporaryDirectory(dir=path.parent.parent) as scratch:
        settings = Settings(in_flight, range_mib, scratch, Ballast(path.stat().st_size))
        warm_page_cache([path])
        for number in range(rounds):
            for way in order.sample(WAYS, len(WAYS)):
                run = measure(way, url, path, settings)
                runs[way].append(run)
                console.print(f"{number + 1}/{rounds} {way}: {run['nbytes'] / run['load_s'] / 1e9:.2f} GB/s")
    result = {
        "shape": shape,
        "nbytes": path.stat().st_size,
        "seed": SEED,
        "connections": in_flight,
        "range_bytes": range_mib << 20,
        "server": "benchmarks/file_server.py: sendfile, a thread a connection, on the loopback of the same machine",
        "cache": "the served file is in the page cache; what is written is not synced within the time measured",
        "curl": subprocess.check_output(["curl", "--version"], text=True).splitlines()[0],
        "ways": {way: _summary(of_way) for way, of_way in runs.items()},
    }
    report(result, output)


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [run["nbytes"] / run["load_s"] / 1e9 for run in runs]
    rounded = [{name: round(value, 6) for name, value in run.items() if name != "nbytes"} for run in runs]
    return {"gb_per_s": summarise([round(rate, 3) for rate in rates]), "runs": rounded}


def evaluate(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The bounds, with what was reached."""
    ways = result["ways"]
    bounds = []
    for ours, theirs in PAIRS:
        value = ways[ours]["gb_per_s"]["median"] / ways[theirs]["gb_per_s"]["median"]
        bounds.append({"name": f"{ours} against {theirs}", "value": round(value, 3), "bound": BOUND})
    shares = [run["first_bytes_s"] / run["load_s"] for ours, _ in PAIRS for run in ways[ours]["runs"]]
    bounds.append({"name": "first bytes, as a share of the load", "value": round(max(shares), 3), "bound": 0.5})
    return bounds


def report(result: dict[str, Any], folder: Path) -> None:
    """Print and save."""
    result["bounds"] = evaluate(result)
    table = Table("way", "GB/s, median", "min", "max")
    for way, of_way in result["ways"].items():
        rate = of_way["gb_per_s"]
        table.add_row(way, *(f"{rate[name]:.2f}" for name in ("median", "min", "max")))
    console.print(table)
    for bound in result["bounds"]:
        console.print(f"{bound['name']}: {bound['value']} (bound {bound['bound']})")
    console.print(str(save("remote", result, folder)))


if __name__ == "__main__":
    main()
