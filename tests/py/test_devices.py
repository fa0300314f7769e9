"""Loading onto devices, over the simulated driver, each load in a process of its own: every byte, and every refusal."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import evict

import sllm_store
from sllm_store import load_tensors
from sllm_store.devices import choose_targets
from sllm_store.errors import InvalidArgumentError, UnsupportedError


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    made = {f"model.layers.{n}.w": torch.randn(513, 517, generator=generator) for n in range(4)}
    return {**made, "model.norm": torch.randn(7, generator=generator), "none": torch.empty(0, 3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sllm_store.save_tensors(tensors(), tmp_path / "it", partition_size=3 << 20)
    evict(tmp_path / "it")
    return tmp_path / "it"


CHILD = """
import hashlib, json, os, sys
from sllm_store import errors, load_tensors, probe_platform
def digest(tensor):
    return hashlib.sha256(tensor.copy_to_host()).hexdigest()
reports = []
folder = sys.argv[1]
"""


class Outcome:
    """What a child printed, and the simulated driver's account of it."""

    def __init__(self, child: subprocess.CompletedProcess, account: Path) -> None:
        assert child.returncode == 0, child.stderr
        self.printed = json.loads(child.stdout)
        self.account = json.loads(account.read_text()) if account.exists() else None


@pytest.fixture
def run(simulated_driver: str, tmp_path: Path):
    """Run code in a child that has the simulated driver; what it leaves behind fails the test."""

    def run_child(code: str, *arguments: object, settings: str = "devices=2") -> Outcome:
        account = tmp_path / "account.json"
        environment = {
            **os.environ,
            "SLLM_CUDA_DRIVER": simulated_driver,
            "SLLM_CUDA_SIM": f"{settings},report={account}",
        }
        command = [sys.executable, "-c", CHILD + code, *map(str, arguments)]
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        outcome = Outcome(child, account)
        assert outcome.account is None or outcome.account["violations"] == []
        return outcome

    return run_child


def digests() -> dict[str, str]:
    import hashlib

    return {
        name: hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in tensors().items()
        if tensor.numel()
    } | {"none": hashlib.sha256(b"").hexdigest()}


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_every_byte_arrives_on_the_device_and_nothing_is_left(run, folder, device):
    outcome = run(
        """
tensors = load_tensors(folder, device=sys.argv[2], framework=None, on_report=reports.append)
print(json.dumps({
    "digests": {name: digest(tensor) for name, tensor in tensors.items()},
    "devices": sorted({(tensor.device, *tensor.__dlpack_device__()) for tensor in tensors.values()}),
    "report": reports[0].as_dict(),
}))
del tensors
""",
        folder,
        device,
    )
    number = 1 if device.endswith("1") else 0
    assert outcome.printed["digests"] == digests()
    assert outcome.printed["devices"] == [[f"cuda:{number}", 2, number]]
    report = outcome.printed["report"]
    assert report["device"] == device
    assert report["bytes_to_devices"] >= report["nbytes"]
    assert report["bytes_pinned"] == report["bytes_staging"] > 0
    counts = outcome.account["counts"]
    assert counts["allocations"] == counts["streams"] == counts["registrations"] == counts["contexts"] == 0


def test_a_device_map_spreads_a_checkpoint_in_one_pass(run, folder):
    outcome = run(
        """
devices = {"model.layers.0": "cuda:0", "model.layers.1": "cpu", "model": 1, "": "cpu"}
tensors = load_tensors(folder, device=devices, framework=None, on_report=reports.append)
print(json.dumps({
    "digests": {name: digest(tensor) for name, tensor in tensors.items()},
    "devices": {name: tensor.device for name, tensor in tensors.items()},
    "read": reports[0].bytes_read,
}))
""",
        folder,
    )
    assert outcome.printed["digests"] == digests()
    assert outcome.printed["devices"] == {
        "model.layers.0.w": "cuda:0",
        "model.layers.1.w": "cpu",
        "model.layers.2.w": "cuda:1",
        "model.layers.3.w": "cuda:1",
        "model.norm": "cuda:1",
        "none": "cpu",
    }
    assert outcome.printed["read"] <= sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_ranks_get_their_parts_by_the_copy_engine(run, folder):
    outcome = run(
        """
plan = {"*.w": int(sys.argv[2])}
ranks = [load_tensors(folder, device="cuda:0", framework=None, shard=(rank, 3), tp_plan=plan) for rank in range(3)]
print(json.dumps([{name: (tensor.shape, tensor.copy_to_host().hex()) for name, tensor in rank.items()
                   if name == "model.layers.2.w"} for rank in ranks]))
""",
        folder,
        1,
    )
    whole = tensors()["model.layers.2.w"]
    for rank, part in zip(outcome.printed, whole.chunk(3, dim=1), strict=True):
        shape, data = rank["model.layers.2.w"]
        assert shape == list(part.shape)
        assert bytes.fromhex(data) == part.contiguous().numpy().tobytes()


def test_a_device_is_found_by_its_uuid(run, folder):
    outcome = run(
        """
from sllm_store import _core
uuid = _core.find_device("cuda:1").uuid
tensors = load_tensors(folder, device=f"cuda:{uuid}", framework=None, names=["model.norm"])
print(json.dumps(tensors["model.norm"].device))
""",
        folder,
    )
    assert outcome.printed == "cuda:1"


# What a failed copy is met by first: its event, the next copy, or the next event.
COPY_FAILED = r"copies on cuda:0 failed|cannot (copy \d+ bytes to|(make|record) an event on) cuda:0"

REFUSALS = """
try:
    load_tensors(folder, device=sys.argv[2], framework=None)
    print(json.dumps(["nothing", ""]))
except errors.SllmError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.mark.parametrize(
    ("device", "settings", "name", "text"),
    [
        ("cuda:7", "devices=2", "InvalidArgumentError", "cuda:0 to cuda:1"),
        ("cuda:0", "devices=1,memory=1MiB", "OutOfMemoryError", "1048576 free"),
        ("cuda:0", "devices=1,version=11000", "UnsupportedError", "11.4 is needed"),
        (
            "cuda:0",
            "devices=1,fail=copy:1:719",
            "DeviceError",
            COPY_FAILED,
        ),
        ("xpu:0", "devices=1", "UnsupportedError", "loads onto cpu and cuda"),
    ],
)
def test_what_cannot_be_is_refused_by_name(run, folder, device, settings, name, text):
    outcome = run(REFUSALS, folder, device, settings=settings)
    assert outcome.printed[0] == name
    assert re.search(text, outcome.printed[1])


def test_a_forked_child_is_told_why_it_cannot_use_the_driver(run, folder):
    outcome = run(
        """
tensors = load_tensors(folder, device="cuda:0", framework=None, names=["model.norm"])
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    try:
        load_tensors(folder, device="cuda:0", framework=None)
    except errors.UnsupportedError as error:
        os.write(writer, str(error).encode())
    os._exit(0)
os.waitpid(child, 0)
os.close(writer)
print(json.dumps(os.read(reader, 1000).decode()))
""",
        folder,
    )
    assert "fork" in outcome.printed


def test_no_driver_leaves_the_cpu_as_it_is(folder, monkeypatch):
    monkeypatch.setenv("SLLM_CUDA_DRIVER", "libno_such_driver.so.1")
    with pytest.raises(UnsupportedError, match=r"libno_such_driver\.so\.1"):
        load_tensors(folder, device="cuda:0", framework=None)
    assert torch.equal(load_tensors(folder)["model.norm"], tensors()["model.norm"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch has the device")
def test_a_device_that_torch_lacks_is_refused_before_a_byte_is_read(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UnsupportedError, match="this torch has 0 CUDA devices"):
        load_tensors(folder, device="cuda:0")


def test_the_command_shows_that_the_stages_overlap(simulated_driver, tmp_path):
    sllm_store.save_tensors({"w": torch.ones(48 << 20, dtype=torch.uint8)}, tmp_path / "it")
    evict(tmp_path / "it")
    environment = {
        **os.environ,
        "SLLM_CUDA_DRIVER": simulated_driver,
        "SLLM_CUDA_SIM": "h2d=200e6",
    }
    command = [sys.executable, "-c", "from sllm_store.cli import main; main()", "load", "--device", "cuda:0"]
    shown = subprocess.check_output([*command, str(tmp_path / "it")], text=True, env=environment)
    assert "copies to devices" in shown
    output = subprocess.check_output([*command, str(tmp_path / "it"), "--json"], text=True, env=environment)
    report = json.loads(output)
    assert report["limit"] == "device"
    assert report["device_wait_s"] < report["device_s"] <= report["load_s"]


def test_a_map_that_leaves_a_tensor_out_or_splits_tied_ones_is_refused(tmp_path):
    weight = torch.ones(8)
    sllm_store.save_tensors({"embed": weight, "head": weight}, tmp_path / "it")
    checkpoint = sllm_store.open_checkpoint(tmp_path / "it")
    with pytest.raises(InvalidArgumentError, match="names no device for tensor head"):
        choose_targets(checkpoint, ["embed", "head"], {"embed": "cpu"})
    with pytest.raises(InvalidArgumentError, match="shares its bytes"):
        choose_targets(checkpoint, ["embed", "head"], {"embed": "cpu", "head": "cuda:0"})
