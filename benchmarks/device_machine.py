"""The device that is measured, and what stands around it."""

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

from device_loaders import is_simulated

from sllm_store import _core

_QUERIED = ("driver_version", "pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current")


def describe_device(device: Any) -> dict[str, Any]:
    """Model, memory, driver, link and torch, as a result is filed under."""
    described = {
        "gpu": "simulated" if is_simulated() else device.model,
        "gpu_bytes": device.total_bytes,
        "gpu_free_bytes": device.free_bytes,
        "crc32c": _core.crc32c_implementation(),
        "torch": _torch_version(),
    }
    return described if is_simulated() else {**described, **_driver(device.uuid)}


def file_system_of(folder: Path) -> str:
    """The type of the file system that a folder lies on, by the longest mount point above it."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [fields for fields in mounts if folder.resolve().is_relative_to(fields[1])]
    return max(above, key=lambda fields: len(fields[1]))[2] if above else "unknown"


def _torch_version() -> str:
    if importlib.util.find_spec("torch") is None:
        return "not installed"
    import torch

    return str(torch.__version__)


def _driver(uuid: str) -> dict[str, str]:
    command = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={','.join(_QUERIED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return {"driver_version": _driver_of_kernel()}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if done.returncode or len(values) != len(_QUERIED):
        return {"driver_version": _driver_of_kernel()}
    return dict(zip((name.replace(".", "_") for name in _QUERIED), values, strict=True))


def _driver_of_kernel() -> str:
    """The first line of the module's own account, or "unknown"."""
    account = Path("/proc/driver/nvidia/version")
    return account.read_text().splitlines()[0] if account.exists() else "unknown"
