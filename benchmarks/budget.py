"""Time that a benchmark may take, shared out between its sections; what was cut short is written down."""

import time

# Less than this is not worth starting a process that has to import torch.
_LEAST_S = 12.0


class Budget:
    """Seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self._start = time.monotonic()
        self._end = self._start + seconds
        self.cuts: dict[str, str] = {}

    @property
    def spent_s(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._start

    @property
    def left_s(self) -> float:
        """Until it is used up, or 0."""
        return max(0.0, self._end - time.monotonic())

    def take(self, section: str, wanted_s: float) -> float:
        """The seconds that a section may have; 0 where too few are left, which is then among the cuts."""
        allowed = min(wanted_s, self.left_s)
        if allowed < min(wanted_s, _LEAST_S):
            self.cuts[section] = f"not run: {self.left_s:.0f} s were left"
            return 0.0
        if allowed < wanted_s:
            self.cuts[section] = f"had {allowed:.0f} s of {wanted_s:.0f} s"
        return allowed


class Deadline:
    """When a section has to end, asked between its runs."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def has(self, seconds: float) -> bool:
        """Whether so many are left."""
        return time.monotonic() + seconds <= self._end

    def part(self, share: float) -> "Deadline":
        """A deadline after this share of what is left."""
        return Deadline(max(0.0, self._end - time.monotonic()) * share)
