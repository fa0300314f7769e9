"""What servers do wrong, what disks do wrong, what users do in between: the right error, and a tier that goes on."""

import asyncio
import inspect
import os
import threading
import time
from pathlib import Path

import pytest
from range_server import DEADLINE_S, Fault, RangeServer
from remote_checkpoints import (
    MIB,
    QUICK,
    assert_published,
    assert_same,
    files_of,
    published,
    reservation_of,
    run_load,
    write_converted,
    write_plain,
)

from sllm_store import _core, errors
from sllm_store.errors import (
    AuthenticationError,
    CancelledError,
    CheckpointNotFoundError,
    ConflictError,
    CorruptCheckpointError,
    DeadlineError,
    OutOfMemoryError,
    PermissionDeniedError,
    StoreIOError,
    UnavailableError,
    UnsupportedError,
)
from sllm_store.remote import open_remote
from sllm_store.remote_errors import CLASSES, PASSING, from_obstore
from sllm_store.remote_urls import RemoteOptions


@pytest.fixture(params=["converted", "plain"])
def server(request, tmp_path):
    write = write_converted if request.param == "converted" else write_plain
    with RangeServer(files_of(write(tmp_path / "model"))) as started:
        started.is_verifiable = request.param == "converted"
        yield started


@pytest.fixture
def verified(tmp_path):
    with RangeServer(files_of(write_converted(tmp_path / "model"))) as started:
        yield started


def is_data(request) -> bool:
    """A request for tensors' bytes: headers are read from 0 on."""
    return request.method == "GET" and request.begin >= MIB


def assert_usable(server, tier) -> None:
    """Without the faults, the same tier goes on and ends with a whole copy."""
    server.faults.clear()
    source, reservation, _ = run_load(server.url, tier)
    assert_same(reservation, source, server.files)
    assert_published(tier, server.files)


@pytest.mark.parametrize("kind", ["status", "cut", "stall", "short"])
def test_a_passing_fault_costs_a_retry(server, tier, kind):
    server.faults.append(Fault(kind, 2, is_data))
    source, reservation, account = run_load(server.url, tier)
    assert_same(reservation, source, server.files)
    assert_published(tier, server.files)
    assert account["retries"] == 2


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (Fault("status", 999, is_data, status=503), UnavailableError, "cannot fetch bytes"),
        (Fault("status", 999, is_data, status=403), PermissionDeniedError, "cannot fetch bytes"),
        (Fault("status", 999, is_data, status=401), AuthenticationError, "cannot fetch bytes"),
        (Fault("status", 999, is_data, status=404), CheckpointNotFoundError, "cannot fetch bytes"),
        (Fault("cut", 999, is_data), UnavailableError, "cannot fetch bytes"),
        (Fault("stall", 999, is_data), DeadlineError, "cannot fetch bytes"),
        (Fault("short", 999, is_data), UnavailableError, "the server sent 524288 of bytes 1048576 to"),
        (Fault("total", 999, is_data), ConflictError, "was replaced"),
        (Fault("whole", 999, is_data), UnsupportedError, "cannot fetch bytes"),
    ],
    ids=["503", "403", "401", "404", "cut", "stall", "short", "total", "whole"],
)
def test_a_lasting_fault_is_the_right_error_and_names_the_object(verified, tier, fault, error, text):
    verified.faults.append(fault)

    async def fails():
        source = await open_remote(verified.url, tier, QUICK)
        reservation = reservation_of(source)
        with pytest.raises(error, match=text) as caught:
            await source.fill(reservation, _core.StopFlag())
        assert ".safetensors" in str(caught.value)
        assert verified.url in str(caught.value)
        assert all(reservation.is_there(part) for part in reservation.claimed)
        return source

    source = asyncio.run(fails())
    assert published(tier) == []
    if error is not ConflictError:
        assert source.is_current()
    assert_usable(verified, tier)


def test_a_slow_server_is_waited_for_as_long_as_it_sends(verified, tier):
    """Each range takes a second, and nothing comes for longer than the deadline allows at no time."""
    verified.faults.append(Fault("drip", 2, is_data))
    options = RemoteOptions(range_bytes=MIB, in_flight=4, progress_s=0.4, attempts=1)
    source, reservation, account = run_load(verified.url, tier, options)
    assert_same(reservation, source, verified.files)
    assert account["total_s"] > 0.9
    assert account["retries"] == 0


def test_one_wrong_byte_is_fetched_again(verified, tier):
    verified.faults.append(Fault("flip", 1, is_data))
    source, reservation, account = run_load(verified.url, tier)
    assert_same(reservation, source, verified.files)
    assert_published(tier, verified.files)
    assert account["bad_ranges"] == 1


def test_wrong_bytes_twice_are_an_error_and_nobody_gets_them(verified, tier):
    verified.faults.append(Fault("flip", 999, lambda request: is_data(request) and request.begin == 2 * MIB))

    async def fails():
        source = await open_remote(verified.url, tier, QUICK)
        reservation = reservation_of(source)
        with pytest.raises(CorruptCheckpointError, match=r"\.safetensors.*bytes 2097152 to \d+.*fetched twice"):
            await source.fill(reservation, _core.StopFlag())
        # What was verified stays; the damaged range got nowhere.
        assert all(begin != 2 * MIB for _, begin, _ in reservation.written)

    asyncio.run(fails())
    assert_usable(verified, tier)


def test_bytes_without_a_manifest_are_taken_as_they_come(tmp_path, tier):
    with RangeServer(files_of(write_plain(tmp_path / "model"))) as server:
        source, reservation, _ = run_load(server.url, tier)
        assert not source.checkpoint.is_verifiable
        assert_same(reservation, source, server.files)


@pytest.mark.parametrize("has_etags", [True, False])
@pytest.mark.parametrize("checks_if_match", [True, False])
def test_an_object_replaced_between_two_ranges_is_an_error(server, tier, has_etags, checks_if_match):
    server.has_etags, server.checks_if_match = has_etags, checks_if_match
    name = sorted(name for name in server.files if name.endswith(".safetensors"))[0]
    old = server.files[name]

    def replace() -> None:
        server.files[name] = old[:-1] + bytes([old[-1] ^ 1])
        server.modified = "Tue, 03 Mar 2026 10:00:00 GMT"

    server.faults.append(Fault("call", 1, lambda request: is_data(request) and request.name == name, then=replace))

    async def fails():
        source = await open_remote(server.url, tier, QUICK)
        with pytest.raises(ConflictError, match=name if has_etags else "safetensors was replaced"):
            await source.fill(reservation_of(source), _core.StopFlag())
        return source

    source = asyncio.run(fails())
    assert not source.is_current()
    server.files[name] = old
    assert_usable(server, tier)


def test_a_strong_etag_goes_along_and_a_weak_one_does_not(verified, tier):
    run_load(verified.url, tier)
    large = [name for name, data in verified.files.items() if name.endswith(".safetensors") and len(data) > MIB]
    assert {request.if_match for request in verified.gets() if is_data(request)} == set(map(verified.etag, large))
    verified.has_weak_etags = True
    verified.requests.clear()
    run_load(verified.url, None)
    assert {request.if_match for request in verified.gets()} == {None}


def test_replacement_is_noticed_when_somebody_asks_late_enough(server, tier, monkeypatch):
    source, *_ = run_load(server.url, tier)
    telling = "sllm.json" if server.is_verifiable else sorted(n for n in server.files if n.endswith(".safetensors"))[-1]
    server.files[telling] += b" "
    assert source.is_current()
    monkeypatch.setattr("sllm_store.remote.RECHECK_S", 0.0)
    assert not source.is_current()


def test_a_server_that_is_away_changes_nothing(server, tier, monkeypatch):
    source, *_ = run_load(server.url, tier)
    monkeypatch.setattr("sllm_store.remote.RECHECK_S", 0.0)
    server.__exit__()
    assert source.is_current()


def test_nobody_listening_is_unavailable(tier):
    with RangeServer({}) as server:
        url = server.url
    with pytest.raises(UnavailableError, match="cannot find"):
        run_load(url, tier)


def test_a_fetch_goes_on_where_it_broke_off(server, tier):
    name = sorted(name for name in server.files if name.endswith(".safetensors"))[-1]
    server.faults.append(Fault("status", 999, lambda request: is_data(request) and request.name == name))
    with pytest.raises(UnavailableError):
        run_load(server.url, tier)
    server.faults.clear()
    server.requests.clear()
    source, reservation, account = run_load(server.url, tier)
    assert_same(reservation, source, server.files)
    assert_published(tier, server.files)
    assert account["bytes_from_disk"] > 0
    assert account["bytes_fetched"] + account["bytes_from_disk"] == sum(reservation.sizes)
    spans = {(file, start) for file, size in enumerate(reservation.sizes) for start in range(0, size, MIB)}
    again = {request.begin for request in server.gets() if request.name != name and is_data(request)}
    assert len(again) < len([start for file, start in spans if file == 0]) - 1


@pytest.mark.parametrize("by", ["flag", "task"])
@pytest.mark.parametrize("where", ["stall", "pause"])
def test_a_stop_ends_at_once(verified, tier, by, where):
    """In a read that nothing comes for, and in a pause between attempts."""
    options = RemoteOptions(range_bytes=MIB, in_flight=4, progress_s=600.0, attempts=9, pause_s=600.0)
    reached = threading.Event()
    fault = Fault("stall" if where == "stall" else "status", 999, is_data)
    verified.faults += [Fault("call", 1, is_data, then=reached.set), fault]

    async def stopped():
        source = await open_remote(verified.url, tier, options)
        reservation, stop = reservation_of(source), _core.StopFlag()
        task = asyncio.ensure_future(source.fill(reservation, stop))
        await asyncio.to_thread(reached.wait, DEADLINE_S)
        started = time.monotonic()
        if by == "flag":
            stop.set()
        else:
            task.cancel()
        with pytest.raises(CancelledError if by == "flag" else asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 5
        assert all(reservation.is_there(part) for part in reservation.claimed)

    asyncio.run(stopped())
    assert threading.active_count() < 60
    assert_usable(verified, tier)


def test_a_damaged_chunk_on_the_disk_is_fetched_and_repaired(verified, tier):
    run_load(verified.url, tier)
    (folder,) = published(tier)
    path = max(folder.glob("*.safetensors"), key=lambda one: one.stat().st_size)
    with path.open("r+b") as file:
        file.seek(2 * MIB + 5)
        byte = file.read(1)
        file.seek(2 * MIB + 5)
        file.write(bytes([byte[0] ^ 1]))
    source, reservation, account = run_load(verified.url, tier)
    assert_same(reservation, source, verified.files)
    assert account["bad_ranges"] == 1
    assert account["bytes_fetched"] == min(MIB, path.stat().st_size - 2 * MIB)
    assert_published(tier, verified.files)
    *_, account = run_load(verified.url, tier)
    assert "bytes_fetched" not in account  # a local load, as it should be


def test_a_damaged_chunk_of_a_partial_copy_is_fetched_again(verified, tier):
    name = sorted(name for name in verified.files if name.endswith(".safetensors"))[-1]
    verified.faults.append(Fault("status", 999, lambda request: is_data(request) and request.name == name))
    with pytest.raises(UnavailableError):
        run_load(verified.url, tier)
    verified.faults.clear()
    (folder,) = (Path(tier.path) / "partial").iterdir()
    first = sorted(path for path in folder.iterdir() if path.name.endswith(".safetensors"))[0]
    with first.open("r+b") as file:
        file.seek(MIB + 5)
        file.write(b"damage")
    source, reservation, account = run_load(verified.url, tier)
    assert_same(reservation, source, verified.files)
    assert account["bad_ranges"] == 1
    assert_published(tier, verified.files)


def test_a_damaged_header_of_a_published_copy_is_fetched_again(verified, tier):
    run_load(verified.url, tier)
    (folder,) = published(tier)
    path = sorted(folder.glob("*.safetensors"))[0]
    content = path.read_bytes()
    path.write_bytes(b"\0" * 8 + content[8:])
    source, reservation, _ = run_load(verified.url, tier)
    assert_same(reservation, source, verified.files)
    assert_published(tier, verified.files)


def test_a_published_copy_that_lost_a_file_is_fetched_again(server, tier):
    run_load(server.url, tier)
    (folder,) = published(tier)
    sorted(folder.glob("*.safetensors"))[0].unlink()
    source, reservation, _ = run_load(server.url, tier)
    assert_same(reservation, source, server.files)
    assert_published(tier, server.files)


class FullDisk:
    """Refuses all writes to copies after the first few, as a disk does that is full."""

    def __init__(self, monkeypatch, writes: int) -> None:
        self.left = writes
        self.write = os.pwrite
        monkeypatch.setattr("sllm_store.disk_copy.os.pwrite", self.pwrite)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return self.write(fd, data, offset)


def test_a_full_disk_does_not_end_a_load_into_the_pool(server, tier, monkeypatch):
    disk = FullDisk(monkeypatch, 3)
    source, reservation, account = run_load(server.url, tier)
    assert_same(reservation, source, server.files)
    assert "the disk tier is full" in account["disk_error"]
    assert published(tier) == []
    disk.left = 10**9
    assert_usable(server, tier)


def test_a_full_disk_ends_a_copy_for_the_disk_alone(server, tier, monkeypatch):
    FullDisk(monkeypatch, 3)

    async def complete():
        source = await open_remote(server.url, tier, QUICK)
        await source.complete(_core.StopFlag())

    with pytest.raises(OutOfMemoryError, match="disk tier is full"):
        asyncio.run(complete())


def test_a_missing_file_beside_the_weights_ends_no_load(server, tier):
    server.faults.append(Fault("status", 999, lambda one: one.method == "GET" and one.name == "tokenizer.json"))
    source, reservation, _ = run_load(server.url, tier)
    assert_same(reservation, source, server.files)
    assert published(tier) == []
    assert_usable(server, tier)


def test_each_error_of_obstore_has_a_class():
    from obstore import exceptions

    names = {
        name for name, cls in inspect.getmembers(exceptions, inspect.isclass) if issubclass(cls, exceptions.BaseError)
    }
    assert names <= CLASSES.keys()
    builtin = {"FileNotFoundError", "NotImplementedError", "TimeoutError", "OSError", "ValueError"}
    assert CLASSES.keys() == names | builtin
    for name in names:
        error = from_obstore(getattr(exceptions, name)("it\n  failed"), "cannot do it")
        assert type(error) is CLASSES[name]
        assert str(error) == "cannot do it: it failed"


def test_unknown_errors_are_internal_and_secrets_are_left_out():
    assert type(from_obstore(KeyError("x"), "cannot")) is errors.InternalError
    text = str(from_obstore(ValueError("https://me:pass@host/x?sig=abc failed"), "cannot"))
    assert text == "cannot: https://host/x failed"


@pytest.mark.parametrize(
    ("status", "cls"),
    [(404, CheckpointNotFoundError), (400, StoreIOError), (429, UnavailableError), (503, UnavailableError)],
)
def test_what_a_status_means(status, cls):
    from obstore import exceptions

    error = from_obstore(exceptions.GenericError(f"Server returned non-2xx status code: {status} No"), "cannot")
    assert type(error) is cls


def test_timeouts_pass_and_refusals_do_not():
    from obstore import exceptions

    late = from_obstore(exceptions.GenericError("it failed\n\nDebug source: kind: TimedOut"), "cannot")
    assert str(late) == "cannot: it failed"
    assert type(late) is DeadlineError
    assert isinstance(late, PASSING)
    assert not isinstance(from_obstore(exceptions.PermissionDeniedError("no"), "cannot"), PASSING)


def test_a_copy_that_nobody_can_sync_is_said_so(verified, tier, monkeypatch):
    monkeypatch.setattr("sllm_store.disk_copy.SYNC_PERIOD_S", 0.0)
    calls = []

    def fail(fd: int) -> None:
        calls.append(fd)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("sllm_store.disk_copy.os.fdatasync", fail)
    source, reservation, account = run_load(verified.url, tier)
    assert calls
    assert_same(reservation, source, verified.files)
    assert published(tier) == []
    monkeypatch.undo()
    assert_usable(verified, tier)


def test_a_copy_is_released_whatever_happens(verified, tier):
    verified.faults.append(Fault("status", 999, is_data, status=403))
    with pytest.raises(PermissionDeniedError):
        run_load(verified.url, tier)
    assert tier.used_bytes() < sum(map(len, verified.files.values()))
    assert tier.evict("") >= 0
    assert tier.used_bytes() == 0
    open_files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert [path for path in open_files if path.startswith(f"{tier.path}/partial")] == []


def test_closing_a_source_ends_what_is_done_to_its_copy(server, tier):
    server.faults.append(Fault("stall", 999, lambda one: one.method == "GET" and one.name == "tokenizer.json"))
    options = RemoteOptions(range_bytes=MIB, in_flight=4, progress_s=600.0)

    async def closed():
        source = await open_remote(server.url, tier, options)
        reservation = reservation_of(source)
        await source.fill(reservation, _core.StopFlag())
        assert_same(reservation, source, server.files)
        await asyncio.wait_for(source.close(), 10)

    asyncio.run(closed())
    assert published(tier) == []
    assert_usable(server, tier)


def test_what_the_store_knows_of_plain_bytes_is_heeded(tmp_path, tier):
    """It has computed CRCs of an earlier load; the copy on the disk was damaged since, then the server changes too."""
    with RangeServer(files_of(write_plain(tmp_path / "model"))) as server:

        async def heeded():
            source = await open_remote(server.url, tier, QUICK)
            crcs = []
            for part in source.checkpoint.partitions:
                data = server.files[part.path.name]
                crcs.append([_core.crc32c(data[start : start + MIB]) for start in range(0, len(data), MIB)])
            await source.complete(_core.StopFlag())
            (folder,) = published(tier)
            path = sorted(folder.glob("*.safetensors"))[0]
            with path.open("r+b") as file:
                file.seek(2 * MIB)
                file.write(b"damage")
            reservation = reservation_of(source)
            reservation.crcs = crcs
            account = await source.fill(reservation, _core.StopFlag())
            await source.settle()
            assert account["bad_ranges"] == 1
            assert_same(reservation, source, server.files)
            assert_published(tier, server.files)
            tier.evict("")
            server.faults.append(Fault("flip", 999, lambda one: is_data(one) and one.begin == 2 * MIB))
            again = reservation_of(source)
            again.crcs = crcs
            with pytest.raises(CorruptCheckpointError, match="fetched twice"):
                await source.fill(again, _core.StopFlag())

        asyncio.run(heeded())


def test_what_a_drive_cannot_read_is_fetched(verified, tier, monkeypatch):
    name = sorted(name for name in verified.files if name.endswith(".safetensors"))[-1]
    verified.faults.append(Fault("status", 999, lambda request: is_data(request) and request.name == name))
    with pytest.raises(UnavailableError):
        run_load(verified.url, tier)
    verified.faults.clear()
    refused = []

    def fail(fd: int, nbytes: int, offset: int) -> bytes:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not path.endswith(".safetensors"):
            return pread(fd, nbytes, offset)
        refused.append(path)
        raise OSError(5, "Input/output error")

    pread = os.pread
    monkeypatch.setattr("sllm_store.disk_copy.os.pread", fail)
    source, reservation, account = run_load(verified.url, tier)
    monkeypatch.undo()
    assert refused
    assert account["bytes_from_disk"] == 0
    assert_same(reservation, source, verified.files)
