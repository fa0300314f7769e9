"""`load_into`: every byte into tensors that are there, whatever their strides, or an error before one is read."""

import pytest
import torch

import sllm_store
from sllm_store import load_into
from sllm_store.errors import CorruptCheckpointError, InvalidArgumentError


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"cube": (3, 40, 50), "w": (300, 1031), "bias": (1031,), "scalar": (), "none": (0, 4)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(params=["converted", "plain"])
def folder(request, tmp_path):
    if request.param == "converted":
        sllm_store.save_tensors(weights(), tmp_path / "it")
    else:
        from safetensors.torch import save_file

        (tmp_path / "it").mkdir()
        save_file(weights(), tmp_path / "it" / "model.safetensors")
    return tmp_path / "it"


def strided(tensor: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Zeros of the tensor's shape that lie as `kind` says, and all the memory that they lie in."""
    if kind == "dense" or tensor.dim() < 2:
        made = torch.zeros_like(tensor)
        return made, made
    if kind == "transposed":
        whole = torch.zeros(tuple(reversed(tensor.shape)))
        return whole.permute(*reversed(range(tensor.dim()))), whole
    whole = torch.zeros([size + 3 for size in tensor.shape])
    if kind == "columns":
        return whole[tuple(slice(1, size + 1) for size in tensor.shape)], whole
    whole = torch.zeros([2 * size for size in tensor.shape])
    return whole[tuple(slice(None, None, 2) for _ in tensor.shape)], whole


@pytest.mark.parametrize("kind", ["dense", "columns", "transposed", "every other"])
def test_tensors_of_any_strides_are_filled_and_nothing_beside_them(folder, kind):
    made = {name: strided(tensor, kind) for name, tensor in weights().items()}
    reports = []
    load_into({name: tensor for name, (tensor, _) in made.items()}, folder, on_report=reports.append)
    for name, expected in weights().items():
        tensor, whole = made[name]
        assert torch.equal(tensor, expected), name
        assert whole.count_nonzero() == expected.count_nonzero(), name
    assert reports[0].verified == (folder / "sllm.json").exists()


def test_a_module_is_filled_in_place(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7))
    other = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7))
    other[1].running_mean.fill_(3)
    sllm_store.save_model(other, tmp_path / "it")
    pointers = [parameter.data_ptr() for parameter in module.parameters()]
    load_into(module, tmp_path / "it")
    assert [parameter.data_ptr() for parameter in module.parameters()] == pointers
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in module.state_dict().items())


def test_tied_names_are_filled_once_where_they_share_memory_and_each_where_they_do_not(tmp_path):
    weight = torch.randn(20, 30)
    sllm_store.save_tensors({"embed": weight, "head": weight}, tmp_path / "it")
    shared = torch.zeros(20, 30)
    load_into({"embed": shared, "head": shared}, tmp_path / "it")
    assert torch.equal(shared, weight)
    apart = {"embed": torch.zeros(20, 30), "head": torch.zeros(20, 30)}
    load_into(apart, tmp_path / "it")
    assert torch.equal(apart["embed"], weight)
    assert torch.equal(apart["head"], weight)
    alone = torch.zeros(20, 30)
    load_into({"head": alone}, tmp_path / "it")
    assert torch.equal(alone, weight)


def test_what_does_not_fit_is_named_before_a_byte_is_read(folder):
    made = {name: torch.zeros_like(tensor) for name, tensor in weights().items()}
    for spoiled, text in [
        ({**made, "w": torch.zeros(1031, 300)}, r"tensor w is F32 \[300, 1031\] in the checkpoint, not torch.float32"),
        ({**made, "bias": torch.zeros(1031).half()}, "not torch.float16"),
        ({**made, "extra": torch.zeros(1)}, "has no tensors .'extra'."),
        ({"w": made["w"]}, "nothing is there to fill for tensors .'bias'"),
        ({**made, "w": torch.zeros(1031).expand(300, 1031)}, "rows"),
    ]:
        with pytest.raises(InvalidArgumentError, match=text):
            load_into(spoiled, folder)
    assert not any(tensor.count_nonzero() for tensor in made.values())
    load_into({"w": made["w"], "extra": torch.zeros(1)}, folder, strict=False)
    assert torch.equal(made["w"], weights()["w"])


def test_damage_is_an_error(tmp_path):
    sllm_store.save_tensors(weights(), tmp_path / "it")
    path = tmp_path / "it" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="crc32c"):
        load_into({name: torch.zeros_like(tensor) for name, tensor in weights().items()}, tmp_path / "it")
