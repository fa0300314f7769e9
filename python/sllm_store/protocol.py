"""What clients and the store's daemon say to each other over a Unix stream socket.

1. A message is a frame: its length in four bytes, little-endian, then that many bytes of MessagePack. A descriptor that
   belongs to a message comes with its first byte (unix(7), SCM_RIGHTS). A frame longer than MAX_FRAME_BYTES, a frame
   that is no message, or a descriptor that none of them has room for ends the connection: it is that client's alone.
2. The client says Hello, the daemon Welcome; or Failed, naming the versions, where it serves no client that old or new.
3. Then the client sends one request at a time, and the daemon answers it with any number of Progress and one answer:
   the one that belongs to the request, or Failed. Whoever has asked for enough closes the connection: what was under
   way for it alone ends. A lease that was handed over stays, whatever becomes of the connection.
4. Every number is checked where it is used; the sizes of lists are bounded by the frame.
"""

from typing import Final

import msgspec

VERSION: Final = 1
OLDEST_VERSION: Final = 1
MAX_FRAME_BYTES: Final = 64 << 20
LENGTH_BYTES: Final = 4

# Device, inode, bytes and modification time in ns: a file as it was when its checkpoint was opened.
Identity = tuple[int, int, int, int]
# Number of the file in its checkpoint, first byte, and the one behind the last.
FileRange = tuple[int, int, int]
# Number of the file, offset in it, bytes, and offset in the pool.
PooledPiece = tuple[int, int, int, int]
# File, offset, bytes, target (always 0), destination, row_bytes, from_pitch, to_pitch: plan.Extent's fields.
PlannedExtent = tuple[int, int, int, int, int, int, int, int]


class Message(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=False):
    """What all messages are; the type's name is the tag."""


class Hello(Message, frozen=True):
    """The client's first message."""

    version: int


class Welcome(Message, frozen=True):
    """The daemon's answer to it."""

    version: int
    pool_bytes: int
    chunk_bytes: int


class Failed(Message, frozen=True):
    """The request failed: an error's code (errors.py) and its text."""

    code: str
    message: str


class Progress(Message, frozen=True):
    """How far a request has come: bytes that are resident, or on the device, of all that it wants."""

    nbytes: int
    total: int


class Describe(Message, frozen=True):
    """Asks for what opening a checkpoint takes: for one at a URL, or one that the client cannot see."""

    path: str


class DescribedFile(msgspec.Struct, frozen=True):
    """A partition: its name, its identity, and its header, the eight bytes of its length included."""

    name: str
    identity: Identity
    header: bytes


class Described(Message, frozen=True):
    """The answer: the partitions in their order, and the manifest's text or nothing."""

    files: list[DescribedFile]
    manifest: bytes


class Load(Message, frozen=True):
    """Asks for a lease of some bytes of a checkpoint, which are brought into the pool where they are not in it.

    `identities` are the partitions' as the client met them, none where it never saw the files. `wait_s` is how long to
    wait for room that others hold.
    """

    path: str
    identities: list[Identity]
    ranges: list[FileRange]
    wait_s: float


class Leased(Message, frozen=True):
    """The answer; the lease's descriptor comes with it.

    The pieces are whole pages around the ranges, sorted by file and offset. `hit_bytes` of them were resident, or on
    their way, when they were asked for. `fill` is the account of the load that brought the rest (the native core's
    stages), empty where there was none or another client's load did it.
    """

    pieces: list[PooledPiece]
    pool_bytes: int
    is_verified: bool
    hit_bytes: int
    fill: dict[str, float | int | str]


class LoadOnto(Message, frozen=True):
    """Asks for bytes of a checkpoint to be copied into device memory of the client's.

    The device is named by its UUID. The memory comes as a descriptor with this message, or, where `ipc_handle` is not
    empty, as a legacy IPC handle; `nbytes` is what its owner allocated, and no extent reaches beyond it.
    """

    path: str
    identities: list[Identity]
    device: str
    nbytes: int
    ipc_handle: bytes
    extents: list[PlannedExtent]
    wait_s: float


class Copied(Message, frozen=True):
    """The answer, after the device's last event: all bytes are there. The account is of the copies."""

    is_verified: bool
    hit_bytes: int
    copies: dict[str, float | int | str]


class Prefetch(Message, frozen=True):
    """Asks for a whole checkpoint to be brought into the pool, or as much of it as fits."""

    path: str


class Prefetched(Message, frozen=True):
    """The answer: how much of it is resident."""

    nbytes: int
    resident_bytes: int


class Evict(Message, frozen=True):
    """Asks for what nobody holds of a checkpoint to go, from the pool or, with `from_disk`, from the disk tier as well.

    An empty path is every checkpoint.
    """

    path: str
    from_disk: bool


class Evicted(Message, frozen=True):
    """The answer: bytes that went, from the pool and from the disk tier."""

    pool_bytes: int
    disk_bytes: int


class Status(Message, frozen=True):
    """Asks how the store is."""


class CheckpointState(msgspec.Struct, frozen=True):
    """A checkpoint's residency, in bytes; `path` is what clients asked for."""

    path: str
    nbytes: int
    resident_bytes: int
    filling_bytes: int
    disk_bytes: int
    leases: int
    uses: int
    is_retired: bool
    is_verified: bool


class DeviceState(msgspec.Struct, frozen=True):
    """A device that the daemon has a context on, and what its driver has pinned of the pool."""

    uuid: str
    model: str
    pinned_bytes: int


class State(Message, frozen=True):
    """The answer. Sizes are bytes, bandwidths bytes a second by tier ("disk", "s3://bucket"), as last measured."""

    version: str
    pid: int
    uptime_s: float
    pool_bytes: int
    chunk_bytes: int
    touched_bytes: int
    resident_bytes: int
    filling_bytes: int
    leased_bytes: int
    free_bytes: int
    hit_bytes: int
    miss_bytes: int
    filled_bytes: int
    evicted_bytes: int
    failed_fills: int
    disk_path: str
    disk_limit_bytes: int
    disk_bytes: int
    clients: int
    leases: int
    bytes_per_s: dict[str, float]
    checkpoints: list[CheckpointState]
    devices: list[DeviceState]


class Leases(Message, frozen=True):
    """Asks for all leases."""


class LeaseState(msgspec.Struct, frozen=True):
    """A lease that some process maps or has the descriptor of; `pid` and `uid` are of the client that got it."""

    number: int
    path: str
    nbytes: int
    age_s: float
    pid: int
    uid: int


class LeaseList(Message, frozen=True):
    """The answer."""

    leases: list[LeaseState]


Request = Hello | Describe | Load | LoadOnto | Prefetch | Evict | Status | Leases
Answer = Welcome | Failed | Progress | Described | Leased | Copied | Prefetched | Evicted | State | LeaseList
