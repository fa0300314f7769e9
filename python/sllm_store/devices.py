"""Which device each tensor goes to: names of devices, and device maps.

A device is "cpu", "cuda", "cuda:1", or "cuda:" and a UUID. A device map gives one to each module or tensor by its name,
as accelerate's do: the longest name that a tensor's begins with counts, "" is all of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sllm_store.checkpoint import Checkpoint
from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.plan import Targets

# Anything that names a device in text, a torch.device among them, or a map from names of modules to it.
DeviceChoice = Any


def device_names(choice: DeviceChoice) -> list[str]:
    """Every device that the choice names, each once. Raises UnsupportedError for a kind that nothing loads onto."""
    given = choice.values() if isinstance(choice, Mapping) else [choice]
    names = list(dict.fromkeys(map(_device_name, given)))
    for name in names:
        if name != "cpu" and name.partition(":")[0] != "cuda":
            raise UnsupportedError(f"cannot load onto device {name}: this version loads onto cpu and cuda")
    return names


def choose_targets(checkpoint: Checkpoint, names: Iterable[str], choice: DeviceChoice) -> Targets:
    """The target of each stored tensor. Raises InvalidArgumentError where a map leaves one out, or where tied names
    would lie on two devices."""
    devices = device_names(choice)
    if not isinstance(choice, Mapping):
        return Targets(tuple(devices))
    numbers = {key: devices.index(_device_name(device)) for key, device in choice.items()}
    chosen: dict[str, int] = {}
    for name in names:
        target = numbers[_longest_prefix(name, numbers)]
        stored = checkpoint.locate(name).tensor.name
        if chosen.setdefault(stored, target) != target:
            raise InvalidArgumentError(f"tensor {name} shares its bytes with {stored}, but not its device")
    return Targets(tuple(devices), chosen)


def _device_name(device: object) -> str:
    # A bare number is a GPU's, as in accelerate's maps.
    return f"cuda:{device}" if isinstance(device, int) else str(device)


def _longest_prefix(name: str, prefixes: Mapping[str, int]) -> str:
    candidate = name
    while candidate not in prefixes:
        if not candidate:
            raise InvalidArgumentError(f"the device map names no device for tensor {name}")
        candidate = candidate.rpartition(".")[0]
    return candidate
