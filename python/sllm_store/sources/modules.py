"""A torch module as a source: its state dict, and for a transformers model the files that describe it."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sllm_store.sources.base import Source
from sllm_store.sources.folder import CONFIG_NAME, read_config

if TYPE_CHECKING:
    import torch


def open_module(model: "torch.nn.Module") -> Source:
    """A module's state dict; the files are written for a module that has a config which can."""
    from sllm_store.sources.tensors import open_tensors

    is_described = callable(getattr(getattr(model, "config", None), "save_pretrained", None))
    write_companions = (lambda folder: _describe(model, folder)) if is_described else None
    return open_tensors(_stored_form(model), is_alias=_alias_test(model), write_companions=write_companions)


def _stored_form(model: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """The state dict under the names that checkpoints of the model have.

    transformers merges experts and renames when it loads, and undoes that when it saves; so do we, or no other
    library would find the tensors.
    """
    state_dict: dict[str, torch.Tensor] = model.state_dict()
    if "transformers" not in sys.modules:
        return state_dict
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return state_dict
    from transformers.core_model_loading import revert_weight_conversion

    reverted: dict[str, torch.Tensor] = revert_weight_conversion(model, state_dict)
    return reverted


def _alias_test(model: "torch.nn.Module") -> Callable[[str], bool]:
    """Whether transformers makes a tensor of that name out of another one: it says so in names and patterns."""
    patterns = [*(getattr(model, "_tied_weights_keys", None) or ())]
    exact = {*(getattr(model, "all_tied_weights_keys", None) or ())}
    return lambda name: name in exact or any(re.search(pattern, name) for pattern in patterns)


def _describe(model: "torch.nn.Module", folder: Path) -> None:
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    # save_pretrained of a model sets these two in the config that it is given; ours leaves the model as it is.
    described = {**read_config(folder), "architectures": [type(model).__name__]}
    if dtype := getattr(model, "dtype", None):
        described["dtype"] = str(dtype).removeprefix("torch.")
    text = msgspec.json.format(msgspec.json.encode(described), indent=2)
    (folder / CONFIG_NAME).write_bytes(text + b"\n")
