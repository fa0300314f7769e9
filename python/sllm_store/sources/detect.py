"""Which kind of source a path is, by the names of its files alone."""

from enum import Enum
from pathlib import Path

from sllm_store.errors import CheckpointNotFoundError, InvalidArgumentError
from sllm_store.manifest import MANIFEST_NAME
from sllm_store.sources.folder import is_pickled_weights, list_visible


class SourceKind(Enum):
    """A form of weights that is read from files. Where a folder has several, the first here is taken."""

    SAFETENSORS = "safetensors"
    PICKLE = "pickle"
    GGUF = "gguf"


def find_kind(path: Path) -> SourceKind:
    """The kind of the file or folder at `path`.

    Raises CheckpointNotFoundError if it does not exist or is a folder without weights, InvalidArgumentError for a
    file that is none by its name.
    """
    if not path.exists():
        raise CheckpointNotFoundError(f"cannot open {path}: no such file or directory")
    found = {_kind_of(name) for name in (list_visible(path) if path.is_dir() else [path.name])}
    for kind in SourceKind:
        if kind in found:
            return kind
    if path.is_dir():
        raise CheckpointNotFoundError(f"{path} is no checkpoint: it has no safetensors, PyTorch or GGUF files")
    raise InvalidArgumentError(f"{path} has none of the endings .safetensors, .bin, .pt, .pth, .ckpt and .gguf")


def _kind_of(name: str) -> SourceKind | None:
    if name.endswith(".safetensors") or name == MANIFEST_NAME:
        return SourceKind.SAFETENSORS
    if is_pickled_weights(name):
        return SourceKind.PICKLE
    return SourceKind.GGUF if name.endswith(".gguf") else None
