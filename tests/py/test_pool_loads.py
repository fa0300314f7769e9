"""Who brings a checkpoint's bytes when several ask for them, and what becomes of it when some go away.

The store here is a small one in Python, of the same contract as the native one, whose fills end when a test says so.
"""

import asyncio
import os

import pytest

from sllm_store.errors import CancelledError, OutOfMemoryError, StoreIOError
from sllm_store.pool_loads import PoolLoads
from sllm_store.residency import Residency, Resident
from sllm_store.tier_rates import MIN_MEASURED_BYTES, TierRates

PART = MIN_MEASURED_BYTES


class FakeStore:
    """Parts of one file, by number: absent, placed, filling or resident."""

    def __init__(self, parts: int) -> None:
        self.pool_bytes = parts * PART
        self.changes_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.states: dict[int, str] = {}
        self.holds: dict[int, int] = {}
        self.has_room = True
        self.costs: dict[int, float] = {}

    def reserve(self, _: int, ranges: list[tuple[int, int, int]]) -> "FakeReservation | None":
        if not self.has_room:
            return None
        return FakeReservation(self, [begin // PART for _, begin, _ in ranges])

    def set_cost(self, number: int, cost: float) -> None:
        self.costs[number] = cost

    def change(self) -> None:
        os.eventfd_write(self.changes_fd, 1)


class FakeReservation:
    def __init__(self, store: FakeStore, parts: list[int]) -> None:
        self.store, self.parts, self.claimed = store, parts, []
        self.is_released = False
        self.hit_bytes = PART * sum(store.states.get(part) in ("filling", "resident") for part in parts)
        for part in parts:
            store.states.setdefault(part, "placed")

    nbytes = property(lambda self: PART * len(self.parts))
    is_complete = property(lambda self: self.resident_bytes == self.nbytes)

    @property
    def resident_bytes(self) -> int:
        return PART * sum(self.store.states[part] == "resident" for part in self.parts)

    def claim(self) -> list[tuple[int, int, int, int]]:
        mine = [part for part in self.parts if self.store.states[part] == "placed"]
        self.store.states.update(dict.fromkeys(mine, "filling"))
        self.claimed += mine
        return [(0, part * PART, PART, 0) for part in mine]

    def settle(self, state: str) -> None:
        self.store.states.update(dict.fromkeys(self.claimed, state))
        self.claimed = []
        self.store.change()

    def release(self) -> None:
        assert not self.claimed, "let go while it was filled"
        self.is_released = True


class FakeSource:
    """Each fill waits for the test to say how it ends."""

    tier = "disk"

    def __init__(self) -> None:
        self.fills: list[tuple[FakeReservation, asyncio.Future]] = []

    async def fill(self, reservation: FakeReservation, stop: object, pieces: list) -> dict:
        ends = asyncio.get_running_loop().create_future()
        self.fills.append((reservation, ends))
        nbytes = PART * len(reservation.claimed)
        while not ends.done() and not stop.is_set():
            await asyncio.wait([ends], timeout=0.01)
        error = ends.result() if ends.done() else CancelledError("stopped")
        reservation.settle("placed" if error else "resident")
        if error:
            raise error
        return {"bytes_read": nbytes, "total_s": 0.5}


class World:
    """One checkpoint of a few parts, and what tests watch."""

    def __init__(self, parts: int) -> None:
        self.store, self.source, self.rates = FakeStore(parts), FakeSource(), TierRates()
        residency = Residency(self.store, type("NoSources", (), {"disk_tier": None})(), self.rates)
        self.resident = Resident("/it", 1, self.source, set())
        residency._current["/it"] = residency._all[1] = self.resident
        self.loads = PoolLoads(self.store, residency, self.rates)

    def ask(self, *parts: int) -> asyncio.Task:
        return asyncio.ensure_future(self._ask([(0, part * PART, (part + 1) * PART) for part in parts]))

    async def _ask(self, ranges: list) -> tuple[int, dict, FakeReservation]:
        async with self.loads.reserved(self.resident, ranges, 0.2) as reservation:
            brought = await self.loads.bring(self.resident, reservation, lambda *_: None)
        return brought.hit_bytes, brought.fill, reservation

    async def fills(self, count: int) -> list[tuple[FakeReservation, asyncio.Future]]:
        """The fills that were started, once there are so many."""
        while len(self.source.fills) < count:
            await asyncio.wait([asyncio.ensure_future(nothing())])
        return self.source.fills


async def nothing(*_: object) -> None:
    pass


def world(test):
    """Run a test in an event loop, with a world, and see that nothing is left of its fills."""

    def run() -> None:
        async def main() -> None:
            here = World(8)
            await test(here)
            await asyncio.wait_for(here.loads.close(), 10)
            assert not here.resident.fills
            assert here.resident.waiting == 0
            os.close(here.store.changes_fd)

        asyncio.run(asyncio.wait_for(main(), 30))

    run.__name__ = test.__name__
    return run


@world
async def test_what_one_brings_another_waits_for(here):
    first = here.ask(0, 1)
    ((_, ends),) = await here.fills(1)
    second = here.ask(0, 1)
    await asyncio.wait([second], timeout=0.05)
    ends.set_result(None)
    hit_bytes, fill, _ = await first
    assert (hit_bytes, fill["bytes_read"]) == (0, 2 * PART)
    hit_bytes, fill, _ = await second
    assert (hit_bytes, fill) == (2 * PART, {})
    assert len(here.source.fills) == 1


@world
async def test_each_brings_what_the_other_does_not(here):
    first, second = here.ask(0, 1), here.ask(1, 2)
    for _, ends in list(await here.fills(2)):
        ends.set_result(None)
    assert (await first)[0] == 0
    assert (await second)[0] == PART


@world
async def test_a_fill_outlives_its_client_while_another_waits(here):
    first = here.ask(0)
    ((reservation, ends),) = await here.fills(1)
    second = here.ask(0)
    await asyncio.wait([second], timeout=0.05)
    first.cancel()
    await asyncio.wait([first, second], timeout=0.05)
    assert not reservation.is_released
    ends.set_result(None)
    await second
    assert reservation.is_released


@world
async def test_a_fill_that_nobody_waits_for_is_stopped(here):
    first = here.ask(0)
    ((reservation, _),) = await here.fills(1)
    first.cancel()
    while here.resident.fills:
        await asyncio.wait([fill.task for fill in here.resident.fills])
    assert reservation.is_released
    assert here.store.states == {0: "placed"}


@world
async def test_a_failure_is_its_own_clients_and_another_takes_over(here):
    first = here.ask(0)
    ((_, ends),) = await here.fills(1)
    second = here.ask(0)
    await asyncio.wait([second], timeout=0.05)
    ends.set_result(StoreIOError("the drive failed"))
    with pytest.raises(StoreIOError):
        await first
    (await here.fills(2))[1][1].set_result(None)
    assert (await second)[1]["bytes_read"] == PART


@world
async def test_no_room_is_waited_for_and_then_named(here):
    here.store.has_room = False
    with pytest.raises(OutOfMemoryError, match="others hold it"):
        await here.ask(0)
    waiting = here.ask(0)
    await asyncio.wait([waiting], timeout=0.01)
    here.store.has_room = True
    here.store.change()
    (await here.fills(1))[0][1].set_result(None)
    await waiting


@world
async def test_a_measured_tier_prices_its_checkpoints(here):
    first = here.ask(0)
    (await here.fills(1))[0][1].set_result(None)
    await first
    assert here.rates.bytes_per_s == {"disk": PART / 0.5}
    assert here.store.costs == {1: 0.5 / PART}


def test_rates_forget_slowly_and_ignore_what_is_short():
    rates = TierRates()
    assert rates.cost_s_per_byte("disk") == 0
    assert not rates.note("disk", PART - 1, 1)
    assert rates.note("disk", PART, 1)
    assert rates.note("disk", 2 * PART, 1)
    assert PART < rates.bytes_per_s["disk"] < 2 * PART
    # What was never measured costs as much as the slowest that was.
    rates.note("s3://b", PART, 10)
    assert rates.cost_s_per_byte("https://h") == rates.cost_s_per_byte("s3://b") == 10 / PART
