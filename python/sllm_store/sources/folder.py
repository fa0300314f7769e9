"""What lies beside the weights in a folder, and what of it a conversion takes along.

Files are taken by default, so that no tokenizer's file is missed. Not taken are weights in any format, their
indexes, an old manifest, and what is hidden. Pickles and Python run code when they are loaded: they are kept
apart, as `code`. Folders inside the folder (`original/`, `onnx/`) are never taken.
"""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from sllm_store.errors import CorruptCheckpointError, from_os_error
from sllm_store.manifest import MANIFEST_NAME
from sllm_store.weight_files import STEMS

CONFIG_NAME: Final = "config.json"

_WEIGHTS: Final = re.compile(
    r".+\.(safetensors|gguf|h5|msgpack|onnx|onnx_data|tflite|ot|npz)"
    r"|.+\.(safetensors|bin|h5|msgpack)\.index\.json"
    r"|(pytorch_model|adapter_model|diffusion_pytorch_model)([-.].+)?\.(bin|pt|pth)"
    r"|consolidated(\..+)?\.pth"
)
_CODE: Final = re.compile(r".+\.(bin|pt|pth|ckpt|pkl|pickle|joblib|npy|py|pyc|so)")
# What trainers leave beside the weights.
_NOT_WEIGHTS: Final = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state).*")


class Beside(NamedTuple):
    """The files and folders beside the weights, each sorted by name."""

    companions: tuple[Path, ...] = ()
    code: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()


def look_beside(root: Path, weights: frozenset[str] = frozenset()) -> Beside:
    """What the folder `root` has beside its weights; `weights` names files that are known to be such."""
    companions: list[Path] = []
    code: list[Path] = []
    folders: list[Path] = []
    for name in list_visible(root):
        path = root / name
        if path.is_dir():
            folders.append(path)
        elif name in weights or _is_weights(name):
            continue
        elif _CODE.fullmatch(name):
            code.append(path)
        else:
            companions.append(path)
    return Beside(tuple(companions), tuple(code), tuple(folders))


def is_companion(name: str) -> bool:
    """Whether a file is neither hidden nor weights nor code by its name, so that copies of a model have it too."""
    return not (name.startswith(".") or _is_weights(name) or _CODE.fullmatch(name))


def _is_weights(name: str) -> bool:
    return name == MANIFEST_NAME or _WEIGHTS.fullmatch(name) is not None


def list_visible(root: Path) -> list[str]:
    """The names in a folder that do not begin with a dot, sorted."""
    try:
        return sorted(name for name in os.listdir(root) if not name.startswith("."))
    except OSError as error:
        raise from_os_error(error, f"cannot open {root}") from error


def is_pickled_weights(name: str) -> bool:
    """Whether a file may hold a model's weights as a pickle, by its name."""
    return name.endswith((".bin", ".pt", ".pth", ".ckpt")) and not _NOT_WEIGHTS.fullmatch(name)


def stem_of(name: str) -> str:
    """What Hugging Face calls weights of which a file has this name."""
    return next((stem for stem in STEMS if name.startswith(stem)), STEMS[0])


def read_config(root: Path) -> dict[str, object]:
    """The folder's `config.json`, empty where there is none. Raises CorruptCheckpointError if it is no object."""
    path = root / CONFIG_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise from_os_error(error, f"cannot read {path}") from error
    except ValueError as error:
        raise CorruptCheckpointError(f"{path} is not valid: {error}") from error


def is_untied(config: dict[str, object]) -> bool:
    """Whether a model's config says explicitly that its embeddings are not tied."""
    text = config.get("text_config")
    parts = (config, text if isinstance(text, dict) else {})
    return any(part.get("tie_word_embeddings") is False for part in parts)
