"""`sllm-store evict`."""

from pathlib import Path

import click

from sllm_store.commands.stores import binary_size, connect, echo_json, full_path, socket_option
from sllm_store.protocol import Evict, Evicted


@click.command()
@click.argument("path", required=False)
@click.option("--all", "is_all", is_flag=True, help="Every checkpoint.")
@click.option("--disk", is_flag=True, help="From the disk tier too.")
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(*, path: str | None, is_all: bool, disk: bool, socket: Path | None, as_json: bool) -> None:
    """Let what nobody holds of the checkpoint at PATH go from the store's pool."""
    if (path is None) != is_all:
        raise click.UsageError("name a checkpoint, or --all of them")
    with connect(socket) as store:
        done = store.request(Evict("" if path is None else full_path(path), disk), Evicted)
    if as_json:
        echo_json(done)
    else:
        click.echo(f"{binary_size(done.pool_bytes)} went from the pool, {binary_size(done.disk_bytes)} from the disk")
