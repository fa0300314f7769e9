"""One client of the daemon, from its first message to its end."""

import asyncio
import logging
import os
from typing import Any, Final

import msgspec

from sllm_store.async_frames import Connection
from sllm_store.errors import PermissionDeniedError, SllmError, UnsupportedError
from sllm_store.frames import FrameError
from sllm_store.protocol import OLDEST_VERSION, VERSION, Failed, Hello, LoadOnto, Message, Progress, Request, Welcome
from sllm_store.store_requests import Asker, Reply, StoreRequests
from sllm_store.store_socket import Peer

# How often a client is told how far its request has come, however little there is to say.
PROGRESS_PERIOD_S: Final = 0.5

_log = logging.getLogger(__name__)
_decode: Final = msgspec.msgpack.Decoder(Request).decode


class ServedClient:
    """A client that is admitted, or not: then it is told so, and that is all."""

    def __init__(self, connection: Connection, peer: Peer, requests: StoreRequests, welcome: Welcome) -> None:
        self._connection = connection
        self._asker = Asker(peer.pid, peer.uid, self._note_progress)
        self._progress = Progress(0, 0)
        self._requests = requests
        self._welcome = welcome

    async def serve(self, *, is_admitted: bool) -> None:
        """Answer its requests until it goes, or breaks the protocol. What it broke, it alone loses."""
        try:
            await self._greet(is_admitted=is_admitted)
            while (request := await self._receive()) is not None:
                await self._answer(request)
        except (FrameError, msgspec.DecodeError) as error:
            _log.info("client %d of uid %d is given up: %s", self._asker.pid, self._asker.uid, error)
        finally:
            self._connection.close()

    async def _greet(self, *, is_admitted: bool) -> None:
        hello = await self._receive(is_first=True)
        if hello is None:
            raise FrameError("it said nothing")
        if not isinstance(hello, Hello):
            raise FrameError(f"its first message is a {type(hello).__name__}")
        if not is_admitted:
            await self._refuse(PermissionDeniedError(f"this store serves other users than uid {self._asker.uid}"))
        if not OLDEST_VERSION <= hello.version <= VERSION:
            await self._refuse(
                UnsupportedError(
                    f"this store speaks versions {OLDEST_VERSION} to {VERSION} of its protocol, not {hello.version}"
                )
            )
        await self._connection.send(self._welcome)

    async def _refuse(self, error: SllmError) -> None:
        await self._connection.send(Failed(error.code, str(error)))
        raise FrameError(str(error))

    async def _receive(self, *, is_first: bool = False) -> Request | None:
        body = await self._connection.receive(is_first=is_first)
        if body is None:
            return None
        request: Request = _decode(body)
        return request

    async def _answer(self, request: Message) -> None:
        fd = self._connection.take_fd()
        try:
            if isinstance(request, Hello) or (fd is not None and not isinstance(request, LoadOnto)):
                raise FrameError(f"a {type(request).__name__} that is out of place, or a descriptor with it")
            reply = await self._reply(request, fd)
        finally:
            _close(fd)
        try:
            await self._connection.send(reply.message, reply.fd)
        finally:
            _close(reply.fd)

    def _note_progress(self, nbytes: int, total: int) -> None:
        self._progress = Progress(nbytes, total)

    async def _reply(self, request: Message, fd: int | None) -> Reply:
        """The answer, unless the client goes before there is one."""
        work = asyncio.ensure_future(self._requests.answer(request, self._asker._replace(fd=fd)))
        over = asyncio.ensure_future(self._connection.until_over())
        is_answered = False
        self._progress = Progress(0, 0)
        try:
            while not await _any_done(work, over):
                # It knows by this that we live, too.
                await self._connection.send(self._progress)
            is_answered = work.done()
        finally:
            work.cancel()
            over.cancel()
            await asyncio.wait([work, over])
            if not is_answered:
                _discard(work)
        if not is_answered:
            raise FrameError("it went, or spoke out of turn, before it was answered")
        try:
            return work.result()
        except SllmError as error:
            return Reply(Failed(error.code, str(error)))


async def _any_done(*tasks: "asyncio.Future[Any]") -> bool:
    done, _ = await asyncio.wait(tasks, timeout=PROGRESS_PERIOD_S, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


def _discard(work: "asyncio.Task[Reply]") -> None:
    """Close what came of a request after nobody waited for it any more."""
    if not work.cancelled() and work.exception() is None:
        _close(work.result().fd)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
