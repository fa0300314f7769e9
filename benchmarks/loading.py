"""How fast is a checkpoint in memory? Loaders side by side on the same files in the same run.

    python benchmarks/loading.py [--shape llama-4gb] [--rounds 7] [--loader own] [--state warm] [--output FOLDER]

Each load runs in a process of its own, which has imported its loader and loaded a checkpoint of two megabytes with it.
Then the page cache is put into a state: cold, all of it dropped; or warm, the loader's files in it, which is asked of
the kernel. And the memory that a load needs is made to be there (ballast.py). Two times are taken from then on: until
the loader returns, and until it is ready, that is until one pass, the same for every loader, has computed the CRC32C
of every byte of every tensor. The digests are compared with those of an independent reader, so a loader that gives
wrong bytes has failed.

Ours run at their defaults. Loaders with a knob for concurrency are swept over three settings first, two rounds each,
cold and warm apart, and run at their best. Then come the rounds: all loaders in both states, fio's grid on the same
file, and the rates of first touch, memcpy and CRC, each round in another order, drawn from a fixed seed.

Writes results/loading-SHAPE.json and .png, and prints a table and the bounds of checks.py, which says what they mean.
"""

import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import checks
import click
import fio
import plots
import tables
from ballast import Ballast
from compared_files import COMPARED, SHAPE_NAMES, Files, alias_digests, find_files, stored_bytes, stored_digests
from loaders import LOADERS, Loader, loaders_for
from measuring import RESULTS, make_console, save
from rounds import Reference, Rounds, shuffled
from summary import STATES, best_setting, summarise_drive, summarise_loader, summarise_rates, summarise_sweeps

from sllm_store import _core

SEED = 4
SWEEP_ROUNDS = 2

console = make_console()


class Comparison:
    """All that is measured of one shape."""

    def __init__(self, files: Files, loaders: list[Loader], states: tuple[str, ...], *, with_fio: bool) -> None:
        stored = stored_digests(files.safetensors)
        self.files = files
        self.loaders = loaders
        self.states = states
        self.with_fio = with_fio
        self._ballast = Ballast(stored_bytes(files.safetensors))
        self._reference = Reference(stored, alias_digests(files, stored), stored_bytes(files.safetensors))
        self._order = random.Random(SEED)
        self._start = time.perf_counter()
        self._place = ""
        self.swept, self.rounds = self._fresh_rounds(), self._fresh_rounds()
        self.settings: dict[str, dict[str, int | None]] = {loader.name: {} for loader in loaders}

    def sweep(self) -> None:
        """Find each loader's best setting."""
        self.swept.make_formats(self.loaders)
        tasks = [
            partial(self.swept.load, loader, state, setting)
            for loader in self.loaders
            for state in self.states
            for setting in loader.settings
        ]
        self._run(tasks, SWEEP_ROUNDS, "sweep")
        for loader in self.loaders:
            self.settings[loader.name] = {state: best_setting(self.swept, loader, state) for state in self.states}
        self.rounds.failures |= self.swept.failures

    def run(self, count: int, memory_bytes: int) -> None:
        """The rounds themselves."""
        tasks = [
            partial(self.rounds.load, loader, state, self.settings[loader.name].get(state))
            for loader in self.loaders
            for state in self.states
        ]
        size = Path(self.files.safetensors).stat().st_size
        tasks += [partial(self.rounds.read_drive, way) for way in fio.GRID if self.with_fio and way.can_read(size)]
        self._run([*tasks, partial(self.rounds.measure_rates, memory_bytes)], count, "round")

    def result(self) -> dict[str, Any]:
        """All figures, checks included."""
        result: dict[str, Any] = {
            "shape": self.files.shape,
            "nbytes": self._reference.nbytes,
            "tensors": len(self._reference.stored),
            "seed": SEED,
            "cold": "the page cache was dropped before each load",
            "warm": "the loader's files were in the page cache before each load",
            "memory": "as much as a load takes was touched before it, and free",
            "crc32c": _core.crc32c_implementation(),
            "rates": summarise_rates(self.rounds.rates),
            "fio": summarise_drive(self.rounds.drive),
            "sweeps": summarise_sweeps(self.swept, self.loaders),
            "loaders": {
                loader.name: summarise_loader(self.rounds, loader, self.settings[loader.name])
                for loader in self.loaders
            },
        }
        return {**result, "checks": [check.as_dict() for check in checks.evaluate(result)]}

    def _fresh_rounds(self) -> Rounds:
        warmup = find_files("tiny")
        return Rounds(self.files, warmup, self._reference, self._say, self._ballast)

    def _run(self, tasks: list[Any], rounds: int, what: str) -> None:
        for number in range(rounds):
            for step, task in enumerate(shuffled(tasks, self._order)):
                self._place = f"{what} {number + 1}/{rounds}, {step + 1}/{len(tasks)}"
                task()

    def _say(self, text: str) -> None:
        passed = time.perf_counter() - self._start
        console.print(f"[dim]{self.files.shape}, {self._place}, {passed:.0f} s:[/] {text}")


@click.command()
@click.option("--shape", "shapes", type=click.Choice(SHAPE_NAMES), multiple=True, default=COMPARED, show_default=True)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--loader", "names", type=click.Choice(list(LOADERS)), multiple=True, help="Only these loaders.")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, default=STATES, show_default=True)
@click.option("--no-fio", is_flag=True, help="Go without the drive's own speed.")
@click.option("--memory-mib", default=1024, show_default=True, help="What the rates of memory are measured on.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Where results go.")
def main(
    *,
    shapes: tuple[str, ...],
    rounds: int,
    names: tuple[str, ...],
    states: tuple[str, ...],
    no_fio: bool,
    memory_mib: int,
    output: Path,
) -> None:
    """Compare loaders on each shape."""
    if not no_fio:
        fio.find()
    failed = []
    for shape in shapes:
        files = find_files(shape)
        loaders = [loader for loader in loaders_for(files) if not names or loader.name in names]
        comparison = Comparison(files, loaders, states, with_fio=not no_fio)
        comparison.sweep()
        comparison.run(rounds, memory_mib << 20)
        report(comparison.result(), output)
        failed += [name for name in comparison.rounds.failures if LOADERS[name].is_ours]
    if failed:
        raise click.ClickException(f"ours failed: {', '.join(failed)}")


def report(result: dict[str, Any], folder: Path) -> None:
    """Print and save one shape's result."""
    console.print(tables.rich_table(result))
    for check in result["checks"]:
        mark = "[green]holds[/]" if check["holds"] else "[red]fails[/]"
        console.print(f"{mark}  {check['name']}: {check['value']:.3f} {check['sense']} {check['bound']:.3f}")
    name = f"loading-{result['shape']}"
    console.print(str(save(name, result, folder)))
    if plots.can_draw():
        console.print(str(plots.draw_loading(result, folder / f"{name}.png")))
    else:
        console.print("no picture: matplotlib is not installed (make bench has it)")


if __name__ == "__main__":
    main()
