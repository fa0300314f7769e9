"""`StoreClient`: a connection to the store's daemon."""

import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from sllm_store.errors import (
    CheckpointNotFoundError,
    InternalError,
    PermissionDeniedError,
    SllmError,
    UnavailableError,
    class_of,
)
from sllm_store.frames import Channel
from sllm_store.protocol import VERSION, Failed, Hello, Leased, Load, Message, Progress, Welcome
from sllm_store.store_paths import check_socket, is_trusted_uid, socket_paths

# A daemon that lives says something twice a second, even while it waits itself, and greets at once.
SILENCE_S: Final = 20.0
GREETING_S: Final = 5.0

_AnswerType = TypeVar("_AnswerType", bound=Message)
OnProgress = Callable[[int, int], None]


class StoreClient:
    """A connection to a store, greeted; to be used as a context. Not thread-safe.

    `is_stopped` is asked while it waits, and ends that with CancelledError.
    """

    def __init__(self, path: str | os.PathLike[str], is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Connect to the socket at `path`.

        Raises UnavailableError where nobody listens, PermissionDeniedError for a store of a user who is not trusted, or
        one that does not serve us, and UnsupportedError for one of another version.
        """
        self.path = Path(path)
        self._channel = Channel(_connect(self.path), str(path), is_stopped)
        with ExitStack() as failing:
            failing.callback(self._channel.close)
            self.welcome = self._greet()
            failing.pop_all()

    def __enter__(self) -> "StoreClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._channel.close()

    def _greet(self) -> Welcome:
        self._channel.send(Hello(VERSION), timeout_s=GREETING_S)
        answer, fd = self._channel.receive(timeout_s=GREETING_S)
        return self._checked(answer, fd, Welcome)

    def request(
        self,
        message: Message,
        answer: type[_AnswerType],
        on_progress: OnProgress = lambda _nbytes, _total: None,
        fd: int | None = None,
    ) -> _AnswerType:
        """Ask, and wait for the answer; `fd` goes along and stays the caller's.

        Raises what the daemon did, UnavailableError, DeadlineError, CancelledError.
        """
        received, received_fd = self.request_fd(message, answer, on_progress, fd)
        return self._checked(received, received_fd, answer)

    def request_fd(
        self,
        message: Message,
        answer: type[_AnswerType],
        on_progress: OnProgress = lambda _nbytes, _total: None,
        sent_fd: int | None = None,
    ) -> tuple[_AnswerType, int | None]:
        """As `request`, with the descriptor that came with the answer, which is the caller's."""
        self._channel.send(message, sent_fd, timeout_s=SILENCE_S)
        while True:
            received, fd = self._channel.receive(timeout_s=SILENCE_S)
            if isinstance(received, answer):
                return received, fd
            progress = self._checked(received, fd, Progress)
            on_progress(progress.nbytes, progress.total)

    def request_lease(self, wanted: Load) -> tuple[Leased, int]:
        """A lease, and its descriptor, which is the caller's. Raises as `request` does."""
        leased, fd = self.request_fd(wanted, Leased)
        if fd is None:
            raise UnavailableError(f"the store at {self.path} gave no descriptor of its pool")
        return leased, fd

    def _checked(self, received: Message, fd: int | None, wanted: type[_AnswerType]) -> _AnswerType:
        """What was received, where that is what was wanted, without a descriptor. Raises what it says otherwise."""
        if fd is not None:
            os.close(fd)
            raise UnavailableError(f"the store at {self.path} sent a descriptor with a {type(received).__name__}")
        if isinstance(received, wanted):
            return received
        if isinstance(received, Failed):
            raise _error(received)
        raise UnavailableError(f"the store at {self.path} answered with a {type(received).__name__}")


def find_store() -> Path:
    """The socket of the store that this user's processes load through.

    Raises UnavailableError where there is none, PermissionDeniedError for one that is not to be trusted.
    """
    paths = socket_paths()
    for path in paths:
        try:
            check_socket(path)
        except CheckpointNotFoundError:
            continue
        return path
    raise UnavailableError(f"no store is running: no socket at {' or '.join(map(str, paths))}")


def _connect(path: Path) -> socket.socket:
    try:
        check_socket(path)
    except CheckpointNotFoundError as error:
        raise UnavailableError(f"no store is running: no socket at {path}") from error
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        theirs.settimeout(GREETING_S)
        theirs.connect(str(path))
        # The file's owner is not the process that listens: that one is asked for its own.
        _, uid, _ = struct.unpack("iII", theirs.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if not is_trusted_uid(uid):
            raise PermissionDeniedError(f"the store at {path} runs as uid {uid}, which is neither ours nor root's")
    except SllmError:
        theirs.close()
        raise
    except OSError as error:
        theirs.close()
        if isinstance(error, PermissionError):
            raise PermissionDeniedError(f"the store at {path} does not let us in") from error
        raise UnavailableError(f"no store listens at {path}: {(error.strerror or str(error)).lower()}") from error
    return theirs


def _error(failed: Failed) -> SllmError:
    try:
        return class_of(failed.code)(failed.message)
    except KeyError:
        return InternalError(f"the store failed by {failed.code}: {failed.message}")
