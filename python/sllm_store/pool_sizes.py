"""How much memory a store's pool may take: of the machine's, and of what the control group allows."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from sllm_store.errors import OutOfMemoryError, StoreIOError

# What the daemon needs beside its pool.
RESERVED_BYTES: Final = 256 << 20


class MemoryLimit(NamedTuple):
    """The least of the limits there are, and what sets it."""

    nbytes: int
    origin: str


def memory_limit(root: Path = Path("/")) -> MemoryLimit:
    """What this process and its like may use, by the file system at `root`. Raises StoreIOError."""
    return min([_machine(root), *_groups(root)], key=lambda limit: limit.nbytes)


def default_pool_bytes(limit: MemoryLimit, chunk_bytes: int) -> int:
    """Half of the limit, in whole chunks, one at least."""
    return max(chunk_bytes, limit.nbytes // 2 // chunk_bytes * chunk_bytes)


def check_pool(pool_bytes: int, limit: MemoryLimit) -> None:
    """Raise OutOfMemoryError for a pool that could not be filled without the kernel killing somebody for it."""
    if pool_bytes > limit.nbytes - RESERVED_BYTES:
        raise OutOfMemoryError(
            f"a pool of {pool_bytes} bytes and {RESERVED_BYTES} beside it do not fit into the {limit.nbytes} bytes of "
            f"{limit.origin}; hint: a smaller --pool"
        )


def _machine(root: Path) -> MemoryLimit:
    path = root / "proc/meminfo"
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return MemoryLimit(int(value.split()[0]) << 10, "the machine's memory")
    raise StoreIOError(f"{path} does not say how much memory there is")


def _groups(root: Path) -> Iterator[MemoryLimit]:
    """The limits of our control group and of those around it, of either version (cgroups(7))."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                yield from _limits(root / mount, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")


def _limits(mount: Path, group: str, name: str) -> Iterator[MemoryLimit]:
    # In a container the path may be the host's, of which the mount shows the innermost part alone: what is not there
    # sets no limit. A path that leads out of the namespace begins with dots.
    parts = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
    for depth in range(len(parts), -1, -1):
        path = mount.joinpath(*parts[:depth], name)
        # "max", or a number that no machine has, where there is no limit.
        if (text := _text(path).strip()).isdecimal():
            yield MemoryLimit(int(text), f"the limit in {path}")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
