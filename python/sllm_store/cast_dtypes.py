"""What floating tensors can be cast to, known without torch."""

from typing import Final

from sllm_store.dtypes import DTYPES
from sllm_store.errors import InvalidArgumentError

CASTABLE: Final = ("F64", "F32", "F16", "BF16")


def castable(dtype: object) -> str:
    """The safetensors name of a dtype to cast to, given as that, as torch's name, or as a `torch.dtype`."""
    given = str(dtype).removeprefix("torch.")
    for name in CASTABLE:
        if given in (name, name.lower(), DTYPES[name].torch_name):
            return name
    raise InvalidArgumentError(f"cannot cast to {given}; hint: one of {', '.join(CASTABLE)}")
