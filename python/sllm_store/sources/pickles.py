"""PyTorch pickles as a source: `.bin` and `.pt`, one file or several with an index.

They load with `weights_only`, so no code of theirs runs. Zip files are mapped, which says where in the file a
tensor lies; contiguous ones are read from there. Of others the pages that a copy touched are given back, else the
process would grow to the size of the file. Files from before torch 1.6 are no zip files and cannot be mapped: they
need their size in memory, and `on_warning` hears so first.
"""

import ctypes
import mmap
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from sllm_store.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    InvalidArgumentError,
    SllmError,
    UnsupportedError,
    from_os_error,
)
from sllm_store.sources.base import SLICE_BYTES, Source, SourceTensor
from sllm_store.sources.files import SourceFile
from sllm_store.sources.folder import (
    Beside,
    is_pickled_weights,
    is_untied,
    list_visible,
    look_beside,
    read_config,
    stem_of,
)
from sllm_store.sources.tensors import source_tensors, tie
from sllm_store.weight_files import read_index

if TYPE_CHECKING:
    import torch

OnWarning: TypeAlias = Callable[[str], None]

_STEMS: Final = ("pytorch_model", "adapter_model", "diffusion_pytorch_model")
# Members under which trainers keep a model's tensors, beside those of the optimizer.
_NESTED: Final = ("state_dict", "model_state_dict", "model")
_ZIP_MAGIC: Final = b"PK\x03\x04"
_madvise: Final = ctypes.CDLL(None).madvise
# What torch.load raises for bytes that are no pickle, or the half of one.
_BROKEN: Final = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, pickle.UnpicklingError)


class _Area(NamedTuple):
    """Addresses of this process at which a file is mapped, from its byte `offset`."""

    file: SourceFile
    start: int
    end: int
    offset: int


class _Loaded(NamedTuple):
    """One file's tensors, and where it is mapped, if it is."""

    tensors: "dict[str, torch.Tensor]"
    areas: list[_Area]


def open_pickles(path: Path, on_warning: OnWarning) -> Source:
    """The tensors of a pickled state dict, in its order; with an index, in the order of its files.

    Of a single file nothing else is taken. Tensors that are the same view are stored once, unless `config.json`
    says that embeddings are not tied. Raises UnsupportedError for what needs code to load.
    """
    files = [path] if path.is_file() else _find_files(path)
    loaded = [_load(file, on_warning) for file in files]
    tensors = {name: tensor for part in loaded for name, tensor in part.tensors.items()}
    if len(tensors) != sum(len(part.tensors) for part in loaded):
        raise CorruptCheckpointError(f"a tensor is in two files of {path}")
    areas = [area for part in loaded for area in part.areas]
    tied = tie(tensors)
    if path.is_file():
        return _source(tensors, tied, areas, Beside())
    beside = look_beside(path, frozenset(file.name for file in files))
    source = _source(tensors, {} if is_untied(read_config(path)) else tied, areas, beside)
    return replace(source, stem=stem_of(files[0].name))


def _source(tensors: "dict[str, torch.Tensor]", tied: dict[str, str], areas: list[_Area], beside: Beside) -> Source:
    copied = source_tensors(tensors, tied, partial(_forget_pages, areas))
    stored = tuple(_read_from_file(source, tensors[source.name], areas) for source in copied)
    return Source(stored, tied, companions=beside.companions, code=beside.code)


def _find_files(root: Path) -> list[Path]:
    present = list_visible(root)
    for stem in _STEMS:
        if f"{stem}.bin.index.json" in present:
            return _all_there(read_index(root / f"{stem}.bin.index.json").files)
        if f"{stem}.bin" in present:
            return [root / f"{stem}.bin"]
    others = list(filter(is_pickled_weights, present))
    if len(others) == 1:
        return [root / others[0]]
    if others:
        raise InvalidArgumentError(f"{root} has {len(others)} PyTorch files and no index; name one of them")
    raise CheckpointNotFoundError(f"{root} has no weights that could be converted")


def _all_there(files: list[Path]) -> list[Path]:
    for path in files:
        if not path.is_file():
            raise CorruptCheckpointError(f"{path} is missing: its checkpoint is incomplete")
    return files


def _load(path: Path, on_warning: OnWarning) -> _Loaded:
    import torch

    is_mapped = _is_zip(path) and _is_mappable(path)
    if not is_mapped:
        on_warning(f"{path} is in a format of torch that cannot be mapped: it needs its size in memory")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except OSError as error:
        raise from_os_error(error, f"cannot read {path}") from error
    except _BROKEN as error:
        raise _translate(error, path) from error
    return _Loaded(_state_dict(loaded, path), _mapped_areas(path) if is_mapped else [])


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    except OSError as error:
        raise from_os_error(error, f"cannot open {path}") from error


def _is_mappable(path: Path) -> bool:
    """Whether torch can use the archive's bytes as they are; raises for archives that are no state dict."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2]: name for name in archive.namelist()}
            order = archive.read(members["byteorder"]).decode() if "byteorder" in members else sys.byteorder
    except OSError as error:
        raise from_os_error(error, f"cannot read {path}") from error
    except (zipfile.BadZipFile, ValueError) as error:
        raise CorruptCheckpointError(f"{path} is damaged or truncated: {str(error).lower()}") from error
    # torch.load passes TorchScript on to its compiler with no more than a warning.
    if "constants.pkl" in members:
        raise UnsupportedError(f"{path} is a TorchScript program; hint: save its state_dict() instead")
    if "data.pkl" not in members:
        raise InvalidArgumentError(f"{path} is a zip file, but not one of torch")
    return order == sys.byteorder


def _translate(error: Exception, path: Path) -> SllmError:
    if "Unsupported global" in str(error) or "Unsupported operand" in str(error):
        found = re.search(r"GLOBAL (\S+)", str(error))
        needed = f"to run {found[1]}" if found else "to run code"
        return UnsupportedError(
            f"{path} needs {needed} when it is loaded, which is refused; hint: save its state_dict()"
        )
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return CorruptCheckpointError(f"{path} is no state dict of torch, or damaged: {reason}")


def _state_dict(loaded: object, path: Path) -> "dict[str, torch.Tensor]":
    import torch

    if not isinstance(loaded, Mapping):
        raise InvalidArgumentError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    for name in _NESTED:
        if isinstance(loaded.get(name), Mapping):
            return _state_dict(loaded[name], path)
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise InvalidArgumentError(f"{path} is no state dict: its member {name} is a {type(value).__name__}")
    return dict(loaded)


def _mapped_areas(path: Path) -> list[_Area]:
    """Where a file is mapped into this process."""
    file = SourceFile(path, path.stat().st_size)
    mapped_as = os.path.realpath(path)
    areas = []
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        addresses, _, offset, _, _, *name = line.split(maxsplit=5)
        if name == [mapped_as]:
            start, end = addresses.split("-")
            areas.append(_Area(file, int(start, 16), int(end, 16), int(offset, 16)))
    return areas


def _area_of(tensor: "torch.Tensor", areas: list[_Area]) -> _Area | None:
    storage = tensor.untyped_storage()
    first, last = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
    return next((area for area in areas if area.start <= first and last <= area.end), None)


def _read_from_file(source: SourceTensor, tensor: "torch.Tensor", areas: list[_Area]) -> SourceTensor:
    """The same tensor, read from its file instead of the mapping, where its bytes lie there as they are needed.

    A page fault for every few pages costs several times what a read does.
    """
    area = _area_of(tensor, areas)
    if area is None or not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
        return source
    offset = tensor.data_ptr() - area.start + area.offset
    return replace(source, slices=partial(area.file.slices, offset, source.nbytes, SLICE_BYTES))


def _forget_pages(areas: list[_Area], tensor: "torch.Tensor") -> None:
    """Give back the pages of a tensor's storage, if they are a file's: then they are clean, nobody writes to them."""
    if _area_of(tensor, areas) is not None:
        storage = tensor.untyped_storage()
        start = storage.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        length = storage.data_ptr() + storage.nbytes() - start
        _madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
