"""What the daemon does for each request."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from sllm_store import store_state
from sllm_store.accounts import Account, sum_up
from sllm_store.errors import InvalidArgumentError, OutOfMemoryError
from sllm_store.plan import Extent
from sllm_store.pool_loads import Brought, OnProgress, PoolLoads
from sllm_store.pooled_pieces import portions, wanted_ranges
from sllm_store.protocol import (
    Copied,
    Describe,
    Described,
    Evict,
    Evicted,
    FileRange,
    Leased,
    Leases,
    Load,
    LoadOnto,
    Message,
    Prefetch,
    Prefetched,
    Status,
)
from sllm_store.residency import Residency, Resident
from sllm_store.store_devices import ClientMemory
from sllm_store.store_state import Lessee, StoreView

# Nobody waits for more room than this, whatever was asked for: connections don't pile up behind it.
_MAX_WAIT_S: Final = 600.0
# Copied at a time, while what comes after it is still on its way.
_PORTION_BYTES: Final = 128 << 20
# Leases end without a word, so now and then those are forgotten that have.
_LOOK_AFTER_LEASES: Final = 1000


class Reply(NamedTuple):
    """An answer, and the descriptor that goes with it, which is the caller's."""

    message: Message
    fd: int | None = None


class Asker(NamedTuple):
    """Who asks, as the kernel says, what is told how far it has come, and the descriptor that came with the request."""

    pid: int
    uid: int
    on_progress: OnProgress
    fd: int | None = None


class StoreRequests:
    """Answers requests about one store. Each raises SllmError; its cancellation ends what is under way for it alone."""

    def __init__(self, view: StoreView, loads: PoolLoads) -> None:
        self.view = view
        self._loads = loads
        self._answers: dict[type[Message], Callable[..., Awaitable[Reply]]] = {
            Describe: self._describe,
            Load: self._load,
            LoadOnto: self._load_onto,
            Prefetch: self._prefetch,
            Evict: self._evict,
            Status: self._status,
            Leases: self._leases,
        }

    async def answer(self, request: Message, asker: Asker) -> Reply:
        """The answer to a request; the descriptor that came with it, if any, is still the caller's."""
        return await self._answers[type(request)](request, asker)

    @property
    def _residency(self) -> Residency:
        return self.view.residency

    async def _describe(self, request: Describe, _: Asker) -> Reply:
        resident = await self._residency.find(request.path)
        described: Described = await asyncio.to_thread(resident.source.described)
        return Reply(described)

    async def _load(self, request: Load, asker: Asker) -> Reply:
        start = time.monotonic()
        _check_ranges(request.ranges)
        resident = await self._residency.find(request.path, request.identities)
        async with self._loads.reserved(resident, request.ranges, _wait_s(request)) as reservation:
            is_verified = resident.is_verified(file for file, _, _ in request.ranges)
            brought = await self._loads.bring(resident, reservation, asker.on_progress)
            pieces = reservation.pieces()
            number, fd = reservation.lease()
        self._note_lease(number, Lessee(request.path, asker.pid, asker.uid))
        self._note_load(resident, brought, start)
        return Reply(Leased(pieces, self.view.store.pool_bytes, is_verified, brought.hit_bytes, brought.fill), fd)

    def _note_load(self, resident: Resident, brought: Brought, start: float) -> None:
        self.view.on_load(resident.source.tier if brought.fill else "pool", time.monotonic() - start)

    def _note_lease(self, number: int, lessee: Lessee) -> None:
        lessees = self.view.lessees
        lessees[number] = lessee
        if len(lessees) % _LOOK_AFTER_LEASES == 0:
            store_state.leases_of(self.view)

    async def _load_onto(self, request: LoadOnto, asker: Asker) -> Reply:
        start = time.monotonic()
        if request.nbytes < 0 or any(number < 0 for extent in request.extents for number in extent):
            raise InvalidArgumentError("a number of an extent is negative")
        extents = [Extent(*extent) for extent in request.extents]
        ranges = wanted_ranges(extents)
        resident = await self._residency.find(request.path, request.identities)
        # A context takes a while to be made, and a device may be lost: before anything is brought for it.
        with await self.view.devices.memory(request, asker.fd) as memory:
            async with self._loads.reserved(resident, ranges, _wait_s(request)) as reservation:
                is_verified = resident.is_verified(file for file, _, _ in ranges)
                bringing = asyncio.ensure_future(self._loads.bring(resident, reservation, asker.on_progress))
                async with _ended(bringing):
                    accounts = [
                        await self._copy(resident, portion, memory) for portion in portions(extents, _PORTION_BYTES)
                    ]
                    brought = await bringing
        self._note_load(resident, brought, start)
        return Reply(Copied(is_verified, brought.hit_bytes, sum_up(accounts)))

    async def _copy(self, resident: Resident, extents: list[Extent], memory: ClientMemory) -> Account:
        """Copy a portion of what is held, as soon as it is there, whoever brings it."""
        async with self._loads.reserved(resident, wanted_ranges(extents), 0.0) as portion:
            await self._loads.bring(resident, portion, _no_progress)
            return await memory.copy(portion.pieces(), [(*extent,) for extent in extents])

    async def _prefetch(self, request: Prefetch, asker: Asker) -> Reply:
        start = time.monotonic()
        resident = await self._residency.find(request.path)
        sizes = [part.size for part in resident.source.checkpoint.partitions]
        limit = self.view.store.pool_bytes
        ranges = _head(sizes, limit)
        while ranges:
            try:
                async with self._loads.reserved(resident, ranges, 0.0) as reservation:
                    brought = await self._loads.bring(resident, reservation, asker.on_progress)
                    self._note_load(resident, brought, start)
                    return Reply(Prefetched(sum(sizes), reservation.resident_bytes))
            except OutOfMemoryError:
                # What others hold is not known beforehand: less, until it fits.
                limit = limit * 3 // 4 if limit > self.view.store.chunk_bytes else 0
                ranges = _head(sizes, limit)
        return Reply(Prefetched(sum(sizes), 0))

    async def _evict(self, request: Evict, _: Asker) -> Reply:
        store, tier = self.view.store, self.view.disk_tier
        from_pool = sum(store.evict(resident.number) for resident in self._residency.known(request.path))
        from_disk = 0
        if request.from_disk and tier is not None:
            from_disk = await asyncio.to_thread(tier.evict, request.path)
        return Reply(Evicted(from_pool, from_disk))

    async def _status(self, _: Status, __: Asker) -> Reply:
        # The disk tier may have to look at its folder.
        return Reply(await asyncio.to_thread(store_state.state_of, self.view))

    async def _leases(self, _: Leases, __: Asker) -> Reply:
        return Reply(store_state.leases_of(self.view))


def _wait_s(request: Load | LoadOnto) -> float:
    return min(max(0.0, request.wait_s), _MAX_WAIT_S)


def _no_progress(_nbytes: int, _total: int) -> None:
    """Somebody else says it."""


@asynccontextmanager
async def _ended(task: "asyncio.Future[Any]") -> AsyncIterator[None]:
    """However the context ends, the task has ended then."""
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()


def _check_ranges(ranges: Sequence[FileRange]) -> None:
    for file, begin, end in ranges:
        if not (file >= 0 and 0 <= begin <= end):
            raise InvalidArgumentError(f"bytes {begin} to {end} of file {file} are no range")


def _head(sizes: list[int], limit: int) -> list[FileRange]:
    """The first bytes of a checkpoint, at most `limit` of them."""
    ranges: list[FileRange] = []
    for file, size in enumerate(sizes):
        if (taken := min(size, limit)) > 0:
            ranges.append((file, 0, taken))
        limit -= taken
    return ranges
