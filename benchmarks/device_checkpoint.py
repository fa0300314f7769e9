"""The checkpoint that is loaded onto a device: as large as the machine allows, with the digests of what was written."""

import json
import mmap
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import device_digests
from measuring import forget
from synthetic import LLAMAS, Llama

from sllm_store import convert
from sllm_store.header import StoredTensor, encode_header, tensor_nbytes

_MIB = 1 << 20
_PART_BYTES = 16 * _MIB
_PROBE_BYTES = 256 * _MIB
_MOST_BYTES = 8 << 30
# Written twice, as safetensors and as the checkpoint, and read once in between.
_MAKING_S = 12.0
_READING_S = 4.0


@dataclass(frozen=True)
class DeviceFiles:
    """A checkpoint: its folder and only file, the digests of its tensors, and which of them loads are checked by."""

    folder: str
    safetensors: str
    digests: str
    digest_kind: str
    nbytes: int
    tensors: int

    @property
    def path(self) -> Path:
        """Of its file."""
        return Path(self.safetensors)

    def reference(self) -> dict[str, int]:
        """The right digest of each tensor."""
        found: dict[str, int] = json.loads(Path(self.digests).read_text())[self.digest_kind]
        return found

    def as_dict(self) -> dict[str, object]:
        """All fields, for another process."""
        return asdict(self)


@dataclass(frozen=True)
class Room:
    """What there is of everything that a checkpoint's size depends on."""

    device_free_bytes: int
    host_available_bytes: int
    disk_free_bytes: int
    write_bytes_per_s: float
    read_bytes_per_s: float

    def as_dict(self) -> dict[str, object]:
        """All fields, for JSON."""
        return asdict(self)

    def checkpoint_bytes(self) -> int:
        """A third of the device, since loaders hold two copies for a while; a quarter of memory and of the disk; no
        more than is made, and read, in the time for it."""
        return int(
            min(
                _MOST_BYTES,
                self.device_free_bytes / 3,
                self.host_available_bytes / 4,
                self.disk_free_bytes / 4,
                self.write_bytes_per_s * _MAKING_S / 2,
                self.read_bytes_per_s * _READING_S,
            )
        )


def look_around(folder: Path, device_free_bytes: int) -> Room:
    """Measure the room, the drive's speed by one small file that is written, synced and read around the page cache."""
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    write_s, read_s = _probe(folder / "probe")
    return Room(
        device_free_bytes,
        int(available.split()[1]) * 1024,
        shutil.disk_usage(folder).free,
        _PROBE_BYTES / write_s,
        _PROBE_BYTES / read_s,
    )


def llama_of(nbytes: int) -> Llama:
    """A llama of about that size, of one layer at least."""
    one, two = (sum(tensor_nbytes("BF16", shape) for shape in Llama(n).shapes().values()) for n in (1, 2))
    return Llama(1 + max(0, nbytes - one) // (two - one))


def make_checkpoint(folder: Path, llama: Llama | None, *, with_lanes: bool) -> DeviceFiles:
    """Write random tensors, note their digests and convert them; a tiny llama where none is given."""
    shapes = (llama or LLAMAS["tiny"]).shapes()
    plain, converted, noted = folder / "plain", folder / "checkpoint", folder / "digests.json"
    plain.mkdir(parents=True)
    digests = _write(plain / "model.safetensors", shapes, with_lanes=with_lanes)
    noted.write_text(json.dumps(digests))
    convert(plain, converted)
    shutil.rmtree(plain)
    (path,) = converted.glob("*.safetensors")
    forget([path])
    kind = "lanes" if with_lanes else "crc32c"
    total = sum(tensor_nbytes("BF16", shape) for shape in shapes.values())
    return DeviceFiles(str(converted), str(path), str(noted), kind, total, len(shapes))


def _write(path: Path, shapes: dict[str, tuple[int, ...]], *, with_lanes: bool) -> dict[str, dict[str, int]]:
    """Digests by kind and name, of the bytes as they were before they were written."""
    tensors, start = [], 0
    for name, shape in shapes.items():
        tensors.append(StoredTensor(name, "BF16", shape, start, tensor_nbytes("BF16", shape)))
        start += tensors[-1].nbytes
    digests: dict[str, dict[str, int]] = {}
    with path.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as executor:
        file.write(encode_header(tensors, {"format": "pt"}))
        for tensor in tensors:
            data = _random_bytes(tensor.nbytes, executor)
            file.write(data)
            for kind, digest in device_digests.of_host_bytes(data, with_lanes=with_lanes).items():
                digests.setdefault(kind, {})[tensor.name] = digest
    return digests


def _random_bytes(nbytes: int, executor: ThreadPoolExecutor) -> bytearray:
    sizes = [min(_PART_BYTES, nbytes - start) for start in range(0, nbytes, _PART_BYTES)]
    return bytearray().join(executor.map(os.urandom, sizes))


def _probe(path: Path) -> tuple[float, float]:
    """Seconds to write and to read the small file."""
    block: Any = mmap.mmap(-1, _PART_BYTES)
    block.write(os.urandom(_PART_BYTES))
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(_PROBE_BYTES // _PART_BYTES):
            file.write(block)
        os.fsync(file.fileno())
    written = time.perf_counter()
    forget([path])
    fd = open_direct(str(path))
    again = time.perf_counter()
    for offset in range(0, _PROBE_BYTES, _PART_BYTES):
        os.preadv(fd, [block], offset)
    done = time.perf_counter()
    os.close(fd)
    path.unlink()
    return written - start, done - again


def open_direct(path: str) -> int:
    """A descriptor for reading around the page cache, where the file system has that."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return os.open(path, os.O_RDONLY)
