"""`load_tensors`: the bytes of the file, whatever the file, and memory that behaves as torch's own does."""

import copy
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import every_dtype, evict, write_safetensors

import sllm_store
from sllm_store import load_tensors
from sllm_store.dtypes import DTYPES
from sllm_store.errors import InvalidArgumentError, UnsupportedError

ORACLE = """
import hashlib, json, sys
from safetensors import deserialize
data = open(sys.argv[1], "rb").read()
digest = lambda t: [t["dtype"], list(t["shape"]), hashlib.sha256(t["data"]).hexdigest()]
print(json.dumps({name: digest(t) for name, t in deserialize(data)}))
"""


def digests_by_safetensors(path: Path) -> dict[str, list]:
    """What safetensors itself reads from the file, in a process of its own."""
    return json.loads(subprocess.check_output([sys.executable, "-c", ORACLE, str(path)], text=True))


def digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().contiguous().view(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return hashlib.sha256(data).hexdigest()


def torch_has(dtype: str) -> bool:
    name = DTYPES[dtype].torch_name
    return name is not None and hasattr(torch, name)


def large(seed: int = 0) -> dict[str, torch.Tensor]:
    """More than a few spans, of sizes that end anywhere."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w0": (1024, 1031), "w1": (513, 2048), "bias": (1031,), "norm": (7,), "scalar": ()}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**tensors, "half": torch.randn(333, 77, generator=generator).to(torch.bfloat16), "none": torch.empty(0, 3)}


@pytest.fixture(params=["converted", "plain"])
def folder(request, tmp_path):
    """A folder with the tensors of large(), of either kind."""
    if request.param == "converted":
        sllm_store.save_tensors(large(), tmp_path / "it")
    else:
        from safetensors.torch import save_file

        (tmp_path / "it").mkdir()
        save_file(large(), tmp_path / "it" / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "it"


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("memory", ["own", "auto", "map"])
@pytest.mark.parametrize("queue", ["auto", "threads"])
def test_every_tensor_equals_what_safetensors_reads(folder, queue, memory, is_warm):
    expected = digests_by_safetensors(folder / "model.safetensors")
    if not is_warm:
        evict(folder)
    tensors = load_tensors(folder, queue=queue, memory=memory)
    assert {name: digest(tensor) for name, tensor in tensors.items()} == {n: d for n, (_, _, d) in expected.items()}
    for name, tensor in large().items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert torch.equal(tensors[name], tensor)


def test_the_oracle_sees_one_changed_byte(tmp_path):
    sllm_store.save_tensors(large(), tmp_path / "it")
    path = tmp_path / "it" / "model.safetensors"
    before = digests_by_safetensors(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert digests_by_safetensors(path) != before


def test_every_dtype_loads_raw_and_as_torch_has_it(tmp_path):
    members, data = every_dtype()
    path = write_safetensors(tmp_path / "model.safetensors", members, data)
    raw = load_tensors(path, raw=True)
    for name, tensor in raw.items():
        start, end = members[name]["data_offsets"]
        assert tensor.dtype == torch.uint8
        assert tensor.shape == (end - start,)
        assert tensor.numpy().tobytes() == data[start:end]
    known = [name for name in raw if torch_has(members[name]["dtype"]) and not name.startswith("F4")]
    for name, tensor in load_tensors(path, names=known).items():
        assert tensor.dtype == getattr(torch, DTYPES[members[name]["dtype"]].torch_name)
        assert list(tensor.shape) == members[name]["shape"]
        assert digest(tensor) == digest(raw[name])


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no fp4")
def test_fp4_packs_two_elements_as_torch_does(tmp_path):
    members, data = every_dtype()
    path = write_safetensors(tmp_path / "model.safetensors", members, data)
    tensor = load_tensors(path, names=["F4.matrix"])["F4.matrix"]
    assert tensor.shape == (3, 8)
    assert tensor.dtype == torch.float4_e2m1fn_x2


def test_a_dtype_that_torch_lacks_is_named_before_anything_is_read(tmp_path):
    members, data = every_dtype()
    path = write_safetensors(tmp_path / "model.safetensors", members, data)
    with pytest.raises(UnsupportedError, match=r"tensor F6_E2M3\.matrix has dtype F6_E2M3.*raw=True"):
        load_tensors(path, names=["F6_E2M3.matrix", "U8.matrix"])


def test_names_load_those_alone_in_the_files_order(folder):
    tensors = load_tensors(folder, names=["scalar", "w1", "scalar"])
    assert set(tensors) == {"scalar", "w1"}
    assert torch.equal(tensors["w1"], large()["w1"])
    assert load_tensors(folder, names=[]) == {}


def test_arguments_that_make_no_sense_are_refused(folder):
    with pytest.raises(InvalidArgumentError, match="no tensor x"):
        load_tensors(folder, names=["x"])
    with pytest.raises(InvalidArgumentError, match="a list of names"):
        load_tensors(folder, names="w0")
    with pytest.raises(InvalidArgumentError, match="memory 'rented' is no HostBuffer and none of own, map, auto"):
        load_tensors(folder, memory="rented")
    with pytest.raises(InvalidArgumentError, match="queue 'slow'"):
        load_tensors(folder, queue="slow")
    with pytest.raises(UnsupportedError, match="device cuda:7"):
        load_tensors(folder, device="cuda:7")


def test_tied_tensors_share_their_memory(tmp_path):
    weight = torch.randn(64, 64)
    sllm_store.save_tensors({"embed": weight, "head": weight, "other": torch.ones(3)}, tmp_path / "it")
    tensors = load_tensors(tmp_path / "it")
    assert tensors["head"].data_ptr() == tensors["embed"].data_ptr()
    tensors["head"][0, 0] = 42
    assert tensors["embed"][0, 0] == 42
    alone = load_tensors(tmp_path / "it", names=["head"])
    assert list(alone) == ["head"]
    assert torch.equal(alone["head"], weight)


def test_every_tensor_is_aligned_and_owns_exactly_its_bytes(folder):
    for tensor in load_tensors(folder).values():
        assert tensor.data_ptr() % 64 == 0
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor.storage_offset() == 0


@pytest.mark.parametrize("memory", ["own", "auto", "map"])
def test_writing_to_a_tensor_works_and_touches_no_other(folder, memory):
    tensors = load_tensors(folder, memory=memory)
    for name in tensors:
        before = {other: digest(tensor) for other, tensor in tensors.items() if other != name}
        tensors[name].fill_(1)
        assert {other: digest(tensor) for other, tensor in tensors.items() if other != name} == before
    assert torch.equal(load_tensors(folder)["w0"], large()["w0"])


def test_saving_or_copying_one_tensor_costs_that_tensors_bytes(folder, tmp_path):
    from safetensors.torch import save_model

    tensor = load_tensors(folder)["norm"]
    file = io.BytesIO()
    torch.save(tensor, file)
    assert file.tell() < 4096
    assert copy.deepcopy(tensor).untyped_storage().nbytes() == tensor.nbytes
    module = torch.nn.Module()
    module.norm = torch.nn.Parameter(tensor)
    save_model(module, str(tmp_path / "one.safetensors"))
    assert (tmp_path / "one.safetensors").stat().st_size < 4096


FREED = """
import gc, sys
from pathlib import Path
from sllm_store import load_tensors
def resident_bytes():
    # Not the mapped ones: the C library reserves 64 MiB of addresses for a new thread's allocations.
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
load_tensors(sys.argv[1])
before = resident_bytes()
tensors = load_tensors(sys.argv[1])
last = tensors.pop("b")
del tensors
kept = resident_bytes() - before
del last
print(kept, resident_bytes() - before)
"""


def test_the_memory_is_freed_with_the_last_tensor(tmp_path):
    size = 64 << 20
    sllm_store.save_tensors({"a": torch.ones(size, dtype=torch.uint8), "b": torch.ones(8)}, tmp_path / "it")
    output = subprocess.check_output([sys.executable, "-c", FREED, str(tmp_path / "it")], text=True)
    kept, left = map(int, output.split())
    assert kept >= size
    assert left < size // 2


def test_the_report_tells_what_was_done(folder):
    reports = []
    tensors = load_tensors(folder, on_report=reports.append)
    (report,) = reports
    assert report.tensors == len(tensors)
    assert report.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    assert report.verified == (folder / "sllm.json").exists()
    assert report.bytes_read >= report.nbytes
    assert (report.bytes_verified >= report.nbytes) == report.verified
    assert report.total_s >= report.open_s + report.plan_s + report.load_s + report.handover_s
    assert report.limit in ("read", "page cache", "verify", "copy", "prefault")
    json.dumps(report.as_dict())


def test_verification_can_be_left_out(tmp_path):
    sllm_store.save_tensors(large(), tmp_path / "it")
    reports = []
    load_tensors(tmp_path / "it", verify=False, on_report=reports.append)
    assert (reports[0].verified, reports[0].bytes_verified) == (False, 0)


def test_many_partitions_load_as_one(tmp_path):
    sllm_store.save_tensors(large(), tmp_path / "it", partition_size=1 << 20)
    assert len(list((tmp_path / "it").glob("*.safetensors"))) > 2
    tensors = load_tensors(tmp_path / "it")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in large().items())


def report_of(folder, **options):
    reports = []
    load_tensors(folder, on_report=reports.append, **options)
    return reports[0]


def test_bytes_come_from_where_they_are(tmp_path):
    sllm_store.save_tensors(large(), tmp_path / "it")
    evict(tmp_path / "it")
    cold = report_of(tmp_path / "it")
    assert (cold.bytes_cached, cold.bytes_mapped) == (0, 0)
    (tmp_path / "it" / "model.safetensors").read_bytes()
    own, auto = report_of(tmp_path / "it"), report_of(tmp_path / "it", memory="auto")
    assert (own.bytes_cached, own.bytes_mapped) == (own.bytes_read, 0)
    assert auto.bytes_mapped > auto.nbytes // 2
    assert auto.bytes_cached + auto.bytes_mapped == auto.bytes_read
    evict(tmp_path / "it")
    assert report_of(tmp_path / "it", memory="auto").bytes_mapped == 0
    assert report_of(tmp_path / "it", memory="map").bytes_mapped == auto.bytes_mapped


def test_a_buffer_is_filled_again(tmp_path):
    first, second = large(1), large(2)
    for number, tensors in enumerate((first, second)):
        sllm_store.save_tensors(tensors, tmp_path / str(number))
    buffer = sllm_store.HostBuffer(report_of(tmp_path / "0").nbytes + (1 << 20))
    loaded = load_tensors(tmp_path / "0", memory=buffer)
    assert torch.equal(loaded["w0"], first["w0"])
    assert report_of(tmp_path / "1", memory=buffer).memory == "reused"
    assert torch.equal(loaded["w0"], second["w0"])
    del buffer
    assert torch.equal(loaded["w1"], second["w1"])


def test_a_buffer_that_is_too_small_is_refused_with_the_size_that_it_takes(folder):
    with pytest.raises(InvalidArgumentError, match=rf"memory has 100 bytes, {folder} needs \d+"):
        load_tensors(folder, memory=sllm_store.HostBuffer(100))


PEAK = """
import sys
from pathlib import Path
from sllm_store import load_tensors
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
load_tensors(sys.argv[1], names=["norm"])
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (proc(5))
before = status("VmRSS")
tensors = load_tensors(sys.argv[1], memory=sys.argv[2])
print(status("VmHWM") - before - sum(tensor.nbytes for tensor in tensors.values()))
"""


@pytest.mark.parametrize("memory", ["own", "map"])
@pytest.mark.parametrize("kind", ["converted", "plain"])
def test_a_load_takes_little_more_than_the_checkpoint(tmp_path, kind, memory):
    from safetensors.torch import save_file

    # So large that a second copy of it would be over the bound.
    tensors = {"large": torch.ones(320 << 20, dtype=torch.uint8), "norm": torch.ones(7)}
    if kind == "converted":
        sllm_store.save_tensors(tensors, tmp_path / "it")
    else:
        (tmp_path / "it").mkdir()
        save_file(tensors, tmp_path / "it" / "model.safetensors")
    output = subprocess.check_output([sys.executable, "-c", PEAK, str(tmp_path / "it"), memory], text=True)
    assert int(output) < 256 << 20


WRITES_AFTER_LOADS = """
import os, sys
import sllm_store
message = b"x" * (2 << 20)
for _ in range(40):
    with open(sys.argv[2], "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    sllm_store.load_tensors(sys.argv[1], framework=None, queue="auto")
    assert os.write(1, message) == len(message), "a write to a pipe was cut short"
"""


def test_what_the_caller_writes_to_a_pipe_after_a_load_is_not_cut_short(tmp_path):
    sllm_store.save_tensors(large(), tmp_path / "it")
    arguments = [str(tmp_path / "it"), str(tmp_path / "it" / "model.safetensors")]
    child = subprocess.run(
        [sys.executable, "-c", WRITES_AFTER_LOADS, *arguments], capture_output=True, timeout=120, check=False
    )
    assert child.returncode == 0, child.stderr
    assert len(child.stdout) == 40 * (2 << 20)
