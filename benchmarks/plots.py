"""Results as pictures."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tables

_COLOURS = {"cold": "#4477aa", "warm": "#ee8866"}


def can_draw() -> bool:
    """Whether matplotlib is there, which only the benchmarks' own environment has."""
    return find_spec("matplotlib") is not None


def draw_loading(result: dict[str, Any], path: Path) -> Path:
    """A bar a loader and state: GB/s until every byte was checksummed; a line at fio's best."""
    figure, axes = _canvas(0.45 * len(result["loaders"]) + 1.5)
    names = list(result["loaders"])
    for number, state in enumerate(_COLOURS):
        speeds = [result["loaders"][name].get(state, {}).get("ready_gb_per_s", 0.0) for name in names]
        places = [place + 0.4 * number - 0.2 for place in range(len(names))]
        axes.barh(places, speeds, 0.38, label=state, color=_COLOURS[state])
    if drive := result.get("fio"):
        axes.axvline(drive["best_gb_per_s"], color="black", linestyle="--", label="fio best, cold")
    axes.set_yticks(range(len(names)), [_label(name, result["loaders"][name]) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("GB/s until every byte of every tensor was checksummed, median")
    axes.set_title(tables.title(result), fontsize=9)
    axes.legend()
    return _save(figure, path)


def draw_ablation(result: dict[str, Any], path: Path) -> Path:
    """A bar a step: GB/s, with the gain over the step before."""
    figure, axes = _canvas(0.6 * len(result["steps"]) + 1.5)
    speeds = [step["gb_per_s"] for step in result["steps"]]
    bars = axes.barh(range(len(speeds)), speeds, 0.6, color=_COLOURS["cold"])
    gains = [f"{step['gb_per_s']:.2f}" + (f", x{step['gain']:.2f}" if step["gain"] else "") for step in result["steps"]]
    axes.bar_label(bars, gains, padding=3)
    axes.set_yticks(range(len(speeds)), [step["name"] for step in result["steps"]])
    axes.invert_yaxis()
    axes.set_xlim(0, max(speeds) * 1.2)
    axes.set_xlabel("GB/s, cold, until every byte was verified, median")
    axes.set_title(f"{result['shape']}: each step on top of those above", fontsize=9)
    return _save(figure, path)


def _canvas(height: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(9, height))


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path


def _label(name: str, loader: dict[str, Any]) -> str:
    failed = ", failed" if "failure" in loader else ""
    return f"sllm, {name}{failed}" if loader["is_ours"] else f"{name}{failed}"
