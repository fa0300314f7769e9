"""One load of a checkpoint from a web server into the store's pool, with a disk tier or without (a job of child.py)."""

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from typing_extensions import Buffer

from sllm_store import _core
from sllm_store.disk_tier import DiskTier
from sllm_store.remote import RemoteSource, open_remote
from sllm_store.remote_urls import RemoteOptions

CHUNK_BYTES = 4 << 20


class Timed:
    """A reservation that notes when its first bytes were there."""

    def __init__(self, reservation: _core.Reservation) -> None:
        self._reservation = reservation
        self.first_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reservation, name)

    def write(self, file: int, offset: int, data: Buffer) -> None:
        self._reservation.write(file, offset, data)
        self.first_s = self.first_s or time.perf_counter()


def prepare(url: str, disk: str, range_mib: int, in_flight: int) -> Callable[[], dict[str, Any]]:
    """A pool whose memory is there, and a folder for the disk tier below `disk`, or none where that is empty."""
    stack = ExitStack()
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir=disk)) if disk else ""
    tier = DiskTier(folder) if folder else None
    options = RemoteOptions(range_bytes=range_mib << 20, in_flight=in_flight)
    source = asyncio.run(open_remote(url, None, options))
    store, files = _warm_store(source)

    def run() -> dict[str, Any]:
        start = time.perf_counter()
        reservation = Timed(store.reserve(store.add(files, 0.0), [(n, 0, size) for n, (size, _) in enumerate(files)]))
        account = asyncio.run(_load(url, tier, options, reservation))
        if not reservation.is_complete or account["disk_error"]:
            raise RuntimeError(f"the load is not whole: {account}")
        seconds = account.pop("settled_s") - start
        if tier is not None:
            tier.close()
            shutil.rmtree(folder)
        stack.close()
        return {
            "load_s": account["loaded_s"] - start,
            "published_s": seconds,
            "first_bytes_s": reservation.first_s - start,
            "nbytes": sum(size for size, _ in files),
            "requests": account["requests"],
        }

    return run


async def _load(url: str, tier: DiskTier | None, options: RemoteOptions, reservation: Any) -> dict[str, Any]:
    source = await open_remote(url, tier, options)
    account: dict[str, Any] = dict(await source.fill(reservation, _core.StopFlag()))
    account["loaded_s"] = time.perf_counter()
    await source.settle()
    account["settled_s"] = time.perf_counter()
    return account


def _warm_store(source: RemoteSource) -> tuple[_core.Store, list[tuple[int, list[int]]]]:
    """A store with room for the checkpoint, each page touched: first touch is no part of the transfer."""
    parts = source.checkpoint.partitions
    files = [(part.size, list(part.proof.span_crcs()) if part.proof else []) for part in parts]
    pool = sum(-(-size // CHUNK_BYTES) + 1 for size, _ in files) * CHUNK_BYTES
    store = _core.Store(pool_bytes=pool, chunk_bytes=CHUNK_BYTES)
    store.start_warming()
    deadline = time.monotonic() + 120
    between_looks = threading.Event()
    while store.status()["touched_bytes"] < pool and time.monotonic() < deadline:
        between_looks.wait(0.05)
    return store, files
