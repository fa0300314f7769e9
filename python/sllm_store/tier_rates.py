"""How fast the tiers below the pool deliver, as measured."""

from typing import Final

# Shorter fills measure latency, and what the page cache had.
MIN_MEASURED_BYTES: Final = 64 << 20
# Of a new measurement: three loads make it three quarters of what is known.
_WEIGHT: Final = 0.37


class TierRates:
    """Bandwidths by tier, exponentially weighted over what was measured."""

    def __init__(self) -> None:
        self.bytes_per_s: dict[str, float] = {}

    def note(self, tier: str, nbytes: int, seconds: float) -> bool:
        """Take a fill into account; whether it was long enough to count."""
        if nbytes < MIN_MEASURED_BYTES or seconds <= 0:
            return False
        rate = nbytes / seconds
        known = self.bytes_per_s.get(tier, rate)
        self.bytes_per_s[tier] = known + _WEIGHT * (rate - known)
        return True

    def cost_s_per_byte(self, tier: str) -> float:
        """What a byte costs to be brought from a tier; from one that was never measured as much as from the slowest
        that was, nothing where none was."""
        if tier in self.bytes_per_s:
            return 1 / self.bytes_per_s[tier]
        return 1 / min(self.bytes_per_s.values()) if self.bytes_per_s else 0.0
