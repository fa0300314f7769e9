"""The files that loaders are compared on: a converted checkpoint, and its tensors again in other loaders' formats."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from synthetic import SHAPES, cache_folder, synthetic_checkpoint

from sllm_store import _core

GEMMA = "gemma-270m"
SHAPE_NAMES = (GEMMA, *SHAPES)
# What `make bench` compares.
COMPARED = (GEMMA, "llama-4gb", "experts-20k", "adapter-20mb")

# Each runs in a process of its own, which holds the tensors and goes. Clones, since torch writes whole storages.
_WRITE = {
    "pt": """
import sys, torch
from safetensors.torch import load_file
torch.save({name: tensor.clone() for name, tensor in load_file(sys.argv[1]).items()}, sys.argv[2])
""",
    "tensors": """
import sys
from safetensors.torch import load_file
from tensorizer import TensorSerializer
serializer = TensorSerializer(sys.argv[2])
serializer.write_state_dict({name: tensor.clone() for name, tensor in load_file(sys.argv[1]).items()})
serializer.close()
""",
}


@dataclass(frozen=True)
class Files:
    """One checkpoint: its folder and safetensors file, and what other loaders read, once it was made."""

    shape: str
    folder: str
    safetensors: str
    pt: str
    tensors: str
    is_model: bool

    def as_dict(self) -> dict[str, object]:
        """All fields, for another process."""
        return asdict(self)


def find_files(shape: str) -> Files:
    """The checkpoint of this shape, made on first use; the other formats are only named."""
    folder = _gemma_checkpoint() if shape == GEMMA else synthetic_checkpoint(shape)
    (safetensors,) = folder.glob("*.safetensors")
    others = {suffix: str(cache_folder() / f"{shape}.{suffix}") for suffix in _WRITE}
    is_model = (folder / "config.json").exists()
    return Files(shape, str(folder), str(safetensors), **others, is_model=is_model)


def make_format(files: Files, suffix: str) -> str:
    """Write the tensors as a .pt or .tensors file unless it is there; returns why that failed, or nothing."""
    source, path = Path(files.safetensors), Path(getattr(files, suffix))
    if path.exists() and path.stat().st_mtime >= source.stat().st_mtime:
        return ""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part.{suffix}")
    command = [sys.executable, "-c", _WRITE[suffix], str(source), str(part)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        part.unlink(missing_ok=True)
        return (done.stdout.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    part.rename(path)
    return ""


def stored_digests(path: str) -> dict[str, int]:
    """The CRC32C of each stored tensor's bytes, read here by the format's own rules."""
    digests = {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                file.seek(8 + length + start)
                digests[name] = _core.crc32c(file.read(end - start))
    return digests


def alias_digests(files: Files, stored: dict[str, int]) -> dict[str, int]:
    """The same for names that share a stored tensor's bytes: the manifest's, and the one that a config may imply."""
    manifest = json.loads(Path(files.folder, "sllm.json").read_text())
    aliases = {alias: stored[name] for alias, name in manifest.get("tied", {}).items()}
    if files.is_model and _ties_its_embeddings(files):
        aliases.setdefault("lm_head.weight", stored["model.embed_tokens.weight"])
    return aliases


def stored_bytes(path: str) -> int:
    """Bytes of all stored tensors."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")


def _ties_its_embeddings(files: Files) -> bool:
    from transformers import AutoConfig

    return bool(AutoConfig.from_pretrained(files.folder).tie_word_embeddings)


def _gemma_checkpoint() -> Path:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
    import demo
    import demo_models

    folder = demo_models.cache_folder() / "gemma"
    gguf = demo_models.fetch_gguf(demo_models.MODELS["gemma"], folder)
    return demo.convert_once(demo_models.make_plain_folder(gguf, folder), folder / "converted")
