"""Safetensors as a source: a folder of them, one file, or a checkpoint that is already converted.

Bytes are copied as they are, so every dtype works and torch is not needed. Where the source has a manifest, each
span of it is checked as it is read.
"""

import math
from functools import partial
from pathlib import Path

from sllm_store.checkpoint import Checkpoint, Location, Partition, open_checkpoint
from sllm_store.dtypes import DTYPES
from sllm_store.sources.base import SLICE_BYTES, Source, SourceTensor
from sllm_store.sources.files import SourceFile
from sllm_store.sources.folder import Beside, look_beside, stem_of


def open_safetensors(path: Path) -> Source:
    """The tensors of a safetensors file or folder, in the order of their files and bytes.

    Of a single file nothing else is taken: what lies beside it may be another model's.
    """
    checkpoint = open_checkpoint(path)
    files = [_source_file(partition) for partition in checkpoint.partitions]
    tensors = tuple(_source_tensor(files[location.partition], location) for location in checkpoint.tensors.values())
    weights = frozenset(partition.path.name for partition in checkpoint.partitions)
    beside = look_beside(path, weights) if path.is_dir() else Beside()
    stem = stem_of(checkpoint.partitions[0].path.name)
    return Source(tensors, checkpoint.tied, _metadata(checkpoint), beside.companions, beside.code, stem=stem)


def slice_bytes(dtype: str) -> int:
    """The largest slice that holds whole elements of `dtype` and whole bytes."""
    unit = math.lcm(DTYPES[dtype].bits, 8) // 8
    return SLICE_BYTES // unit * unit


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What all files of the source say alike: with several, the rest may be about one of them only."""
    first, *others = (partition.header.metadata for partition in checkpoint.partitions)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _source_tensor(file: SourceFile, location: Location) -> SourceTensor:
    tensor = location.tensor
    slices = partial(file.slices, location.offset, tensor.nbytes, slice_bytes(tensor.dtype))
    return SourceTensor(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, slices)


def _source_file(partition: Partition) -> SourceFile:
    crcs = partition.proof.span_crcs() if partition.proof else None
    return SourceFile(partition.path, partition.size, crcs)
