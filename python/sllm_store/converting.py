"""Writing checkpoints: from files of another form, from a model, from tensors.

Whatever the source, a conversion streams slices into a folder beside the destination and makes it visible at
once, so that it needs little memory and leaves nothing half done (publishing.py has the protocol).
"""

import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sllm_store.cast_dtypes import castable
from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.layout import DEFAULT_PARTITION_BYTES, PlannedPartition, lay_out
from sllm_store.publishing import check_destination, publication, resolve_destination
from sllm_store.sources.base import Source
from sllm_store.sources.detect import SourceKind, find_kind
from sllm_store.sources.folder import CONFIG_NAME, list_visible, read_config
from sllm_store.writing import (
    check_free_space,
    copy_files,
    os_errors,
    sync,
    write_file,
    write_manifest,
    write_weights,
)

if TYPE_CHECKING:
    import torch

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did.

    `source` is the kind of input: safetensors, pickle, gguf, tensors or module. `nbytes` are the bytes of the
    `tensors` stored tensors; `tied` names more are stored under another one's. `companions` are the files
    carried along, `left_out` those (and the folders, which end with a slash) that were not: code, unless it was
    asked for, and whatever lies in folders inside the source.
    """

    path: str
    source: str
    nbytes: int
    tensors: int
    tied: int
    partitions: int
    companions: tuple[str, ...]
    left_out: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Request:
    dst: Path
    dtype: str | None
    partition_size: int
    overwrite: bool
    on_progress: Progress | None
    started_at: float


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    dtype: "str | torch.dtype | None" = None,
    partition_size: int = DEFAULT_PARTITION_BYTES,
    overwrite: bool = False,
    include_code: bool = False,
    on_progress: Progress | None = None,
    on_warning: Callable[[str], None] = warnings.warn,
) -> ConvertReport:
    """Convert the model at `src` into a checkpoint folder at `dst`, which appears whole or not at all.

    `src`: a folder of safetensors, of PyTorch pickles or with one GGUF, or one such file (then nothing but its
    tensors is taken); a converted folder too, whose bytes are then verified on the way.
    `dst`: absent or an empty folder; with `overwrite` also a checkpoint that sllm wrote, `src` itself for example.
    `dtype`: what floating tensors (F64, F32, F16, BF16) are cast to; by default nothing is.
    `partition_size`: the most bytes of tensors in a file, though a larger tensor has a file of its own.
    `include_code`: take Python files and pickles that lie beside the weights along.
    `on_progress`: called with the bytes of tensors written so far and in all.
    `on_warning`: called with what a user should know before it happens, such as a need for much memory.

    Raises CheckpointNotFoundError, CorruptCheckpointError or UnsupportedError for `src`, ConflictError for a
    `dst` that may not be replaced or that another conversion writes to, and StoreIOError, on a full disk for
    example; `dst` is then as it was.
    """
    request = _request(dst, dtype, partition_size, on_progress, overwrite=overwrite)
    _check_apart(Path(os.path.realpath(src)), request.dst)
    root = Path(src)
    kind = find_kind(root)
    source = _open(kind, root, on_warning)
    code = source.code if include_code else ()
    left_out = [path.name for path in source.code if not include_code]
    if root.is_dir():
        left_out += [f"{name}/" for name in list_visible(root) if (root / name).is_dir()]
    return _write(request, kind.value, source, code, tuple(left_out))


def save_model(
    model: "torch.nn.Module",
    path: str | os.PathLike[str],
    *,
    dtype: "str | torch.dtype | None" = None,
    partition_size: int = DEFAULT_PARTITION_BYTES,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> ConvertReport:
    """Write a model's state dict, persistent buffers included, as a checkpoint; parameters as for `convert`.

    A transformers model's config and generation config are written too, so that `from_pretrained` opens the folder.
    Tied tensors are stored once, under the name that transformers keeps. The tensors may be on any device.
    """
    from sllm_store.sources.modules import open_module

    request = _request(path, dtype, partition_size, on_progress, overwrite=overwrite)
    return _write(request, "module", open_module(model))


def save_tensors(
    tensors: "Mapping[str, torch.Tensor]",
    path: str | os.PathLike[str],
    *,
    dtype: "str | torch.dtype | None" = None,
    partition_size: int = DEFAULT_PARTITION_BYTES,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> ConvertReport:
    """Write tensors as a checkpoint, those that are the same view stored once; parameters as for `convert`."""
    from sllm_store.sources.tensors import open_tensors

    request = _request(path, dtype, partition_size, on_progress, overwrite=overwrite)
    return _write(request, "tensors", open_tensors(tensors))


def _request(
    dst: str | os.PathLike[str], dtype: object, partition_size: int, on_progress: Progress | None, *, overwrite: bool
) -> _Request:
    resolved = resolve_destination(dst)
    name = None if dtype is None else castable(dtype)
    if name:
        _require_torch(f"cast to {name}")
    check_destination(resolved, overwrite=overwrite)
    return _Request(resolved, name, partition_size, overwrite, on_progress, time.perf_counter())


def _check_apart(src: Path, dst: Path) -> None:
    if src in dst.parents:
        raise InvalidArgumentError(f"the destination {dst} is inside the source {src}")
    if dst in src.parents:
        raise InvalidArgumentError(f"the source {src} is inside the destination {dst}")


def _open(kind: SourceKind, path: Path, on_warning: Callable[[str], None]) -> Source:
    if kind is SourceKind.SAFETENSORS:
        from sllm_store.sources.safetensors import open_safetensors

        return open_safetensors(path)
    if kind is SourceKind.GGUF:
        from sllm_store.sources.gguf import open_gguf

        return open_gguf(path)
    from sllm_store.sources.pickles import open_pickles

    _require_torch(f"read {path}")
    return open_pickles(path, on_warning)


def _require_torch(purpose: str) -> None:
    if find_spec("torch") is None:
        raise UnsupportedError(f"cannot {purpose} without torch; hint: pip install 'sllm[torch]'")


def _write(
    request: _Request, kind: str, source: Source, code: tuple[Path, ...] = (), left_out: tuple[str, ...] = ()
) -> ConvertReport:
    if request.dtype:
        from sllm_store.casting import cast

        source = cast(source, request.dtype)
    plan = lay_out(source, request.partition_size)
    carried = (*source.companions, *code)
    with publication(request.dst, overwrite=request.overwrite) as folder:
        check_free_space(folder, sum(planned.nbytes for planned in plan) + _size_of(carried))
        files = write_weights(folder, plan, _advance(plan, request.on_progress))
        weights = set(os.listdir(folder))
        copy_files(carried, folder)
        if source.write_companions:
            _let_write(source.write_companions, folder)
        if request.dtype:
            _cast_config(folder, request.dtype)
        companions = tuple(sorted(set(os.listdir(folder)) - weights))
        write_manifest(folder, files, source.tied)
    nbytes = sum(tensor.nbytes for tensor in source.tensors)
    counts = (nbytes, len(source.tensors), len(source.tied), len(plan))
    seconds = time.perf_counter() - request.started_at
    return ConvertReport(str(request.dst), kind, *counts, companions, left_out, seconds)


def _size_of(files: tuple[Path, ...]) -> int:
    with os_errors("cannot read the files beside the weights"):
        return sum(path.stat().st_size for path in files)


def _advance(plan: tuple[PlannedPartition, ...], on_progress: Progress | None) -> Callable[[int], None]:
    total = sum(tensor.nbytes for planned in plan for tensor in planned.tensors)
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if on_progress:
            on_progress(done, total)

    return advance


def _let_write(write_companions: Callable[[Path], None], folder: Path) -> None:
    with os_errors(f"cannot write config and tokenizer into {folder}"):
        write_companions(folder)
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def _cast_config(folder: Path, dtype: str) -> None:
    from sllm_store.casting import cast_config

    if config := read_config(folder):
        (folder / CONFIG_NAME).unlink()
        write_file(folder / CONFIG_NAME, cast_config(config, dtype))
