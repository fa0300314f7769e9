"""Rounds of measurements in random order: every loader cold and warm, fio's grid, the rates of memory."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import children
import click
import fio
from ballast import Ballast
from compared_files import Files, make_format
from loaders import Loader
from measuring import drop_page_cache, forget, resident_share, warm_page_cache

Run = dict[str, Any]
Say = Callable[[str], None]

_WARM_ATTEMPTS = 3
_WARM_SHARE = 0.999
# Of the reports of our loads, paths are one machine's and the rest says where the time went.
_NOT_KEPT = ("report", "digests", "resident_before_bytes", "peak_bytes", "held_bytes")


@dataclass(frozen=True)
class Reference:
    """The right digest of every stored tensor, and of names that share one's bytes."""

    stored: dict[str, int]
    aliases: dict[str, int]
    nbytes: int

    def fault_of(self, digests: dict[str, int]) -> str:
        """What is wrong with the tensors that a loader gave, or nothing."""
        known = self.stored | self.aliases
        wrong = sorted(name for name, digest in digests.items() if known.get(name) != digest)
        missing = sorted(self.stored.keys() - digests.keys())
        faults = [f"{len(wrong)} tensors differ, {wrong[0]} first"] if wrong else []
        faults += [f"{len(missing)} tensors are missing, {missing[0]} first"] if missing else []
        return "; ".join(faults)


@dataclass
class Rounds:
    """Runs by what was measured. A loader that fails is not run again; its failure stands beside its runs."""

    files: Files
    warmup: Files
    reference: Reference
    say: Say
    ballast: Ballast
    loads: dict[tuple[str, str, int | None], list[Run]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    drive: dict[fio.Way, list[Run]] = field(default_factory=dict)
    rates: list[Run] = field(default_factory=list)

    def make_formats(self, loaders: Sequence[Loader]) -> None:
        """Write what the loaders read, once; one whose file cannot be made has failed."""
        for loader in loaders:
            if loader.reads == "safetensors":
                continue
            for files in (self.warmup, self.files):
                if fault := make_format(files, loader.reads):
                    self.failures[loader.name] = f"its file cannot be made: {fault}"

    def load(self, loader: Loader, state: str, setting: int | None) -> None:
        """One load in a process of its own, from files in the wanted state, its tensors compared."""
        if loader.name in self.failures:
            return
        arguments = {
            "loader": loader.name,
            "files": self.files.as_dict(),
            "warmup": self.warmup.as_dict(),
            "setting": setting,
        }
        if loader.holds_memory:
            self.ballast.release()
        run = self._measure("load", arguments, lambda: self._set_state(loader, state))
        if "error" not in run and (fault := self.reference.fault_of(run["digests"])):
            run = {"error": fault}
        if "error" in run:
            self.failures[loader.name] = f"{state}: {run['error']}"
            self.say(f"{loader.name} {state}: failed: {run['error']}")
            return
        self._keep(loader, state, setting, run)

    def read_drive(self, way: fio.Way) -> None:
        """One run of fio."""
        run = fio.read(way, self.files.safetensors)
        self.drive.setdefault(way, []).append(run)
        shown = run["error"] if "error" in run else f"{run['nbytes'] / max(run['seconds'], 1e-3) / 1e9:.2f} GB/s"
        self.say(f"fio {way.name}: {shown}")

    def measure_rates(self, nbytes: int) -> None:
        """One measurement of memory, on so much of it."""
        run = self._measure("rates", {"nbytes": nbytes}, lambda: None)
        if "error" in run:
            raise click.ClickException(f"cannot measure memory: {run['error']}")
        self.rates.append(run)
        rates = {name: run["nbytes"] / run[f"{name}_s"] / 1e9 for name in ("first_touch", "memcpy", "crc32c")}
        self.say("memory: " + ", ".join(f"{name} {rate:.1f} GB/s" for name, rate in rates.items()))

    def _measure(self, job: str, arguments: dict[str, Any], set_state: Callable[[], None]) -> Run:
        """A child's job, with the memory for it there."""

        def before_go() -> None:
            set_state()
            self.ballast.release()

        try:
            return children.measure(job, arguments, before_go)
        finally:
            self.ballast.hold()

    def _keep(self, loader: Loader, state: str, setting: int | None, run: Run) -> None:
        above = run["peak_bytes"] - run["resident_before_bytes"] + run["held_bytes"] - self.reference.nbytes
        kept = {name: _rounded(value) for name, value in run.items() if name not in _NOT_KEPT}
        if run["report"] is not None:
            kept["report"] = {name: _rounded(value) for name, value in run["report"].items() if name != "path"}
        self.loads.setdefault((loader.name, state, setting), []).append({**kept, "peak_above_checkpoint_bytes": above})
        rate = self.reference.nbytes / run["ready_s"] / 1e9
        knob = "" if setting is None else f" ({loader.knob} {setting})"
        self.say(f"{loader.name} {state}{knob}: {run['ready_s']:.3f} s to ready, {rate:.2f} GB/s")

    def _set_state(self, loader: Loader, state: str) -> None:
        if state == "cold":
            if not drop_page_cache():
                raise click.ClickException("cannot drop the page cache; run as root, or with --state warm")
            return
        read = files_read(self.files, loader)
        others = [Path(path) for path in (self.files.safetensors, self.files.pt, self.files.tensors)]
        forget([path for path in others if path not in read and path.exists()])
        _warm(read)


def files_read(files: Files, loader: Loader) -> list[Path]:
    """What a loader may read of a checkpoint."""
    if loader.reads == "safetensors":
        return sorted(path for path in Path(files.folder).iterdir() if path.stat().st_size)
    return [Path(getattr(files, loader.reads))]


def shuffled(tasks: Sequence[Callable[[], None]], order: random.Random) -> list[Callable[[], None]]:
    """The tasks of one round, in this round's order."""
    return order.sample(tasks, len(tasks))


def _rounded(value: Any) -> Any:
    """Seconds to the microsecond: results are committed, and the clock has no more to say."""
    return round(value, 6) if isinstance(value, float) else value


def _warm(paths: Sequence[Path]) -> None:
    """Bring files into the page cache and see that they are there; others may drop it, or need its memory."""
    for _ in range(_WARM_ATTEMPTS):
        warm_page_cache([path for path in paths if resident_share(path) < 1])
        shares = {path: resident_share(path) for path in paths}
        if min(shares.values()) > _WARM_SHARE:
            return
    coldest = min(shares, key=lambda path: shares[path])
    raise click.ClickException(f"the page cache keeps {shares[coldest]:.0%} of {coldest.name}: too little memory")
