"""Small checkpoints for tests, built from bytes and not by the code under test."""

import json
import os
import random
from pathlib import Path

from sllm_store.dtypes import DTYPES


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict:
    """A tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def write_safetensors(path: Path, members: dict, data: bytes, text: bytes | None = None) -> Path:
    """A file with this header and this data, valid or not. `text` overrides the header's JSON."""
    text = json.dumps(members).encode() if text is None else text
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def evict(folder: Path) -> None:
    """Put the folder's files out of the page cache, so that the next load reads the drive."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def every_dtype(seed: int = 1) -> tuple[dict, bytes]:
    """Header members and data: a tensor of every dtype, scalars, empty ones, odd sizes."""
    random_bytes = random.Random(seed).randbytes
    members: dict = {"__metadata__": {"format": "pt"}}
    data = b""
    for dtype in DTYPES.values():
        for label, shape in {"matrix": [3, 16], "empty": [0, 8], "scalar": []}.items():
            count = 48 if label == "matrix" else int(label == "scalar")
            if count * dtype.bits % 8:
                continue
            part = bytes(count) if dtype.name == "BOOL" else random_bytes(count * dtype.bits // 8)
            members[f"{dtype.name}.{label}"] = entry(dtype.name, shape, len(data), len(data) + len(part))
            data += part
    return members, data
