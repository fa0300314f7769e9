"""The daemon's listening socket, and who is served there.

1. The socket is made under a name of its own, with its mode from the start, and renamed into place when it listens: who
   finds it can connect to it.
2. A lock on a file beside it says that its daemon lives; the kernel drops it with the process. So of two daemons that
   start at once one is refused, and a dead one's socket is replaced.
3. The file stays when the daemon ends: removing it would let two hold locks of one name.
"""

import contextlib
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from sllm_store.errors import ConflictError, InvalidArgumentError, SllmError, from_os_error

_BACKLOG: Final = 1024
# sockaddr_un's path, its zero at the end not counted (unix(7)).
_MAX_PATH_BYTES: Final = 107
# The kernel's, which Python's socket module does not name (asm-generic/socket.h).
_SO_PEERGROUPS: Final = 59
_GROUPS_BYTES: Final = 1024


class Peer(NamedTuple):
    """Who is at the other end of a connection, as the kernel saw it connect."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]


class Admission(NamedTuple):
    """Who is served besides the daemon's own user."""

    uids: frozenset[int] = frozenset()
    gid: int | None = None

    @property
    def mode(self) -> int:
        """The socket's: connecting takes the right to write to it. Whoever connects is looked at again."""
        if self.uids:
            return 0o666
        return 0o600 if self.gid is None else 0o660

    def admits(self, peer: Peer) -> bool:
        """Whether that user is served."""
        is_in_group = self.gid is not None and self.gid in (peer.gid, *peer.groups)
        return peer.uid == os.geteuid() or peer.uid in self.uids or is_in_group


def peer_of(connected: socket.socket) -> Peer:
    """Who is at the other end (SO_PEERCRED)."""
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    try:
        groups = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        # More groups than that: the first one is known still.
        groups = b""
    pid, uid, gid = struct.unpack("iII", raw)
    return Peer(pid, uid, gid, struct.unpack(f"{len(groups) // 4}I", groups))


@contextlib.contextmanager
def listening(path: Path, admission: Admission) -> Iterator[socket.socket]:
    """A socket that listens at `path`, which is gone afterwards.

    Raises ConflictError where a daemon that lives has it, or something that is no socket is there.
    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES - len(_suffix()):
        raise InvalidArgumentError(f"{path} is too long for a socket, which has at most {_MAX_PATH_BYTES} bytes")
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700 if admission == Admission() else 0o755, parents=True, exist_ok=True)
            stack.enter_context(_lock(path))
            ours = stack.enter_context(_bind(path, admission))
            os.rename(_temporary(path), path)
        except SllmError:
            raise
        except OSError as error:
            raise from_os_error(error, f"cannot listen at {path}") from error
        stack.callback(path.unlink, missing_ok=True)
        yield ours


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    fd = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"a store that lives listens at {path}") from error
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise ConflictError(f"{path} is there and is no socket")
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _bind(path: Path, admission: Admission) -> Iterator[socket.socket]:
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with ours:
        # Nobody connects between its making and a later chmod, since there is none.
        before = os.umask(0o777 & ~admission.mode)
        try:
            ours.bind(str(temporary))
        finally:
            os.umask(before)
        try:
            if admission.gid is not None:
                os.chown(temporary, -1, admission.gid)
            ours.listen(_BACKLOG)
            yield ours
        finally:
            temporary.unlink(missing_ok=True)


def _suffix() -> str:
    return f".{os.getpid()}"


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + _suffix())
