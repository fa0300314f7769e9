"""`serve`: the store's process, an asyncio shell around the native Store.

1. It is ready when its socket listens: the pool is sized, and its memory comes later, behind.
2. Each client has a task, and at most one request; fills have tasks that belong to nobody (pool_loads.py).
3. SIGTERM and SIGINT end it: it accepts nobody, lets its clients go, stops the fills, and removes its socket. Mapped
   tensors outlive it.
"""

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sllm_store import _core
from sllm_store.async_frames import Connection
from sllm_store.disk_tier import DiskTier
from sllm_store.notify import notify
from sllm_store.pool_loads import PoolLoads
from sllm_store.pool_sizes import check_pool, memory_limit
from sllm_store.protocol import VERSION, Welcome
from sllm_store.residency import Residency
from sllm_store.serving_client import ServedClient
from sllm_store.store_devices import StoreDevices
from sllm_store.store_requests import StoreRequests
from sllm_store.store_socket import Admission, listening, peer_of
from sllm_store.store_state import StoreView
from sllm_store.tier_rates import TierRates
from sllm_store.tiers import Sources

# More at once would take turns on the drive; further ones wait.
_FILLS_AT_ONCE: Final = 8
# How long to wait for a descriptor to become free, where nobody said that one did.
_ACCEPT_PERIOD_S: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What `sllm-store serve` was told. Sizes are bytes; `disk` is the disk tier's folder, `metrics` host and port."""

    socket: Path
    pool_bytes: int
    chunk_bytes: int
    eviction: str = "greedy-dual"
    admission: Admission = Admission()
    disk: Path | None = None
    disk_limit_bytes: int | None = None
    metrics: tuple[str, int] | None = None


_EVICTIONS: Final = {"greedy-dual": _core.Eviction.GREEDY_DUAL, "lru": _core.Eviction.LRU}


def serve(options: ServeOptions) -> None:
    """Serve until a signal ends it.

    Raises OutOfMemoryError for a pool over the machine's or the control group's limit, ConflictError where another
    store listens, InvalidArgumentError, StoreIOError.
    """
    check_pool(options.pool_bytes, memory_limit())
    _raise_descriptor_limit()
    asyncio.run(_serve(options))


async def _serve(options: ServeOptions) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        # Taken first, so that of two daemons the second one does nothing, and removed last.
        ours = stack.enter_context(listening(options.socket, options.admission))
        requests = await stack.enter_async_context(_requests(options))
        server = _Server(ours, options.admission, requests)
        async with server.serving():
            requests.view.store.start_warming()
            notify("READY=1")
            _log.info("serving %d bytes at %s", options.pool_bytes, options.socket)
            await stopping.wait()
            notify("STOPPING=1")
            _log.info("stopping")


@asynccontextmanager
async def _requests(options: ServeOptions) -> AsyncIterator[StoreRequests]:
    """What answers requests, and its store, until the context ends."""
    store = _core.Store(
        pool_bytes=options.pool_bytes, chunk_bytes=options.chunk_bytes, eviction=_EVICTIONS[options.eviction]
    )
    rates = TierRates()
    with ThreadPoolExecutor(_FILLS_AT_ONCE, thread_name_prefix="sllm-fill") as executor, _disk_tier(options) as tier:
        residency = Residency(store, Sources(executor, tier), rates)
        view = StoreView(store, residency, rates, StoreDevices(store), tier)
        loads = PoolLoads(store, residency, rates)
        with _metrics(options, view, loads):
            try:
                yield StoreRequests(view, loads)
            finally:
                await loads.close()
                await residency.close()


@contextmanager
def _disk_tier(options: ServeOptions) -> Iterator[DiskTier | None]:
    if options.disk is None:
        yield None
        return
    with closing(DiskTier(options.disk, options.disk_limit_bytes)) as tier:
        yield tier


@contextmanager
def _metrics(options: ServeOptions, view: StoreView, loads: PoolLoads) -> Iterator[None]:
    if options.metrics is None:
        yield
        return
    # Whoever has no metrics has no need of their library.
    from sllm_store.metrics import serving_metrics

    with serving_metrics(options.metrics, view) as metrics:
        view.on_load, loads.on_fill = metrics.note_load, metrics.note_fill
        yield


class _Server:
    """Accepts clients and has a task for each."""

    def __init__(self, ours: socket.socket, admission: Admission, requests: StoreRequests) -> None:
        self._socket = ours
        self._admission = admission
        self._requests = requests
        self._clients: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Accept clients inside the context; at its end all of them are let go."""
        accepting = asyncio.ensure_future(self._accept())
        try:
            yield
        finally:
            tasks = [accepting, *self._clients]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                theirs, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                _log.warning("cannot accept a client: %s", error.strerror)
                self._left.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._left.wait(), _ACCEPT_PERIOD_S)
                continue
            task = asyncio.ensure_future(self._serve(theirs))
            self._clients.add(task)
            self._requests.view.clients = len(self._clients)
            task.add_done_callback(self._end)

    async def _serve(self, theirs: socket.socket) -> None:
        view = self._requests.view
        welcome = Welcome(VERSION, view.store.pool_bytes, view.store.chunk_bytes)
        peer = peer_of(theirs)
        client = ServedClient(Connection(theirs), peer, self._requests, welcome)
        await client.serve(is_admitted=self._admission.admits(peer))

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._clients.discard(task)
        self._requests.view.clients = len(self._clients)
        self._left.set()
        # What a client can cause is handled where it is met; this is a bug, and that client's connection is over.
        if not task.cancelled() and (error := task.exception()):
            _log.error("a client's request failed", exc_info=error)


def _raise_descriptor_limit() -> None:
    """Each client is a descriptor: as many as we may have without asking."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
