"""`sllm-store convert`."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click
import msgspec

from sllm_store.cast_dtypes import CASTABLE
from sllm_store.commands.sizes import parse_size
from sllm_store.converting import ConvertReport, convert

if TYPE_CHECKING:
    from rich.progress import Progress


@click.command()
@click.argument("src", type=click.Path())
@click.argument("dst", type=click.Path())
@click.option("--dtype", type=click.Choice(CASTABLE, case_sensitive=False), help="Cast floating tensors to this.")
@click.option(
    "--partition-size",
    type=parse_size,
    metavar="SIZE",
    default="16GiB",
    show_default=True,
    help="The most bytes of tensors in a file.",
)
@click.option("--overwrite", is_flag=True, help="Replace DST if it is a converted checkpoint.")
@click.option("--include-code", is_flag=True, help="Take Python files and pickles beside the weights along.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    src: str, dst: str, dtype: str | None, partition_size: int, overwrite: bool, include_code: bool, as_json: bool
) -> None:
    """Convert the model at SRC into a checkpoint at DST, which appears whole or not at all.

    SRC is a folder of safetensors or PyTorch files, a GGUF file, or one such file. Its config and tokenizer
    come along.
    """
    bar = _progress_bar() if sys.stderr.isatty() else None
    with bar or nullcontext():
        report = convert(
            src,
            dst,
            dtype=dtype,
            partition_size=partition_size,
            overwrite=overwrite,
            include_code=include_code,
            on_progress=_updates(bar) if bar else None,
            on_warning=lambda message: click.echo(f"warning: {message}", err=True),
        )
    click.echo(msgspec.json.encode(report).decode() if as_json else _sentence(report))


def _progress_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=False), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _updates(bar: "Progress") -> Callable[[int, int], None]:
    task = bar.add_task("convert", total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def _sentence(report: ConvertReport) -> str:
    rate = report.nbytes / report.seconds / 1e9
    text = (
        f"{report.tensors} tensors, {report.nbytes / 1e9:.3f} GB, in {report.partitions} files at {report.path}, "
        f"from {report.source} in {report.seconds:.3f} s: {rate:.2f} GB/s"
    )
    return text + (f"; left out: {', '.join(report.left_out)}" if report.left_out else "")
