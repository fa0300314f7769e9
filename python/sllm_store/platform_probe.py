"""What this machine offers: each feature is tried, never concluded from a version number.

`sllm-ctl doctor` shows it. Nothing here imports torch, and nothing stays behind: files that are made have no name.
"""

import ctypes
import importlib.metadata
import mmap
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sllm_store import _core
from sllm_store.errors import SllmError

_BLOCK_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Feature:
    """Whether something can be used. `detail` is why not, or what was found."""

    is_usable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class PlatformReport:
    """What loading on this machine can rely on.

    `locked_memory_bytes` is how much this process may pin, None where there is no limit; `torch_version` is None
    where torch is not installed. `direct_io` was tried on the path that the probe was asked about.
    """

    kernel: str
    architecture: str
    locked_memory_bytes: int | None
    io_uring: Feature
    direct_io: Feature
    cuda_driver: Feature
    torch_version: str | None
    crc32c_implementation: str


def probe_platform(path: str | os.PathLike[str] = ".") -> PlatformReport:
    """Try what sllm makes use of; `path` is a folder or a file on the drive that will be read."""
    system = os.uname()
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return PlatformReport(
        kernel=system.release,
        architecture=system.machine,
        locked_memory_bytes=None if limit == resource.RLIM_INFINITY else limit,
        io_uring=_probe_io_uring(),
        direct_io=_probe_direct_io(Path(path)),
        cuda_driver=_probe_cuda_driver(),
        torch_version=_installed_version("torch"),
        crc32c_implementation=_core.crc32c_implementation(),
    )


def _probe_io_uring() -> Feature:
    fd = os.memfd_create("sllm-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, _BLOCK_BYTES)
        _core.probe_queue(_core.QueueKind.URING, fd)
    except SllmError as error:
        return Feature(False, str(error))
    finally:
        os.close(fd)
    return Feature(True, "a block was read through it")


def _probe_direct_io(path: Path) -> Feature:
    try:
        if path.is_dir():
            fd = os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600)
        else:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        return Feature(False, f"cannot open {path} with O_DIRECT: {_reason(error)}")
    try:
        # Some file systems accept the flag and refuse the read, so read a block, page-aligned as they ask.
        with mmap.mmap(-1, _BLOCK_BYTES) as block:
            if path.is_dir():
                os.pwrite(fd, block, 0)
            os.preadv(fd, [block], 0)
    except OSError as error:
        return Feature(False, f"cannot read {path} with O_DIRECT: {_reason(error)}")
    finally:
        os.close(fd)
    return Feature(True, f"a block of {_BLOCK_BYTES} bytes on the drive of {path} was read")


def _probe_cuda_driver() -> Feature:
    name = os.environ.get("SLLM_CUDA_DRIVER", "libcuda.so.1")
    try:
        driver = ctypes.CDLL(name)
        version = ctypes.c_int()
        status = driver.cuDriverGetVersion(ctypes.byref(version))
    except OSError as error:
        return Feature(False, str(error))
    except AttributeError:
        return Feature(False, f"{name} has no cuDriverGetVersion")
    if status != 0:
        return Feature(False, f"{name} answers cuDriverGetVersion with error {status}")
    # The driver encodes 13.0 as 13000 (CUDA driver API, "Version Management").
    return Feature(True, f"{name}, CUDA {version.value // 1000}.{version.value % 1000 // 10}")


def _installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
