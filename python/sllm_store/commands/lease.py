"""`sllm-store lease`."""

from pathlib import Path

import click

from sllm_store.commands.stores import binary_size, connect, echo_json, socket_option
from sllm_store.protocol import LeaseList, Leases


@click.group(name="lease")
def command() -> None:
    """Look at leases: what some process still maps of the store's pool, so that it is not evicted."""


@command.command(name="list")
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_leases(*, socket: Path | None, as_json: bool) -> None:
    """List the leases that are alive, with the process that got each."""
    with connect(socket) as store:
        alive = store.request(Leases(), LeaseList)
    if as_json:
        echo_json(alive)
    else:
        _print(alive)


def _print(alive: LeaseList) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("lease", "checkpoint", "size", "seconds", "process", "uid")
    for lease in alive.leases:
        age, size = f"{lease.age_s:.0f}", binary_size(lease.nbytes)
        table.add_row(str(lease.number), lease.path, size, age, str(lease.pid), str(lease.uid))
    Console(soft_wrap=True).print(table)
