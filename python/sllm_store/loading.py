"""`load_tensors`: a checkpoint's tensors in this process's memory, without any daemon."""

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sllm_store import _core
from sllm_store.checkpoint import open_checkpoint
from sllm_store.reading import (
    LoadRequest,
    Memory,
    Queue,
    Times,
    check_request,
    load_bytes,
    make_report,
    select_names,
)
from sllm_store.report import LoadReport
from sllm_store.torch_tensors import check_dtypes, to_torch

if TYPE_CHECKING:
    import torch

OnReport = Callable[[LoadReport], None]


def load_tensors(
    path: str | os.PathLike[str],
    *,
    device: "str | torch.device" = "cpu",
    names: Iterable[str] | None = None,
    verify: bool = True,
    memory: Memory = "own",
    raw: bool = False,
    queue: Queue = "auto",
    on_report: OnReport | None = None,
) -> "dict[str, torch.Tensor]":
    """Load a checkpoint's tensors, in the order of their bytes, tied ones last.

    `path` is a converted folder, a plain Hugging Face folder of safetensors, or one safetensors file; the last two
    have no CRCs and load unverified, which the report says. The tensors are writable, and each has a storage of
    exactly its own bytes inside one buffer, which is freed with the last of them; tied tensors share theirs.

    device: where to; this version loads onto "cpu".
    names: the tensors to load; all of them by default.
    verify: compare the CRC32C of every span that is read with the manifest's.
    memory: "own", memory of the process's own: what the page cache has is copied, the rest read around it. "map",
        the files mapped privately, copy-on-write, so that processes share the page cache's one copy; without `verify`
        nothing is read before it is touched. "auto", the parts mapped that the page cache has, the rest read. The
        price of mapping: a file that is overwritten in place later changes the tensors, and one that is truncated
        later kills the process that touches them. A HostBuffer is filled again, whatever tensors still use it: memory
        that was touched before saves most of a load's CPU time.
    raw: each tensor as its bytes, one dimension of uint8, whatever its dtype.
    queue: how files are read: "io_uring", "threads", or "auto", the first of them that works here.
    on_report: called with the LoadReport before the tensors are returned.

    Raises InvalidArgumentError, CheckpointNotFoundError, PermissionDeniedError, CorruptCheckpointError (the file,
    and the byte range of the bad span), UnsupportedError (a dtype that this torch lacks: load it raw; a device),
    StoreIOError, OutOfMemoryError.
    """
    start = time.perf_counter()
    request = LoadRequest(names, verify, memory, queue)
    check_request(request, str(device))
    checkpoint = open_checkpoint(path)
    wanted = select_names(checkpoint, names)
    if not raw:
        check_dtypes(checkpoint, wanted)
    opened = time.perf_counter()
    loaded = load_bytes(checkpoint, request._replace(names=wanted), _core.StopFlag())
    read = time.perf_counter()
    tensors = to_torch(loaded, raw=raw)
    if on_report is not None:
        end = time.perf_counter()
        on_report(make_report(loaded, Times(open_s=opened - start, handover_s=end - read, total_s=end - start)))
    return tensors
