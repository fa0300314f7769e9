"""Checkpoints at URLs as the lowest tier: fetched in ranges into the pool, and onto the disk at the same time.

A source is made of what was met at the URL when it was opened: names, sizes, etags, headers, the manifest. Its bytes
come from wherever they are by then, without its being opened again: from the published copy on the disk, else from
the partial one and the remote. Its partitions' identities are the objects', so what is resident of it stays so when the
copy is published, and when that is evicted.

A load is over when the pool has its bytes. What the copy lacks then is brought in a task of its own: the files beside
the partitions, the sync, the publication.

A load never fails for want of room on the disk: it goes on into the pool without a copy, and the account's `disk_error`
says why. `complete`, which has nothing but the copy to make, does fail.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import Final

from sllm_store import _core
from sllm_store.blocking import unbroken
from sllm_store.checkpoint import Checkpoint, open_checkpoint
from sllm_store.disk_copy import DiskCopy
from sllm_store.disk_tier import DiskTier
from sllm_store.errors import (
    CheckpointNotFoundError,
    ConflictError,
    CorruptCheckpointError,
    OutOfMemoryError,
    SllmError,
    StoreIOError,
)
from sllm_store.manifest import MANIFEST_NAME, SPAN_BYTES
from sllm_store.protocol import Described, DescribedFile
from sllm_store.reading import native_files
from sllm_store.remote_fetch import Account, Fetch, Stop
from sllm_store.remote_objects import RemoteFolder, Traffic
from sllm_store.remote_opening import RemoteCheckpoint, open_folder
from sllm_store.remote_ranges import Piece, Range, claimed_parts, ranges_of
from sllm_store.remote_urls import RemoteOptions, open_store, parse_url

# How long what was met counts as what is there, when somebody asks.
RECHECK_S: Final = 30.0

_DEFAULTS: Final = RemoteOptions()
# For verifying and writing, and one of them now and then for a sync.
_THREADS: Final = 4

_log: Final = logging.getLogger(__name__)

FillAccount = dict[str, float | int | str]


async def open_remote(url: str, disk_tier: DiskTier | None, options: RemoteOptions = _DEFAULTS) -> "RemoteSource":
    """Open the checkpoint at a URL: s3://, gs://, az://, https://, and http:// of the loopback.

    disk_tier: where copies are kept; without one, bytes go to the pool alone.
    Raises what open_checkpoint raises; UnsupportedError for other URLs and servers without ranges; UnavailableError and
    DeadlineError where the server fails; AuthenticationError and PermissionDeniedError.
    """
    parsed = parse_url(url, allow_http=options.allow_http)
    folder = RemoteFolder(parsed, await asyncio.to_thread(open_store, parsed, options), options)
    return RemoteSource(folder, await open_folder(folder), disk_tier)


class RemoteSource:
    """A checkpoint at a URL (sources of the store's daemon). Of one event loop, but for what says that it blocks."""

    def __init__(self, folder: RemoteFolder, opened: RemoteCheckpoint, disk_tier: DiskTier | None) -> None:
        self._folder = folder
        self._opened = opened
        self._disk_tier = disk_tier
        self._origin = opened.origin()
        self._is_replaced = False
        self._checked_s = time.monotonic()
        self._finishing: set[asyncio.Task[None]] = set()
        parts = opened.checkpoint.partitions
        self._crcs = [part.proof.span_crcs() if part.proof else None for part in parts]
        self._crcs += [None] * (len(opened.objects) - len(parts))

    @property
    def checkpoint(self) -> Checkpoint:
        """It, opened; its partitions' identities are those of the objects."""
        return self._opened.checkpoint

    @property
    def tier(self) -> str:
        """Where its bytes come from next: "disk", once all are there, else such as "s3://bucket"."""
        return "disk" if self._is_published() else self._folder.url.tier

    def described(self) -> Described:
        """What a client needs that cannot see the files."""
        files = [DescribedFile(head.name, head.identity, head.header) for head in self._opened.heads]
        return Described(files, self._opened.manifest)

    def is_current(self) -> bool:
        """Whether the objects are those that were opened, as far as is known; asked of the remote now and then.
        Blocking.

        A remote that does not answer changes nothing.
        """
        if self._is_replaced or time.monotonic() - self._checked_s < RECHECK_S:
            return not self._is_replaced
        self._checked_s = time.monotonic()
        # A manifest proves its partitions; without one each is asked for.
        opened = self._opened
        count = len(opened.heads)
        telling = [one for one in opened.objects if one.name == MANIFEST_NAME] or opened.objects[:count]
        try:
            self._is_replaced = not all(self._folder.is_unchanged(one) for one in telling)
        except SllmError:
            return True
        return not self._is_replaced

    async def fill(
        self, reservation: "_core.Reservation", stop: _core.StopFlag, pieces: list[Piece] | None = None
    ) -> FillAccount:
        """Bring what the reservation has claimed: `pieces`, as its claim listed them, or all that it owes.

        The account has bytes_read, bytes_fetched, bytes_from_disk, requests, retries, bad_ranges, disk_error, total_s.
        Raises CancelledError once `stop` is set, ConflictError where an object was replaced, CorruptCheckpointError
        naming the range, and what open_remote raises; what did not come is abandoned then.
        """
        async with AsyncExitStack() as failing:
            failing.push_async_callback(asyncio.to_thread, reservation.abandon)
            account = await self._fill(reservation, stop, pieces)
            failing.pop_all()
        return account

    async def _fill(
        self, reservation: "_core.Reservation", stop: _core.StopFlag, pieces: list[Piece] | None
    ) -> FillAccount:
        if pieces is None:
            pieces = await asyncio.to_thread(_claim_again, reservation)
        if self._is_published():
            account = await self._fill_from_published(reservation, stop)
            if account is not None:
                return account
            pieces = await asyncio.to_thread(_claim_again, reservation)
        return await self._bring(pieces, reservation, stop)

    async def complete(self, stop: _core.StopFlag) -> FillAccount:
        """Bring what the disk tier lacks of the checkpoint, and publish it; raises as `fill` does."""
        account = await self._bring([], None, stop)
        await self.settle()
        return account

    async def close(self) -> None:
        """End what is being done to the copy; the next load goes on with it."""
        for task in self._finishing:
            task.cancel()
        await self.settle()

    async def settle(self) -> None:
        """Wait until nothing is being done to the copy any more."""
        while self._finishing:
            await asyncio.wait(self._finishing)

    def _is_published(self) -> bool:
        return self._disk_tier is not None and self._disk_tier.is_published(self._origin)

    async def _fill_from_published(self, reservation: "_core.Reservation", stop: _core.StopFlag) -> FillAccount | None:
        """What a load of the published copy did, or None where it is gone or damaged."""
        if self._disk_tier is None:
            return None
        with ExitStack() as stack:
            try:
                copy = await asyncio.to_thread(stack.enter_context, self._disk_tier.copy(self._origin))
                if not copy.is_published:
                    return None
                local = await asyncio.to_thread(open_checkpoint, copy.folder)
                files = native_files(local.partitions, verify=True)
                return await unbroken(lambda: reservation.fill(files, _core.LoadOptions(), stop))
            except (CorruptCheckpointError, CheckpointNotFoundError, OutOfMemoryError, StoreIOError):
                # The remote has it still: what is damaged or gone comes from there, and repairs the copy.
                return None

    async def _bring(self, pieces: list[Piece], sink: "_core.Reservation | None", stop: Stop) -> FillAccount:
        folder = replace(self._folder, traffic=Traffic(), stopping=asyncio.Event())
        account = Account()
        stack = ExitStack()
        executor = stack.enter_context(ThreadPoolExecutor(_THREADS, "sllm-remote"))
        try:
            copy = await self._open_copy(stack, account, is_needed=sink is None)
            fetch = Fetch(folder, self._opened.objects, self._crcs, copy, sink, executor, account)
            sizes = [one.nbytes for one in self._opened.objects]
            await fetch.run(_ranges(fetch, claimed_parts(pieces, sizes), is_claimed=True), stop)
            if sink is None:
                await self._finish_copy(fetch, stop, is_all=True)
            elif fetch.copy is not None:
                self._finish_later(fetch, stop, stack.pop_all())
        except ConflictError:
            self._is_replaced = True
            raise
        finally:
            folder.stopping.set()
            await unbroken(stack.close)
        return _summary(folder.traffic, account)

    async def _open_copy(self, stack: ExitStack, account: Account, *, is_needed: bool) -> DiskCopy | None:
        if self._disk_tier is None:
            return None
        try:
            return await asyncio.to_thread(stack.enter_context, self._disk_tier.copy(self._origin))
        except (OutOfMemoryError, StoreIOError) as error:
            if is_needed:
                raise
            account.disk_error = str(error)
            return None

    def _finish_later(self, fetch: Fetch, stop: Stop, stack: ExitStack) -> None:
        # The fetch's own folder is told to stop when the load is over, which this outlives.
        fetch.folder = replace(fetch.folder, stopping=asyncio.Event())
        fetch.sink = None
        task = asyncio.ensure_future(self._finish_and_close(fetch, stop, stack))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _finish_and_close(self, fetch: Fetch, stop: Stop, stack: ExitStack) -> None:
        try:
            await self._finish_copy(fetch, stop, is_all=False)
        except SllmError as error:
            # The load itself is over and well. The next one begins where this ended.
            self._is_replaced |= isinstance(error, ConflictError)
            _log.warning("no copy of %s on the disk yet: %s", self._folder.url.url, error)
        finally:
            await unbroken(stack.close)

    async def _finish_copy(self, fetch: Fetch, stop: Stop, *, is_all: bool) -> None:
        """Bring what no load asks for, the whole rest with `is_all`, and publish what is whole."""
        copy = fetch.copy
        if copy is None or self._disk_tier is None:
            return
        await fetch.in_thread(self._write_texts, copy)
        await fetch.run(_ranges(fetch, self._rest(copy, is_all=is_all), is_claimed=False), stop)
        self._note_cost(fetch, copy)
        if copy.is_whole:
            await fetch.in_thread(self._disk_tier.publish, copy)

    def _write_texts(self, copy: DiskCopy) -> None:
        for number, known in enumerate(self._opened.objects):
            text = self._opened.texts.get(known.name)
            if text and copy.missing(number):
                copy.write(number, 0, text)

    def _rest(self, copy: DiskCopy, *, is_all: bool) -> Iterator[tuple[int, int, int]]:
        """Spans that the copy lacks: of headers and of the files beside the partitions, or all."""
        partitions = self._opened.checkpoint.partitions
        for number, known in enumerate(self._opened.objects):
            is_partition = number < len(partitions)
            end = partitions[number].header.data_start if is_partition and not is_all else known.nbytes
            for span in copy.missing(number):
                if span * SPAN_BYTES < end:
                    yield number, span * SPAN_BYTES, min((span + 1) * SPAN_BYTES, known.nbytes)

    def _note_cost(self, fetch: Fetch, copy: DiskCopy) -> None:
        nbytes = fetch.folder.traffic.bytes_fetched
        if nbytes and self._disk_tier is not None:
            self._disk_tier.note_cost(copy, (time.perf_counter() - fetch.account.started_s) / nbytes)


def _ranges(fetch: Fetch, parts: Iterable[tuple[int, int, int]], *, is_claimed: bool) -> Iterator[Range]:
    copy = fetch.copy
    missing = [frozenset(copy.missing(number)) for number in range(len(fetch.objects))] if copy else []

    def is_there(file: int, span: int) -> bool:
        return bool(missing) and span not in missing[file]

    return ranges_of(parts, fetch.folder.options.range_bytes, is_there=is_there, is_claimed=is_claimed)


def _claim_again(reservation: "_core.Reservation") -> list[Piece]:
    """What the reservation owes, whoever claimed it. A claim lists only what it takes over, so it gives up first."""
    reservation.abandon()
    return reservation.claim()


def _summary(traffic: Traffic, account: Account) -> FillAccount:
    return {
        "bytes_read": traffic.bytes_fetched + account.bytes_from_disk,
        "bytes_fetched": traffic.bytes_fetched,
        "bytes_from_disk": account.bytes_from_disk,
        "requests": traffic.requests,
        "retries": traffic.retries,
        "bad_ranges": account.bad_ranges,
        "disk_error": account.disk_error,
        "total_s": time.perf_counter() - account.started_s,
    }
