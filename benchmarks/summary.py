"""From the runs of all rounds to one result: medians and spread, each loader at its best setting."""

import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import fio
from loaders import Loader
from measuring import summarise
from rounds import Rounds, Run

STATES = ("cold", "warm")
_TIMES = ("ready_s", "return_s")


def best_setting(rounds: Rounds, loader: Loader, state: str) -> int | None:
    """The swept setting with the least median time to ready, or None where nothing was swept."""
    medians = {
        setting: statistics.median(run["ready_s"] for run in rounds.loads[loader.name, state, setting])
        for setting in loader.settings
        if (loader.name, state, setting) in rounds.loads
    }
    return min(medians, key=lambda setting: medians[setting]) if medians else None


def summarise_sweeps(swept: Rounds, loaders: Sequence[Loader]) -> dict[str, Any]:
    """What the sweeps found, by loader, state and setting."""
    found: dict[str, Any] = {}
    for (name, state, setting), runs in swept.loads.items():
        knob = next(loader.knob for loader in loaders if loader.name == name)
        states = found.setdefault(name, {"knob": knob})
        states.setdefault(state, {})[str(setting)] = [run["ready_s"] for run in runs]
    return found


def summarise_drive(drive: Mapping[fio.Way, Sequence[Run]]) -> dict[str, Any] | None:
    """fio's grid: GB/s of each way, and the best median; None where fio did not run."""
    grid: dict[str, Any] = {}
    for way, runs in drive.items():
        rates = [run["nbytes"] / run["seconds"] / 1e9 for run in runs if run.get("seconds")]
        grid[way.name] = summarise(rates) if rates else {"error": runs[-1].get("error", "too short to be timed")}
    medians = {name: figures["median"] for name, figures in grid.items() if "median" in figures}
    if not medians:
        return None
    best = max(medians, key=lambda name: medians[name])
    return {"version": fio.find(), "best": best, "best_gb_per_s": medians[best], "grid": grid}


def summarise_rates(rates: Sequence[Run]) -> dict[str, Any]:
    """GB/s and processor seconds a GB of first touch, memcpy and CRC."""
    found: dict[str, Any] = {}
    for name in ("first_touch", "first_touch_all_cores", "memcpy", "crc32c"):
        found[f"{name}_gb_per_s"] = summarise([run["nbytes"] / run[f"{name}_s"] / 1e9 for run in rates])
    for name in ("first_touch", "memcpy", "crc32c"):
        found[f"{name}_cpu_s_per_gb"] = summarise([run[f"{name}_cpu_s"] / run["nbytes"] * 1e9 for run in rates])
    return found


def summarise_loader(rounds: Rounds, loader: Loader, settings: Mapping[str, int | None]) -> dict[str, Any]:
    """One loader's figures in each state, with all its runs."""
    result: dict[str, Any] = {
        "owns": loader.owns,
        "is_ours": loader.is_ours,
        "package": loader.package,
        "version": _version_of(loader.package),
        "knob": loader.knob,
    }
    if loader.name in rounds.failures:
        result["failure"] = rounds.failures[loader.name]
    for state in STATES:
        runs = rounds.loads.get((loader.name, state, settings.get(state)))
        if runs:
            result[state] = {"setting": settings.get(state), **_figures(runs, rounds.reference.nbytes)}
    return result


def _figures(runs: Sequence[Run], nbytes: int) -> dict[str, Any]:
    gigabytes = nbytes / 1e9
    figures: dict[str, Any] = {name: summarise([run[name] for run in runs]) for name in _TIMES}
    for name in ("return", "ready"):
        figures[f"{name}_gb_per_s"] = gigabytes / figures[f"{name}_s"]["median"]
        figures[f"cpu_{name}_s_per_gb"] = summarise([run[f"cpu_{name}_s"] / gigabytes for run in runs])
    figures["peak_above_checkpoint_bytes"] = summarise([run["peak_above_checkpoint_bytes"] for run in runs])
    figures["mapped_bytes"] = int(statistics.median(run["mapped_bytes"] for run in runs))
    reports = [run["report"] for run in runs if "report" in run]
    if reports:
        for name, parts in {
            "open_to_tensor": ("open_s", "plan_s", "handover_s"),
            "after_header": ("plan_s", "handover_s"),
        }.items():
            micros = [sum(report[part] for part in parts) / report["tensors"] * 1e6 for report in reports]
            figures[f"{name}_us_per_tensor"] = summarise(micros)
    figures["runs"] = [dict(run) for run in runs]
    return figures


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
