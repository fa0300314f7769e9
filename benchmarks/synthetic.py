"""Checkpoints of known shapes with random bytes, converted, made once and kept in the user's cache."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sllm_store import convert
from sllm_store.header import StoredTensor, encode_header, tensor_nbytes

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Llama:
    """A llama in bfloat16. As it stands, 139 MB a layer and 655 MB of embeddings."""

    layers: int
    hidden: int = 2560
    inner: int = 6912
    kv: int = 640
    vocabulary: int = 64_000
    head: int = 128

    def shapes(self) -> Shapes:
        """Its tensors, in model order."""
        hidden, inner, kv = self.hidden, self.inner, self.kv
        shapes: Shapes = {"model.embed_tokens.weight": (self.vocabulary, hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            shapes |= {
                f"{prefix}.input_layernorm.weight": (hidden,),
                f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
                f"{prefix}.self_attn.k_proj.weight": (kv, hidden),
                f"{prefix}.self_attn.v_proj.weight": (kv, hidden),
                f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
                f"{prefix}.post_attention_layernorm.weight": (hidden,),
                f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
                f"{prefix}.mlp.up_proj.weight": (inner, hidden),
                f"{prefix}.mlp.down_proj.weight": (hidden, inner),
            }
        return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (self.vocabulary, hidden)}

    def config(self) -> dict[str, object]:
        """What transformers builds the model from."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // self.head,
            "num_key_value_heads": self.kv // self.head,
            "head_dim": self.head,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }


def experts_shapes(layers: int = 52, experts: int = 128) -> Shapes:
    """A mixture of 20,000 small tensors, 33 KB each."""
    return {
        f"model.layers.{layer}.mlp.experts.{expert}.{part}.weight": (64, 256)
        for layer in range(layers)
        for expert in range(experts)
        for part in ("gate_proj", "up_proj", "down_proj")
    }


def adapter_shapes() -> Shapes:
    """A LoRA adapter of rank 16, about 20 MB."""
    return {
        f"base_model.model.model.layers.{layer}.self_attn.{part}.lora_{side}.weight": shape
        for layer in range(40)
        for part in ("q_proj", "k_proj", "v_proj", "o_proj")
        for side, shape in {"A": (16, 2048), "B": (2048, 16)}.items()
    }


LLAMAS = {
    "tiny": Llama(1, hidden=256, inner=512, kv=128, vocabulary=1000, head=64),
    "llama-2gb": Llama(10),
    "llama-4gb": Llama(24),
}
SHAPES: dict[str, Callable[[], Shapes]] = {
    **{name: llama.shapes for name, llama in LLAMAS.items()},
    "experts-20k": experts_shapes,
    "adapter-20mb": adapter_shapes,
}


def cache_folder() -> Path:
    """Where synthetic checkpoints are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sllm" / "benchmarks"


def synthetic_checkpoint(name: str) -> Path:
    """The converted checkpoint of this name, made on first use."""
    folder = cache_folder() / name
    if not (folder / "sllm.json").exists():
        _convert_random(name, folder)
    # transformers' part, which folders that were made before anyone asked transformers lack.
    if name in LLAMAS and not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps(LLAMAS[name].config(), indent=1))
    return folder


def _convert_random(name: str, folder: Path) -> None:
    plain = cache_folder() / f"{name}.plain"
    plain.mkdir(parents=True, exist_ok=True)
    _write(plain / "model.safetensors", SHAPES[name]())
    convert(plain, folder, overwrite=folder.exists())
    shutil.rmtree(plain)


def _write(path: Path, shapes: Shapes) -> None:
    tensors, start = [], 0
    for name, shape in shapes.items():
        tensors.append(StoredTensor(name, "BF16", shape, start, tensor_nbytes("BF16", shape)))
        start += tensors[-1].nbytes
    with path.open("wb") as file:
        file.write(encode_header(tensors, {"format": "pt"}))
        for part in _random_parts(start):
            file.write(part)


def _random_parts(count: int) -> Iterator[bytes]:
    while count > 0:
        part = os.urandom(min(count, 1 << 24))
        yield part
        count -= len(part)
