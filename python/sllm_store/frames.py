"""Frames of protocol.py over non-blocking Unix sockets, and the client's blocking end of them.

1. A frame is read exactly: never a byte of the next one, so that a descriptor is always that of the message it came
   with (unix(7): a read stops behind the bytes that a descriptor came with, but not before them).
2. A descriptor is taken with the first bytes alone, at most one, and closed on exec. What comes anywhere else the
   kernel drops, since no room is offered; more than one is a broken frame.
3. Whoever reads a frame owns the descriptor that came with it; what nobody took is closed with the reader.
"""

import array
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from sllm_store.errors import CancelledError, DeadlineError, InvalidArgumentError, UnavailableError
from sllm_store.protocol import LENGTH_BYTES, MAX_FRAME_BYTES, Answer, Message

# How much is asked for at a time: memory grows with what has come, not with what was announced.
_STEP_BYTES: Final = 1 << 20
_STOP_PERIOD_S: Final = 0.1

_Result = TypeVar("_Result")

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_answer: Final = msgspec.msgpack.Decoder(Answer).decode


class FrameError(Exception):
    """The other side broke the protocol, or went in the middle of a message: this connection is over."""


def encode(message: Message) -> bytes:
    """The message as a frame. Raises InvalidArgumentError for one over the limit."""
    body = _encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise InvalidArgumentError(
            f"a {type(message).__name__} of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}"
        )
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


class FrameReader:
    """One frame after the other from a non-blocking socket, and the descriptor that came with each."""

    def __init__(self, source: socket.socket) -> None:
        self._socket = source
        self._prefix = bytearray()
        self._body = bytearray()
        self._fd: int | None = None

    @property
    def is_amid(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._prefix)

    def read(self) -> bytes | None:
        """A whole frame's body; None where the other side closed between frames.

        Raises BlockingIOError while bytes are missing, FrameError.
        """
        while len(self._prefix) < LENGTH_BYTES:
            if not self._read_prefix():
                return None
        missing = int.from_bytes(self._prefix, "little")
        if missing > MAX_FRAME_BYTES:
            raise FrameError(f"a frame of {missing} bytes is over the limit of {MAX_FRAME_BYTES}")
        while missing > len(self._body):
            part = self._socket.recv(min(missing - len(self._body), _STEP_BYTES))
            if not part:
                raise FrameError(f"the connection ended after {len(self._body)} of {missing} bytes")
            self._body += part
        body = bytes(self._body)
        self._prefix.clear()
        self._body.clear()
        return body

    def take_fd(self) -> int | None:
        """The descriptor of the last frame, which is the caller's from here on."""
        fd, self._fd = self._fd, None
        return fd

    def close(self) -> None:
        """Close the descriptor that nobody took; the socket is somebody else's."""
        fd = self.take_fd()
        if fd is not None:
            os.close(fd)

    def _read_prefix(self) -> bool:
        # Room for one descriptor, and not what CMSG_SPACE rounds that up to.
        room = socket.CMSG_LEN(array.array("i").itemsize)
        part, ancillary, flags, _ = self._socket.recvmsg(
            LENGTH_BYTES - len(self._prefix), room, socket.MSG_CMSG_CLOEXEC
        )
        for fd in _descriptors(ancillary):
            self.close()
            self._fd = fd
        if flags & socket.MSG_CTRUNC:
            raise FrameError("more than one descriptor came with a message")
        if not part and self._prefix:
            raise FrameError("the connection ended within a frame's length")
        self._prefix += part
        return bool(part)


class FrameWriter:
    """One frame on its way out of a non-blocking socket; the descriptor stays the caller's."""

    def __init__(self, sink: socket.socket, frame: bytes, fd: int | None = None) -> None:
        self._socket = sink
        self._rest = memoryview(frame)
        self._fd = fd

    def write(self) -> None:
        """Hand the rest to the kernel. Raises BlockingIOError while that takes no more, FrameError."""
        while self._rest:
            rights = [] if self._fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self._fd]))]
            try:
                sent = self._socket.sendmsg([self._rest], rights, socket.MSG_NOSIGNAL)
            except ConnectionError as error:
                raise FrameError(f"the connection ended while it was written to: {error.strerror}") from error
            self._fd = None
            self._rest = self._rest[sent:]


class Channel:
    """A client's end of a connection: blocking, each wait with a deadline. Not thread-safe.

    `is_stopped` is asked now and then, and ends a wait with CancelledError.
    """

    def __init__(self, ours: socket.socket, name: str, is_stopped: Callable[[], bool] = lambda: False) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._name = name
        self._is_stopped = is_stopped
        self._reader = FrameReader(ours)

    def close(self) -> None:
        """End the connection, and what the store does for it alone."""
        self._reader.close()
        self._socket.close()

    def send(self, message: Message, fd: int | None = None, *, timeout_s: float) -> None:
        """Send a message. Raises UnavailableError, DeadlineError, CancelledError."""
        writer = FrameWriter(self._socket, encode(message), fd)
        self._repeat(writer.write, select.POLLOUT, timeout_s)

    def receive(self, *, timeout_s: float) -> tuple[Answer, int | None]:
        """The next message, within `timeout_s`, and its descriptor, which is the caller's from here on.

        Raises UnavailableError, DeadlineError, CancelledError.
        """
        body = self._repeat(self._reader.read, select.POLLIN, timeout_s)
        if body is None:
            raise UnavailableError(f"the store at {self._name} closed the connection")
        try:
            return _decode_answer(body), self._reader.take_fd()
        except msgspec.DecodeError as error:
            raise UnavailableError(f"the store at {self._name} sent what is no answer: {error}") from error

    def _repeat(self, attempt: Callable[[], _Result], event: int, timeout_s: float) -> _Result:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return attempt()
            except BlockingIOError:
                self._wait(event, deadline)
            except (FrameError, OSError) as error:
                raise UnavailableError(f"the store at {self._name} is gone: {error}") from error

    def _wait(self, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DeadlineError(f"the store at {self._name} said nothing in time")
            if self._is_stopped():
                raise CancelledError("the load was cancelled")
            if poll.poll(1000 * min(left_s, _STOP_PERIOD_S)):
                return


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
