"""Devices that the daemon copies onto: opened with the first load to each, and given back when nobody has asked for
one for a while, since a context takes some hundred megabytes of its memory.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, cast

from sllm_store import _core
from sllm_store.accounts import Account
from sllm_store.blocking import unbroken
from sllm_store.errors import InvalidArgumentError
from sllm_store.protocol import DeviceState, LoadOnto, PlannedExtent, PooledPiece

IDLE_S: Final = 300.0


@dataclass(eq=False, slots=True)
class _Open:
    # None once it was given back.
    device: _core.PoolDevice | None
    uses: int = 0
    used_at: float = field(default_factory=time.monotonic)

    def close(self) -> None:
        """Give the device back; blocking."""
        self.device = None


class StoreDevices:
    """The devices of one store. For one event loop, but for `states`, which any thread may ask."""

    def __init__(self, store: _core.Store, idle_s: float = IDLE_S) -> None:
        self._store = store
        self._idle_s = idle_s
        self._open: dict[str, _Open] = {}
        self._opening = asyncio.Lock()

    def states(self) -> list[DeviceState]:
        """Each device that is open."""
        found = [(uuid, opened.device) for uuid, opened in list(self._open.items())]
        return [_state(uuid, device) for uuid, device in found if device is not None]

    async def memory(self, request: LoadOnto, fd: int | None) -> "ClientMemory":
        """The client's memory, of which `fd` is its descriptor, still the caller's; to be used as a context.

        Raises InvalidArgumentError for a request with neither or both ways to it, UnsupportedError, DeviceError.
        """
        if (fd is None) == (request.ipc_handle == b""):
            raise InvalidArgumentError("memory of a device comes as a descriptor or as a handle")
        opened, device = await self._use(request.device)
        with ExitStack() as failing:
            memory = ClientMemory(device, lambda: self._end_use(request.device, opened))
            failing.callback(memory.close)
            await unbroken(lambda: memory.bring_in(request, fd))
            failing.pop_all()
        return memory

    async def _use(self, uuid: str) -> tuple[_Open, _core.PoolDevice]:
        async with self._opening:
            opened = self._open.get(uuid)
            if opened is None or opened.device is None:
                device = await unbroken(lambda: _core.PoolDevice(self._store, _core.find_device(f"cuda:{uuid}")))
                opened = self._open[uuid] = _Open(device)
            opened.uses += 1
            return opened, cast("_core.PoolDevice", opened.device)

    def _end_use(self, uuid: str, opened: _Open) -> None:
        opened.uses -= 1
        opened.used_at = time.monotonic()
        asyncio.get_running_loop().call_later(self._idle_s, self._give_back, uuid, opened)

    def _give_back(self, uuid: str, opened: _Open) -> None:
        if opened.uses == 0 and time.monotonic() - opened.used_at >= self._idle_s and self._open.get(uuid) is opened:
            del self._open[uuid]
            # Unpinning takes as long as pinning did.
            asyncio.get_running_loop().run_in_executor(None, opened.close)


class ClientMemory:
    """Memory that a client allocated on a device, in this process as long as the context lasts."""

    def __init__(self, device: _core.PoolDevice, on_close: Callable[[], None]) -> None:
        self._device = device
        self._on_close = on_close
        self._buffer: _core.DeviceBuffer | None = None
        self._stop = _core.StopFlag()

    def __enter__(self) -> "ClientMemory":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it back; nothing is copied into it any more."""
        self._buffer = None
        self._on_close()

    def bring_in(self, request: LoadOnto, fd: int | None) -> None:
        """Map it; blocking."""
        device = self._device.device
        if fd is None:
            self._buffer = device.import_ipc(request.ipc_handle, request.nbytes)
        else:
            self._buffer = device.import_fd(os.dup(fd), request.nbytes)

    async def copy(self, pieces: list[PooledPiece], extents: list[PlannedExtent]) -> Account:
        """Copy what the extents want of pieces that are held and resident, until the device's last event.

        Raises InvalidArgumentError for extents outside the pieces or the memory, DeviceError.
        """
        buffer = self._buffer
        if buffer is None:
            raise InvalidArgumentError("the device's memory was given back")
        stop = self._stop
        return await unbroken(lambda: self._device.copy(pieces, extents, buffer, stop), stop.set)


def _state(uuid: str, device: _core.PoolDevice) -> DeviceState:
    return DeviceState(uuid, device.device.model, device.pinned_bytes)
