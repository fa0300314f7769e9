"""Checkpoints by whatever names them: a path is opened here, a URL by the store."""

import os
from typing import NamedTuple

from sllm_store.checkpoint import Checkpoint, open_checkpoint
from sllm_store.errors import UnsupportedError
from sllm_store.store_paths import is_url


class Opened(NamedTuple):
    """A checkpoint, and the URL it is at, or nothing."""

    checkpoint: Checkpoint
    url: str


def open_anywhere(path: str | os.PathLike[str], store: str | os.PathLike[str] | None) -> Opened:
    """Open a checkpoint in the file system, or at a URL through a store ("auto": the one that is running).

    Raises what open_checkpoint raises; for a URL UnsupportedError without a store, and what StoreClient raises.
    """
    name = os.fspath(path)
    if not is_url(name):
        return Opened(open_checkpoint(path), "")
    if store is None:
        raise UnsupportedError(f"{name} is loaded through a store, and none is asked for; hint: sllm-store serve")
    # Most loads have no URL, and need no client for this.
    from sllm_store.checkpoint import checkpoint_of
    from sllm_store.client import StoreClient, find_store
    from sllm_store.protocol import Describe, Described

    with StoreClient(find_store() if store == "auto" else store) as client:
        return Opened(checkpoint_of(name, client.request(Describe(name), Described)), name)
