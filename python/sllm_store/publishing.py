"""Making a folder appear at a path, whole or not at all.

For DST = PARENT/NAME (links resolved) the protocol is:

1. Create PARENT/.NAME.sllm-lock and lock it (flock, not waiting). Whoever holds it is a living conversion to
   DST, so failing to get it is a conflict. The holder before us may have removed the file between our opening
   and our locking it: then the path names no or another inode, and we start again.
2. Repair. If PARENT/.NAME.sllm-old exists, somebody was killed in step 6b: without a DST, between its renames,
   and old is renamed back to DST; with one, behind them, and old is removed. PARENT/.NAME.sllm-tmp is removed:
   nobody lives who writes to it.
3. Check DST. It may be absent or an empty folder or, to be overwritten, a checkpoint of ours; else a conflict.
4. Make PARENT/.NAME.sllm-tmp, and let the caller write it and sync each file.
5. Sync tmp, check DST again as in step 3.
6. Rename. rename(2) of a folder replaces nothing but an empty folder, so a DST that has appeared meanwhile stays.
   a. DST is absent or empty: rename tmp to DST.
   b. DST is to be replaced: exchange it with tmp (renameat2, RENAME_EXCHANGE). Where the file system cannot,
      rename DST to old, then tmp to DST.
7. Sync PARENT. Only then remove what was replaced.
8. Remove the lock file, still locked, and close it.

A kill at any moment leaves DST as it was, or new, or (only in 6b without exchange) at old until step 2 of the
next run. Any exception before step 6 removes tmp. The lock is a file of its own because the folders change their
names under it, and because NFS locks only what is open for writing.
"""

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from sllm_store.errors import ConflictError, InvalidArgumentError, from_os_error
from sllm_store.manifest import MANIFEST_NAME
from sllm_store.writing import os_errors, sync

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_LOCK_ATTEMPTS: Final = 100
_MANIFEST_START: Final = b'{"format":"sllm-checkpoint"'
# The one folder that transformers itself may put into a model's folder.
_FOLDERS_OF_A_MODEL: Final = {"additional_chat_templates"}


class _Place(NamedTuple):
    dst: Path
    temp: Path
    old: Path
    lock: Path

    @classmethod
    def of(cls, dst: Path) -> "_Place":
        names = (f".{dst.name}.sllm-{role}" for role in ("tmp", "old", "lock"))
        return cls(dst, *(dst.parent / name for name in names))


@contextmanager
def publication(dst: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder to be written; it is at `dst`, which `resolve_destination` made, when the block ends.

    If the block raises, the folder is removed and `dst` is as it was. Raises ConflictError, at once, if another
    conversion to `dst` runs or `dst` may not be replaced, and what the operating system refuses.
    """
    place = _Place.of(dst)
    with os_errors(f"cannot create {dst.parent}"):
        dst.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        _repair(place)
        check_destination(dst, overwrite=overwrite)
        try:
            with os_errors(f"cannot create {place.temp}"):
                place.temp.mkdir()
            yield place.temp
            sync(place.temp)
            check_destination(dst, overwrite=overwrite)
            _swap_in(place)
        finally:
            shutil.rmtree(place.temp, ignore_errors=True)


def resolve_destination(dst: str | os.PathLike[str]) -> Path:
    """`dst` with its links resolved: what is renamed is the folder, not a link to it."""
    resolved = Path(os.path.realpath(dst))
    if os.path.ismount(resolved):
        raise InvalidArgumentError(
            f"{resolved} is a mount point, which no folder can replace; hint: name a folder inside it"
        )
    return resolved


def check_destination(dst: Path, *, overwrite: bool) -> None:
    """Raise ConflictError unless `dst` is absent, an empty folder, or with `overwrite` a checkpoint of ours."""
    try:
        names = os.listdir(dst)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise ConflictError(f"{dst} exists and is not a folder") from error
    except OSError as error:
        raise from_os_error(error, f"cannot list {dst}") from error
    if not names:
        return
    if not overwrite:
        raise ConflictError(f"{dst} exists and is not empty; hint: --overwrite replaces a converted checkpoint")
    if not _is_ours(dst):
        raise ConflictError(
            f"{dst} is no checkpoint that sllm wrote, so it is not replaced; hint: choose another folder"
        )
    for name in sorted(names):
        if (dst / name).is_dir() and name not in _FOLDERS_OF_A_MODEL:
            raise ConflictError(f"{dst} has a folder {name} that sllm did not write, so it is not replaced")


def _is_ours(folder: Path) -> bool:
    # A damaged manifest is still ours, so no more than its start is read.
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            return file.read(len(_MANIFEST_START)) == _MANIFEST_START
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os_error(error, f"cannot read {folder / MANIFEST_NAME}") from error


@contextmanager
def _locked(place: _Place) -> Iterator[None]:
    with os_errors(f"cannot lock {place.lock}"):
        fd = _open_locked(place)
    try:
        yield
    finally:
        place.lock.unlink(missing_ok=True)
        os.close(fd)


def _open_locked(place: _Place) -> int:
    for _ in range(_LOCK_ATTEMPTS):
        fd = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, place.lock):
                held, fd = fd, -1
                return held
        except BlockingIOError as error:
            raise ConflictError(f"another conversion to {place.dst} is running") from error
        finally:
            if fd >= 0:
                os.close(fd)
    raise ConflictError(f"other conversions to {place.dst} come and go")


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _repair(place: _Place) -> None:
    with os_errors(f"cannot repair {place.dst} after an interrupted conversion"):
        if place.old.exists() and not os.path.lexists(place.dst):
            place.old.rename(place.dst)
            sync(place.dst.parent)
        for leftover in (place.old, place.temp):
            _remove(leftover)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _swap_in(place: _Place) -> None:
    with os_errors(f"cannot rename {place.temp} to {place.dst}"):
        if not place.dst.exists() or not os.listdir(place.dst):
            _rename_absent(place)
        elif not _exchange(place.temp, place.dst):
            _rename_twice(place)
    sync(place.dst.parent)
    with os_errors(f"{place.dst} is converted, but what it replaced cannot be removed"):
        for replaced in (place.temp, place.old):
            _remove(replaced)


def _rename_absent(place: _Place) -> None:
    try:
        os.rename(place.temp, place.dst)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise ConflictError(f"{place.dst} has appeared while it was converted to") from error
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders atomically; False where the kernel, libc or file system cannot."""
    code = _exchange_code(one, other)
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    if code:
        raise OSError(code, os.strerror(code))
    return True


def _exchange_code(one: Path, other: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return errno.ENOSYS
    failed = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return ctypes.get_errno() if failed else 0


def _rename_twice(place: _Place) -> None:
    os.rename(place.dst, place.old)
    try:
        os.rename(place.temp, place.dst)
    finally:
        if not os.path.lexists(place.dst):
            os.rename(place.old, place.dst)
