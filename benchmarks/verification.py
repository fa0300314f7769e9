"""What does verification cost? Cold loads with and without it, in pairs, each in a fresh process.

    python benchmarks/verification.py [--checkpoint llama-2gb] [--pairs 61]

Prints a table and writes results/verification.json.
"""

import json
import random
import statistics
import subprocess
import sys

import click
from measuring import drop_page_cache, save, summarise
from rich.console import Console
from rich.table import Table
from synthetic import SHAPES, synthetic_checkpoint

from sllm_store import _core

LOAD = """
import json, resource, sys
from sllm_store import _core
from sllm_store.commands.load import _load
from sllm_store.reading import LoadRequest
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = _load(sys.argv[1], LoadRequest(verify=sys.argv[2] == "verify")).as_dict()
report["peak_bytes_above"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - report["nbytes"]
print(json.dumps(report))
"""


def load_cold(path: str, mode: str) -> tuple[dict, bool]:
    """One load in a process of its own; whether the cache was dropped before."""
    is_cold = drop_page_cache()
    output = subprocess.check_output([sys.executable, "-c", LOAD, path, mode], text=True)
    report = json.loads(output)
    del report["path"]  # of one machine
    return report, is_cold


def measure(path: str, pairs: int) -> dict[str, list[dict]]:
    """Reports of both modes; which of a pair goes first is random, since drives remember what went before."""
    runs: dict[str, list[dict]] = {"verify": [], "plain": []}
    order = random.Random(pairs)
    for _ in range(pairs):
        for mode in order.sample(list(runs), 2):
            report, is_cold = load_cold(path, mode)
            if not is_cold:
                raise click.ClickException("cannot drop the page cache; run as root")
            runs[mode].append(report)
    return runs


@click.command()
@click.option("--checkpoint", type=click.Choice(list(SHAPES)), default="llama-2gb", show_default=True)
@click.option("--pairs", default=61, show_default=True)
def main(checkpoint: str, pairs: int) -> None:
    """Measure cold loads with and without verification."""
    path = str(synthetic_checkpoint(checkpoint))
    load_cold(path, "verify")
    runs = measure(path, pairs)
    ratios = [v["total_s"] / p["total_s"] for v, p in zip(runs["verify"], runs["plain"], strict=True)]
    gigabytes = runs["verify"][0]["nbytes"] / 1e9
    table = Table("", "s, median", "min", "max", "GB/s", "cpu s/GB")
    for mode, reports in runs.items():
        seconds = summarise([report["total_s"] for report in reports])
        cpu = statistics.median(report["cpu_s"] for report in reports) / gigabytes
        row = (seconds["median"], seconds["min"], seconds["max"], gigabytes / seconds["median"], cpu)
        table.add_row(mode, *(f"{value:.3f}" for value in row))
    Console().print(table)
    verify_cpu = statistics.median(report["verify_s"] for report in runs["verify"]) / gigabytes
    result = {
        "checkpoint": checkpoint,
        "bytes": runs["verify"][0]["nbytes"],
        "cache": "cold: page cache dropped before each load",
        "wall_ratio": summarise(ratios),
        "wall_ratio_bound": 1.05,
        "verify_cpu_s_per_gb": verify_cpu,
        "verify_cpu_s_per_gb_bound": 0.06,
        "peak_bytes_above_checkpoint": max(report["peak_bytes_above"] for report in runs["verify"]),
        "peak_bytes_above_checkpoint_bound": 256 << 20,
        "crc32c": _core.crc32c_implementation(),
        "runs": runs,
    }
    print(f"wall ratio {summarise(ratios)['median']:.3f} (bound 1.05), verify {verify_cpu:.4f} cpu s/GB (bound 0.06)")
    print(f"peak {result['peak_bytes_above_checkpoint'] / 2**20:.0f} MiB above the checkpoint (bound 256)")
    print(save("verification", result))


if __name__ == "__main__":
    main()
