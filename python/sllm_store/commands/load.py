"""`sllm-store load`."""

import json
import time

import click

from sllm_store import _core
from sllm_store.opening import open_anywhere
from sllm_store.reading import LoadRequest, Memory, Queue, Times, check_request, load_bytes, make_report
from sllm_store.report import LoadReport


@click.command()
@click.argument("path", type=click.Path())
@click.option("--no-verify", is_flag=True, help="Don't compare the bytes with the manifest's CRCs.")
@click.option(
    "--queue",
    type=click.Choice(["auto", "io_uring", "threads"]),
    default="auto",
    show_default=True,
    help="How files are read.",
)
@click.option(
    "--memory",
    type=click.Choice(["own", "map", "auto"]),
    default="own",
    show_default=True,
    help="Own memory, the files mapped, or mapped where the page cache has them.",
)
@click.option("--device", default="cpu", show_default=True, help="Where to: cpu, cuda, cuda:1, or cuda: and a UUID.")
@click.option("--store", metavar="auto|none|PATH", default="auto", show_default=True, help="Through which store.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    *, path: str, no_verify: bool, queue: Queue, memory: Memory, device: str, store: str, as_json: bool
) -> None:
    """Load the checkpoint at PATH into memory and show where the time went.

    The bytes are read, verified and placed as load_tensors does it, without torch.
    """
    through = None if store == "none" else store
    report = _load(path, LoadRequest(verify=not no_verify, memory=memory, queue=queue, device=device, store=through))
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        _print(report)


def _load(path: str, request: LoadRequest) -> LoadReport:
    start = time.perf_counter()
    check_request(request)
    checkpoint, url = open_anywhere(path, request.store)
    opened = time.perf_counter()
    loaded = load_bytes(checkpoint, request._replace(url=url), _core.StopFlag())
    return make_report(loaded, Times(opened - start, 0.0, time.perf_counter() - start))


def _print(report: LoadReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    verified = "verified" if report.verified else "unverified"
    console.print(
        f"{report.tensors} tensors, {report.nbytes / 1e9:.3f} GB onto {report.device} in "
        f"{report.total_s:.3f} s: {report.bytes_per_s / 1e9:.2f} GB/s, {verified}",
        highlight=False,
    )
    table = Table("stage", "seconds", "what")
    for stage, seconds, what in _stages(report):
        table.add_row(stage, f"{seconds:.3f}", what)
    console.print(table)
    console.print(f"the limit was: {report.limit}; store: {report.store or 'none asked'}", highlight=False)


def _stages(report: LoadReport) -> list[tuple[str, float, str]]:
    files = f"{report.direct_files} direct, {report.buffered_files} buffered files"
    drive = f"{_gb(report.bytes_from_drive)} through {report.queue}, up to {report.deepest} at once, {files}"
    cached = f"{_gb(report.bytes_cached)} copied, {_gb(report.bytes_mapped)} mapped"
    idle = f"{report.check_threads} threads, which waited {report.check_idle_s:.3f} s for work"
    huge = f"{_gb(report.bytes_huge)} in huge pages"
    staging = f"{_gb(report.bytes_to_devices)} through {_gb(report.bytes_staging)}, {_gb(report.bytes_pinned)} pinned"
    rows = [
        ("open", report.open_s, "headers and manifest"),
        ("plan", report.plan_s, f"{report.reads} reads"),
        ("load", report.load_s, f"{_gb(report.bytes_read)}, {report.repeats} repeats, {report.cpu_s:.2f} cpu s"),
        ("- waiting for the drive", report.read_wait_s, drive),
        ("- waiting for checks", report.check_wait_s, "verify and copy were behind"),
        ("- page cache, beside", report.fetch_s, cached),
        ("- verify, beside", report.verify_s, f"{_gb(report.bytes_verified)}; {idle}"),
        ("- copy, beside", report.copy_s, f"{_gb(report.bytes_read - report.bytes_in_place)} staged"),
        ("- first touch, beside", report.prefault_s, f"of the destination, {huge}, {report.prefault_threads} threads"),
        ("- copies to devices, beside", report.device_s, f"{staging}; {report.device_wait_s:.3f} s after all else"),
    ]
    return rows if report.devices else rows[:-1]


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3f} GB"
