"""The daemon's end of a connection: frames under asyncio, whose own streams drop descriptors."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

from sllm_store.frames import FrameError, FrameReader, FrameWriter, encode
from sllm_store.protocol import Message

# A frame that has begun ends within this, or the connection does: it is nobody's problem but its own.
FRAME_TIMEOUT_S: Final = 10.0


class Connection:
    """One client's connection, used by one task at a time, of the loop that made it.

    What the client may cost is one frame in either direction; a client that stops reading, or writing within a frame,
    is given up after `timeout_s`.
    """

    def __init__(self, ours: socket.socket, *, timeout_s: float = FRAME_TIMEOUT_S) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._timeout_s = timeout_s
        self._reader = FrameReader(ours)
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """End the connection."""
        self._reader.close()
        self._socket.close()

    async def receive(self, *, is_first: bool = False) -> bytes | None:
        """The next frame's body, however long the client thinks before it begins one, unless it `is_first`.

        None where the client has closed its end. Raises FrameError.
        """
        if not is_first:
            await self._until_readable()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._read()
        except TimeoutError as error:
            raise FrameError("a frame took too long to come") from error
        except ConnectionError as error:
            raise FrameError(f"the connection ended while it was read from: {error.strerror}") from error

    def take_fd(self) -> int | None:
        """The descriptor of the last frame, which is the caller's from here on."""
        return self._reader.take_fd()

    async def send(self, message: Message, fd: int | None = None) -> None:
        """Hand a message to the kernel; the descriptor stays the caller's. Raises FrameError."""
        writer = FrameWriter(self._socket, encode(message), fd)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._write(writer)
        except TimeoutError as error:
            raise FrameError("the client does not read what it asked for") from error

    async def until_over(self) -> None:
        """Wait until the client closes its end, or breaks the protocol by speaking out of turn."""
        await self._until_readable()

    async def _read(self) -> bytes | None:
        while True:
            try:
                return self._reader.read()
            except BlockingIOError:
                await self._until_readable()

    async def _write(self, writer: FrameWriter) -> None:
        while True:
            try:
                writer.write()
                return
            except BlockingIOError:
                await self._until(self._loop.add_writer, self._loop.remove_writer)

    async def _until_readable(self) -> None:
        await self._until(self._loop.add_reader, self._loop.remove_reader)

    async def _until(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        fd = self._socket.fileno()
        ready = self._loop.create_future()
        add(fd, _settle, ready)
        try:
            await ready
        finally:
            remove(fd)


def _settle(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
