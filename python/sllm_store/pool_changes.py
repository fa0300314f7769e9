"""Waiting for the store to change, in the event loop."""

import asyncio
import os
from contextlib import suppress

from sllm_store import _core


class PoolChanges:
    """Wakes everybody who waits whenever a part became resident, a fill failed, or room was given back.

    The store's descriptor has this one reader. Leases end in the kernel, without a word: whoever waits for room looks
    again after a while.
    """

    def __init__(self, store: _core.Store) -> None:
        self._fd = store.changes_fd
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.create_future()
        self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Stop listening; the descriptor is the store's."""
        self._loop.remove_reader(self._fd)

    async def wait(self, timeout_s: float) -> None:
        """Until the next change, or `timeout_s` have passed.

        What changed since the caller's last look wakes it too, as long as it awaited nothing since.
        """
        await asyncio.wait([self._next], timeout=timeout_s)

    def wake(self) -> None:
        """Wake them for something that the store does not know of."""
        woken, self._next = self._next, self._loop.create_future()
        woken.set_result(None)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
            self.wake()
