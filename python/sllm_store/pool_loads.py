"""Bringing a checkpoint's bytes into the pool, once for everybody who waits for them.

1. A request reserves room for what it wants, all or nothing. Where others hold the rest it waits, as long as it was
   told to; what the pool has no room for whatever happens ends it at once.
2. It claims those parts that nobody is bringing, and starts a fill of them: a task that belongs to nobody. Then it
   waits: for its own fill, whose failure is its own, and for parts that others bring.
3. After each fill that ended it claims again: a failed one has left parts that nobody is bringing.
4. A request that ends, by its client's going or otherwise, lets go of what it reserved, unless its fill still runs:
   then the fill does. When the last request that waits for bytes of a checkpoint ends, its fills are stopped.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sllm_store import _core
from sllm_store.accounts import Account
from sllm_store.errors import ConflictError, OutOfMemoryError, SllmError
from sllm_store.pool_changes import PoolChanges
from sllm_store.protocol import FileRange, PooledPiece
from sllm_store.residency import Residency, Resident
from sllm_store.tier_rates import TierRates

# How often a request looks again for room, and how far it has come.
_ROOM_PERIOD_S: Final = 0.1
_PROGRESS_PERIOD_S: Final = 0.2

OnProgress = Callable[[int, int], None]
_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Fill:
    """A fill under way. Its task ends with the account of it, or with what it failed by; it raises bugs alone."""

    reservation: _core.Reservation
    stop: _core.StopFlag
    task: "asyncio.Task[Account | SllmError]"


@dataclass(frozen=True, slots=True)
class Brought:
    """All of a reservation is resident: bytes that were, or were on the way, and the account of what this brought."""

    hit_bytes: int
    fill: Account


class PoolLoads:
    """The fills of one store, in one event loop. `on_fill` is told of each that ended well, with its tier."""

    def __init__(self, store: _core.Store, residency: Residency, rates: TierRates) -> None:
        self._store = store
        self._residency = residency
        self._rates = rates
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changes = PoolChanges(store)
        self.on_fill: Callable[[str, Account], None] = lambda _tier, _account: None

    @asynccontextmanager
    async def reserved(
        self, resident: Resident, ranges: Sequence[FileRange], wait_s: float
    ) -> AsyncIterator[_core.Reservation]:
        """Room for all of the ranges, inside the context and as long as a fill needs it.

        Raises OutOfMemoryError, InvalidArgumentError for ranges outside the files.
        """
        reservation = await self._reserve(resident, ranges, wait_s)
        try:
            yield reservation
        finally:
            for fill in resident.fills:
                if fill.reservation is reservation:
                    fill.task.add_done_callback(lambda task: _end_orphan(task, reservation))
                    break
            else:
                reservation.release()

    async def bring(self, resident: Resident, reservation: _core.Reservation, on_progress: OnProgress) -> Brought:
        """Wait until all of the reservation is resident, bringing what nobody else does.

        Raises what the fill that it started raised.
        """
        resident.waiting += 1
        try:
            return await self._bring(resident, reservation, on_progress)
        finally:
            resident.waiting -= 1
            if resident.waiting == 0:
                _stop_fills(resident)

    async def close(self) -> None:
        """Stop all fills, and wait for their ends."""
        for resident in self._residency.known(""):
            _stop_fills(resident)
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._changes.close()

    async def _reserve(self, resident: Resident, ranges: Sequence[FileRange], wait_s: float) -> _core.Reservation:
        deadline = time.monotonic() + wait_s
        while (reservation := self._store.reserve(resident.number, ranges)) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                wanted = sum(end - begin for _, begin, end in ranges)
                raise OutOfMemoryError(
                    f"the store's pool of {self._store.pool_bytes} bytes has no room for {wanted} bytes of "
                    f"{resident.path}: others hold it"
                )
            await self._changes.wait(min(left_s, _ROOM_PERIOD_S))
        return reservation

    async def _bring(self, resident: Resident, reservation: _core.Reservation, on_progress: OnProgress) -> Brought:
        fills_ended = resident.fills_ended
        own = self._claim(resident, reservation)
        account: Account = {}
        while not reservation.is_complete:
            await self._wait(own)
            on_progress(reservation.resident_bytes, reservation.nbytes)
            if own is not None and own.task.done():
                account, own = await _outcome(own), None
            if own is None and resident.fills_ended != fills_ended and not reservation.is_complete:
                fills_ended = resident.fills_ended
                own = self._claim(resident, reservation)
        if own is not None:
            account = await _outcome(own)
        return Brought(reservation.hit_bytes, account)

    def _claim(self, resident: Resident, reservation: _core.Reservation) -> Fill | None:
        """Take over what nobody brings, and bring it, where there is anything."""
        pieces = reservation.claim()
        if not pieces:
            return None
        stop = _core.StopFlag()
        fill = Fill(reservation, stop, self._start(self._fill(resident, reservation, stop, pieces)))
        resident.fills.add(fill)
        fill.task.add_done_callback(lambda _: self._end_fill(resident, fill))
        return fill

    def _end_fill(self, resident: Resident, fill: Fill) -> None:
        resident.fills.discard(fill)
        resident.fills_ended += 1
        self._changes.wake()

    async def _wait(self, own: Fill | None) -> None:
        if own is not None:
            await asyncio.wait([own.task], timeout=_PROGRESS_PERIOD_S)
        else:
            await self._changes.wait(_PROGRESS_PERIOD_S)

    async def _fill(
        self, resident: Resident, reservation: _core.Reservation, stop: _core.StopFlag, pieces: list[PooledPiece]
    ) -> Account | SllmError:
        # It may be another one when all is there.
        tier = resident.source.tier
        try:
            account = await resident.source.fill(reservation, stop, pieces)
        except SllmError as error:
            return error
        if self._rates.note(tier, int(account["bytes_read"]), float(account["total_s"])):
            self._residency.reprice()
        self.on_fill(tier, account)
        if resident.unproven and not resident.is_proving:
            self._start(self._prove(resident))
        return account

    async def _prove(self, resident: Resident) -> None:
        """Compute and keep the CRCs of what came without any, of each file that is resident as a whole."""
        resident.is_proving = True
        try:
            for file in sorted(resident.unproven):
                # Not whole, or not any more: another load will do it.
                with suppress(ConflictError):
                    await self._prove_file(resident, file)
        finally:
            resident.is_proving = False

    async def _prove_file(self, resident: Resident, file: int) -> None:
        crcs = await asyncio.to_thread(self._store.span_crcs, resident.number, file)
        self._store.prove(resident.number, file, crcs)
        resident.unproven.discard(file)
        await asyncio.to_thread(self._residency.crcs.keep_crcs, resident.source.checkpoint, file, crcs)

    def _start(self, coroutine: Coroutine[Any, Any, _Result]) -> "asyncio.Task[_Result]":
        # The loop alone would let a task be collected that nobody waits for.
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _outcome(fill: Fill) -> Account:
    await asyncio.wait([fill.task])
    outcome = fill.task.result()
    if isinstance(outcome, SllmError):
        raise outcome
    return outcome


def _end_orphan(task: "asyncio.Task[Account | SllmError]", reservation: _core.Reservation) -> None:
    """The end of a fill whose request has gone: nobody else will say what it failed by."""
    reservation.release()
    outcome = task.result()
    if isinstance(outcome, SllmError) and outcome.code != "cancelled":
        _log.warning("a fill that outlived its client failed: %s", outcome)


def _stop_fills(resident: Resident) -> None:
    for fill in resident.fills:
        fill.stop.set()
