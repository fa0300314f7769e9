"""What lies below the store's pool: a checkpoint, opened, and where its bytes come from.

A path is a local checkpoint's, or a URL. Local ones are read from their files by the native core; what is at a URL
comes through the disk tier, which also keeps what the store finds out about checkpoints without a manifest.
"""

import asyncio
import os
from concurrent.futures import Executor
from typing import Final, Protocol

from sllm_store import _core
from sllm_store.checkpoint import Checkpoint, open_checkpoint
from sllm_store.disk_tier import DiskTier
from sllm_store.errors import CorruptCheckpointError, InvalidArgumentError, from_os_error
from sllm_store.manifest import MANIFEST_NAME
from sllm_store.protocol import Described, DescribedFile, PooledPiece
from sllm_store.reading import native_files
from sllm_store.store_paths import is_url

LOCAL_TIER: Final = "disk"


class Source(Protocol):
    """A checkpoint, and the tier below the pool that its bytes come from."""

    @property
    def checkpoint(self) -> Checkpoint:
        """It, opened; its partitions' identities tell versions of it apart."""

    @property
    def tier(self) -> str:
        """What bandwidths are kept by: "disk", "s3://bucket", "https://host"."""

    def described(self) -> Described:
        """What a client needs that cannot see the files. Blocking; raises SllmError."""

    async def fill(
        self, reservation: _core.Reservation, stop: _core.StopFlag, pieces: list[PooledPiece]
    ) -> dict[str, float | int | str]:
        """Bring `pieces`, all that the reservation has claimed, and say what that took; `bytes_read` and `total_s` at
        least.

        Raises SllmError, CancelledError once `stop` is set; what did not come is abandoned then.
        """

    def is_current(self) -> bool:
        """Whether the files are those that were opened; where not, it is to be opened again. Blocking."""

    async def close(self) -> None:
        """End what is still done for it, such as a copy that a fill left to be finished."""


class LocalSource:
    """A checkpoint of files that the daemon can see. Fills run in threads of `executor`."""

    tier = LOCAL_TIER

    def __init__(self, path: str, executor: Executor) -> None:
        """Open it; blocking. Raises what open_checkpoint raises."""
        # Before it is opened: what changes meanwhile is noticed later.
        self._root = _identity(path)
        self.checkpoint = open_checkpoint(path)
        self._executor = executor

    def described(self) -> Described:
        """Headers and manifest, read anew and checked against what was opened."""
        parts = self.checkpoint.partitions
        files = [
            DescribedFile(part.path.name, part.identity, _read(part.path, part.header.data_start)) for part in parts
        ]
        manifest = self.checkpoint.path / MANIFEST_NAME
        text = _read(manifest, -1) if self.checkpoint.is_verifiable else b""
        if not self.is_current():
            raise CorruptCheckpointError(f"{self.checkpoint.path} was replaced while it was read")
        return Described(files, text)

    async def fill(
        self, reservation: _core.Reservation, stop: _core.StopFlag, pieces: list[PooledPiece]
    ) -> dict[str, float | int | str]:
        """Read the files into the pool, verified where there is a manifest; the native core knows the pieces."""
        files = native_files(self.checkpoint.partitions, verify=True)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, reservation.fill, files, _core.LoadOptions(), stop)

    def is_current(self) -> bool:
        """Whether the folder's entries and each partition have the times that they had when they were opened."""
        if _identity(self.checkpoint.path) != self._root:
            return False
        return all(_identity(part.path) == part.identity for part in self.checkpoint.partitions)

    async def close(self) -> None:
        """Nothing is done for it between fills."""


class Sources:
    """Opens checkpoints by their paths. `executor` is for what blocks as long as a load takes."""

    def __init__(self, executor: Executor, disk_tier: DiskTier | None = None) -> None:
        self._executor = executor
        self.disk_tier = disk_tier

    async def open(self, path: str) -> Source:
        """The checkpoint at an absolute path or a URL, opened anew. Raises what open_checkpoint raises."""
        if is_url(path):
            # Whoever serves local files alone has no need of the libraries of object stores.
            from sllm_store.remote import open_remote

            return await open_remote(path, self.disk_tier)
        if not os.path.isabs(path):
            raise InvalidArgumentError(f"{path} is no absolute path, and the store has a folder of its own")
        return await asyncio.to_thread(LocalSource, path, self._executor)


def _read(path: "os.PathLike[str]", count: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise from_os_error(error, f"cannot read {path}") from error


def _identity(path: "str | os.PathLike[str]") -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
