"""The README's tables of speed, made from the committed results.

    python benchmarks/readme.py

Writes what stands between the markers of the README anew; the text around them is written by hand.
"""

import json
from pathlib import Path
from typing import Any

import tables
from compared_files import SHAPE_NAMES
from measuring import RESULTS

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    """Bring the README up to date."""
    README.write_text(with_tables(README.read_text(), RESULTS))


def with_tables(text: str, results: Path) -> str:
    """The text with its generated parts made from these results. Raises ValueError where a marker is missing."""
    loading = [json.loads(path.read_text()) for path in loading_results(results)]
    text = _with_part(text, "loading table", [line for result in loading for line in _loading_lines(result)])
    for name, lines_of in {"ablation": _ablation_lines, "store": _store_lines, "remote": _remote_lines}.items():
        path = results / f"{name}.json"
        lines = lines_of(json.loads(path.read_text())) if path.exists() else []
        text = _with_part(text, f"{name} table", lines)
    return text


def loading_results(results: Path) -> list[Path]:
    """The results of loading.py that are there, in the order in which shapes are declared."""
    paths = [results / f"loading-{shape}.json" for shape in SHAPE_NAMES]
    return [path for path in paths if path.exists()]


def _with_part(text: str, name: str, lines: list[str]) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, after = text.index(begin) + len(begin), text.index(end)
    return text[:before] + "\n" + "".join(f"{line}\n" for line in lines or ["No results yet."]) + text[after:]


def _loading_lines(result: dict[str, Any]) -> list[str]:
    broken = [
        f"{check['name']} {check['value']:.3g}, bound {check['bound']:.3g}"
        for check in result["checks"]
        if not check["holds"]
    ]
    count = len(result["checks"])
    held = f"{count - len(broken)} of {count} bounds hold"
    return [
        "",
        f"**{tables.title(result)}**",
        "",
        *tables.markdown(result),
        "",
        f"{_machine(result)} {held}{'; not: ' + '; '.join(broken) if broken else ''}.",
        "",
    ]


def _ablation_lines(result: dict[str, Any]) -> list[str]:
    lines = ["", "| step | GB/s | gain | in the paper |", "| --- | --: | --: | --: |"]
    for step in result["steps"]:
        gain, paper = (f"{value:.2f}" if value else "" for value in (step["gain"], step["paper_gain"]))
        lines.append(f"| {step['name']} | {step['gb_per_s']:.2f} | {gain} | {paper} |")
    return [*lines, "", _machine(result), ""]


def _store_lines(result: dict[str, Any]) -> list[str]:
    lines = ["", f"| {result['checkpoint']}, {result['tensors']} tensors | measured | bound |", "| --- | --: | --: |"]
    lines += [f"| {figure['what']} | {figure['value']:.4f} | {figure['bound']:.4f} |" for figure in result["figures"]]
    return [*lines, "", _machine(result), ""]


def _remote_lines(result: dict[str, Any]) -> list[str]:
    lines = ["", "| over the loopback | GB/s, median | min | max |", "| --- | --: | --: | --: |"]
    for way, measured in result["ways"].items():
        rate = measured["gb_per_s"]
        lines.append(f"| {way} | {rate['median']:.2f} | {rate['min']:.2f} | {rate['max']:.2f} |")
    return [*lines, "", _machine(result), ""]


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"Taken on {result['date']} at {result['commit']} with `{result['command']}`: {machine['cores']} cores of "
        f"{machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}."
    )


if __name__ == "__main__":
    main()
