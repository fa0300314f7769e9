"""One result of gpu.py for a terminal."""

from collections.abc import Callable, Mapping
from typing import Any

from device_summary import KINDS, bound_gb_per_s, evaluate, link_gb_per_s
from rich.table import Table

_NOTHING = "–"


def loads(result: Mapping[str, Any]) -> Table:
    """A row a loader: the first load, and later ones cold and warm, the cold ones against what bounds them."""
    kinds = [heading for kind in KINDS for heading in (f"{kind}, s", "GB/s")]
    headings = ("loader", "version", *kinds[:4], "of the bound", *kinds[4:], "CPU s/GB, cold")
    table = Table(*headings, title=title(result), title_justify="left")
    for name, loader in result["loaders"].items():
        if "failure" in loader:
            table.add_row(name, loader.get("version", ""), loader["failure"])
            continue
        first, cold, warm = (loader.get(kind) for kind in KINDS)
        bound = bound_gb_per_s(result)
        ratio = f"{cold['gb_per_s'] / bound:.2f}" if cold and bound else _NOTHING
        cpu = f"{cold['cpu_s_per_gb']:.3f}" if cold else _NOTHING
        table.add_row(name, loader["version"], *_cells(first), *_cells(cold), ratio, *_cells(warm), cpu)
    return table


def steps(result: Mapping[str, Any]) -> Table:
    """A row a step of the staircase."""
    table = Table("step, cold", "GB/s", "CPU s/GB", "gain", "paper's gain")
    for step in result.get("steps", {}).get("steps", ()):
        gains = (f"{gain:.2f}" if gain else "" for gain in (step["gain"], step["paper_gain"]))
        table.add_row(step["name"], f"{step['gb_per_s']:.2f}", f"{step['cpu_s_per_gb']:.3f}", *gains)
    return table


def title(result: Mapping[str, Any]) -> str:
    """What was loaded where, and what bounds it."""
    drive = result.get("speeds", {}).get("drive", {})
    parts = [f"{result['gpu']}: {result['nbytes'] / 1e9:.3f} GB in {result['tensors']} tensors"]
    if drive:
        parts.append(f"drive {drive['best_gb_per_s']:.2f} GB/s ({drive['best']})")
    if link := link_gb_per_s(result):
        parts.append(f"link {link:.2f} GB/s")
    return "; ".join(parts)


def checks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bounds, for JSON."""
    return [check.as_dict() for check in evaluate(result)]


def print_checks(result: Mapping[str, Any], say: Callable[[str], object]) -> None:
    """The bounds, one a line; then what ran out of time."""
    for check in evaluate(result):
        say(f"{'holds' if check.holds else 'DOES NOT HOLD'}: {check.name}: {check.value:.3f}, at least {check.bound}")
    for section, cut in result["cuts"].items():
        say(f"cut short: {section} {cut}")


def line(section: str, result: Mapping[str, Any]) -> str:
    """A section in a line."""
    found = result[section]
    if "failure" in found:
        return f"failed: {found['failure']}"
    if section == "steps":
        return ", ".join(f"{step['name']} {step['gb_per_s']:.2f}" for step in found["steps"]) + " GB/s"
    rates = [f"{name} {found[name]['best_gb_per_s']:.2f}" for name in ("drive", "link") if found[name]]
    resident = found["resident"]["gb_per_s"]
    return ", ".join([*rates, f"resident {resident:.2f}" if resident else "resident not measured"]) + " GB/s"


def load_line(loader: Mapping[str, Any]) -> str:
    """A loader in a line."""
    if "failure" in loader:
        return f"failed: {loader['failure']}"
    return ", ".join(f"{kind} {loader[kind]['gb_per_s']:.2f}" for kind in KINDS if kind in loader) + " GB/s"


def _cells(figures: Mapping[str, Any] | None) -> tuple[str, str]:
    if not figures:
        return _NOTHING, _NOTHING
    return f"{figures['ready_s']['median']:.3f}", f"{figures['gb_per_s']:.2f}"
