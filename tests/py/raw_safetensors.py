"""Safetensors files written and read by hand: an oracle that shares no code with the package."""

import json
import struct
from pathlib import Path
from typing import NamedTuple

BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8}
BITS |= {"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32}
BITS |= {"F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}


class Raw(NamedTuple):
    dtype: str
    shape: list[int]
    data: bytes


def raw(dtype: str, shape: list[int], seed: int = 0) -> Raw:
    """A tensor of bytes that differ from place to place and from seed to seed."""
    count = BITS[dtype]
    for size in shape:
        count *= size
    return Raw(dtype, shape, bytes((seed * 37 + i * 11 + i // 256) % 256 for i in range(count // 8)))


def write(path: Path, tensors: dict[str, Raw], metadata: dict[str, str] | None = None) -> None:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensor.data for tensor in tensors.values()))


def read(path: Path) -> tuple[dict[str, Raw], dict[str, str]]:
    """The tensors of one file in the order of their bytes, and its metadata."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    data = content[8 + length :]
    ordered = sorted(header.items(), key=lambda member: member[1]["data_offsets"])
    return {name: Raw(of["dtype"], of["shape"], data[slice(*of["data_offsets"])]) for name, of in ordered}, metadata


def read_folder(folder: Path) -> dict[str, Raw]:
    found: dict[str, Raw] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors, _ = read(path)
        assert not found.keys() & tensors.keys()
        found |= tensors
    return found


def crc32c(data: bytes) -> int:
    """Bit by bit, from the polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
