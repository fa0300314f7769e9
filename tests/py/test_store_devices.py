"""Loads onto devices through the store, over the simulated driver: the daemon copies into memory of the client's."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from store_process import WAIT_S, make_checkpoint, running_store

from sllm_store.client import StoreClient
from sllm_store.errors import SllmError
from sllm_store.protocol import Copied, LoadOnto

CLIENT = """
import hashlib, json, sys
from sllm_store import errors, load_tensors
path, store, device = sys.argv[1:4]
reports = []
tensors = load_tensors(path, store=store, device=json.loads(device), framework=None, on_report=reports.append)
digests = {name: hashlib.sha256(tensor.copy_to_host()).hexdigest() for name, tensor in tensors.items()}
print(json.dumps([digests, reports[0].as_dict(), {name: tensor.device for name, tensor in tensors.items()}]))
"""


@pytest.fixture(scope="module")
def driver(simulated_driver):
    """The environment with a simulated driver of two devices."""
    return {"SLLM_CUDA_DRIVER": simulated_driver, "SLLM_CUDA_SIM": "devices=2"}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def checkpoint(here):
    return here / "it", make_checkpoint(here / "it", seed=1, partition_bytes=3 << 20)


@pytest.fixture
def store(here, driver, monkeypatch):
    for name, value in driver.items():
        monkeypatch.setenv(name, value)
    with running_store(here / "s.sock") as running:
        yield running


def load_in_child(folder, store, device) -> list:
    command = [sys.executable, "-c", CLIENT, folder, store, json.dumps(device)]
    child = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def digests(oracle: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in oracle.items()}


def test_a_device_gets_every_byte(store, checkpoint):
    folder, oracle = checkpoint
    for _ in range(2):
        found, report, devices = load_in_child(folder, store.path, "cuda:1")
        assert found == digests(oracle)
        assert set(devices.values()) == {"cuda:1"}
        assert (report["store"], report["verified"]) == ("copied", True)
        assert report["bytes_to_devices"] >= sum(map(len, oracle.values()))
    (device,) = store.state().devices
    assert device.pinned_bytes > 0
    assert store.leases() == []


def test_a_map_spreads_over_host_and_devices(store, checkpoint):
    folder, oracle = checkpoint
    found, report, devices = load_in_child(folder, store.path, {"": "cpu", "first": "cuda:0", "some": "cuda:1"})
    assert found == digests(oracle)
    assert (devices["first"], devices["some"], devices["second"]) == ("cuda:0", "cuda:1", "cpu")
    assert report["store"] == "mapped, copied"


@pytest.mark.parametrize("by", ["auto", "path"])
def test_the_client_copies_out_of_its_lease_where_the_store_knows_no_device(here, checkpoint, driver, monkeypatch, by):
    folder, oracle = checkpoint
    with running_store(here / "blind.sock") as running:
        for name, value in {**driver, "SLLM_STORE": str(running.path)}.items():
            monkeypatch.setenv(name, value)
        found, report, _ = load_in_child(folder, "auto" if by == "auto" else running.path, "cuda:0")
        assert found == digests(oracle)
        assert (report["store"], report["verified"]) == ("staged", True)
        assert report["bytes_resident"] > 0
        assert running.state().leases == 0


@pytest.mark.parametrize(
    ("lacking", "how"), [("no_vmm=1", "copied"), ("no_vmm=1,no_ipc=1", "staged")], ids=["descriptors", "both"]
)
def test_memory_that_has_no_descriptor_is_passed_as_a_handle_or_filled_here(
    store, checkpoint, monkeypatch, lacking, how
):
    folder, oracle = checkpoint
    monkeypatch.setenv("SLLM_CUDA_SIM", f"devices=2,{lacking}")
    found, report, _ = load_in_child(folder, store.path, "cuda:0")
    assert found == digests(oracle)
    assert report["store"] == how


def test_a_killed_client_leaves_the_store_serving(store, checkpoint):
    folder, oracle = checkpoint
    arguments = [sys.executable, "-c", CLIENT, str(folder), str(store.path), json.dumps("cuda:0")]
    for _ in range(3):
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        child.kill()
        child.wait(WAIT_S)
    assert load_in_child(folder, store.path, "cuda:0")[0] == digests(oracle)


@pytest.mark.parametrize(
    "broken",
    [
        {"ipc_handle": b"x" * 64},
        {"ipc_handle": b""},
        {"ipc_handle": b"x"},
        {"device": "no-such-device", "ipc_handle": b"x" * 64},
        {"nbytes": -1, "ipc_handle": b"x" * 64},
        {"extents": [(0, 0, -4096, 0, 0, 0, 0, 0)], "ipc_handle": b"x" * 64},
    ],
    ids=["foreign handle", "no handle", "half a handle", "no device", "no size", "no extent"],
)
def test_what_a_client_makes_up_is_an_error_of_its_request(store, checkpoint, broken):
    folder, oracle = checkpoint
    uuid = device_uuid()
    fields = {"device": uuid, "nbytes": 1 << 20, "extents": [(0, 0, 4096, 0, 0, 0, 0, 0)], **broken}
    with StoreClient(store.path) as client, pytest.raises(SllmError):
        client.request(LoadOnto(str(folder), [], wait_s=0.0, **fields), Copied)
    assert load_in_child(folder, store.path, "cuda:0")[0] == digests(oracle)


def test_a_descriptor_of_something_else_and_extents_beyond_the_memory_are_refused(store, checkpoint):
    folder, oracle = checkpoint
    uuid = device_uuid()
    request = LoadOnto(str(folder), [], uuid, 4096, b"", [(0, 0, 4096, 0, 0, 0, 0, 0)], 0.0)
    with open("/dev/null", "rb") as null, StoreClient(store.path) as client, pytest.raises(SllmError):
        client.request(request, Copied, fd=null.fileno())
    code = BEYOND.replace("UUID", uuid)
    child = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(store.path)], capture_output=True, text=True, check=False
    )
    assert child.stdout.strip() == "InvalidArgumentError", child.stderr
    assert load_in_child(folder, store.path, "cuda:0")[0] == digests(oracle)


BEYOND = """
import sys
from sllm_store import _core, errors
from sllm_store.client import StoreClient
from sllm_store.protocol import Copied, LoadOnto
from pathlib import Path
buffer = _core.find_device("cuda:0").allocate(1 << 20, is_shareable=True)
fd = buffer.export_fd()
with StoreClient(Path(sys.argv[2])) as client:
    for destination in (1 << 20, (1 << 20) - 4095):
        extents = [(0, 0, 4096, 0, destination, 0, 0, 0)]
        try:
            client.request(LoadOnto(sys.argv[1], [], "UUID", 1 << 20, b"", extents, 0.0), Copied, fd=fd)
        except errors.SllmError as error:
            kind = type(error).__name__
print(kind)
"""


IDLE = """
import asyncio, os, time
from sllm_store import _core
from sllm_store.protocol import LoadOnto
from sllm_store.store_devices import StoreDevices

async def main():
    devices = StoreDevices(_core.Store(pool_bytes=8 << 20), idle_s=0.05)
    device = _core.find_device("cuda:1")
    buffer = device.allocate(4096, is_shareable=True)
    fd = buffer.export_fd()
    request = LoadOnto("", [], device.uuid, 4096, b"", [], 0.0)
    first = await devices.memory(request, fd)
    second = await devices.memory(request, fd)
    os.close(fd)
    first.close()
    gone = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, gone.set)
    await gone.wait()
    print([state.uuid == device.uuid for state in devices.states()])
    second.close()
    deadline = time.monotonic() + 30
    while devices.states() and time.monotonic() < deadline:
        await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(os.sched_yield))])
    print(devices.states())

asyncio.run(main())
"""


def test_a_device_is_given_back_when_idle_and_not_before(driver):
    environment = {**os.environ, **driver}
    child = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, check=False, env=environment)
    assert child.stdout.splitlines() == ["[True]", "[]"], child.stderr


def device_uuid() -> str:
    """The simulated device's, from a process of its own, since a driver is found once."""
    code = "from sllm_store import _core; print(_core.find_device('cuda:0').uuid)"
    return subprocess.check_output([sys.executable, "-c", code], text=True, env=os.environ).strip()
