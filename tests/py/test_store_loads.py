"""Loads through a store: the right bytes, shared, read once."""

import os
import shutil
import time

import pytest
from checkpoints import evict
from store_process import bytes_of, children, load, make_checkpoint, running_store

import sllm_store
from sllm_store.errors import (
    ConflictError,
    CorruptCheckpointError,
    InvalidArgumentError,
    OutOfMemoryError,
    UnavailableError,
)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def checkpoint(here):
    """A folder of several partitions, and the oracle."""
    return here / "it", make_checkpoint(here / "it", seed=1, partition_bytes=3 << 20)


@pytest.fixture
def store(here):
    with running_store(here / "s.sock") as running:
        yield running


def file_bytes(folder):
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_a_load_has_the_bytes_and_a_second_one_reads_nothing(store, checkpoint):
    folder, oracle = checkpoint
    reports = []
    assert bytes_of(load(folder, store.path, on_report=reports.append)) == oracle
    assert bytes_of(load(folder, store.path, on_report=reports.append)) == oracle
    cold, warm = reports
    assert (cold.store, cold.memory, cold.verified) == ("mapped", "pool", True)
    assert cold.bytes_read >= file_bytes(folder) - 4096 * len(list(folder.iterdir()))
    assert (warm.store, warm.bytes_read, warm.queue, warm.verified) == ("mapped", 0, "none", True)
    state = store.state()
    assert state.filled_bytes == state.miss_bytes
    assert state.hit_bytes > 0


def test_names_and_slices_come_through_it(store, checkpoint):
    folder, oracle = checkpoint
    assert bytes_of(load(folder, store.path, names=["odd", "second"])) == {
        name: oracle[name] for name in ("second", "odd")
    }
    for rank in range(2):
        part = load(folder, store.path, shard=(rank, 2), tp_plan={"first": 0, "some": 0})
        for name, whole in oracle.items():
            half = len(whole) // 2
            wanted = whole[rank * half : (rank + 1) * half] if name in ("first", "some") else whole
            assert bytes(part[name].copy_to_host()) == wanted


def test_only_what_is_asked_for_is_brought(store, here):
    make_checkpoint(here / "large", seed=2, nbytes=24 << 20)
    load(here / "large", store.path, names=["second"])
    assert 8 << 20 <= store.state().resident_bytes <= 16 << 20


@pytest.mark.parametrize("file", ["", "model.safetensors"], ids=["folder", "file"])
def test_a_plain_checkpoint_becomes_verified(store, here, file):
    oracle = make_checkpoint(here / f"raw{file}", seed=3)
    path, reports = here / f"raw{file}-plain" / file, []
    assert bytes_of(load(path, store.path, on_report=reports.append)) == oracle
    wait_until_verified(store)
    assert bytes_of(load(path, store.path, on_report=reports.append)) == oracle
    assert [report.verified for report in reports] == [False, True]


def test_what_was_found_out_of_a_plain_checkpoint_outlives_the_daemon(here, tmp_path):
    oracle = make_checkpoint(here / "kept", seed=20)
    path, reports, at = here / "kept-plain", [], ("--disk", str(tmp_path / "disk"))
    with running_store(here / "k.sock", *at) as first:
        load(path, first.path)
        wait_until_verified(first)
        assert first.stop() == 0
    with running_store(here / "k.sock", *at) as second:
        assert bytes_of(load(path, second.path, on_report=reports.append)) == oracle
        assert reports[0].verified
        assert second.stop() == 0
    file = path / "model.safetensors"
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with running_store(here / "k.sock", *at) as third, pytest.raises(CorruptCheckpointError, match="damaged"):
        load(path, third.path)


def wait_until_verified(store) -> None:
    deadline = time.monotonic() + 60
    while not store.state().checkpoints[0].is_verified and time.monotonic() < deadline:
        os.sched_yield()


def test_torch_tensors_are_writable_and_nobody_elses(store, checkpoint):
    folder, oracle = checkpoint
    first = sllm_store.load_tensors(folder, store=store.path)
    second = sllm_store.load_tensors(folder, store=store.path)
    for tensor in first.values():
        tensor.zero_()
    assert {name: tensor.numpy().tobytes() for name, tensor in second.items()} == oracle
    assert bytes_of(load(folder, store.path)) == oracle
    assert not any(tensor.any() for tensor in first.values())


def test_two_processes_share_one_load(store, here):
    oracle = make_checkpoint(here / "shared", seed=4, nbytes=20 << 20)
    evict(here / "shared")
    with children(2) as clients:
        for client in clients:
            client.tell("load", here / "shared", store.path)
        reports = [client.answer() for client in clients]
        digests = [client.ask("digest", here / "shared") for client in clients]
    assert digests[0] == digests[1]
    assert digests[0].keys() == oracle.keys()
    whole = store.state().filled_bytes
    assert sum(report["bytes_read"] for report in reports) <= 1.05 * whole
    assert whole <= 1.05 * file_bytes(here / "shared") + (1 << 20)


def test_auto_finds_the_store_of_the_environment(store, checkpoint, monkeypatch):
    folder, oracle = checkpoint
    monkeypatch.setenv("SLLM_STORE", str(store.path))
    reports = []
    assert bytes_of(load(folder, "auto", on_report=reports.append)) == oracle
    assert reports[0].store == "mapped"


def test_auto_does_without_a_store_and_says_so(checkpoint):
    folder, oracle = checkpoint
    reports = []
    assert bytes_of(load(folder, "auto", on_report=reports.append)) == oracle
    assert bytes_of(load(folder, None, on_report=reports.append)) == oracle
    assert [report.store for report in reports] == ["unavailable", ""]
    assert reports[0].memory == "own"


def test_a_named_store_is_that_one_or_an_error(here, checkpoint):
    with pytest.raises(UnavailableError, match="no store is running"):
        load(checkpoint[0], here / "absent.sock")


def test_a_pool_too_small_is_an_error_by_name_and_no_matter_for_auto(store, here, monkeypatch):
    oracle = make_checkpoint(here / "huge", seed=5, nbytes=40 << 20)
    with pytest.raises(OutOfMemoryError):
        load(here / "huge", store.path)
    monkeypatch.setenv("SLLM_STORE", str(store.path))
    reports = []
    assert bytes_of(load(here / "huge", "auto", on_report=reports.append)) == oracle
    assert reports[0].store == "exhausted"


def test_what_a_store_does_not_do_is_refused_by_name_and_done_by_auto(store, checkpoint, monkeypatch):
    folder, oracle = checkpoint
    monkeypatch.setenv("SLLM_STORE", str(store.path))
    buffer, reports = sllm_store.HostBuffer(32 << 20), []
    assert bytes_of(load(folder, "auto", memory=buffer, on_report=reports.append)) == oracle
    assert reports[0].store == "buffer"
    with pytest.raises(InvalidArgumentError, match="HostBuffer"):
        load(folder, store.path, memory=buffer)


def test_a_checkpoint_that_is_replaced_has_old_bytes_for_old_tensors_and_new_for_new(store, here):
    old_bytes = make_checkpoint(here / "changing", seed=6)
    old = load(here / "changing", store.path)
    shutil.rmtree(here / "changing")
    current_bytes = make_checkpoint(here / "changing", seed=7)
    new = load(here / "changing", store.path)
    assert bytes_of(old) == old_bytes
    assert bytes_of(new) == current_bytes
    states = [state for state in store.state().checkpoints if state.path == str(here / "changing")]
    assert sorted(state.is_retired for state in states) == [False, True]


def test_a_version_that_the_client_alone_has_met_is_a_conflict(store, here):
    make_checkpoint(here / "moving", seed=8)
    opened = sllm_store.open_checkpoint(here / "moving")
    load(here / "moving", store.path)
    path = next((here / "moving").glob("*.safetensors"))
    os.utime(path, ns=(1, 1))
    from sllm_store import _core
    from sllm_store.reading import LoadRequest, load_bytes

    with pytest.raises(ConflictError, match="was replaced"):
        load_bytes(opened, LoadRequest(store=store.path), _core.StopFlag())


def test_pools_are_thrashed_and_every_byte_is_right(store, here):
    oracles = {here / f"m{seed}": make_checkpoint(here / f"m{seed}", seed, 10 << 20) for seed in range(10, 16)}
    for _ in range(3):
        for folder, oracle in oracles.items():
            assert bytes_of(load(folder, store.path)) == oracle
    assert store.state().evicted_bytes > 3 * (32 << 20)
    assert store.leases() == []
