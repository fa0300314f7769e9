"""Accounts of loads: what the native core says of one, and of several together."""

from collections.abc import Iterable
from typing import Final

Account = dict[str, float | int | str]

# What it says of a load that read nothing; LoadReport's fields are these and the times around them.
NOTHING: Final[Account] = {
    **dict.fromkeys(
        (
            *("reads", "repeats", "deepest", "direct_files", "buffered_files", "check_threads", "prefault_threads"),
            *("devices", "bytes_read", "bytes_in_place", "bytes_cached", "bytes_mapped", "bytes_resident"),
            *("bytes_verified", "bytes_registered", "bytes_huge", "bytes_to_devices", "bytes_staging", "bytes_pinned"),
        ),
        0,
    ),
    **dict.fromkeys(
        (
            *("read_wait_s", "fetch_s", "check_wait_s", "check_idle_s", "verify_s", "copy_s", "prefault_s"),
            *("device_s", "device_wait_s", "cpu_s"),
        ),
        0.0,
    ),
    "queue": "none",
}
# Not summed, since they say how many there are at a time.
_PEAKS: Final = frozenset(("deepest", "check_threads", "prefault_threads", "devices", "bytes_staging", "bytes_pinned"))


def sum_up(accounts: Iterable[Account]) -> Account:
    """What several loads, one after the other, did in all; fields that a report lacks are left out."""
    total = dict(NOTHING)
    for account in accounts:
        for name in account.keys() & total.keys():
            value, known = account[name], total[name]
            if isinstance(value, str) or isinstance(known, str):
                total[name] = value if value != "none" else known
            else:
                total[name] = max(known, value) if name in _PEAKS else known + value
    return total
