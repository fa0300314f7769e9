"""The native store: what one process brings, another one maps, byte by byte, for as long as it lives."""

import json
import mmap
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import sllm_store
from sllm_store import _core, errors
from sllm_store.checkpoint import Checkpoint, open_checkpoint
from sllm_store.reading import native_files

CHUNK = 4 << 20
SPAN = 1 << 20
DEADLINE_S = 60

# Maps the pieces of the lease that it inherits, compares them with the files, says so, and waits.
CLIENT = """
import json, sys
from sllm_store import _core
fd, pieces, paths = json.loads(sys.argv[1])
files = [open(path, "rb").read() for path in paths]
starts = [sum(-(-len(file) // 4096) * 4096 for file in files[:n]) for n in range(len(files) + 1)]
placed = [(starts[file] + offset, at, count) for file, offset, count, at in pieces]
region = _core.MappedRegion(fd, placed, starts[-1])
assert region.mapped_bytes >= sum(count for _, _, count in placed)
memory = memoryview(region)
equal = all(memory[start : start + len(file)] == file for start, file in zip(starts, files))
print("equal" if equal else "different", flush=True)
sys.stdin.read()
"""


class Resident:
    """A checkpoint that a store was told of."""

    def __init__(self, store: _core.Store, checkpoint: Checkpoint, *, verify: bool = True) -> None:
        self.store = store
        self.partitions = checkpoint.partitions
        self.files = native_files(checkpoint.partitions, verify=verify)
        self.number = store.add([(identity[2], crcs) for _, identity, crcs in self.files], 1e-9)

    def reserve(self) -> _core.Reservation:
        ranges = [(number, 0, part.size) for number, part in enumerate(self.partitions)]
        reservation = self.store.reserve(self.number, ranges)
        assert reservation is not None
        return reservation

    def fill(self, reservation: _core.Reservation) -> dict:
        reservation.claim()
        return reservation.fill(self.files, _core.LoadOptions(), _core.StopFlag())

    def start_client(self, reservation: _core.Reservation) -> subprocess.Popen:
        """A process that maps a lease of all of it; this one keeps nothing of the lease."""
        _, fd = reservation.lease()
        try:
            paths = [str(part.path) for part in self.partitions]
            given = json.dumps([fd, reservation.pieces(), paths])
            command = [sys.executable, "-c", CLIENT, given]
            return subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        finally:
            os.close(fd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(3)
    tensors = {f"layer.{n}": torch.randn(1025, 513, generator=generator) for n in range(6)}
    sllm_store.save_tensors(tensors, tmp_path / "it", partition_size=5 << 20)
    return tmp_path / "it"


@pytest.fixture
def store() -> _core.Store:
    return _core.Store(pool_bytes=16 * CHUNK, chunk_bytes=CHUNK)


def test_another_process_maps_every_byte_and_its_death_ends_the_lease(store: _core.Store, folder: Path) -> None:
    it = Resident(store, open_checkpoint(folder))
    assert len(it.partitions) > 1
    reservation = it.reserve()
    stages = it.fill(reservation)
    assert stages["bytes_verified"] == reservation.nbytes == reservation.resident_bytes
    with it.start_client(reservation) as client:
        assert client.stdout.readline() == "equal\n"
        reservation.release()
        assert store.evict(it.number) == 0
        assert [lease["checkpoint"] for lease in store.leases()] == [it.number]
        client.kill()
        client.wait(DEADLINE_S)
    assert store.leases() == []
    assert store.evict(it.number) == stages["bytes_verified"]


def test_a_client_notices_a_different_byte(store: _core.Store, folder: Path) -> None:
    it = Resident(store, open_checkpoint(folder))
    reservation = it.reserve()
    it.fill(reservation)
    with it.partitions[0].path.open("r+b") as file:
        file.seek(it.partitions[0].size - 1)
        file.write(b"\x5a")
    with it.start_client(reservation) as client:
        assert client.stdout.readline() == "different\n"
        client.kill()


def test_a_client_can_neither_write_to_the_pool_nor_map_it_shared_for_that(store: _core.Store, folder: Path) -> None:
    it = Resident(store, open_checkpoint(folder))
    reservation = it.reserve()
    it.fill(reservation)
    _, fd = reservation.lease()
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(OSError, match="Invalid argument"):
            os.ftruncate(fd, 0)
        with pytest.raises(OSError, match="Permission denied"):
            mmap.mmap(fd, store.pool_bytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)


def test_bytes_from_elsewhere_become_resident_and_prove_a_checkpoint(store: _core.Store, folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    it = Resident(store, checkpoint, verify=False)
    reservation = it.reserve()
    assert {file for file, _, _, _ in reservation.claim()} == set(range(len(it.partitions)))
    for file, part in enumerate(it.partitions):
        content = part.path.read_bytes()
        for offset in range(0, part.size, SPAN):
            reservation.write(file, offset, memoryview(content)[offset : offset + SPAN])
    assert reservation.is_complete
    proofs = native_files(checkpoint.partitions, verify=True)
    for file, (_, _, crcs) in enumerate(proofs):
        assert store.span_crcs(it.number, file) == crcs
        store.prove(it.number, file, crcs)


def test_two_reservations_share_one_load(store: _core.Store, folder: Path) -> None:
    it = Resident(store, open_checkpoint(folder))
    first, second = it.reserve(), it.reserve()
    first.claim()
    assert second.claim() == []
    assert (first.hit_bytes, second.hit_bytes) == (0, second.nbytes)
    filling = threading.Thread(target=first.fill, args=(it.files, _core.LoadOptions(), _core.StopFlag()))
    filling.start()
    while not second.is_complete:
        assert select.select([store.changes_fd], [], [], DEADLINE_S)[0]
        os.read(store.changes_fd, 8)
    filling.join(DEADLINE_S)
    status = store.status()
    assert status["filled_bytes"] == status["hit_bytes"] == status["miss_bytes"] == first.nbytes
    assert status["checkpoints"][0]["uses"] == 2


def test_a_stopped_fill_is_a_cancelled_error_and_leaves_nothing(store: _core.Store, folder: Path) -> None:
    it = Resident(store, open_checkpoint(folder))
    reservation = it.reserve()
    reservation.claim()
    stop = _core.StopFlag()
    stop.set()
    with pytest.raises(errors.CancelledError):
        reservation.fill(it.files, _core.LoadOptions(), stop)
    assert store.status()["filling_bytes"] == 0
    it.fill(reservation)
    assert reservation.is_complete


def test_a_reservation_that_was_released_is_refused(store: _core.Store, folder: Path) -> None:
    it = Resident(store, open_checkpoint(folder))
    reservation = it.reserve()
    reservation.release()
    reservation.release()
    with pytest.raises(errors.InvalidArgumentError, match="released"):
        reservation.claim()
    assert store.status()["free_bytes"] == store.pool_bytes


def test_no_room_is_none_and_never_any_room_an_error(folder: Path) -> None:
    store = _core.Store(pool_bytes=2 * CHUNK, chunk_bytes=CHUNK)
    small, large = store.add([(CHUNK + 1, [])], 0.0), store.add([(3 * CHUNK, [])], 0.0)
    held = store.reserve(small, [(0, 0, CHUNK + 1)])
    assert held is not None
    assert store.reserve(large, [(0, 0, CHUNK)]) is None
    with pytest.raises(errors.OutOfMemoryError, match=str(3 * CHUNK)):
        store.reserve(large, [(0, 0, 3 * CHUNK)])
