"""The loaders that are compared on a device: how each is prepared, and what is timed.

`prepare` imports all that the loader needs and returns the function whose run is timed. Each runs at its defaults and
keeps its tensors as its documentation says that tensors are kept:

- safetensors: `load_file` maps the file and copies tensor by tensor. `prefetch`, since 0.9, hands out views of memory
  that it fills in the background.
- runai-model-streamer 0.17: streams to host memory; with `device=` each tensor goes on from there as it arrives.
- fastsafetensors 0.5: one buffer a file, filled through pinned memory (`nogds=True`, since GPUDirect Storage needs a
  driver of its own); tensors outlive `close()`.
- instanttensor 0.2.2: yields copies out of its ring of buffers, which are the caller's.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Load = Callable[[], Mapping[str, Any]]
Prepare = Callable[[str, str, str], Load]


@dataclass(frozen=True)
class DeviceLoader:
    """One loader, of a package; `prepare` is called with the folder, the safetensors file and the device."""

    name: str
    package: str
    prepare: Prepare

    @property
    def is_ours(self) -> bool:
        """Whether it is the one that this project makes."""
        return self.package == "sllm"


def use_site(site: str | None) -> None:
    """Let this process import a loader that was installed into a folder of its own."""
    if site is not None:
        sys.path.insert(0, site)


def version_of(loader: DeviceLoader) -> str:
    """Of its package, as this process imports it."""
    try:
        return version(loader.package)
    except PackageNotFoundError:
        return "unknown"


def is_simulated() -> bool:
    """Whether the driver is not the machine's, so that torch has no part in it."""
    return bool(os.environ.get("SLLM_CUDA_DRIVER"))


def start_device(device: str) -> None:
    """Have the device's context, as a process that computes there has."""
    if is_simulated():
        return
    import torch

    torch.zeros(1, device=device)
    torch.cuda.synchronize()


def finish_device() -> None:
    """Wait for all that the device has to do."""
    if is_simulated():
        return
    import torch

    torch.cuda.synchronize()


def _ours(*, verify: bool) -> Prepare:
    def prepare(folder: str, safetensors: str, device: str) -> Load:
        from sllm_store import load_tensors

        if is_simulated():
            return lambda: load_tensors(folder, device=device, verify=verify, framework=None)
        return lambda: load_tensors(folder, device=device, verify=verify)

    return prepare


def _ours_into(folder: str, safetensors: str, device: str) -> Load:
    import torch

    from sllm_store import load_into, open_checkpoint
    from sllm_store.torch_tensors import torch_dtype

    stored = {name: location.tensor for name, location in open_checkpoint(folder).tensors.items()}
    tensors = {
        name: torch.empty(tensor.shape, dtype=torch_dtype(tensor.dtype), device=device)
        for name, tensor in stored.items()
    }

    def load() -> Mapping[str, Any]:
        load_into(tensors, folder)
        return tensors

    return load


def _load_file(folder: str, safetensors: str, device: str) -> Load:
    from safetensors.torch import load_file

    return lambda: load_file(safetensors, device=device)


def _prefetch(folder: str, safetensors: str, device: str) -> Load:
    from safetensors import safe_open

    if not hasattr(safe_open, "prefetch"):
        raise ImportError("this safetensors has no prefetch, which 0.9 brings")

    def load() -> Mapping[str, Any]:
        with safe_open(safetensors, framework="pt", device=device) as file, file.prefetch() as loader:
            return dict(loader)

    return load


def _runai(folder: str, safetensors: str, device: str) -> Load:
    from runai_model_streamer import SafetensorsStreamer

    def load() -> Mapping[str, Any]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(safetensors, device=device)
            return dict(streamer.get_tensors())

    return load


def _fastsafetensors(folder: str, safetensors: str, device: str) -> Load:
    from fastsafetensors import SafeTensorsFileLoader

    def load() -> Mapping[str, Any]:
        loader = SafeTensorsFileLoader(None, device=device, nogds=True)
        loader.add_filenames({0: [safetensors]})
        buffers = loader.copy_files_to_device()
        tensors = {name: buffers.get_tensor(name) for name in loader.get_keys()}
        buffers.close()
        loader.close()
        return tensors

    return load


def _instanttensor(backend: str) -> Prepare:
    def prepare(folder: str, safetensors: str, device: str) -> Load:
        from instanttensor import Backend, safe_open

        def load() -> Mapping[str, Any]:
            with safe_open(safetensors, framework="pt", device=device, backend=Backend[backend]) as file:
                return dict(file.tensors())

        return load

    return prepare


_ALL = (
    DeviceLoader("load_tensors", "sllm", _ours(verify=True)),
    DeviceLoader("load_tensors, no verify", "sllm", _ours(verify=False)),
    DeviceLoader("load_into", "sllm", _ours_into),
    DeviceLoader("safetensors load_file", "safetensors", _load_file),
    DeviceLoader("safetensors prefetch", "safetensors", _prefetch),
    DeviceLoader("fastsafetensors", "fastsafetensors", _fastsafetensors),
    DeviceLoader("runai-model-streamer", "runai-model-streamer", _runai),
    DeviceLoader("instanttensor io_uring", "instanttensor", _instanttensor("URING")),
    DeviceLoader("instanttensor buffered", "instanttensor", _instanttensor("URING_BUFFERED")),
)
LOADERS = {loader.name: loader for loader in _ALL}
