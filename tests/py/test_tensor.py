"""`Tensor`: what numpy and torch import of it, and what they are refused."""

import numpy as np
import pytest
import torch
from checkpoints import every_dtype, write_safetensors

from sllm_store import Tensor, load_tensors
from sllm_store.errors import UnsupportedError


@pytest.fixture
def loaded(tmp_path):
    members, data = every_dtype()
    path = write_safetensors(tmp_path / "model.safetensors", members, data)
    return load_tensors(path, framework=None), load_tensors(path, raw=True), members


def test_every_tensor_has_the_bytes_and_the_shape_of_the_file(loaded):
    tensors, raw, members = loaded
    assert tensors.keys() == raw.keys()
    for name, tensor in tensors.items():
        assert isinstance(tensor, Tensor)
        assert (tensor.dtype, list(tensor.shape)) == (members[name]["dtype"], members[name]["shape"])
        assert tensor.copy_to_host() == raw[name].numpy().tobytes()
        assert tensor.__dlpack_device__() == (1, 0)


@pytest.mark.parametrize("dtype", ["BOOL", "U8", "I8", "I16", "U16", "F16", "I32", "U32", "F32", "F64", "I64", "U64"])
def test_numpy_imports_what_it_has_and_shares_the_memory(loaded, dtype):
    tensor = loaded[0][f"{dtype}.matrix"]
    array = np.from_dlpack(tensor)
    assert array.shape == tensor.shape
    assert array.tobytes() == tensor.copy_to_host()
    if array.flags.writeable:
        array[0, 0] = not array[0, 0]
        assert array.tobytes() == tensor.copy_to_host()


@pytest.mark.parametrize("dtype", ["BOOL", "F16", "BF16", "F32", "C64", "I64"])
def test_torch_imports_it_with_its_dtype_and_keeps_it_alive(loaded, dtype):
    tensors, raw, _ = loaded
    name = f"{dtype}.matrix"
    imported = torch.from_dlpack(tensors[name])
    tensors.clear()
    assert list(imported.shape) == [3, 16]
    assert imported.view(torch.uint8).flatten().numpy().tobytes() == raw[name].numpy().tobytes()


def test_legacy_consumers_get_a_legacy_capsule(loaded):
    tensor = loaded[0]["F32.matrix"]
    assert '"dltensor"' in repr(tensor.__dlpack__())
    assert '"dltensor_versioned"' in repr(tensor.__dlpack__(max_version=(1, 0)))


def test_what_dlpack_cannot_say_is_refused(loaded):
    tensors = loaded[0]
    with pytest.raises(BufferError, match="F6_E2M3"):
        tensors["F6_E2M3.matrix"].__dlpack__(max_version=(1, 1))
    with pytest.raises(BufferError, match="before version 1.1"):
        tensors["F8_E4M3.matrix"].__dlpack__(max_version=(1, 0))
    assert tensors["F8_E4M3.matrix"].__dlpack__(max_version=(1, 1)) is not None
    with pytest.raises(BufferError, match="no stream"):
        tensors["F32.matrix"].__dlpack__(stream=1)
    with pytest.raises(BufferError, match="never copied"):
        tensors["F32.matrix"].__dlpack__(copy=True)
    with pytest.raises(BufferError, match="not on DLPack's device"):
        tensors["F32.matrix"].__dlpack__(dl_device=(2, 0))


def test_a_framework_that_is_none_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="no tensors for framework 'jax'"):
        load_tensors(tmp_path, framework="jax")
