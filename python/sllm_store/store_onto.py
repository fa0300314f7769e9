"""A device's memory that the store fills: this process allocates it and passes it on, the daemon copies into it.

Where the daemon cannot reach the device or the memory, as in a container that has no GPU, this process leases the
chunks and copies out of them by itself, which is slower: its driver has not pinned them.
"""

import os
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from sllm_store import _core
from sllm_store.accounts import Account
from sllm_store.client import StoreClient
from sllm_store.errors import UnsupportedError
from sllm_store.plan import BLOCK_BYTES, HUGE_PAGE_BYTES, Extent, round_up
from sllm_store.pooled_pieces import wanted_ranges
from sllm_store.protocol import Copied, Load, LoadOnto, PooledPiece


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


class CopiedHere(NamedTuple):
    """What copying out of leased chunks did."""

    is_verified: bool
    copies: Account


def copy_leased(
    client: StoreClient, asked: Load, extents: list[Extent], buffer: _core.DeviceBuffer, stop: _core.StopFlag
) -> CopiedHere:
    """Fill the buffer as the extents say, out of a lease of what they touch, which ends here.

    Raises what the daemon answers, DeviceError, CancelledError once `stop` is set.
    """
    leased, fd = client.request_lease(msgspec.structs.replace(asked, ranges=wanted_ranges(extents)))
    placed, nbytes = _side_by_side(leased.pieces)
    mapped = [(place, piece[3], piece[2]) for piece, (*_, place) in zip(leased.pieces, placed, strict=True)]
    region = _core.MappedRegion(fd, mapped, nbytes)
    copies = _core.copy_region(region, placed, [(*extent,) for extent in extents], buffer, stop)
    return CopiedHere(leased.is_verified, copies)


def _side_by_side(pieces: list[PooledPiece]) -> tuple[list[PooledPiece], int]:
    """The pieces with places in a region instead of in the pool, congruent to those modulo a huge page, so that these
    are mapped as such; and the region's size."""
    placed, end = [], 0
    for file, offset, nbytes, pool_offset in pieces:
        start = end + (pool_offset - end) % HUGE_PAGE_BYTES
        placed.append((file, offset, nbytes, start))
        end = round_up(start + nbytes, BLOCK_BYTES)
    return placed, end
