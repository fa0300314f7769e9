"""Checkpoints of known shapes with random bytes, converted, made once and kept in the user's cache."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sllm_store import convert
from sllm_store.header import StoredTensor, encode_header, tensor_nbytes

Shapes = dict[str, tuple[int, ...]]


def llama_shapes(layers: int) -> Shapes:
    """A llama of hidden size 2560 in bfloat16: 139 MB a layer and 655 MB of embeddings."""
    hidden, inner, kv, vocabulary = 2560, 6912, 640, 64_000
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
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
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


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


SHAPES = {
    "llama-2gb": lambda: llama_shapes(10),
    "llama-4gb": lambda: llama_shapes(24),
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
    if (folder / "sllm.json").exists():
        return folder
    plain = cache_folder() / f"{name}.plain"
    plain.mkdir(parents=True, exist_ok=True)
    _write(plain / "model.safetensors", SHAPES[name]())
    convert(plain, folder, overwrite=folder.exists())
    shutil.rmtree(plain)
    return folder


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
