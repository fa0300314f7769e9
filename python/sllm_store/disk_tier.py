"""The disk tier: a folder of checkpoints that were fetched from elsewhere, with a limit.

    DIR/version                       "sllm disk tier 1"
    DIR/lock                          locked (flock) by the one store that works on the folder
    DIR/checkpoints/NAME-HASH/        published copies: whole, synced, renamed into place
    DIR/partial/NAME-HASH/            copies under way: sparse files and a journal (disk_copy.py)
    DIR/partial/NAME-HASH.gone/       on its way out; removed at the next start if a kill came between
    DIR/crcs/                         CRCs of partitions without a manifest (disk_crcs.py)

HASH is of the URL and of each object's name, size and etag, so another version of a checkpoint is another folder.

Room is kept for a whole copy before its first byte is fetched: a copy in use counts in full, an idle partial one with
what it has. What is in use, being fetched or read, never goes; of the rest whole copies go by disk_eviction.py, the
partial ones among them. Uses are counted since the folder was opened; before that, the order of last uses counts,
which the times of the records keep.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from sllm_store.checkpoint import Checkpoint
from sllm_store.disk_copy import JOURNAL_NAME, ORIGIN_NAME, DiskCopy, Origin, is_sound, read_origin
from sllm_store.disk_crcs import CrcFiles
from sllm_store.disk_eviction import Candidate, choose_victims, priority_of
from sllm_store.errors import ConflictError, InvalidArgumentError, OutOfMemoryError, SllmError, UnsupportedError
from sllm_store.writing import os_errors, write_file

VERSION: Final = 1

_VERSION_TEXT: Final = "sllm disk tier "
_GONE: Final = ".gone"
_NAME_LENGTH: Final = 64


@dataclass
class _Entry:
    """A copy that the tier has. `held_bytes` is what it counts for while nobody uses it."""

    key: str
    url: str
    folder: Path
    held_bytes: int
    is_published: bool
    last_use: float
    priority: float = 0.0
    cost_s_per_byte: float | None = None
    uses: int = 0
    users: int = 0
    copy: DiskCopy | None = None

    @property
    def counted_bytes(self) -> int:
        return self.copy.origin.nbytes if self.copy else self.held_bytes


class DiskTier:
    """The folder at `path`, made where it is not there; `limit_bytes` is None where the disk itself is the limit.

    Raises ConflictError where another store works on it or it holds something else, UnsupportedError for one of a newer
    sllm, StoreIOError. Any thread may call it, and may have to wait for the disk.
    """

    def __init__(self, path: str | os.PathLike[str], limit_bytes: int | None = None) -> None:
        if limit_bytes is not None and limit_bytes <= 0:
            raise InvalidArgumentError(f"the disk tier's limit is {limit_bytes} bytes; at least one is needed")
        self._root = Path(os.path.abspath(path))
        self._limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._clock = 0.0
        self._uses = 0
        self._entries: dict[str, _Entry] = {}
        with os_errors(f"cannot use {self._root} as a disk tier"):
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock_fd = _lock(self._root)
            with ExitStack() as failing:
                failing.callback(os.close, self._lock_fd)
                self._prepare()
                failing.pop_all()
        self._crcs = CrcFiles(self._root / "crcs")

    @property
    def path(self) -> str:
        """The folder."""
        return str(self._root)

    @property
    def limit_bytes(self) -> int:
        """What it may hold; 0 where the disk itself is the limit."""
        return self._limit_bytes or 0

    def used_bytes(self) -> int:
        """What it holds, with the room that is kept for copies under way."""
        with self._lock:
            return sum(entry.counted_bytes for entry in self._entries.values())

    def bytes_of(self, url: str) -> int:
        """What is there of the checkpoint at a URL."""
        with self._lock:
            return sum(
                entry.copy.present_bytes() if entry.copy else entry.held_bytes
                for entry in self._entries.values()
                if entry.url == url
            )

    def is_published(self, origin: Origin) -> bool:
        """Whether a whole copy is there."""
        with self._lock:
            entry = self._entries.get(key_of(origin))
            return entry is not None and entry.is_published

    @contextmanager
    def copy(self, origin: Origin) -> Iterator[DiskCopy]:
        """The copy of a checkpoint, held: made or continued where it is not whole. Several may hold the same one.

        Raises OutOfMemoryError where there is no room for it, whatever goes, and StoreIOError.
        """
        entry = self._take(origin)
        try:
            assert entry.copy is not None
            yield entry.copy
        finally:
            self._let_go(entry)

    def publish(self, copy: DiskCopy) -> None:
        """Make a copy that is held and whole a published one. Raises StoreIOError, and OutOfMemoryError."""
        key = key_of(copy.origin)
        copy.publish(self._root / "checkpoints" / key)
        with self._lock:
            entry = self._entries[key]
            entry.folder, entry.is_published = copy.folder, True
            entry.held_bytes = copy.origin.nbytes

    def note_cost(self, copy: DiskCopy, cost_s_per_byte: float) -> None:
        """What it took to fetch a copy that is held, as measured."""
        with self._lock:
            entry = self._entries[key_of(copy.origin)]
            entry.cost_s_per_byte = cost_s_per_byte
            entry.priority = priority_of(self._clock, entry.uses, cost_s_per_byte)

    def evict(self, url: str) -> int:
        """Let the copies of a URL go, or all where it is empty, those in use aside; the bytes that went."""
        with self._lock:
            found = [entry for entry in self._entries.values() if url in ("", entry.url) and not entry.users]
            return sum(self._remove(entry) for entry in found)

    def keep_crcs(self, checkpoint: Checkpoint, file: int, crcs: Sequence[int]) -> None:
        """Remember the CRC32C of each span of a partition that has none, as long as the file is the same."""
        self._crcs.keep(checkpoint.partitions[file], crcs)

    def known_crcs(self, checkpoint: Checkpoint) -> dict[int, list[int]]:
        """What was kept, by the partition's number."""
        return self._crcs.known_of(checkpoint)

    def close(self) -> None:
        """Let another store have the folder."""
        with self._lock:
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
            self._lock_fd = -1

    def _prepare(self) -> None:
        _check_version(self._root)
        for name in ("checkpoints", "partial", "crcs"):
            (self._root / name).mkdir(exist_ok=True)
        for leftover in (self._root / "partial").glob(f"*{_GONE}"):
            shutil.rmtree(leftover)
        for folder in (*(self._root / "checkpoints").iterdir(), *(self._root / "partial").iterdir()):
            self._find(folder)

    def _find(self, folder: Path) -> None:
        origin = read_origin(folder)
        is_published = folder.parent.name == "checkpoints"
        is_known = origin is not None and key_of(origin) == folder.name
        if origin is None or not is_known or (is_published and not is_sound(folder, origin)):
            # Of nobody knows what: a kill came before its record was there, or somebody else was at it.
            shutil.rmtree(folder)
            return
        if is_published:
            (folder / JOURNAL_NAME).unlink(missing_ok=True)
        last_use = (folder / ORIGIN_NAME).stat().st_mtime
        held_bytes = origin.nbytes if is_published else _disk_bytes(folder, origin)
        entry = _Entry(folder.name, origin.url, folder, held_bytes, is_published, last_use)
        self._entries[entry.key] = entry

    def _take(self, origin: Origin) -> _Entry:
        key = key_of(origin)
        with self._lock:
            entry = self._entries.get(key)
            if entry and entry.is_published and not entry.users and not is_sound(entry.folder, origin):
                # Somebody removed or cut a file of it. Without a journal nobody knows what is there.
                self._remove(entry)
                entry = None
            if entry is None or entry.copy is None:
                if entry is None or not entry.is_published:
                    self._make_room(origin, entry)
                entry = self._open(key, origin, entry)
            entry.users += 1
            entry.uses += 1
            self._uses += 1
            # Above any time of a record, so that uses since the folder was opened are the latest.
            entry.last_use = 1e12 + self._uses
            entry.priority = priority_of(self._clock, entry.uses, self._cost_of(entry))
            with contextlib.suppress(OSError):
                os.utime(entry.folder / ORIGIN_NAME)
            return entry

    def _open(self, key: str, origin: Origin, entry: _Entry | None) -> _Entry:
        if entry is None:
            entry = _Entry(key, origin.url, self._root / "partial" / key, 0, is_published=False, last_use=0.0)
        entry.copy = DiskCopy(entry.folder, origin, is_published=entry.is_published)
        self._entries[key] = entry
        return entry

    def _let_go(self, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            if entry.users or entry.copy is None:
                return
            # What could not be synced is not in the journal, so it will be fetched again. Who used the copy has its
            # bytes, and no use for the error.
            with contextlib.suppress(SllmError):
                entry.copy.sync()
            entry.held_bytes = entry.copy.present_bytes()
            entry.copy.close()
            entry.copy = None

    def _cost_of(self, entry: _Entry) -> float:
        if entry.cost_s_per_byte is not None:
            return entry.cost_s_per_byte
        # Not measured since the folder was opened: as dear as the others. Where none was, only uses tell them apart.
        known = [one.cost_s_per_byte for one in self._entries.values() if one.cost_s_per_byte is not None]
        return sum(known) / len(known) if known else 1.0

    def _make_room(self, origin: Origin, entry: _Entry | None) -> None:
        here = entry.held_bytes if entry else 0
        needed = origin.nbytes - here
        others = [one for one in self._entries.values() if one is not entry and not one.users]
        limit_room = self._limit_bytes - self.used_bytes() if self._limit_bytes is not None else needed
        lacking = needed - min(limit_room, self._free_bytes(needed))
        if lacking <= 0:
            return
        victims = choose_victims(
            [Candidate(one.key, one.held_bytes, one.priority, one.last_use) for one in others], lacking
        )
        if not victims:
            raise OutOfMemoryError(
                f"the disk tier {self._root} has no room for {origin.url}: {needed} bytes are needed, its limit is "
                f"{self._limit_bytes if self._limit_bytes is not None else 'the disk'}, and {lacking} bytes would have "
                f"to go, of which nobody uses {sum(one.held_bytes for one in others)}"
            )
        for victim in victims:
            self._clock = max(self._clock, victim.priority)
            self._remove(self._entries[victim.key])

    def _free_bytes(self, needed: int) -> int:
        with os_errors(f"cannot ask for the free space of {self._root}"):
            stats = os.statvfs(self._root)
        # Some network file systems answer 0 blocks, which means that they do not know. Room that copies in use keep
        # and have not filled yet is not free either.
        if not stats.f_blocks:
            return needed
        kept = sum(
            one.copy.origin.nbytes - one.copy.present_bytes() for one in self._entries.values() if one.copy is not None
        )
        return stats.f_bavail * stats.f_frsize - kept

    def _remove(self, entry: _Entry) -> int:
        with os_errors(f"cannot evict {entry.folder}"):
            gone = self._root / "partial" / (entry.key + _GONE)
            del self._entries[entry.key]
            with contextlib.suppress(FileNotFoundError):
                entry.folder.rename(gone)
                shutil.rmtree(gone)
        return entry.held_bytes


def key_of(origin: Origin) -> str:
    """The name of the folder that a copy lies in."""
    digest = hashlib.sha256(msgspec.json.encode(origin)).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", origin.url.rstrip("/").rpartition("/")[2]).lstrip(".")
    return f"{name[:_NAME_LENGTH] or 'checkpoint'}-{digest}"


def _lock(root: Path) -> int:
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise ConflictError(f"another store works on the disk tier {root}") from error
    return fd


def _check_version(root: Path) -> None:
    path = root / "version"
    if not path.exists():
        if others := sorted(name for name in os.listdir(root) if name not in ("lock", "version.tmp")):
            raise ConflictError(f"{root} is no disk tier and not empty: it has {others[0]}")
        temp = root / "version.tmp"
        temp.unlink(missing_ok=True)
        write_file(temp, f"{_VERSION_TEXT}{VERSION}\n".encode())
        temp.rename(path)
    text = path.read_text(errors="replace").strip()
    number = text.removeprefix(_VERSION_TEXT)
    if number == text or not number.isdecimal():
        raise ConflictError(f"{root} is no disk tier: its version says {text[:40]!r}")
    if int(number) > VERSION:
        raise UnsupportedError(f"{root} is a disk tier of version {number}, this sllm knows {VERSION}")


def _disk_bytes(folder: Path, origin: Origin) -> int:
    """What sparse files have of the disk; the journal may know of less."""
    sizes = (path.lstat() for file in origin.files if (path := folder / file.name).exists())
    return sum(min(status.st_size, status.st_blocks * 512) for status in sizes)
