"""Device memory that one Python process hands to another, over the simulated driver."""

import json
import os
import socket
import subprocess
import sys

import pytest

CHILD = """
import array, json, os, socket, sys
from sllm_store import _core, errors
peer = socket.socket(fileno=int(sys.argv[1]))
NBYTES = 3 * 2**20 + 5
PATTERN = (bytes(range(251)) * (NBYTES // 251 + 1))[:NBYTES]
device = _core.find_device("cuda:0")

def filled(is_shareable):
    host = _core.HostBuffer(NBYTES)
    memoryview(host)[:] = PATTERN
    plan = _core.LoadPlan([("host memory", (0, 0, NBYTES, 0), [], host)], [(0, 0, NBYTES, 0, 0, 0, 0, 0)], [NBYTES])
    buffer = device.allocate(NBYTES, is_shareable)
    _core.load(plan, [buffer], _core.LoadOptions(), _core.StopFlag(), False)
    return buffer

def contents(buffer):
    into = bytearray(len(buffer))
    buffer.copy_to_host(0, into)
    return into

def refusal(function, *arguments):
    try:
        function(*arguments)
    except errors.SllmError as error:
        return type(error).__name__
    return "nothing"
"""

EXPORT_FD = """
buffer = filled(is_shareable=True)
fd = buffer.export_fd()
peer.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
os.close(fd)
assert peer.recv(1) == b"1"
print(json.dumps(refusal(buffer.export_ipc)))
"""

IMPORT_FD = """
_, ((_, _, data), *_), _, _ = peer.recvmsg(1, socket.CMSG_SPACE(4))
fd = array.array("i", data)[0]
buffer = device.import_fd(fd, NBYTES)
print(json.dumps([len(buffer), contents(buffer) == PATTERN, os.path.exists(f"/proc/self/fd/{fd}")]))
del buffer
peer.send(b"1")
"""

EXPORT_IPC = """
buffer = filled(is_shareable=False)
peer.send(buffer.export_ipc())
assert peer.recv(1) == b"1"
print(json.dumps(refusal(buffer.export_fd)))
"""

IMPORT_IPC = """
handle = peer.recv(100)
refused = [refusal(device.import_ipc, handle, NBYTES + 1), refusal(device.import_ipc, handle[:-1], NBYTES)]
buffer = device.import_ipc(handle, NBYTES)
print(json.dumps([len(handle), contents(buffer) == PATTERN, refused, refusal(buffer.export_ipc)]))
del buffer
peer.send(b"1")
"""


@pytest.fixture
def exchange(simulated_driver):
    """Run two programs that hold the ends of one socket; what each of them printed."""

    def run(*programs: str) -> list:
        environment = {**os.environ, "SLLM_CUDA_DRIVER": simulated_driver, "SLLM_CUDA_SIM": "devices=1"}
        children = []
        for end, program in zip(socket.socketpair(), programs, strict=True):
            with end:
                command = [sys.executable, "-c", CHILD + program, str(end.fileno())]
                children.append(
                    subprocess.Popen(
                        command, env=environment, pass_fds=[end.fileno()], stdout=subprocess.PIPE, text=True
                    )
                )
        printed = [child.communicate(timeout=60)[0] for child in children]
        assert [child.returncode for child in children] == [0, 0]
        return [json.loads(text) for text in printed]

    return run


def test_a_descriptor_is_the_same_memory_and_closed_by_its_import(exchange):
    exported, imported = exchange(EXPORT_FD, IMPORT_FD)
    assert exported == "UnsupportedError"
    assert imported == [3 * 2**20 + 5, True, False]


def test_a_legacy_handle_is_the_same_memory_and_no_more_of_it(exchange):
    exported, imported = exchange(EXPORT_IPC, IMPORT_IPC)
    assert exported == "UnsupportedError"
    assert imported == [64, True, ["InvalidArgumentError", "InvalidArgumentError"], "UnsupportedError"]


def test_what_is_no_descriptor_is_refused(exchange):
    refusals = """
read, write = os.pipe()
print(json.dumps([refusal(device.import_fd, -1, 1), refusal(device.import_fd, read, 1),
                  os.path.exists(f"/proc/self/fd/{read}")]))
"""
    assert exchange(refusals, "print(0)")[0] == ["InvalidArgumentError", "DeviceError", False]
