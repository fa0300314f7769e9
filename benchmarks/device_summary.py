"""From the runs of gpu.py's sections to figures, and the bounds that they have to keep.

- A resident source: at least 0.95 of the best copy from pinned memory, whatever its size.
- A cold one: at least 0.95 of the slower of that and the drive at its best, from the second load of a process on.
- Other loaders are no faster, cold and warm, at first and later.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from checks import Check
from device_ladder import Step
from measuring import summarise

OURS = "load_tensors"
KINDS = ("first", "cold", "warm")
_DIGITS = 6


def summarise_speeds(found: Mapping[str, Any]) -> dict[str, Any]:
    """The drive's and the link's ways with the best of each, and the loads of a resident source."""
    nbytes = found["nbytes"]
    sizes = {name: [nbytes / seconds / 1e9 for seconds in runs] for name, runs in found["resident_s"].items()}
    default = next(iter(sizes))
    resident = {
        "first_s": round(found["resident_first_s"], _DIGITS),
        "pin_s": round(found["pin_s"], _DIGITS),
        "by_copy_size": _ways(sizes),
        "gb_per_s": statistics.median(sizes[default]) if sizes[default] else None,
    }
    speeds = {"drive": _best_of(found["drive"]), "link": _best_of(found["link"]), "resident": resident}
    return {**speeds, "failure": found["fault"]} if found["fault"] else speeds


def summarise_loads(runs: Sequence[Mapping[str, Any]], nbytes: int) -> dict[str, Any]:
    """One loader's first load, and its later ones by state; the first fault stands for all."""
    kept = [{name: _rounded(value) for name, value in run.items() if name != "fault"} for run in runs]
    figures: dict[str, Any] = {"runs": kept}
    if fault := next((run["fault"] for run in runs if run["fault"]), ""):
        return {**figures, "failure": fault}
    by_kind = {kind: [run for run in runs if _kind_of(run) == kind] for kind in KINDS}
    for kind, of_kind in by_kind.items():
        if of_kind:
            ready = summarise([run["ready_s"] for run in of_kind])
            figures[kind] = {
                "ready_s": {name: _rounded(value) for name, value in ready.items()},
                "gb_per_s": nbytes / ready["median"] / 1e9,
                "cpu_s_per_gb": statistics.median(run["cpu_s"] for run in of_kind) / nbytes * 1e9,
            }
    return figures


def summarise_steps(steps: Sequence[Step], nbytes: int, found: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of each step that was taken, and its gain, the ratio of medians, over the one before."""
    if found["faults"]:
        return {"failure": "; ".join(f"{name}: {fault}" for name, fault in found["faults"].items())}
    taken = [(step, runs) for step, runs in zip(steps, found["steps"], strict=True) if runs]
    medians = [statistics.median(run["ready_s"] for run in runs) for _, runs in taken]
    return {
        "steps": [
            {
                "name": step.name,
                "gb_per_s": nbytes / medians[index] / 1e9,
                "ready_s": [_rounded(run["ready_s"]) for run in runs],
                "cpu_s_per_gb": statistics.median(run["cpu_s"] for run in runs) / nbytes * 1e9,
                "gain": medians[index - 1] / medians[index] if index else None,
                "paper_gain": step.paper_gain,
            }
            for index, (step, runs) in enumerate(taken)
        ]
    }


def link_gb_per_s(result: Mapping[str, Any]) -> float | None:
    """The best copy from pinned memory: torch's, or, where torch has no such device, none."""
    best: float | None = result.get("speeds", {}).get("link", {}).get("best_gb_per_s")
    return best


def bound_gb_per_s(result: Mapping[str, Any]) -> float | None:
    """The slower of link and drive."""
    drive = result.get("speeds", {}).get("drive", {}).get("best_gb_per_s")
    link = link_gb_per_s(result)
    return min(drive, link) if drive and link else None


def evaluate(result: Mapping[str, Any]) -> list[Check]:
    """Every bound that this result has figures for."""
    ratios = [
        ("resident: of the best pinned copy", _resident(result), link_gb_per_s(result), 0.95),
        ("cold: of the slower of drive and link", _rate(result, OURS, "cold"), bound_gb_per_s(result), 0.95),
        *_against_peers(result),
    ]
    return [Check(name, above / below, ">=", bound) for name, above, below, bound in ratios if above and below]


def _against_peers(result: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None, float]]:
    for name, loader in result["loaders"].items():
        for kind in KINDS if not loader.get("is_ours", True) else ():
            yield f"{kind}: speed against {name}", _rate(result, OURS, kind), _rate(result, name, kind), 1.0


def _resident(result: Mapping[str, Any]) -> float | None:
    rate: float | None = result.get("speeds", {}).get("resident", {}).get("gb_per_s")
    return rate


def _rate(result: Mapping[str, Any], loader: str, kind: str) -> float | None:
    rate: float | None = result["loaders"].get(loader, {}).get(kind, {}).get("gb_per_s")
    return rate


def _kind_of(run: Mapping[str, Any]) -> str:
    return "first" if run["is_first"] else str(run["state"])


def _best_of(rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Empty where nothing was measured."""
    ways = _ways(rates)
    if not ways:
        return {}
    best = max(ways, key=lambda name: ways[name]["median"])
    return {"best": best, "best_gb_per_s": ways[best]["median"], "ways": ways}


def _ways(rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {name: summarise(of_way) for name, of_way in rates.items() if of_way}


def _rounded(value: Any) -> Any:
    return round(value, _DIGITS) if isinstance(value, float) else value
