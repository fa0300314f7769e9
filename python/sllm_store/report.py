"""What one load did, and where its time went."""

from dataclasses import asdict, dataclass
from typing import Final

# Stages in the order in which bytes pass them: the seconds that each was busy, and the field that says how many
# threads they are summed over, if there may be several.
_STAGES: Final = {
    "read": ("read_wait_s", None),
    "page cache": ("fetch_s", "check_threads"),
    "verify": ("verify_s", "check_threads"),
    "copy": ("copy_s", "check_threads"),
    "prefault": ("prefault_s", "prefault_threads"),
    "device": ("device_s", "devices"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """One load's account. Sizes are bytes; busy seconds are summed over a stage's threads.

    `total_s` runs from the call to usable tensors and contains `open_s` (headers and manifest), `plan_s`, `load_s`
    (first read to last byte verified and in place) and `handover_s` (tensors made of the memory, and in `load_model`
    put into the modules). `skeleton_s`, in `load_model` only, is the time in which the modules were built, beside
    `load_s`. `memory` is what was asked for, "reused", or "pool": a store's, mapped.

    `store` says whether a store did it: "" where none was asked, "mapped" where it did, and where "auto" did without,
    why: "unavailable" (none is there, or it went), "buffer" (it was to fill a HostBuffer), or the code of another error
    (errors.py), such as "exhausted" for a pool too small. Onto devices it is "copied", or "staged" where this process
    had to copy. Through a store, what is said of reads is the daemon's account of what it brought for this load; all
    zero where the bytes were there, or on their way for somebody else.

    Of `bytes_read`, `bytes_cached` were copied out of the page cache and `bytes_mapped` mapped, in `fetch_s`; the rest
    came from the drive, through `queue` ("none" where nothing did), `deepest` reads at a time. `bytes_registered` is
    the memory that io_uring held on to. Fresh memory is faulted in by `prefault_threads` threads ahead of the reads, in
    `prefault_s`, and where it is copied into, in `fetch_s`; `bytes_huge` of it with huge pages asked for, since they
    came faster there.

    `read_wait_s` is what the reading thread had nothing to do but wait for the drive, `check_wait_s` what reading was
    held up, or over, while verifying or copying was not. `check_threads` threads fetched, verified and copied, and
    waited `check_idle_s` for something to do.

    Onto devices, named in `device`, went `bytes_to_devices`, in `device_s`, the seconds in which copies were under way,
    summed over `devices` of them, through `bytes_staging` of memory, of which `bytes_pinned` were pinned. They still
    were for `device_wait_s` when all else was done. `cpu_s` is the whole process's during `load_s`.
    """

    path: str
    tensors: int
    nbytes: int
    verified: bool
    memory: str
    device: str
    store: str = ""
    queue: str
    reads: int
    repeats: int
    deepest: int
    direct_files: int
    buffered_files: int
    check_threads: int
    prefault_threads: int
    devices: int
    bytes_read: int
    bytes_in_place: int
    bytes_cached: int
    bytes_mapped: int
    bytes_resident: int
    bytes_verified: int
    bytes_registered: int
    bytes_huge: int
    bytes_to_devices: int
    bytes_staging: int
    bytes_pinned: int
    open_s: float
    plan_s: float
    load_s: float
    handover_s: float
    skeleton_s: float = 0.0
    total_s: float
    read_wait_s: float
    fetch_s: float
    check_wait_s: float
    check_idle_s: float
    verify_s: float
    copy_s: float
    prefault_s: float
    device_s: float
    device_wait_s: float
    cpu_s: float

    @property
    def bytes_per_s(self) -> float:
        """Delivered bytes over the time from the call to usable tensors."""
        return self.nbytes / self.total_s if self.total_s > 0 else 0.0

    @property
    def limit(self) -> str:
        """The stage that kept the load from being faster: the one that was busy, or waited for, the longest."""
        return max(_STAGES, key=self._elapsed_s)

    @property
    def bytes_from_drive(self) -> int:
        """What was read around the page cache, or brought into it by this load."""
        return self.bytes_read - self.bytes_cached - self.bytes_mapped - self.bytes_resident

    def _elapsed_s(self, stage: str) -> float:
        busy_s, threads = _STAGES[stage]
        return float(getattr(self, busy_s)) / (max(1, getattr(self, threads)) if threads else 1)

    def as_dict(self) -> dict[str, object]:
        """All fields, the derived ones too, for JSON."""
        return {
            **asdict(self),
            "bytes_from_drive": self.bytes_from_drive,
            "bytes_per_s": self.bytes_per_s,
            "limit": self.limit,
        }
