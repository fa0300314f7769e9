"""A device's memory that the store fills: this process allocates it and passes it on, the daemon copies into it."""

import os
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from sllm_store import _core
from sllm_store.client import StoreClient
from sllm_store.errors import UnsupportedError
from sllm_store.protocol import Copied, LoadOnto


class _Shared(NamedTuple):
    """Memory, and the way to it for another process: a descriptor, or where there is none a handle."""

    buffer: _core.DeviceBuffer
    fd: int | None
    handle: bytes


def copy_onto(client: StoreClient, device_name: str, wanted: LoadOnto) -> tuple[_core.DeviceBuffer, Copied]:
    """Memory of `wanted.nbytes` on the device, filled as `wanted` says, which this completes with device and way.

    Raises what allocating raises and what the daemon answers; UnsupportedError where memory cannot be shared.
    """
    device = _core.find_device(device_name)
    shared = _allocate(device, wanted.nbytes)
    with ExitStack() as stack:
        if shared.fd is not None:
            stack.callback(os.close, shared.fd)
        request = msgspec.structs.replace(wanted, device=device.uuid, ipc_handle=shared.handle)
        return shared.buffer, client.request(request, Copied, fd=shared.fd)


def _allocate(device: _core.Device, nbytes: int) -> _Shared:
    try:
        buffer = device.allocate(nbytes, is_shareable=True)
        return _Shared(buffer, buffer.export_fd(), b"")
    except UnsupportedError:
        # Legacy handles open where descriptors are unknown; where neither is, this raises it again.
        buffer = device.allocate(nbytes)
        return _Shared(buffer, None, buffer.export_ipc())
