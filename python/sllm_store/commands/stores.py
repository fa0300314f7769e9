"""What the commands that ask a running store have in common."""

import json
import os
from pathlib import Path

import click
import msgspec

from sllm_store.client import StoreClient, find_store
from sllm_store.protocol import Message
from sllm_store.store_paths import is_url

socket_option = click.option(
    "--socket", type=click.Path(path_type=Path), help="The store's socket; by default the one that loads find."
)


def connect(socket: Path | None) -> StoreClient:
    """The store at that socket, or the one that loads find. Raises UnavailableError, PermissionDeniedError."""
    return StoreClient(socket or find_store())


def full_path(path: str) -> str:
    """What the store is asked for: its working folder is not ours."""
    return path if is_url(path) else os.path.abspath(path)


def echo_json(answer: Message) -> None:
    """Print an answer for programs, without the tag that tells messages apart."""
    fields = msgspec.to_builtins(answer)
    del fields["type"]
    click.echo(json.dumps(fields))


def binary_size(nbytes: int) -> str:
    """Such as 4.0 GiB, as pools and limits are given."""
    size, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{nbytes} B" if unit == "B" else f"{size:.1f} {unit}"
