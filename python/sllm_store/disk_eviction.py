"""Which checkpoints the disk tier lets go: GreedyDual-Size-Frequency, as values in and values out.

A checkpoint's priority is the clock's when it was last used, plus its uses times what a byte of it costs to fetch
again: Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy" (HP Labs, 1998),
with seconds as cost, so that its size cancels out. Whoever goes leaves its priority behind as the clock, so that what
was used long ago ages.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Candidate(NamedTuple):
    """A checkpoint that nobody is using. `last_use` orders those of equal priority; its unit doesn't matter."""

    key: str
    nbytes: int
    priority: float
    last_use: float


def priority_of(clock: float, uses: int, cost_s_per_byte: float) -> float:
    """The priority of a checkpoint that is used at this moment."""
    return clock + uses * cost_s_per_byte


def choose_victims(candidates: Iterable[Candidate], needed_bytes: int) -> list[Candidate]:
    """Those that go so that `needed_bytes` become free, in their order; none where all of them would not be enough."""
    victims = []
    for candidate in sorted(candidates, key=lambda one: (one.priority, one.last_use, one.key)):
        if needed_bytes <= 0:
            break
        victims.append(candidate)
        needed_bytes -= candidate.nbytes
    return victims if needed_bytes <= 0 else []
