"""What transformers knows of a GGUF: the model it holds, what its tensors are called there, and what became of them.

transformers has two sets of tables. The older names tensors by the gguf package's lists and has processors that
work on values; the newer, for the few architectures that it lists, has the rules that rename and convert any
checkpoint. Both are used as they are, so a tensor is named and changed here exactly as `from_pretrained(gguf_file=)`
would; only the order of the work differs.
"""

import math
import re
from collections.abc import Mapping
from itertools import permutations
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from sllm_store.errors import UnsupportedError
from sllm_store.sources.gguf_header import GgufHeader
from sllm_store.sources.gguf_values import Array, Convert

# Tensors that llama.cpp wants and that transformers computes from the config.
_COMPUTED: Final = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd\.weight")
_EXPERTS: Final = re.compile(r"(.*\.ffn_(?:gate|up|down)_exps)\.weight")
_EXPERT_SIZES: Final = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
# The only values that Llama 3.1 and its successors were published with.
_LLAMA3_ROPE: Final = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


class Model(NamedTuple):
    """The model of a GGUF file, without weights.

    `shapes` has its stored parameters in their order, `tied` names that share another's bytes, `origins` the GGUF
    tensors of each parameter (two where experts' gate and up are merged). `convert` undoes, for one GGUF tensor,
    what llama.cpp's converter did to its values. `skeleton` is the model itself, on torch's meta device.
    """

    skeleton: Any
    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    origins: Mapping[str, tuple[str, ...]]
    convert: Convert


class _Tables(NamedTuple):
    skeleton: Any
    names: Mapping[str, str]
    convert: Convert


def find_model(header: GgufHeader) -> Model:
    """Say which model a GGUF file holds. Raises UnsupportedError, naming what transformers' tables lack."""
    tables = _newer_tables(header) if _has_newer_tables(header.architecture) else _older_tables(header)
    state = tables.skeleton.state_dict(keep_vars=True)
    origins: dict[str, tuple[str, ...]] = {}
    for tensor in header.names():
        name = tables.names.get(tensor, "")
        if name in state:
            origins[name] = _joined(header, *origins.get(name, ()), tensor)
        elif not _is_left_out(tensor, name, tables.skeleton):
            raise UnsupportedError(f"{header.path} has {tensor}, which {_class_name(tables)} has not")
    stored = {id(state[name]): name for name in origins}
    absent = [name for name in state if name not in origins]
    tied = {name: stored[id(state[name])] for name in absent if id(state[name]) in stored}
    for name in absent:
        if name not in tied:
            raise UnsupportedError(f"{header.path} has no tensor for {name} of {_class_name(tables)}")
    shapes = {name: tuple(state[name].shape) for name in state if name in origins}
    return Model(tables.skeleton, shapes, tied, origins, tables.convert)


def _class_name(tables: _Tables) -> str:
    return type(tables.skeleton).__name__


def _joined(header: GgufHeader, *names: str) -> tuple[str, ...]:
    """The tensors of one parameter in their order; only experts' gate and up make one together."""
    if len(names) == 1:
        return names
    for gate, up in permutations(names):
        if "ffn_gate_exps" in gate and "ffn_up_exps" in up:
            return gate, up
    raise UnsupportedError(f"{header.path} has {' and '.join(names)} for one tensor of its model")


def _is_left_out(tensor: str, name: str, skeleton: Any) -> bool:
    unexpected = getattr(skeleton, "_keys_to_ignore_on_load_unexpected", None) or ()
    return bool(_COMPUTED.fullmatch(tensor)) or any(re.search(pattern, name) for pattern in unexpected)


def _skeleton(header: GgufHeader, config: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    config = {key: value for key, value in config.items() if key != "_model_name_or_path"}
    made = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    if type(made) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedError(f"{header.path} is of architecture {header.architecture}, which is no causal LM")
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(made)


def _older_tables(header: GgufHeader) -> _Tables:
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
        load_gguf_checkpoint,
    )

    try:
        with header.bare_copy() as path:
            config = load_gguf_checkpoint(str(path), return_tensors=False)["config"]
        processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config)
        _restore_sizes(header, config)
        _restore_rope(header, config)
        skeleton = _skeleton(header, config)
        found: dict[str, str] = get_gguf_hf_weights_map(skeleton, processor)
    except UnsupportedError:
        raise
    except (ValueError, KeyError, NotImplementedError, AttributeError) as error:
        raise _unknown(header, error) from error

    def convert(name: str, values: Array) -> Array:
        with np.errstate(all="ignore"):
            # Without a key mapping, processors of experts leave merging to us.
            result = processor.process(
                weights=values, name=name, tensor_key_mapping=None, parsed_parameters={"tensors": {}}
            )
        converted: Array = result.weights
        return converted

    # A parameter of experts has no suffix there, so the map knows their tensors without one.
    keys = {name: name if name in found else _EXPERTS.sub(r"\1", name) for name in header.names()}
    return _Tables(skeleton, {name: found[key] for name, key in keys.items() if key in found}, convert)


def _unknown(header: GgufHeader, error: Exception) -> UnsupportedError:
    return UnsupportedError(
        f"{header.path} is of architecture {header.architecture}, which transformers cannot convert: {error}"
    )


def _has_newer_tables(architecture: str) -> bool:
    try:
        from transformers.integrations.gguf import is_gguf_arch_supported
    except ImportError:
        return False
    return bool(is_gguf_arch_supported(architecture))


def _newer_tables(header: GgufHeader) -> _Tables:
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    from transformers.integrations.gguf import (
        get_gguf_config,
        get_gguf_conversion_mapping,
        read_gguf_metadata,
    )

    try:
        skeleton = _skeleton(header, get_gguf_config(*read_gguf_metadata(str(header.path))))
        mapping = get_gguf_conversion_mapping(header.architecture, skeleton.config)
    except (ValueError, KeyError, AttributeError) as error:
        raise _unknown(header, error) from error
    renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    renamed = {name: rename_source_key(name, renamings, converters) for name in header.names()}

    def convert(name: str, values: Array) -> Array:
        found, pattern = renamed[name]
        rule = by_pattern.get(pattern)
        tensor = torch.from_numpy(values)
        # A rule of two sources only joins them, which is done as they are read.
        for operation in rule.operations if rule and len(rule.source_patterns) == 1 else ():
            (tensor,) = operation.convert({pattern: [tensor]}, [pattern], [found]).values()
        converted: Array = tensor.numpy()
        return converted

    return _Tables(skeleton, {name: found for name, (found, _) in renamed.items()}, convert)


def _restore_sizes(header: GgufHeader, config: dict[str, Any]) -> None:
    """Put back what the bare copy lacks, and what transformers' tables leave at the default of one checkpoint."""
    if "tokenizer.ggml.tokens" in header.metadata:
        config.setdefault("vocab_size", header.metadata["tokenizer.ggml.tokens"])
    for key, name in _EXPERT_SIZES.items():
        if size := header.metadata.get(f"{header.architecture}.{key}"):
            config.setdefault(name, size)


def _restore_rope(header: GgufHeader, config: dict[str, Any]) -> None:
    """Put back into the config what llama.cpp keeps as a tensor: how Llama 3.1 stretches its long wavelengths.

    transformers' tables drop it, and the model then answers long prompts wrongly. Factors that do not follow from
    the published parameters cannot be expressed, and are refused.
    """
    tensor = next((tensor for tensor in header.tensors if tensor.name == "rope_freqs.weight"), None)
    if tensor is None or tensor.kind != 0:
        return
    factors = np.fromfile(header.path, "<f4", tensor.shape[-1], offset=tensor.offset)
    # Published factors are short numbers; the file has them in float32, through a reciprocal.
    factor = round(float(factors.max()), 3)
    if factor == 1.0:
        return
    base = float(config.get("rope_theta", 10000.0))
    if not np.allclose(factors, _llama3_factors(base, len(factors), factor), rtol=1e-4):
        raise UnsupportedError(f"rope_freqs.weight of {header.path} follows no rule that transformers has")
    config["rope_parameters"] = {"rope_type": "llama3", "rope_theta": base, "factor": factor, **_LLAMA3_ROPE}


def _llama3_factors(base: float, count: int, factor: float) -> Array:
    wavelengths = 2 * math.pi * base ** (np.arange(count) / count)
    low, high = _LLAMA3_ROPE["low_freq_factor"], _LLAMA3_ROPE["high_freq_factor"]
    turns = _LLAMA3_ROPE["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: Array = 1 / ((1 - smooth) / factor + smooth)
    return factors
