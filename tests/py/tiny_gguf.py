"""GGUF files of a few hundred kilobytes, as llama.cpp's converter lays them out, with weights from a seed."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np

Shapes = Mapping[str, tuple[int, ...]]

HIDDEN, VOCABULARY, LAYERS = 64, 96, 2
_Q = gguf.GGMLQuantizationType


def write(
    path: Path, architecture: str, kind: gguf.GGMLQuantizationType, *, tied: bool = False, adds_bos: bool = True
) -> Path:
    """One of the models below; matrices are stored as `kind`, all else as float32."""
    writer = begin(path, architecture, adds_bos=adds_bos)
    seed = np.random.default_rng(7)
    for name, shape in shapes_of(architecture, tied):
        stored = kind if len(shape) > 1 and "norm" not in name and "conv" not in name else _Q.F32
        values = seed.standard_normal(shape, np.float32)
        # It holds -exp(x).
        values = -abs(values) if name.endswith("ssm_a") else values
        writer.add_tensor(name, gguf.quantize(values, stored), raw_dtype=stored)
    finish(writer)
    return path


def begin(path: Path, architecture: str, *, adds_bos: bool = True) -> gguf.GGUFWriter:
    """A file with its metadata, to which tensors can be added."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    _METADATA.get(architecture, _add_llama)(writer)
    if architecture != "gpt2":
        _add_tokens(writer, adds_bos)
    return writer


def finish(writer: gguf.GGUFWriter) -> None:
    """Write all that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_sparse(path: Path, vocabulary: int) -> Path:
    """A model of no layers and one very large embedding, all zeros, which take no room on the disk."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_sizes(writer, 4, 2, 128, layers=0)
    writer.add_vocab_size(vocabulary)
    row_bytes = HIDDEN // 32 * 34
    size = vocabulary * row_bytes
    writer.add_tensor_info("token_embd.weight", (vocabulary, row_bytes), np.dtype(np.uint8), size, _Q.Q8_0)
    writer.add_tensor_info("output_norm.weight", (HIDDEN,), np.dtype(np.float32), 4 * HIDDEN, _Q.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size + 8 * HIDDEN)
    return path


def _add_tokens(writer: gguf.GGUFWriter, adds_bos: bool) -> None:
    pieces = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(33, 33 + VOCABULARY - 3))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(index) for index in range(VOCABULARY)])
    writer.add_token_types([2, 3, 3, *(1 for _ in range(VOCABULARY - 3))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(adds_bos)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def _add_sizes(
    writer: gguf.GGUFWriter, heads: int, kv_heads: int | list[int], width: int, layers: int = LAYERS
) -> None:
    writer.add_context_length(128)
    writer.add_block_count(layers)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)


def _add_llama(writer: gguf.GGUFWriter) -> None:
    _add_sizes(writer, 4, 2, 128)
    writer.add_rope_dimension_count(16)


def _add_gemma3(writer: gguf.GGUFWriter) -> None:
    _add_sizes(writer, 4, 2, 128)
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_sliding_window(64)


def _add_qwen3moe(writer: gguf.GGUFWriter) -> None:
    _add_sizes(writer, 4, 2, 128)
    writer.add_key_length(32)
    writer.add_expert_count(3)
    writer.add_expert_used_count(2)


def _add_lfm2(writer: gguf.GGUFWriter) -> None:
    _add_sizes(writer, 4, [0, 2], 128)
    writer.add_shortconv_l_cache(3)


def _add_qwen35(writer: gguf.GGUFWriter) -> None:
    _add_sizes(writer, 4, 2, 128)
    writer.add_key_length(16)
    writer.add_full_attention_interval(2)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_state_size(16)
    writer.add_ssm_group_count(2)
    writer.add_ssm_time_step_rank(4)
    writer.add_ssm_inner_size(64)
    writer.add_rope_dimension_count(16)
    writer.add_rope_dimension_sections([2, 3, 3, 0])


def _add_gpt2(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(1024)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(4 * HIDDEN)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-5)
    writer.add_uint32("gpt2.vocab_size", 50257)


_METADATA = {
    "llama": _add_llama,
    "gemma3": _add_gemma3,
    "qwen3moe": _add_qwen3moe,
    "lfm2": _add_lfm2,
    "qwen35": _add_qwen35,
    "gpt2": _add_gpt2,
}


def shapes_of(architecture: str, tied: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of one of the models, slowest dimension first."""
    vocabulary = 50257 if architecture == "gpt2" else VOCABULARY
    yield "token_embd.weight", (vocabulary, HIDDEN)
    if not tied:
        yield "output.weight", (vocabulary, HIDDEN)
    yield from _OUTER.get(architecture, {"output_norm.weight": (HIDDEN,)}).items()
    for layer in range(LAYERS):
        shapes = _MIXED[architecture](layer) if architecture in _MIXED else _LAYERS[architecture]
        for name, shape in shapes.items():
            yield f"blk.{layer}.{name}", shape


def _attention(head: int) -> Shapes:
    return {
        "attn_norm.weight": (HIDDEN,),
        "attn_q.weight": (4 * head, HIDDEN),
        "attn_k.weight": (2 * head, HIDDEN),
        "attn_v.weight": (2 * head, HIDDEN),
        "attn_output.weight": (HIDDEN, 4 * head),
    }


_MLP: Shapes = {
    "ffn_norm.weight": (HIDDEN,),
    "ffn_gate.weight": (128, HIDDEN),
    "ffn_up.weight": (128, HIDDEN),
    "ffn_down.weight": (HIDDEN, 128),
}


def _head_norms(head: int) -> Shapes:
    return {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}


def _lfm2_layer(layer: int) -> Shapes:
    if layer == 1:
        return _attention(16) | _head_norms(16) | _MLP
    convolution = {
        "attn_norm.weight": (HIDDEN,),
        "shortconv.conv.weight": (HIDDEN, 3),
        "shortconv.in_proj.weight": (3 * HIDDEN, HIDDEN),
        "shortconv.out_proj.weight": (HIDDEN, HIDDEN),
    }
    return convolution | _MLP


def _qwen35_layer(layer: int) -> Shapes:
    mlp = {name: shape for name, shape in _MLP.items() if name != "ffn_norm.weight"}
    mlp["post_attention_norm.weight"] = (HIDDEN,)
    if layer == 1:
        # The query's rows are followed by those of its gate.
        return _attention(16) | {"attn_q.weight": (8 * 16, HIDDEN)} | _head_norms(16) | mlp
    recurrence = {
        "attn_norm.weight": (HIDDEN,),
        "attn_qkv.weight": (128, HIDDEN),
        "attn_gate.weight": (64, HIDDEN),
        "ssm_alpha.weight": (4, HIDDEN),
        "ssm_beta.weight": (4, HIDDEN),
        "ssm_conv1d.weight": (128, 4),
        "ssm_norm.weight": (16,),
        "ssm_out.weight": (HIDDEN, 64),
        "ssm_a": (4,),
        "ssm_dt.bias": (4,),
    }
    return recurrence | mlp


_MIXED = {"lfm2": _lfm2_layer, "qwen35": _qwen35_layer}


def _with_biases(shapes: Shapes) -> Shapes:
    biases = {name.replace(".weight", ".bias"): shape[:1] for name, shape in shapes.items()}
    return dict(shapes) | biases


_OUTER: Mapping[str, Shapes] = {
    "lfm2": {"token_embd_norm.weight": (HIDDEN,)},
    "gpt2": {"position_embd.weight": (1024, HIDDEN), "output_norm.weight": (HIDDEN,), "output_norm.bias": (HIDDEN,)},
}

_LAYERS: Mapping[str, Shapes] = {
    "llama": _attention(16) | _MLP,
    "gemma3": _attention(32)
    | _head_norms(32)
    | _MLP
    | {"post_attention_norm.weight": (HIDDEN,), "post_ffw_norm.weight": (HIDDEN,)},
    # transformers' tables leave the experts' width at its default, 768.
    "qwen3moe": _attention(32)
    | _head_norms(32)
    | {
        "ffn_norm.weight": (HIDDEN,),
        "ffn_gate_inp.weight": (3, HIDDEN),
        "ffn_gate_exps.weight": (3, 768, HIDDEN),
        "ffn_up_exps.weight": (3, 768, HIDDEN),
        "ffn_down_exps.weight": (3, HIDDEN, 768),
    },
    "gpt2": _with_biases(
        {
            "attn_norm.weight": (HIDDEN,),
            "ffn_norm.weight": (HIDDEN,),
            "attn_qkv.weight": (3 * HIDDEN, HIDDEN),
            "attn_output.weight": (HIDDEN, HIDDEN),
            "ffn_up.weight": (4 * HIDDEN, HIDDEN),
            "ffn_down.weight": (HIDDEN, 4 * HIDDEN),
        }
    ),
}
