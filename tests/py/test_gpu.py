"""Loading onto a real GPU, beside torch: the same bytes, the same context, and memory that comes back."""

import ctypes
import gc

import pytest
import torch

import sllm_store
from sllm_store import _core, load_into, load_tensors

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

DEVICE = "cuda:0"
ALIGNMENT = 256
MIB = 1 << 20


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {f"model.layers.{n}.w": torch.randn(513, 517, generator=generator) for n in range(4)}
    return {
        **made,
        "model.norm": torch.randn(7, generator=generator),
        "model.half": torch.randn(33, 65, generator=generator).bfloat16(),
        "model.bytes": torch.randint(-128, 127, (1001,), dtype=torch.int8, generator=generator),
        "model.mask": torch.rand(13, generator=generator) > 0.5,
        "model.scale": torch.tensor(0.25),
        "none": torch.empty(0, 3),
    }


@pytest.fixture
def folder(tmp_path):
    sllm_store.save_tensors(weights(), tmp_path / "it", partition_size=2 * MIB)
    return tmp_path / "it"


def test_the_gpu_gets_the_bytes_that_the_cpu_gets(folder):
    on_gpu, on_cpu = load_tensors(folder, device="cuda"), load_tensors(folder)
    assert list(on_gpu) == list(on_cpu)
    for name, tensor in on_gpu.items():
        assert tensor.device == torch.device(DEVICE)
        assert tensor.dtype == on_cpu[name].dtype
        assert torch.equal(tensor.cpu(), on_cpu[name]), name


def test_slots_that_are_used_again_and_again_lose_no_byte(tmp_path):
    generator = torch.Generator().manual_seed(3)
    made = {f"w{n}": torch.randint(256, (100 * MIB,), dtype=torch.uint8, generator=generator) for n in range(7)}
    sllm_store.save_tensors(made, tmp_path / "it")
    reports = []
    tensors = load_tensors(tmp_path / "it", device=DEVICE, on_report=reports.append)
    assert reports[0].bytes_staging < reports[0].bytes_to_devices
    assert reports[0].bytes_pinned == reports[0].bytes_staging
    for name, tensor in tensors.items():
        assert torch.equal(tensor.cpu(), made[name]), name


def test_each_tensor_has_a_storage_of_its_own_that_is_aligned(folder):
    tensors = [tensor for tensor in load_tensors(folder, device=DEVICE).values() if tensor.numel()]
    for tensor in tensors:
        assert tensor.data_ptr() % ALIGNMENT == 0
        assert tensor.storage_offset() == 0
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)


def test_tied_tensors_share_theirs(tmp_path):
    weight = torch.randn(20, 30)
    sllm_store.save_tensors({"embed": weight, "head": weight}, tmp_path / "it")
    tensors = load_tensors(tmp_path / "it", device=DEVICE)
    assert tensors["embed"].data_ptr() == tensors["head"].data_ptr()


def test_memory_comes_back_with_the_last_tensor(tmp_path):
    sllm_store.save_tensors({f"w{n}": torch.ones(32 * MIB, dtype=torch.uint8) for n in range(2)}, tmp_path / "it")
    device = _core.find_device(DEVICE)
    load_tensors(tmp_path / "it", device=DEVICE)  # what a first load leaves behind, it leaves once
    gc.collect()
    before = device.free_bytes
    tensors = load_tensors(tmp_path / "it", device=DEVICE)
    assert device.free_bytes <= before - 64 * MIB
    kept = tensors.pop("w1")
    del tensors
    gc.collect()
    assert device.free_bytes <= before - 64 * MIB
    del kept
    gc.collect()
    assert device.free_bytes >= before - 2 * MIB


def test_memory_that_does_not_suffice_is_an_error_and_leaks_nothing(tmp_path):
    sllm_store.save_tensors({"w": torch.ones(64 * MIB, dtype=torch.uint8)}, tmp_path / "it")
    device = _core.find_device(DEVICE)
    torch.cuda.empty_cache()
    taken = device.allocate(device.free_bytes - 48 * MIB)
    before = device.free_bytes
    with pytest.raises(sllm_store.errors.OutOfMemoryError, match="free"):
        load_tensors(tmp_path / "it", device=DEVICE)
    assert device.free_bytes >= before - 2 * MIB
    del taken


def strided(tensor: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Zeros on the device that lie as `kind` says, and all the memory that they lie in."""
    if kind == "dense" or tensor.dim() < 2:
        made = torch.zeros_like(tensor, device=DEVICE)
        return made, made
    if kind == "transposed":
        whole = torch.zeros(tuple(reversed(tensor.shape)), dtype=tensor.dtype, device=DEVICE)
        return whole.permute(*reversed(range(tensor.dim()))), whole
    whole = torch.zeros([size + 3 for size in tensor.shape], dtype=tensor.dtype, device=DEVICE)
    return whole[tuple(slice(1, size + 1) for size in tensor.shape)], whole


@pytest.mark.parametrize("kind", ["dense", "columns", "transposed"])
def test_tensors_of_any_strides_are_filled_on_the_device_and_nothing_beside_them(folder, kind):
    made = {name: strided(tensor, kind) for name, tensor in weights().items()}
    load_into({name: tensor for name, (tensor, _) in made.items()}, folder)
    for name, expected in weights().items():
        tensor, whole = made[name]
        assert torch.equal(tensor.cpu(), expected), name
        assert int(whole.count_nonzero()) == int(expected.count_nonzero()), name


def test_an_update_waits_for_the_kernels_that_use_the_old_weights(folder, tmp_path):
    sllm_store.save_tensors(weights(seed=1), tmp_path / "other")
    tensors = load_tensors(folder, device=DEVICE)
    busy = torch.rand(4096, 4096, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(50):  # a tenth of a second, and the copy that reads the weights is behind it
            busy = (busy @ busy).tanh_()
        used = {name: tensor.clone() for name, tensor in tensors.items()}
    load_into(tensors, tmp_path / "other")
    torch.cuda.synchronize()
    for name, old in weights().items():
        assert torch.equal(used[name].cpu(), old), name
        assert torch.equal(tensors[name].cpu(), weights(seed=1)[name]), name


def test_torch_imports_our_tensors_and_keeps_their_memory(folder):
    ours = load_tensors(folder, device=DEVICE, framework=None)
    imported = {name: torch.from_dlpack(tensor) for name, tensor in ours.items()}
    del ours
    gc.collect()
    for name, expected in weights().items():
        assert imported[name].device == torch.device(DEVICE)
        assert torch.equal(imported[name].cpu(), expected), name


def test_cupy_imports_our_tensors(folder):
    cupy = pytest.importorskip("cupy")
    ours = load_tensors(folder, device=DEVICE, framework=None)
    for name in ("model.layers.0.w", "model.norm", "model.bytes"):
        assert torch.equal(torch.from_numpy(cupy.asnumpy(cupy.from_dlpack(ours[name]))), weights()[name]), name


def test_a_device_map_spreads_tensors_over_cpu_and_gpu(folder):
    tensors = load_tensors(folder, device={"model.layers.0": "cpu", "model.layers": DEVICE, "": "cpu"})
    for name, expected in weights().items():
        is_on_gpu = name.startswith("model.layers.") and not name.startswith("model.layers.0")
        assert tensors[name].device.type == ("cuda" if is_on_gpu else "cpu"), name
        assert torch.equal(tensors[name].cpu(), expected), name


def test_a_device_is_found_by_its_uuid(folder):
    uuid = _core.find_device(DEVICE).uuid
    assert uuid == str(torch.cuda.get_device_properties(0).uuid)
    assert load_tensors(folder, device=f"cuda:{uuid}")["model.norm"].device == torch.device(DEVICE)


def context_of(tensor: torch.Tensor) -> int:
    """The CUDA context that a tensor's memory belongs to, as the driver has it."""
    context = ctypes.c_void_p()
    attribute = 1  # CU_POINTER_ATTRIBUTE_CONTEXT
    ask = ctypes.CDLL("libcuda.so.1").cuPointerGetAttribute
    assert ask(ctypes.byref(context), attribute, ctypes.c_uint64(tensor.data_ptr())) == 0
    assert context.value is not None
    return context.value


def test_there_is_one_context_and_it_is_torchs(folder):
    current = ctypes.c_void_p()
    torch.zeros(1, device=DEVICE)
    tensors = load_tensors(folder, device=DEVICE)
    assert context_of(tensors["model.norm"]) == context_of(torch.zeros(1, device=DEVICE))
    assert ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(current)) == 0
    assert current.value == context_of(tensors["model.norm"])


def test_a_model_on_the_gpu_generates_what_it_does_on_the_cpu(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=500)
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "hf")
    sllm_store.convert(tmp_path / "hf", tmp_path / "it")
    prompt = torch.tensor([[1, 2, 3, 4, 5]])
    tokens = {}
    for device in ("cpu", DEVICE):
        model = transformers.LlamaForCausalLM(config).eval()
        model.load_state_dict(load_tensors(tmp_path / "it", device=device), assign=True)
        model.to(device)  # buffers, which no checkpoint has
        options = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
        tokens[device] = model.generate(prompt.to(device), **options).tolist()
    assert tokens[DEVICE] == tokens["cpu"]
