"""One result of loading.py as rows, for the terminal and for the README."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

HEADINGS = (
    "loader",
    "owns its bytes",
    "s to ready, cold",
    "GB/s",
    "of fio",
    "s to ready, warm",
    "GB/s",
    "s to return, cold / warm",
    "CPU s/GB to ready, cold / warm",
    "MiB above checkpoint",
)
_NOTHING = "–"


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row a loader, in the order of the result; a failure takes the place of figures."""
    return [_row(name, loader, result) for name, loader in result["loaders"].items()]


def rich_table(result: dict[str, Any]) -> Table:
    """For the terminal."""
    table = Table(*HEADINGS, title=title(result), title_justify="left")
    for row in rows(result):
        table.add_row(*row)
    return table


def markdown(result: dict[str, Any]) -> list[str]:
    """The same for a document, a line each."""
    lines = [_line(HEADINGS), _line(["---", "---", *["--:"] * (len(HEADINGS) - 2)])]
    return lines + [_line(row) for row in rows(result)]


def title(result: dict[str, Any]) -> str:
    """The shape, its size and the denominator."""
    drive = result.get("fio")
    speed = f"; fio best {drive['best_gb_per_s']:.2f} GB/s ({drive['best']})" if drive else ""
    return f"{result['shape']}: {result['nbytes'] / 1e9:.3f} GB in {result['tensors']} tensors{speed}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(name: str, loader: dict[str, Any], result: dict[str, Any]) -> tuple[str, ...]:
    shown = f"sllm, {name}" if loader["is_ours"] else f"{name} {loader['version']}"
    cold, warm = (loader.get(state) for state in ("cold", "warm"))
    if "failure" in loader or not (cold or warm):
        return (shown, loader["owns"], loader.get("failure", "not run"), *[""] * (len(HEADINGS) - 3))
    drive = result.get("fio")
    ratio = f"{cold['ready_gb_per_s'] / drive['best_gb_per_s']:.2f}" if cold and drive else _NOTHING
    peaks = [one["peak_above_checkpoint_bytes"]["median"] for one in (cold, warm) if one]
    return (
        shown,
        loader["owns"],
        _seconds(cold),
        _rate(cold),
        ratio,
        _seconds(warm),
        _rate(warm),
        f"{_median(cold, 'return_s')} / {_median(warm, 'return_s')}",
        f"{_median(cold, 'cpu_ready_s_per_gb')} / {_median(warm, 'cpu_ready_s_per_gb')}",
        f"{max(peaks) / 2**20:.0f}",
    )


def _seconds(figures: dict[str, Any] | None) -> str:
    if not figures:
        return _NOTHING
    spread = figures["ready_s"]
    return f"{spread['median']:.3f} ({spread['min']:.3f}–{spread['max']:.3f})"


def _rate(figures: dict[str, Any] | None) -> str:
    return f"{figures['ready_gb_per_s']:.2f}" if figures else _NOTHING


def _median(figures: dict[str, Any] | None, name: str) -> str:
    return f"{figures[name]['median']:.3f}" if figures else _NOTHING
