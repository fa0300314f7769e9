"""`load_tensors`: a checkpoint's tensors in this process's memory or on its devices, with a store or without."""

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, overload

from sllm_store import _core
from sllm_store.collecting import paused_collections
from sllm_store.devices import DeviceChoice, device_names
from sllm_store.opening import open_anywhere
from sllm_store.reading import (
    LoadRequest,
    Memory,
    Queue,
    Times,
    TpPlan,
    check_request,
    load_bytes,
    make_report,
    select_names,
)
from sllm_store.report import LoadReport
from sllm_store.tensor import Tensor, check_framework, to_tensors
from sllm_store.torch_tensors import check_devices, check_dtypes, to_torch

if TYPE_CHECKING:
    import torch

OnReport = Callable[[LoadReport], None]


@overload
def load_tensors(
    path: str | os.PathLike[str],
    *,
    device: DeviceChoice = ...,
    names: Iterable[str] | None = ...,
    verify: bool = ...,
    memory: Memory = ...,
    raw: bool = ...,
    queue: Queue = ...,
    shard: tuple[int, int] | None = ...,
    tp_plan: TpPlan | None = ...,
    store: str | os.PathLike[str] | None = ...,
    framework: Literal["torch"] = ...,
    on_report: OnReport | None = ...,
) -> "dict[str, torch.Tensor]": ...
@overload
def load_tensors(
    path: str | os.PathLike[str],
    *,
    framework: None,
    device: DeviceChoice = ...,
    names: Iterable[str] | None = ...,
    verify: bool = ...,
    memory: Memory = ...,
    raw: bool = ...,
    queue: Queue = ...,
    shard: tuple[int, int] | None = ...,
    tp_plan: TpPlan | None = ...,
    store: str | os.PathLike[str] | None = ...,
    on_report: OnReport | None = ...,
) -> dict[str, Tensor]: ...
def load_tensors(
    path: str | os.PathLike[str],
    *,
    device: DeviceChoice = "cpu",
    names: Iterable[str] | None = None,
    verify: bool = True,
    memory: Memory = "own",
    raw: bool = False,
    queue: Queue = "auto",
    shard: tuple[int, int] | None = None,
    tp_plan: TpPlan | None = None,
    store: str | os.PathLike[str] | None = "auto",
    framework: Literal["torch"] | None = "torch",
    on_report: OnReport | None = None,
) -> "dict[str, torch.Tensor] | dict[str, Tensor]":
    """Load a checkpoint's tensors, in the order of their bytes, tied ones last.

    `path` is a converted folder, a plain Hugging Face folder of safetensors, or one safetensors file; the last two
    have no CRCs and load unverified, which the report says. Through a store it may also be the URL of one. The tensors
    are writable, and each has a storage of exactly its own bytes inside one buffer a device, which is freed with the
    last of them; tied tensors share theirs.

    device: "cpu", "cuda", "cuda:1", "cuda:" and a UUID, a torch.device, or a device map: a dict that gives one of these
        to each module or tensor by its name, the longest that fits counting and "" meaning all. Several devices are
        loaded onto at once, from one pass over the files. The memory is the driver's: torch.cuda.memory_allocated()
        does not count it, and torch.cuda.empty_cache() does not free it; it goes with the last tensor.
    names: the tensors to load; all of them by default.
    verify: compare the CRC32C of every span that is read with the manifest's.
    memory: of the host. "own", memory of the process's own: what the page cache has is copied, the rest read around it.
        "map", the files mapped privately, copy-on-write, so that processes share the page cache's one copy; without
        `verify` nothing is read before it is touched. "auto", the parts mapped that the page cache has, the rest read.
        The price of mapping: a file that is overwritten in place later changes the tensors, and one that is truncated
        later kills the process that touches them. A HostBuffer is filled again, whatever tensors still use it: memory
        that was touched before saves most of a load's CPU time.
    raw: each tensor as its bytes, one dimension of uint8, whatever its dtype.
    queue: how files are read: "io_uring", "threads", or "auto", the first of them that works here.
    shard: (rank, world): of each tensor that tp_plan cuts, the part of this rank of a tensor-parallel group, from a
        checkpoint that knows nothing of the group's size. Only the part is read, in whole spans, and copied.
    tp_plan: how tensors are cut, with shard: patterns of modules to styles, as transformers has them
        (`model.tp_plan`, `config.base_model_tp_plan`: "colwise", "rowwise", ...), or of tensors to a dimension. What
        no pattern fits is loaded whole.
    store: "auto", the store of this machine where one is running and can do it (docs/store.md), else none; the path of
        a store's socket, that one or an error; None, none. A store's pool is mapped, copy-on-write, so that processes
        share one copy: `memory`, `queue` and `verify` have no say, its bytes were verified when they came. Onto devices
        the store copies. A HostBuffer is not filled through it.
    framework: "torch", or None for tensors of ours (Tensor), which every library imports that speaks DLPack.
    on_report: called with the LoadReport before the tensors are returned.

    Raises InvalidArgumentError, CheckpointNotFoundError, PermissionDeniedError, CorruptCheckpointError (the file,
    and the byte range of the bad span), UnsupportedError (a dtype that this torch lacks: load it raw; a device that
    this torch or this machine lacks), StoreIOError, OutOfMemoryError, DeviceError; with the path of a store also
    UnavailableError, ConflictError (it has another version of the checkpoint), DeadlineError.
    """
    start = time.perf_counter()
    request = LoadRequest(names, verify, memory, queue, device, shard, tp_plan, store)
    check_request(request)
    check_framework(framework)
    if framework == "torch":
        check_devices(device_names(device))
    with paused_collections():
        checkpoint, url = open_anywhere(path, store)
        wanted = None if names is None else select_names(checkpoint, names)
        if framework == "torch" and not raw:
            check_dtypes(checkpoint, checkpoint.names() if wanted is None else wanted)
    opened = time.perf_counter()
    loaded = load_bytes(checkpoint, request._replace(names=wanted, url=url), _core.StopFlag())
    read = time.perf_counter()
    tensors = to_torch(loaded, raw=raw) if framework == "torch" else to_tensors(loaded, raw=raw)
    if on_report is not None:
        end = time.perf_counter()
        on_report(make_report(loaded, Times(open_s=opened - start, handover_s=end - read, total_s=end - start)))
    return tensors
