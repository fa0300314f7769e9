"""`load_model`: a Hugging Face model, its skeleton built while its bytes are read."""

import os
import time
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllm_store import _core
from sllm_store.checkpoint import Checkpoint, open_checkpoint
from sllm_store.devices import device_names
from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.loading import OnReport
from sllm_store.reading import (
    Loaded,
    LoadRequest,
    Memory,
    Queue,
    Times,
    check_request,
    load_bytes,
    make_report,
)
from sllm_store.torch_tensors import check_dtypes, to_torch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def load_model(
    path: str | os.PathLike[str],
    *,
    device_map: "str | dict[str, Any] | None" = None,
    dtype: "str | torch.dtype | None" = None,
    verify: bool = True,
    memory: Memory = "own",
    queue: Queue = "auto",
    store: str | os.PathLike[str] | None = "auto",
    trust_remote_code: bool = False,
    on_report: OnReport | None = None,
    **kwargs: Any,
) -> "PreTrainedModel":
    """Load the model in a converted or plain Hugging Face folder, in eval mode, ready to generate.

    What comes back equals `from_pretrained(path)` of the class that the config names: transformers itself puts the
    tensors into the modules, so its renamings, tied weights and non-persistent buffers are its own.

    device_map: None or "cpu", or a map of modules to it.
    dtype: as in from_pretrained; the config's by default. Another than the stored one costs a copy.
    verify, memory, queue, store, on_report: as in load_tensors.
    trust_remote_code: run the Python files that the folder brings along.
    kwargs: passed on to from_pretrained, such as `attn_implementation`.

    Raises what load_tensors raises, UnsupportedError where transformers is missing or lacks the architecture.
    """
    start = time.perf_counter()
    request = LoadRequest(None, verify, memory, queue, store=store)
    check_request(request)
    _check_device_map(device_map)
    checkpoint = open_checkpoint(path)
    check_dtypes(checkpoint, checkpoint.names())
    model_class, config = _resolve_class(Path(path), trust_remote_code=trust_remote_code)
    opened = time.perf_counter()
    with _PendingTensors(checkpoint, request) as tensors:
        if dtype is not None:
            kwargs["dtype"] = dtype
        kwargs.setdefault("generation_config", _generation_config(path))
        model: PreTrainedModel = model_class.from_pretrained(
            None, config=config, state_dict=tensors, device_map=device_map, **kwargs
        )
    model.config.name_or_path = model.name_or_path = str(path)
    if on_report is not None:
        end = time.perf_counter()
        times = Times(opened - start, end - tensors.ready_at, end - start, tensors.asked_at - opened)
        on_report(make_report(tensors.loaded, times))
    return model


def _check_device_map(device_map: "str | dict[str, Any] | None") -> None:
    for device in device_names(device_map if device_map is not None else "cpu"):
        if device != "cpu":
            raise UnsupportedError(f"cannot load a model onto device {device}: this version loads tensors there")


def _resolve_class(path: Path, *, trust_remote_code: bool) -> "tuple[type[PreTrainedModel], Any]":
    if not path.is_dir():
        raise InvalidArgumentError(f"{path} is no folder; load_model needs its config.json, load_tensors does not")
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedError("load_model needs transformers; hint: pip install 'sllm[transformers]'") from error
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"{path} has no config that transformers can load: {error}") from error
    names = config.architectures or []
    if not names:
        raise InvalidArgumentError(f"{path}/config.json names no architecture")
    model_class = _custom_class(path, config, names[0]) if trust_remote_code else None
    model_class = model_class or getattr(transformers, names[0], None)
    if model_class is None:
        raise UnsupportedError(f"transformers {transformers.__version__} has no {names[0]}, which {path} needs")
    return model_class, config


def _custom_class(path: Path, config: Any, name: str) -> "type[PreTrainedModel] | None":
    """The class that the folder's own Python files define under this name, if any."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    for reference in getattr(config, "auto_map", {}).values():
        if isinstance(reference, str) and reference.rpartition(".")[2] == name:
            found: type[PreTrainedModel] = get_class_from_dynamic_module(reference, path, local_files_only=True)
            return found
    return None


def _generation_config(path: str | os.PathLike[str]) -> Any:
    """The folder's, or None: then transformers derives one from the model's config."""
    from transformers import GenerationConfig

    if not (Path(path) / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(path, local_files_only=True)


class _PendingTensors(dict[str, Any]):
    """A state dict whose tensors are being read by a thread of its own, started on entry.

    transformers builds the skeleton first and looks into the state dict afterwards: whoever looks waits. Leaving
    the context ends a load that is still running, so that no thread outlives an error or an interruption.
    """

    def __init__(self, checkpoint: Checkpoint, request: LoadRequest) -> None:
        super().__init__()
        self._stop = _core.StopFlag()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sllm-load")
        self._future = self._executor.submit(load_bytes, checkpoint, request, self._stop)
        self._tensors: dict[str, Any] | None = None
        self.asked_at = self.ready_at = 0.0

    @property
    def loaded(self) -> Loaded:
        """The load's outcome; raises what it raised."""
        return self._future.result()

    def __enter__(self) -> "_PendingTensors":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._executor.shutdown()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return self._settled().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return self._settled().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return self._settled().items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._settled())

    def __len__(self) -> int:
        return len(self._settled())

    def __contains__(self, name: object) -> bool:
        return name in self._settled()

    def __getitem__(self, name: str) -> Any:
        return self._settled()[name]

    def _settled(self) -> dict[str, Any]:
        if self._tensors is None:
            self.asked_at = time.perf_counter()
            self._tensors = to_torch(self.loaded, raw=False)
            self.ready_at = time.perf_counter()
        return self._tensors
