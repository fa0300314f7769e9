"""What `convert` reads from: a source lists tensors, and streams each one's bytes in slices.

A source opens its files when it is made and holds no tensor's bytes; peak memory is a few slices, whatever the
sizes. Every kind of input (safetensors folder, PyTorch pickle, GGUF, tensors in memory) is one of these.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

SLICE_BYTES: Final = 16 << 20

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor to be written.

    `dtype` is the safetensors name. `slices()` starts anew at each call and yields the tensor's bytes in order,
    in buffers of at most SLICE_BYTES and a whole number of elements; a buffer is valid until the next one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    slices: Callable[[], Iterator[Buffer]]


@dataclass(frozen=True, slots=True)
class Source:
    """All that one conversion takes over.

    `tensors` are in model order, each stored once; `tied` maps further names to the stored one whose bytes they
    share. `metadata` goes into each header's `__metadata__`. `companions` are files to be copied as they are
    (tokenizer, config, chat template), `code` such that are copied only on request (Python, pickles).
    `write_companions`, where there is one, writes files that the source makes itself into a folder. `stem` is what
    Hugging Face calls such weights: model, adapter_model (PEFT) or diffusion_pytorch_model.
    """

    tensors: tuple[SourceTensor, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    companions: tuple[Path, ...] = ()
    code: tuple[Path, ...] = ()
    write_companions: Callable[[Path], None] | None = None
    stem: str = "model"
