"""The loaders that are compared: how each is prepared, and what is timed.

`prepare` imports all that the loader needs and returns the function whose run is timed; a setting of the knob, where
there is one, is applied there. Each returns its tensors by name, in memory that stays valid, as its documentation
says that tensors are kept:

- torch.load: the pickle's tensors own their storages, or view the mapped file with mmap=True.
- safetensors: `load_file` returns views of the mapped file; its clones own their bytes, and so do those of
  `backend="pread"`, since 0.8.
- transformers: a model; what is compared is its state dict.
- runai-model-streamer 0.17: yielded tensors belong to the caller (`owned=True`, the default) and are views of ring
  slots that are not used again. RUNAI_STREAMER_CONCURRENCY sets the reads in flight, 64 by default.
- fastsafetensors 0.5: tensors share ownership of the buffer and outlive `close()`. `max_threads` is 16 by default.
- tensorizer 2.12: one buffer a tensor, of its own. `num_readers` is 8 by default for a local file.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from compared_files import Files

Tensors = Mapping[str, Any]
Load = Callable[[], tuple[Tensors, dict[str, Any] | None]]


@dataclass(frozen=True)
class Loader:
    """One loader. `owns`: "yes" where the tensors' bytes are the process's own, "mapped" where they are the file's.

    knob, settings: what sets its concurrency, and the values that are swept. reads: which of Files it reads.
    prepare: called with the files and the setting (None for the loader's default). holds_memory: what it allocates
    in `prepare` is what the tensors lie in.
    """

    name: str
    owns: str
    prepare: Callable[[Files, int | None], Load]
    package: str = "sllm"
    reads: str = "safetensors"
    knob: str = "none"
    settings: tuple[int, ...] = ()
    is_for_models: bool = False
    holds_memory: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is the one that this project makes."""
        return self.package == "sllm"


def _ours(memory: str, *, verify: bool = True) -> Callable[[Files, int | None], Load]:
    def prepare(files: Files, setting: int | None) -> Load:
        import torch  # noqa: F401

        from sllm_store.loading import load_tensors

        target = _filled_buffer(files) if memory == "reused" else memory

        def load() -> tuple[Tensors, dict[str, Any]]:
            reports: list[Any] = []
            tensors = load_tensors(files.folder, memory=target, verify=verify, on_report=reports.append)
            return tensors, reports[0].as_dict()

        return load

    return prepare


def _filled_buffer(files: Files) -> Any:
    from sllm_store import HostBuffer, load_tensors, open_checkpoint
    from sllm_store.plan import make_plan

    checkpoint = open_checkpoint(files.folder)
    buffer = HostBuffer(make_plan(checkpoint, checkpoint.names()).target_bytes[0])
    load_tensors(files.folder, memory=buffer)
    return buffer


def _our_model(files: Files, setting: int | None) -> Load:
    _import_model_class(files)
    from sllm_store.transformers import load_model

    def load() -> tuple[Tensors, dict[str, Any]]:
        reports: list[Any] = []
        model = load_model(files.folder, on_report=reports.append)
        return model.state_dict(), reports[0].as_dict()

    return load


def _from_pretrained(files: Files, setting: int | None) -> Load:
    model_class = _import_model_class(files)
    return lambda: (model_class.from_pretrained(files.folder, dtype="auto").state_dict(), None)


def _import_model_class(files: Files) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(files.folder)
    return getattr(transformers, config.architectures[0])


def _torch_load(*, mmap: bool) -> Callable[[Files, int | None], Load]:
    def prepare(files: Files, setting: int | None) -> Load:
        import torch

        return lambda: (torch.load(files.pt, weights_only=True, mmap=mmap), None)

    return prepare


def _load_file(**options: str) -> Callable[[Files, int | None], Load]:
    def prepare(files: Files, setting: int | None) -> Load:
        from safetensors.torch import load_file

        return lambda: (load_file(files.safetensors, **options), None)

    return prepare


def _copied_out(files: Files, setting: int | None) -> Load:
    from safetensors import safe_open

    def load() -> tuple[Tensors, None]:
        with safe_open(files.safetensors, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, None  # noqa: SIM118

    return load


def _runai(files: Files, setting: int | None) -> Load:
    if setting is not None:
        os.environ["RUNAI_STREAMER_CONCURRENCY"] = str(setting)
    from runai_model_streamer import SafetensorsStreamer

    def load() -> tuple[Tensors, None]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_file(files.safetensors)
            return dict(streamer.get_tensors()), None

    return load


def _fastsafetensors(files: Files, setting: int | None) -> Load:
    from fastsafetensors import SafeTensorsFileLoader

    options = {} if setting is None else {"max_threads": setting}

    def load() -> tuple[Tensors, None]:
        loader = SafeTensorsFileLoader(None, device="cpu", nogds=True, **options)
        loader.add_filenames({0: [files.safetensors]})
        buffers = loader.copy_files_to_device()
        tensors = {name: buffers.get_tensor(name) for name in loader.get_keys()}
        buffers.close()
        loader.close()
        return tensors, None

    return load


def _tensorizer(files: Files, setting: int | None) -> Load:
    from tensorizer import TensorDeserializer

    def load() -> tuple[Tensors, None]:
        with TensorDeserializer(files.tensors, device="cpu", num_readers=setting) as deserializer:
            return dict(deserializer.items()), None

    return load


_ALL = (
    Loader("own", "yes", _ours("own")),
    Loader("own, no verify", "yes", _ours("own", verify=False)),
    Loader("reused", "yes", _ours("reused"), holds_memory=True),
    Loader("map", "mapped", _ours("map")),
    Loader("map, no verify", "mapped", _ours("map", verify=False)),
    Loader("auto", "either", _ours("auto")),
    Loader("load_model", "yes", _our_model, is_for_models=True),
    Loader("torch.load", "yes", _torch_load(mmap=False), "torch", reads="pt"),
    Loader("torch.load mmap", "mapped", _torch_load(mmap=True), "torch", reads="pt"),
    Loader("safetensors", "mapped", _load_file(), "safetensors"),
    Loader("safetensors, copied", "yes", _copied_out, "safetensors"),
    Loader("safetensors pread", "yes", _load_file(backend="pread"), "safetensors"),
    Loader("from_pretrained", "mapped", _from_pretrained, "transformers", is_for_models=True),
    Loader(
        "runai-model-streamer",
        "yes",
        _runai,
        "runai-model-streamer",
        knob="RUNAI_STREAMER_CONCURRENCY",
        settings=(8, 16, 64),
    ),
    Loader(
        "fastsafetensors",
        "yes",
        _fastsafetensors,
        "fastsafetensors",
        knob="max_threads",
        settings=(4, 8, 16),
    ),
    Loader("tensorizer", "yes", _tensorizer, "tensorizer", reads="tensors", knob="num_readers", settings=(2, 4, 8)),
)
LOADERS = {loader.name: loader for loader in _ALL}


def loaders_for(files: Files) -> list[Loader]:
    """Those that can load this checkpoint: whole models need an architecture."""
    return [loader for loader in _ALL if files.is_model or not loader.is_for_models]
