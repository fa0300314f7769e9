"""A store's daemon, and clients of it, as real processes."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import raw_safetensors
from raw_safetensors import Raw

import sllm_store
from sllm_store.client import StoreClient
from sllm_store.protocol import Evict, Evicted, LeaseList, Leases, LeaseState, State, Status

PROGRAM = [sys.executable, "-c", "from sllm_store.cli import main; main()"]
WAIT_S = 60
SMALL = {"odd": 1, "few": 63, "scalar": 4, "page": 4096, "some": 100_000, "more": 70_001}


def make_checkpoint(folder: Path, seed: int, nbytes: int = 6 << 20, partition_bytes: int = 1 << 40) -> dict[str, bytes]:
    """A converted checkpoint of `nbytes` in two tensors and a few small ones; gives their bytes, the oracle."""
    randbytes = random.Random(seed).randbytes
    sizes = {"first": nbytes * 2 // 3 // 4096 * 4096, "second": nbytes // 3 // 4096 * 4096, **SMALL}
    tensors = {name: Raw("U8", [size], randbytes(size)) for name, size in sizes.items()}
    plain = folder.with_name(f"{folder.name}-plain")
    plain.mkdir(parents=True, exist_ok=True)
    raw_safetensors.write(plain / "model.safetensors", tensors)
    sllm_store.convert(plain, folder, partition_size=partition_bytes, overwrite=folder.exists())
    return {name: tensor.data for name, tensor in tensors.items()}


def bytes_of(tensors: dict[str, sllm_store.Tensor]) -> dict[str, bytes]:
    return {name: bytes(tensor.copy_to_host()) for name, tensor in tensors.items()}


def load(folder: Path, store: Path | str | None, **options: Any) -> dict[str, sllm_store.Tensor]:
    return sllm_store.load_tensors(folder, store=store, framework=None, **options)


class StoreProcess:
    """A daemon that was ready."""

    def __init__(self, process: subprocess.Popen, path: Path) -> None:
        self.process = process
        self.path = path

    def state(self) -> State:
        with StoreClient(self.path) as client:
            return client.request(Status(), State)

    def leases(self) -> list[LeaseState]:
        with StoreClient(self.path) as client:
            return client.request(Leases(), LeaseList).leases

    def evict(self) -> int:
        with StoreClient(self.path) as client:
            return client.request(Evict("", False), Evicted).pool_bytes

    def open_fds(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


@contextmanager
def running_store(path: Path, *options: str, pool: str = "32MiB") -> Iterator[StoreProcess]:
    """A daemon that listens at `path`, from when it says so; killed at the end if it still lives."""
    notify = path.with_name(f"{path.name}.n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        notify.unlink(missing_ok=True)
        ready.bind(str(notify))
        ready.settimeout(WAIT_S)
        arguments = [*PROGRAM, "serve", "--socket", str(path), "--pool", pool, *options]
        process = subprocess.Popen(arguments, env={**os.environ, "NOTIFY_SOCKET": str(notify)})
        try:
            assert ready.recv(100) == b"READY=1"
            yield StoreProcess(process, path)
        finally:
            process.kill()
            process.wait(WAIT_S)


_CHILD = """
import hashlib, json, os, sys
import sllm_store
tensors, reports = {}, []
for line in sys.stdin:
    command, *arguments = json.loads(line)
    if command == "load":
        path, store = arguments
        tensors[path] = sllm_store.load_tensors(path, store=store, framework=None, on_report=reports.append)
        answer = reports[-1].as_dict()
    elif command == "digest":
        parts = {name: hashlib.sha256(tensor.copy_to_host()) for name, tensor in tensors[arguments[0]].items()}
        answer = {name: part.hexdigest() for name, part in parts.items()}
    elif command == "close descriptors":
        os.closerange(3, 10_000)
        answer = None
    elif command == "fork and go":
        answer = os.fork()
        if answer:
            os._exit(0)
        answer = os.getpid()
    print(json.dumps(answer), flush=True)
"""


class Child:
    """A client in a process of its own, which does what it is asked."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, *command: object) -> None:
        self.process.stdin.write(json.dumps([str(part) for part in command]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        line = self.process.stdout.readline()
        assert line, "the client died"
        return json.loads(line)

    def ask(self, *command: object) -> Any:
        self.tell(*command)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)


@contextmanager
def children(count: int) -> Iterator[list[Child]]:
    running = [Child() for _ in range(count)]
    try:
        yield running
    finally:
        for child in running:
            child.process.stdin.close()
            child.kill()
            child.process.stdout.close()
