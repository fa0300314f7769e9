"""Load large language models at the speed of the slowest link between their bytes and the device."""

from importlib import import_module
from typing import TYPE_CHECKING

from sllm_store import errors

if TYPE_CHECKING:
    from sllm_store._core import HostBuffer
    from sllm_store._version import __version__
    from sllm_store.checkpoint import Checkpoint, open_checkpoint
    from sllm_store.converting import ConvertReport, convert, save_model, save_tensors
    from sllm_store.filling import load_into
    from sllm_store.loading import load_tensors
    from sllm_store.platform_probe import Feature, PlatformReport, probe_platform
    from sllm_store.report import LoadReport
    from sllm_store.tensor import Tensor
    from sllm_store.transformers import load_model

# Imported on first use: importing this package costs milliseconds and never imports torch.
_EXPORTS = {
    "__version__": "_version",
    "Checkpoint": "checkpoint",
    "ConvertReport": "converting",
    "Feature": "platform_probe",
    "HostBuffer": "_core",
    "LoadReport": "report",
    "PlatformReport": "platform_probe",
    "Tensor": "tensor",
    "convert": "converting",
    "load_into": "filling",
    "load_model": "transformers",
    "load_tensors": "loading",
    "open_checkpoint": "checkpoint",
    "probe_platform": "platform_probe",
    "save_model": "converting",
    "save_tensors": "converting",
}

__all__ = [
    "Checkpoint",
    "ConvertReport",
    "Feature",
    "HostBuffer",
    "LoadReport",
    "PlatformReport",
    "Tensor",
    "__version__",
    "convert",
    "errors",
    "load_into",
    "load_model",
    "load_tensors",
    "open_checkpoint",
    "probe_platform",
    "save_model",
    "save_tensors",
]


def __getattr__(name: str) -> object:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return __all__
