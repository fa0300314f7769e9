"""What does each part of loading bring? The paper's staircase on this code.

    python benchmarks/ablation.py [--shape llama-4gb] [--rounds 7] [--output FOLDER]

ServerlessLLM (OSDI 2024, figure 7) goes from reading tensor by tensor to its loader in five steps. The same steps here,
through the native core, cold, each load in a process of its own and ended when every byte is verified by CRC32C:

1. read by tensor: one buffered read after another, each of one tensor, into fresh memory;
2. bulk reads: of the core's default size, whatever tensors they cut;
3. direct I/O: around the page cache;
4. depth: as many reads in flight as the core's default, where the paper has threads;
5. memory that is there: filled by a load before, where the paper has pinned memory;
6. verification overlapped with reading: until here it is a pass after reading, where the paper copies to a GPU.

Rounds are interleaved, in an order drawn from a fixed seed. Writes results/ablation.json and .png (ablation-SHAPE for
other shapes than the first) and prints a table.
"""

import random
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import children
import click
import plots
from ballast import Ballast
from compared_files import SHAPE_NAMES, Files, find_files, stored_bytes, stored_digests
from ladder import STEPS
from measuring import RESULTS, drop_page_cache, make_console, save, summarise
from rich.table import Table

SHAPE = "llama-4gb"
SEED = 7

console = make_console()


def measure(files: Files, rounds: int) -> list[list[dict[str, Any]]]:
    """The runs of each step. ClickException where one fails or gives other bytes than the file's."""
    digests = stored_digests(files.safetensors)
    warmup = find_files("tiny").as_dict()
    order = random.Random(SEED)
    ballast = Ballast(stored_bytes(files.safetensors))
    runs: list[list[dict[str, Any]]] = [[] for _ in STEPS]
    for number in range(rounds):
        for step in order.sample(range(len(STEPS)), len(STEPS)):
            arguments = {"step": step, "files": files.as_dict(), "warmup": warmup}
            run = children.measure("step", arguments, partial(_go_cold, ballast))
            ballast.hold()
            if run.get("digests") != digests:
                raise click.ClickException(f"{STEPS[step].name}: {run.get('error', 'tensors differ')}")
            del run["digests"]
            runs[step].append(run)
            console.print(f"[dim]round {number + 1}/{rounds}:[/] {STEPS[step].name}: {run['ready_s']:.3f} s")
    return runs


def _go_cold(ballast: Ballast) -> None:
    if not drop_page_cache():
        raise click.ClickException("cannot drop the page cache; run as root")
    ballast.release()


def summarise_steps(runs: list[list[dict[str, Any]]], nbytes: int) -> list[dict[str, Any]]:
    """Each step's figures and its gain, the ratio of medians, over the one before."""
    medians = [statistics.median(run["ready_s"] for run in of_step) for of_step in runs]
    return [
        {
            "name": step.name,
            "ready_s": summarise([run["ready_s"] for run in of_step]),
            "gb_per_s": nbytes / medians[index] / 1e9,
            "cpu_s_per_gb": statistics.median(run["cpu_s"] for run in of_step) / nbytes * 1e9,
            "gain": medians[index - 1] / medians[index] if index else None,
            "paper_gain": step.paper_gain,
            "runs": of_step,
        }
        for index, (step, of_step) in enumerate(zip(STEPS, runs, strict=True))
    ]


@click.command()
@click.option("--shape", "shapes", type=click.Choice(SHAPE_NAMES), multiple=True, default=(SHAPE,), show_default=True)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Where results go.")
def main(shapes: tuple[str, ...], rounds: int, output: Path) -> None:
    """Take the steps on each shape."""
    for shape in shapes:
        files = find_files(shape)
        nbytes = stored_bytes(files.safetensors)
        steps = summarise_steps(measure(files, rounds), nbytes)
        cold = "the page cache was dropped before each load"
        report({"shape": shape, "nbytes": nbytes, "seed": SEED, "cold": cold, "steps": steps}, output)


def report(result: dict[str, Any], folder: Path) -> None:
    """Print and save one shape's steps."""
    table = Table("step", "s, median", "min", "max", "GB/s", "CPU s/GB", "gain", "paper's gain")
    for step in result["steps"]:
        spread = step["ready_s"]
        figures = (spread["median"], spread["min"], spread["max"], step["gb_per_s"], step["cpu_s_per_gb"])
        gains = (f"{gain:.2f}" if gain else "" for gain in (step["gain"], step["paper_gain"]))
        table.add_row(step["name"], *(f"{figure:.3f}" for figure in figures), *gains)
    console.print(table)
    name = "ablation" if result["shape"] == SHAPE else f"ablation-{result['shape']}"
    console.print(str(save(name, result, folder)))
    if plots.can_draw():
        console.print(str(plots.draw_ablation(result, folder / f"{name}.png")))


if __name__ == "__main__":
    main()
