"""`sllm-ctl doctor`."""

import dataclasses
import json

import click

from sllm_store import Feature, PlatformReport, probe_platform

# Pinning a pool of chunks needs more than the 8 MiB that distributions allow by default.
_LOW_LOCKED_MEMORY_BYTES = 1 << 30


@click.command()
@click.argument("path", type=click.Path(exists=True), default=".")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(path: str, as_json: bool) -> None:
    """Say what this machine offers for loading models from PATH (default: the current folder)."""
    report = probe_platform(path)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report)))
        return
    for name, finding in _rows(report):
        click.echo(f"{name:<14} {finding}")
    for hint in _hints(report):
        click.echo(f"hint: {hint}", err=True)


def _rows(report: PlatformReport) -> list[tuple[str, str]]:
    limit = report.locked_memory_bytes
    return [
        ("kernel", f"{report.kernel} {report.architecture}"),
        ("locked memory", "unlimited" if limit is None else f"up to {limit / (1 << 20):.0f} MiB"),
        ("io_uring", _verdict(report.io_uring)),
        ("direct I/O", _verdict(report.direct_io)),
        ("crc32c", report.crc32c_implementation),
        ("cuda driver", _verdict(report.cuda_driver)),
        ("torch", report.torch_version or "not installed"),
    ]


def _verdict(feature: Feature) -> str:
    return f"{'yes' if feature.is_usable else 'no'}: {feature.detail}"


def _hints(report: PlatformReport) -> list[str]:
    hints = []
    limit = report.locked_memory_bytes
    if limit is not None and limit < _LOW_LOCKED_MEMORY_BYTES:
        hints.append("raise the locked-memory limit: ulimit -l unlimited, or LimitMEMLOCK=infinity in a systemd unit")
    if not report.io_uring.is_usable:
        hints.append("without io_uring, files are read by threads")
    if not report.direct_io.is_usable:
        hints.append("without direct I/O, files are read through the page cache")
    return hints
