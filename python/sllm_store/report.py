"""What one load did, and where its time went."""

from dataclasses import asdict, dataclass
from typing import Final

# Stages in the order in which bytes pass them, each with the seconds that say how long it was busy.
_STAGES: Final = {
    "read": "read_wait_s",
    "page cache": "fetch_s",
    "verify": "verify_s",
    "copy": "copy_s",
    "prefault": "prefault_s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """One load's account. Sizes are bytes; busy seconds are summed over a stage's threads.

    `total_s` runs from the call to usable tensors and contains `open_s` (headers and manifest), `plan_s`, `load_s`
    (first read to last byte verified and in place) and `handover_s` (tensors made of the memory, and in `load_model`
    put into the modules). `skeleton_s`, in `load_model` only, is the time in which the modules were built, beside
    `load_s`. `memory` is what was asked for, or "reused". Of `bytes_read`, `bytes_cached` were copied out of the page
    cache and `bytes_mapped` mapped, in `fetch_s`. `read_wait_s` is what the reading thread had nothing to do but wait
    for the drive, `check_wait_s` what reading was held up, or over, while verifying or copying was not. `cpu_s` is the
    whole process's during `load_s`.
    """

    path: str
    tensors: int
    nbytes: int
    verified: bool
    memory: str
    queue: str
    reads: int
    repeats: int
    deepest: int
    direct_files: int
    buffered_files: int
    bytes_read: int
    bytes_in_place: int
    bytes_cached: int
    bytes_mapped: int
    bytes_verified: int
    open_s: float
    plan_s: float
    load_s: float
    handover_s: float
    skeleton_s: float = 0.0
    total_s: float
    read_wait_s: float
    fetch_s: float
    check_wait_s: float
    verify_s: float
    copy_s: float
    prefault_s: float
    cpu_s: float

    @property
    def bytes_per_s(self) -> float:
        """Delivered bytes over the time from the call to usable tensors."""
        return self.nbytes / self.total_s if self.total_s > 0 else 0.0

    @property
    def limit(self) -> str:
        """The stage that kept the load from being faster: the one that was busy, or waited for, the longest."""
        return max(_STAGES, key=lambda stage: float(getattr(self, _STAGES[stage])))

    def as_dict(self) -> dict[str, object]:
        """All fields, the derived ones too, for JSON."""
        return {**asdict(self), "bytes_per_s": self.bytes_per_s, "limit": self.limit}
