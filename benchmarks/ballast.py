"""Memory that is there when a load asks for it, whatever the machine did before.

A hypervisor takes back what its guest leaves free for some seconds (free page reporting), and then gives it again, a
page at a time and ten times slower than the kernel clears one. So a load that happens to follow another's exit would
find fresh memory cheap, and one that follows a pause dear. The ballast is held while nothing is measured and let go
right before each measurement, and before a child starts that fills memory first. So every load, whose ever, finds as
much free memory as it can use, and all of it there, as it would on a machine without a hypervisor.
"""

import ctypes
import mmap

_MADV_POPULATE_WRITE = 23  # Linux 5.14; before, nothing is held

_libc = ctypes.CDLL(None, use_errno=True)
# A copy of a checkpoint in the page cache, one in memory of its own, and what a loader needs beside them.
_COPIES = 2
_BESIDE_BYTES = 512 << 20


class Ballast:
    """As much memory as a load of `nbytes` takes, held from the start."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = _COPIES * nbytes + _BESIDE_BYTES
        self._mapping: mmap.mmap | None = None
        self.hold()

    def hold(self) -> None:
        """Take it, unless it is held."""
        if self._mapping is not None:
            return
        self._mapping = mmap.mmap(-1, self._nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._mapping.madvise(mmap.MADV_HUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(self._nbytes), _MADV_POPULATE_WRITE)

    def release(self) -> None:
        """Let it go."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
