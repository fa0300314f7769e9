"""`sllm-store prefetch`."""

from pathlib import Path

import click

from sllm_store.commands.stores import binary_size, connect, echo_json, full_path, socket_option
from sllm_store.protocol import Prefetch, Prefetched


@click.command()
@click.argument("path")
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(*, path: str, socket: Path | None, as_json: bool) -> None:
    """Bring the checkpoint at PATH, a folder, a file or a URL, into the store's pool, or as much of it as fits."""
    with connect(socket) as store:
        done = store.request(Prefetch(full_path(path)), Prefetched)
    if as_json:
        echo_json(done)
    else:
        click.echo(f"{binary_size(done.resident_bytes)} of {binary_size(done.nbytes)} are resident")
