"""Which files of a folder are a model's weights, as the libraries that write such folders mean it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from sllm_store.errors import CheckpointNotFoundError, CorruptCheckpointError, InvalidArgumentError, from_os_error

INDEX_SUFFIX: Final = ".safetensors.index.json"
# What those libraries call their weights, in the order in which they look.
STEMS: Final = ("model", "adapter_model", "diffusion_pytorch_model")


class Index(NamedTuple):
    """A Hugging Face index: the name of the file that has each tensor."""

    path: Path
    weight_map: dict[str, str]

    @property
    def files(self) -> list[Path]:
        """The files that it names, sorted; each lies beside it, or is missing."""
        return [self.path.parent / name for name in sorted(set(self.weight_map.values()))]


class WeightFiles(NamedTuple):
    """The safetensors files of a folder, and the index that names them, if one does."""

    files: list[Path]
    listed_in: Index | None = None


class _IndexFile(msgspec.Struct):
    weight_map: dict[str, str]


def find_weights(root: Path) -> WeightFiles:
    """The weights at `root`: a safetensors file, or a folder's, by its index, by their usual name, or the only one.

    Raises CheckpointNotFoundError, PermissionDeniedError, InvalidArgumentError where several could be meant, and
    CorruptCheckpointError for a bad index.
    """
    if root.is_file():
        return WeightFiles([root])
    try:
        present = sorted(name for name in os.listdir(root) if not name.startswith("."))
    except OSError as error:
        raise from_os_error(error, f"cannot open checkpoint {root}") from error
    chosen = choose_weights(str(root), present)
    if chosen.endswith(INDEX_SUFFIX):
        index = read_index(root / chosen)
        return WeightFiles(index.files, index)
    return WeightFiles([root / chosen])


def choose_weights(root: str, present: Sequence[str]) -> str:
    """Of a folder's names, sorted, that of its weights' index, or of the only file that has them.

    Raises CheckpointNotFoundError, and InvalidArgumentError where several could be meant.
    """
    for stem in STEMS:
        for name in (stem + INDEX_SUFFIX, f"{stem}.safetensors"):
            if name in present:
                return name
    return _only_one(root, present)


def read_index(path: Path) -> Index:
    """Raises CorruptCheckpointError for an index that is not valid or names a file outside its folder."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, f"cannot read {path}") from error
    return decode_index(text, path)


def decode_index(text: bytes, path: Path) -> Index:
    """The index that `path` names in errors. Raises CorruptCheckpointError as `read_index` does."""
    try:
        index = msgspec.json.decode(text, type=_IndexFile)
    except ValueError as error:
        raise CorruptCheckpointError(f"{path} is not a valid index: {error}") from error
    for name in set(index.weight_map.values()):
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise CorruptCheckpointError(f"{path} names a file outside its folder: {name}")
    return Index(path, index.weight_map)


def _only_one(root: str, present: Sequence[str]) -> str:
    found = [name for name in present if name.endswith(".safetensors")]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidArgumentError(f"{root} has {len(found)} safetensors files and no index; name one of them")
    is_convertible = any(name.endswith((".bin", ".pt", ".pth", ".gguf")) for name in present)
    hint = f"; hint: sllm-store convert {root} DST" if is_convertible else ""
    raise CheckpointNotFoundError(f"{root} is no checkpoint: it has neither sllm.json nor safetensors files{hint}")
