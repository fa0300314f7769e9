"""Bringing ranges: from the disk tier where it has them, else from the remote; verified, then to the disk and the pool.

1. As many workers as ranges may be in flight take ranges from one list, in its order, so the first bytes are there
   before the last are asked for, and no more than that many ranges are in memory.
2. A range that the disk has is read and compared with its CRCs; a damaged one is fetched as if it were not there.
3. What is fetched is compared too, and fetched once more where it is wrong; then it is an error.
4. Only then is it written: first to the reservation, which somebody waits for, then to the copy. A copy that fails does
   not end a load into the pool: the load goes on without it, and the account says why.
5. What was written to the copy is synced in a thread beside the workers, one sync at a time.
6. The first error, the stop flag or the task's cancellation ends all workers; what threads are at then is waited for.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from typing_extensions import Buffer

from sllm_store import _core
from sllm_store.disk_copy import DiskCopy
from sllm_store.errors import CancelledError, CorruptCheckpointError, OutOfMemoryError, SllmError, StoreIOError
from sllm_store.manifest import SPAN_BYTES
from sllm_store.remote_objects import RemoteFolder, RemoteObject
from sllm_store.remote_ranges import Range

STOP_PERIOD_S: Final = 0.05

_T = TypeVar("_T")


class Stop(Protocol):
    """What is asked whether to go on: a `_core.StopFlag`."""

    def is_set(self) -> bool:
        """Whether to end."""


class Sink(Protocol):
    """What verified bytes go to: a `_core.Reservation`."""

    def write(self, file: int, offset: int, data: Buffer) -> None:
        """Whole spans of a part that it has claimed, or up to the file's end."""


@dataclass
class Account:
    """What bringing took."""

    bytes_from_disk: int = 0
    bad_ranges: int = 0
    disk_error: str = ""
    started_s: float = field(default_factory=time.perf_counter)


@dataclass
class Fetch:
    """One bringing. `crcs` has those of each object's spans, or None where nobody knows them."""

    folder: RemoteFolder
    objects: Sequence[RemoteObject]
    crcs: Sequence[Sequence[int] | None]
    copy: DiskCopy | None
    sink: Sink | None
    executor: Executor
    account: Account = field(default_factory=Account)
    _syncing: "asyncio.Future[None] | None" = None
    _writing: dict[int, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def run(self, ranges: Iterable[Range], stop: Stop) -> None:
        """Bring the ranges. Raises CancelledError once `stop` is set, and the first error."""
        waiting = iter(ranges)
        workers = [asyncio.create_task(self._work(waiting)) for _ in range(self.folder.options.in_flight)]
        pending = set(workers)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, timeout=STOP_PERIOD_S, return_when=asyncio.FIRST_EXCEPTION)
                for worker in done:
                    worker.result()
                if pending and stop.is_set():
                    raise CancelledError(f"fetching {self.folder.url.url} was cancelled")
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Call what blocks; when cancelled, after it has returned: it writes to memory that others may get next."""
        future = asyncio.get_running_loop().run_in_executor(self.executor, function, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    async def _work(self, waiting: Iterator[Range]) -> None:
        for one in waiting:
            if not (one.is_there and await self.in_thread(self._bring_from_disk, one)):
                await self._bring_from_remote(one)
                self._sync_now_and_then()

    def _sync_now_and_then(self) -> None:
        if self._syncing is None and self.copy is not None and self.copy.is_sync_due:
            self._syncing = asyncio.get_running_loop().run_in_executor(self.executor, self._sync, self.copy)
            self._syncing.add_done_callback(self._forget_sync)

    def _forget_sync(self, _: "asyncio.Future[None]") -> None:
        self._syncing = None

    def _sync(self, copy: DiskCopy) -> None:
        try:
            copy.sync()
        except SllmError as error:
            # What could not be synced is not in the journal; whoever publishes the copy meets the same again.
            self.account.disk_error = str(error)

    def _bring_from_disk(self, one: Range) -> bool:
        try:
            data = self.copy.read(one.file, one.begin, one.end - one.begin) if self.copy else None
        except StoreIOError:
            data = None  # a drive that cannot read it has not got it
        if data is None or self._take(one, memoryview(data)) is not None:
            return False
        self.account.bytes_from_disk += len(data)
        return True

    async def _bring_from_remote(self, one: Range) -> None:
        known = self.objects[one.file]
        bad: int | None = 0
        for _ in range(2):
            data = await self.folder.read_range(known, one.begin, one.end)
            bad = await self.in_thread(self._take, one, data)
            if bad is None:
                # Writers to one file wait for each other in the kernel, spinning, so only one is let in.
                async with self._writing[one.file]:
                    await self.in_thread(self._keep, one, data)
                return
        begin = one.begin + (bad or 0) * SPAN_BYTES
        raise CorruptCheckpointError(
            f"{self.folder.origin(known.name)} is damaged: the crc32c of bytes {begin} to "
            f"{min(begin + SPAN_BYTES, one.end)} does not match, fetched twice"
        )

    def _take(self, one: Range, data: memoryview) -> int | None:
        """Verify and hand over; or the number of the first bad span of the range."""
        try:
            # The reservation verifies what it gets, and once is enough.
            bad = None if self._takes_all(one) else self._bad_span(one, data)
            if bad is None:
                self._hand_over(one, data)
        except CorruptCheckpointError:
            # The store may know CRCs that it found out itself; then nobody here can say which span it is.
            bad = self._bad_span(one, data) or 0
        self.account.bad_ranges += bad is not None
        return bad

    def _takes_all(self, one: Range) -> bool:
        return self.sink is not None and sum(end - begin for begin, end in one.parts) == one.end - one.begin

    def _bad_span(self, one: Range, data: memoryview) -> int | None:
        crcs = self.crcs[one.file]
        if crcs is None:
            return None
        first = one.begin // SPAN_BYTES
        for number, start in enumerate(range(0, len(data), SPAN_BYTES)):
            if _core.crc32c(data[start : start + SPAN_BYTES]) != crcs[first + number]:
                return number
        return None

    def _hand_over(self, one: Range, data: memoryview) -> None:
        # A part that was taken is not given again, should the one behind it have to be fetched once more.
        while self.sink is not None and one.parts:
            begin, end = one.parts[0]
            self.sink.write(one.file, begin, data[begin - one.begin : end - one.begin])
            del one.parts[0]

    def _keep(self, one: Range, data: memoryview) -> None:
        if self.copy is None:
            return
        try:
            put = self.copy.repair if self.copy.is_published else self.copy.write
            put(one.file, one.begin, data)
        except (OutOfMemoryError, StoreIOError) as error:
            if self.sink is None:
                raise
            self.account.disk_error, self.copy = str(error), None
