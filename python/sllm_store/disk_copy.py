"""A checkpoint's copy on the disk while it is fetched: sparse files, and a journal of the spans that are there.

1. The folder is made with the origin's record in it, and each file in its full size, sparse.
2. write() puts whole spans into a file. They can be read at once; the journal hears of them later.
3. sync() brings the files to the disk, then appends records of what was written before it began to the journal, and
   syncs that. is_sync_due says that it is time for that; who writes should not have to wait for the disk.
4. publish(), once every span is there: sync, then the folder, then rename it to where published copies are, sync both
   parents, and remove the journal, which nobody needs any longer.

So what the journal says is on the disk, whenever the process or the machine ends; the rest is fetched again. A record
is sixteen bytes with a check of its own; reading stops at the first that is torn, and what follows it is cut off.
"""

import contextlib
import errno
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from sllm_store import _core
from sllm_store.errors import InternalError, OutOfMemoryError, SllmError
from sllm_store.manifest import SPAN_BYTES
from sllm_store.writing import os_errors, sync, write_file

ORIGIN_NAME: Final = ".sllm-origin.json"
JOURNAL_NAME: Final = ".sllm-journal"
# So long a fetch may have to be repeated after a break. A sync holds up who writes to the same files, so how much is
# written between two of them is nothing that a fast link should be slowed down by.
SYNC_PERIOD_S = 5.0

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_RECORD: Final = struct.Struct("<III")
_CHECKED: Final = struct.Struct("<IIII")


class OriginFile(msgspec.Struct, frozen=True):
    """An object that a copy's file is fetched from. `version` is its etag, or what stands for it."""

    name: str
    nbytes: int
    version: str


class Origin(msgspec.Struct, frozen=True):
    """Where a copy comes from, as its record in the folder says it."""

    url: str
    files: list[OriginFile]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)


class DiskCopy:
    """One checkpoint's files, under way or published. Thread-safe; files are numbered as the origin lists them.

    Whatever it raises, what is there stays usable: StoreIOError, and OutOfMemoryError where the disk is full.
    """

    def __init__(self, folder: Path, origin: Origin, *, is_published: bool) -> None:
        self.folder = folder
        self.origin = origin
        self.is_published = is_published
        self._present = [bytearray(span_count(file.nbytes)) for file in origin.files]
        self._waiting: list[tuple[int, int, int]] = []
        self._synced_s = time.monotonic()
        self._lock = threading.Lock()
        self._journal_lock = threading.Lock()
        self._files: list[int] = []
        self._journal = -1
        with self._failing("open"):
            self._open()

    def write(self, file: int, offset: int, data: bytes | memoryview) -> None:
        """Put bytes there: whole spans, or up to the file's end."""
        with self._failing(f"write {len(data)} bytes of {self.origin.files[file].name}"):
            _write_at(self._files[file], offset, memoryview(data))
        first, count = offset // SPAN_BYTES, span_count(len(data))
        with self._lock:
            self._present[file][first : first + count] = b"\1" * count
            self._waiting.append((file, first, count))

    def read(self, file: int, offset: int, nbytes: int) -> bytes | None:
        """What is there of the file, or None unless all of it is."""
        first, count = offset // SPAN_BYTES, span_count(nbytes)
        with self._lock:
            if not all(self._present[file][first : first + count]):
                return None
        with self._failing(f"read {nbytes} bytes of {self.origin.files[file].name}"):
            data = os.pread(self._files[file], nbytes, offset)
        return data if len(data) == nbytes else None

    def missing(self, file: int) -> list[int]:
        """Spans of a file that are not there, in their order."""
        with self._lock:
            return [span for span, there in enumerate(self._present[file]) if not there]

    def present_bytes(self) -> int:
        """About how much is there, in whole spans, but never more than all."""
        with self._lock:
            spans = sum(sum(present) for present in self._present)
        return min(spans * SPAN_BYTES, self.origin.nbytes)

    @property
    def is_whole(self) -> bool:
        """Whether every byte of every file is there."""
        with self._lock:
            return all(all(present) for present in self._present)

    @property
    def is_sync_due(self) -> bool:
        """Whether something has waited long enough to be synced."""
        with self._lock:
            return bool(self._waiting) and time.monotonic() - self._synced_s >= SYNC_PERIOD_S

    def sync(self) -> None:
        """Bring what was written to the disk, then tell the journal."""
        with self._journal_lock, self._failing("sync"):
            with self._lock:
                records, self._waiting = self._waiting, []
            with ExitStack() as failing:
                failing.callback(self._put_back, records)
                for file in sorted({file for file, _, _ in records}):
                    os.fdatasync(self._files[file])
                if records and not self.is_published:
                    _write_at(self._journal, os.fstat(self._journal).st_size, memoryview(encode_records(records)))
                    os.fdatasync(self._journal)
                self._synced_s = time.monotonic()
                failing.pop_all()

    def _put_back(self, records: list[tuple[int, int, int]]) -> None:
        with self._lock:
            self._waiting = records + self._waiting

    def publish(self, place: Path) -> None:
        """Move the whole copy to `place`, where nothing is yet; a published one stays where it is."""
        self.sync()
        with self._journal_lock, self._failing("publish"):
            if self.is_published:
                return
            if not self.is_whole:
                raise InternalError(f"{self.folder} is not whole, so it is not published")
            for fd in self._files:
                os.fsync(fd)
            sync(self.folder)
            self.folder.rename(place)
            sync(place.parent)
            sync(self.folder.parent)
            self.folder, self.is_published = place, True
            with contextlib.suppress(OSError):
                (place / JOURNAL_NAME).unlink()

    def repair(self, file: int, offset: int, data: bytes | memoryview) -> None:
        """Replace damaged bytes. The file keeps its times: it is what it was meant to be."""
        status = os.fstat(self._files[file])
        self.write(file, offset, data)
        if self.is_published:
            self.sync()
            os.utime(self._files[file], ns=(status.st_atime_ns, status.st_mtime_ns))

    def close(self) -> None:
        """Close the files; what was written stays, as far as the disk gets to it."""
        for fd in (*self._files, self._journal):
            if fd >= 0:
                os.close(fd)
        self._files, self._journal = [], -1

    def _open(self) -> None:
        if not self.is_published:
            self.folder.mkdir(exist_ok=True)
            self._check_origin()
        with ExitStack() as failing:
            failing.callback(self.close)
            for number, file in enumerate(self.origin.files):
                self._files.append(self._open_file(number, file))
            if not self.is_published:
                self._journal = _open_for_writing(self.folder / JOURNAL_NAME)
                self._replay()
            failing.pop_all()

    def _check_origin(self) -> None:
        if read_origin(self.folder) == self.origin:
            return
        for path in self.folder.iterdir():
            path.unlink()
        write_file(self.folder / ORIGIN_NAME, msgspec.json.encode(self.origin))
        sync(self.folder.parent)

    def _open_file(self, number: int, file: OriginFile) -> int:
        if self.is_published:
            self._present[number][:] = b"\1" * len(self._present[number])
            return os.open(self.folder / file.name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        fd = _open_for_writing(self.folder / file.name)
        if os.fstat(fd).st_size != file.nbytes:
            # Of another size than it was made with it holds nothing that the journal could mean.
            (self.folder / JOURNAL_NAME).unlink(missing_ok=True)
            os.ftruncate(fd, 0)
            os.ftruncate(fd, file.nbytes)
        return fd

    def _replay(self) -> None:
        content = os.pread(self._journal, os.fstat(self._journal).st_size, 0)
        sound = 0
        for file, first, count in decode_records(content):
            if file >= len(self._present) or first + count > len(self._present[file]):
                break
            self._present[file][first : first + count] = b"\1" * count
            sound += _CHECKED.size
        os.ftruncate(self._journal, sound)

    @contextmanager
    def _failing(self, failed: str) -> Iterator[None]:
        """Translate what the operating system refuses; a full disk is a full tier."""
        try:
            with os_errors(f"cannot {failed} in {self.folder}"):
                yield
        except SllmError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _FULL:
                raise OutOfMemoryError(
                    f"the disk tier is full: cannot {failed} in {self.folder}, a copy of {self.origin.nbytes} bytes"
                ) from cause
            raise


def span_count(nbytes: int) -> int:
    """Spans that so many bytes take, from the beginning of one on."""
    return -(-nbytes // SPAN_BYTES)


def read_origin(folder: Path) -> Origin | None:
    """The origin's record in a folder, or None where there is no valid one."""
    try:
        return msgspec.json.decode((folder / ORIGIN_NAME).read_bytes(), type=Origin)
    except (OSError, msgspec.MsgspecError):
        return None


def is_sound(folder: Path, origin: Origin) -> bool:
    """Whether a published copy has all its files in their sizes; what is in them, CRCs tell."""
    try:
        return all((folder / file.name).lstat().st_size == file.nbytes for file in origin.files)
    except OSError:
        return False


def encode_records(records: Sequence[tuple[int, int, int]]) -> bytes:
    """Records as the journal has them: file, first span, spans, and a check of these."""
    packed = (_RECORD.pack(*record) for record in records)
    return b"".join(record + _core.crc32c(record).to_bytes(4, "little") for record in packed)


def decode_records(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The records up to the first that is torn."""
    for offset in range(0, len(content) - _CHECKED.size + 1, _CHECKED.size):
        file, first, count, check = _CHECKED.unpack_from(content, offset)
        if _core.crc32c(content[offset : offset + _RECORD.size]) != check:
            return
        yield file, first, count


def _open_for_writing(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def _write_at(fd: int, offset: int, view: memoryview) -> None:
    while len(view):
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
