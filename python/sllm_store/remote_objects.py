"""Objects of one folder of an object store or a web server, read in ranges, each read the same object or an error.

An object is told from a later one of its name by its etag, else by its time of modification, and by its size. Each
answer is compared, and a strong etag also goes along as If-Match (RFC 9110, 13.1.1), so that a server need not send
what would be thrown away.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sllm_store.errors import (
    CheckpointNotFoundError,
    ConflictError,
    CorruptCheckpointError,
    PermissionDeniedError,
    UnavailableError,
)
from sllm_store.remote_errors import PASSING, obstore_errors
from sllm_store.remote_urls import RemoteOptions, RemoteUrl

if TYPE_CHECKING:
    from obstore import GetOptions

_T = TypeVar("_T")


class RemoteObject(NamedTuple):
    """An object as it was met. `etag` is empty where the server has none; `modified_ns` is from 1970 on."""

    name: str
    nbytes: int
    etag: str
    modified_ns: int

    @property
    def version(self) -> str:
        """What tells it from another object of its name and size."""
        return _plain(self.etag) or str(self.modified_ns)


@dataclass
class Traffic:
    """What was asked for so far, retries among it."""

    requests: int = 0
    retries: int = 0
    bytes_fetched: int = 0


@dataclass
class RemoteFolder:
    """The objects below a URL; at most `options.in_flight` requests are under way. Of one event loop. `stopping` ends
    pauses between attempts, and nothing else."""

    url: RemoteUrl
    store: Any
    options: RemoteOptions
    traffic: Traffic = field(default_factory=Traffic)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.options.in_flight)

    def origin(self, name: str) -> str:
        """An object's name in errors."""
        return f"{self.url.folder}/{name}"

    async def listing(self) -> dict[str, RemoteObject]:
        """The folder's own objects by their names; for stores that can list."""
        import obstore

        def ask() -> Awaitable[Any]:
            return obstore.list_with_delimiter_async(self.store)

        listed = await self._persist(ask, f"cannot list {self.url.folder}")
        found = [_object_of(meta["path"].rpartition("/")[2], meta) for meta in listed["objects"]]
        return {one.name: one for one in found if one.name}

    async def stat(self, name: str) -> RemoteObject | None:
        """An object, or None where there is none, or none that may be seen: buckets without the right to list answer
        403 for what isn't there."""
        import obstore

        def ask() -> Awaitable[Any]:
            return obstore.head_async(self.store, name)

        try:
            return _object_of(name, await self._persist(ask, f"cannot find {self.origin(name)}"))
        except (CheckpointNotFoundError, PermissionDeniedError):
            return None

    def is_unchanged(self, known: RemoteObject) -> bool:
        """Whether an object is still there as it was met. Blocking, of any thread; one attempt."""
        import obstore

        try:
            with obstore_errors(f"cannot find {self.origin(known.name)}"):
                met = _object_of(known.name, obstore.head(self.store, known.name))
        except CheckpointNotFoundError:
            return False
        return (met.version, met.nbytes) == (known.version, known.nbytes)

    async def read_whole(self, known: RemoteObject, limit_bytes: int) -> bytes:
        """All of a small object. Raises CorruptCheckpointError above the limit."""
        if known.nbytes > limit_bytes:
            raise CorruptCheckpointError(
                f"{self.origin(known.name)} has {known.nbytes} bytes, over the limit of {limit_bytes}"
            )
        return bytes(await self.read_range(known, 0, known.nbytes))

    async def read_range(self, known: RemoteObject, begin: int, end: int) -> memoryview:
        """The bytes from `begin` up to `end`, all of them, of this very object.

        Raises ConflictError where another is at its place, UnavailableError or DeadlineError when all attempts failed,
        and what stores refuse.
        """
        if begin == end:
            return memoryview(b"")
        wanted = f"bytes {begin} to {end} of {self.origin(known.name)}"

        async def ask() -> memoryview:
            data = await self._get(known, begin, end)
            if len(data) != end - begin:
                raise UnavailableError(f"the server sent {len(data)} of {wanted}")
            return data

        data = await self._persist(ask, f"cannot fetch {wanted}")
        self.traffic.bytes_fetched += len(data)
        return data

    async def _get(self, known: RemoteObject, begin: int, end: int) -> memoryview:
        import obstore

        options: GetOptions = {"range": (begin, end)}
        if known.etag.startswith('"'):
            options["if_match"] = known.etag
        result = await obstore.get_async(self.store, known.name, options=options)
        met = _object_of(known.name, result.meta)
        if (met.version, met.nbytes) != (known.version, known.nbytes):
            raise ConflictError(
                f"{self.origin(known.name)} was replaced while it was fetched: {met.nbytes} bytes, version "
                f"{met.version}, instead of {known.nbytes} bytes, version {known.version}"
            )
        return memoryview(await result.bytes_async())

    async def _persist(self, ask: Callable[[], Awaitable[_T]], failed: str) -> _T:
        pause_s = self.options.pause_s
        for _ in range(self.options.attempts - 1):
            with contextlib.suppress(*PASSING):
                return await self._attempt(ask, failed)
            if self.stopping.is_set():
                break
            self.traffic.retries += 1
            await self._pause(pause_s)
            pause_s *= 2
        return await self._attempt(ask, failed)

    async def _attempt(self, ask: Callable[[], Awaitable[_T]], failed: str) -> _T:
        self.traffic.requests += 1
        with obstore_errors(failed):
            async with self._slots:
                return await ask()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)


def _object_of(name: str, meta: Mapping[str, Any]) -> RemoteObject:
    modified: datetime = meta["last_modified"]
    return RemoteObject(name, meta["size"], meta["e_tag"] or "", round(modified.timestamp() * 1e9))


def _plain(etag: str) -> str:
    # Listings of some stores leave the quotes out.
    return etag.removeprefix("W/").strip('"')
