"""`verify_checkpoint`: every byte of a checkpoint against its manifest."""

import os
from typing import NamedTuple

from sllm_store import _core
from sllm_store.checkpoint import Checkpoint, open_checkpoint
from sllm_store.errors import UnsupportedError
from sllm_store.manifest import SPAN_BYTES
from sllm_store.reading import is_main_thread, native_files


class BadRange(NamedTuple):
    """Neighbouring spans of a file, from byte `begin` up to `end`, whose CRCs do not match."""

    path: str
    begin: int
    end: int


class Verification(NamedTuple):
    """What was read of how many files, how long it took, and which of it is damaged."""

    files: int
    nbytes: int
    seconds: float
    bad: tuple[BadRange, ...]


def verify_checkpoint(path: str | os.PathLike[str]) -> Verification:
    """Read every span of every partition and compare its CRC32C.

    Raises what open_checkpoint raises (a damaged header or manifest among it), and UnsupportedError for a plain
    folder, which has no CRCs.
    """
    checkpoint = open_checkpoint(path)
    if not checkpoint.is_verifiable:
        raise UnsupportedError(f"{path} has no manifest to verify it by; hint: sllm-store convert {path} DST")
    plan = _core.LoadPlan(native_files(checkpoint.partitions, verify=True), [], [])
    report, spans = _core.check(plan, _core.LoadOptions(), _core.StopFlag(), is_main_thread())
    return Verification(
        len(checkpoint.partitions), report["bytes_read"], report["total_s"], _bad_ranges(checkpoint, spans)
    )


def _bad_ranges(checkpoint: Checkpoint, spans: list[tuple[int, int]]) -> tuple[BadRange, ...]:
    ranges: list[BadRange] = []
    for number, span in spans:
        partition = checkpoint.partitions[number]
        path, begin = str(partition.path), span * SPAN_BYTES
        end = min(begin + SPAN_BYTES, partition.size)
        if ranges and ranges[-1].path == path and ranges[-1].end == begin:
            ranges[-1] = ranges[-1]._replace(end=end)
        else:
            ranges.append(BadRange(path, begin, end))
    return tuple(ranges)
