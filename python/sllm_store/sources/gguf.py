"""A GGUF file as a source: de-quantised tensor by tensor, in slices, named as transformers names them.

The dtype is what transformers itself gives: float32 where any tensor is quantised (a de-quantised value is a
product and a sum of half-precision scales and integers, which no half type holds exactly), else the half type
that the model was before it became a GGUF, or float32. `--dtype` overrides it.

transformers' loader for GGUF is not used: it holds the whole model several times, and what it returns refuses to
be saved. Its tables are.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sllm_store.errors import CheckpointNotFoundError, InvalidArgumentError, UnsupportedError
from sllm_store.header import tensor_nbytes
from sllm_store.sources.base import Source, SourceTensor

if TYPE_CHECKING:
    from sllm_store.sources.gguf_header import GgufHeader, GgufTensor
    from sllm_store.sources.gguf_tables import Model

_F32, _F16, _BF16 = 0, 1, 30
_TORCH_NAMES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def open_gguf(path: Path) -> Source:
    """Open a `.gguf` file, or a folder with exactly one.

    Raises CheckpointNotFoundError, CorruptCheckpointError, or UnsupportedError where the packages that read GGUF
    are missing or do not know the file's architecture.
    """
    path = _find(path)
    try:
        import gguf  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(f"cannot read {path} without {error.name}; hint: pip install 'sllm[gguf]'") from error
    from sllm_store.sources.gguf_header import read_header
    from sllm_store.sources.gguf_tables import find_model
    from sllm_store.sources.gguf_values import check_kinds

    header = read_header(path)
    check_kinds(header.tensors, path)
    model = find_model(header)
    dtype = _natural_dtype(header)
    return Source(
        tensors=tuple(_open_tensor(header, model, name, dtype) for name in model.shapes),
        tied=model.tied,
        metadata={"format": "pt"},
        write_companions=lambda folder: _write_companions(folder, header, model, dtype),
    )


def _find(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise CheckpointNotFoundError(f"cannot read {path}: no such file or directory")
        return path
    found = sorted(path.glob("*.gguf"))
    if not found:
        raise CheckpointNotFoundError(f"{path} has no .gguf file")
    if len(found) > 1:
        raise InvalidArgumentError(f"{path} has {len(found)} .gguf files; name one of them")
    return found[0]


def _natural_dtype(header: "GgufHeader") -> str:
    kinds = Counter(tensor.kind for tensor in header.tensors)
    if set(kinds) <= {_F32, _F16, _BF16}:
        # llama.cpp keeps norms and the like in float32 whatever the model was in.
        return "BF16" if kinds[_BF16] else "F16" if kinds[_F16] else "F32"
    return "F32"


def _open_tensor(header: "GgufHeader", model: "Model", name: str, dtype: str) -> SourceTensor:
    from sllm_store.sources.gguf_values import Output, stream, stream_merged

    shape = model.shapes[name]
    parts = [tensor for tensor in header.tensors if tensor.name in model.origins[name]]
    parts.sort(key=lambda tensor: model.origins[name].index(tensor.name))
    _check_shape(header, parts, name, shape)
    if len(parts) == 2:
        slices = stream_merged(header.path, (parts[0], parts[1]), dtype)
    else:
        slices = stream(header.path, parts[0], model.convert, Output(shape, dtype))
    return SourceTensor(name, dtype, shape, tensor_nbytes(dtype, shape), slices)


def _check_shape(header: "GgufHeader", parts: "list[GgufTensor]", name: str, shape: tuple[int, ...]) -> None:
    """Padded vocabularies and the like: sizes that differ are a model that we would write wrongly."""
    expected = 1
    for size in shape:
        expected *= size
    elements = sum(part.rows * part.shape[-1] for part in parts)
    experts = {(len(part.shape), part.shape[0], part.shape[-1]) for part in parts}
    if elements != expected or (len(parts) == 2 and experts != {(3, shape[0], shape[-1])}):
        shapes = " and ".join(str(list(part.shape)) for part in parts)
        raise UnsupportedError(f"{parts[0].name} of {header.path} has shape {shapes}, {name} {list(shape)}")


def _write_companions(folder: Path, header: "GgufHeader", model: "Model", dtype: str) -> None:
    """config.json, generation_config.json and the tokenizer, as `save_pretrained` writes them."""
    import torch
    from transformers import GenerationConfig

    config = model.skeleton.config
    config.architectures = [type(model.skeleton).__name__]
    config.dtype = getattr(torch, _TORCH_NAMES[dtype])
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    if "tokenizer.ggml.tokens" in header.metadata:
        _open_tokenizer(header, config).save_pretrained(folder)


def _open_tokenizer(header: "GgufHeader", config: Any) -> Any:
    from transformers import TOKENIZER_MAPPING, PreTrainedTokenizerFast

    # AutoTokenizer would parse the whole vocabulary once more, at hundreds of megabytes, to choose this class.
    kind = TOKENIZER_MAPPING.get(type(config), PreTrainedTokenizerFast)
    try:
        return kind.from_pretrained(str(header.path.parent), gguf_file=header.path.name, local_files_only=True)
    except (ValueError, KeyError) as error:
        raise UnsupportedError(f"transformers cannot make the tokenizer of {header.path}: {error}") from error
