"""Checkpoints at URLs: every byte arrives, in the pool and on the disk, from web servers and from a real S3 server."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import obstore
import obstore.store
import pytest
from range_server import DEADLINE_S, Fault, RangeServer
from remote_checkpoints import (
    COMPANIONS,
    MIB,
    QUICK,
    SHARDS,
    assert_published,
    assert_same,
    files_of,
    load,
    published,
    reservation_of,
    run_load,
    write_converted,
    write_plain,
)

import sllm_store
from sllm_store import _core
from sllm_store.checkpoint import checkpoint_of, open_checkpoint
from sllm_store.disk_tier import DiskTier
from sllm_store.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    InvalidArgumentError,
    UnsupportedError,
)
from sllm_store.remote import open_remote
from sllm_store.remote_ranges import claimed_parts, ranges_of
from sllm_store.remote_urls import RemoteOptions, parse_url


@pytest.fixture(params=["converted", "plain"])
def folder(request, tmp_path):
    return (write_converted if request.param == "converted" else write_plain)(tmp_path / "model")


@pytest.fixture
def server(folder):
    with RangeServer(files_of(folder)) as started:
        yield started


def test_every_byte_arrives_in_the_pool_and_on_the_disk(server, tier, folder):
    source, reservation, account = run_load(server.url, tier)
    assert_same(reservation, source, server.files)
    copy = assert_published(tier, server.files)
    total = sum(part.size for part in source.checkpoint.partitions)
    assert account["bytes_fetched"] == account["bytes_read"] == total
    assert account["retries"] == account["bytes_from_disk"] == 0
    assert account["disk_error"] == ""
    assert account["total_s"] > 0
    assert source.tier == "disk"
    assert source.is_current()
    assert open_checkpoint(copy).names() == open_checkpoint(folder).names()


def test_the_second_load_comes_from_the_disk(server, tier):
    run_load(server.url, tier)
    before = len(server.gets())
    source, reservation, account = run_load(server.url, tier)
    assert_same(reservation, source, server.files)
    assert reservation.local_fills == 1
    # Opening reads headers; nothing else is fetched.
    assert len(server.gets()) - before == len(source.checkpoint.partitions)


def test_an_open_source_reads_the_published_copy_and_fetches_when_it_was_evicted(server, tier):
    async def twice():
        source, first, _ = await load(server.url, tier)
        identities = [part.identity for part in source.checkpoint.partitions]
        second = reservation_of(source)
        await source.fill(second, _core.StopFlag(), second.claim())
        assert second.local_fills == 1
        assert tier.evict(server.url) > 0
        third = reservation_of(source)
        third.claim()
        account = await source.fill(third, _core.StopFlag())
        await source.settle()
        assert account["bytes_fetched"] == sum(third.sizes)
        assert identities == [part.identity for part in source.checkpoint.partitions]
        return source, (first, second, third)

    source, reservations = asyncio.run(twice())
    for reservation in reservations:
        assert_same(reservation, source, server.files)
    assert_published(tier, server.files)


def test_without_a_disk_tier_bytes_go_to_the_pool_alone(server):
    source, reservation, account = run_load(server.url, None)
    assert_same(reservation, source, server.files)
    assert source.tier == f"http://{server.url.removeprefix('http://')}"
    assert account["disk_error"] == ""


def test_a_tier_without_room_does_not_end_a_load(server, tmp_path):
    small = DiskTier(tmp_path / "small", MIB)
    source, reservation, account = run_load(server.url, small)
    assert_same(reservation, source, server.files)
    assert "no room" in account["disk_error"]
    assert small.used_bytes() == 0
    small.close()


def test_what_was_opened_is_what_the_folder_is(server, folder):
    async def opened():
        return await open_remote(server.url, None, QUICK)

    source = asyncio.run(opened())
    local, remote = open_checkpoint(folder), source.checkpoint
    assert dict(remote.tensors) == dict(local.tensors)
    assert remote.tied == local.tied
    assert remote.is_verifiable == local.is_verifiable
    described = checkpoint_of(server.url, source.described())
    assert dict(described.tensors) == dict(local.tensors)
    assert [part.identity for part in described.partitions] == [part.identity for part in remote.partitions]
    assert [part.proof for part in described.partitions] == [part.proof for part in local.partitions]


def test_a_part_of_a_checkpoint_is_fetched_without_the_rest(server, tier):
    async def part():
        source = await open_remote(server.url, tier, QUICK)
        end = source.checkpoint.partitions[0].size
        first = reservation_of(source, [(0, 0, end)])
        account = await source.fill(first, _core.StopFlag())
        await source.settle()
        assert account["bytes_fetched"] == end
        assert bytes(first.memory[0]) == server.files[source.checkpoint.partitions[0].path.name]
        assert published(tier) == []
        rest = reservation_of(source)
        account = await source.fill(rest, _core.StopFlag())
        await source.settle()
        # With what was wanted of a part came the first span of each other file, which has its header.
        assert account["bytes_from_disk"] == end + sum(min(MIB, size) for size in rest.sizes[1:])
        return source, rest

    source, rest = asyncio.run(part())
    assert_same(rest, source, server.files)
    assert_published(tier, server.files)


def test_a_copy_can_be_completed_without_a_pool(server, tier):
    async def complete():
        source = await open_remote(server.url, tier, QUICK)
        return await source.complete(_core.StopFlag())

    account = asyncio.run(complete())
    assert account["bytes_fetched"] >= sum(len(data) for name, data in server.files.items() if name in COMPANIONS)
    assert_published(tier, server.files)


def test_two_loads_at_once_share_a_copy(server, tier):
    async def both():
        return await asyncio.gather(load(server.url, tier), load(server.url, tier))

    for source, reservation, _ in asyncio.run(both()):
        assert_same(reservation, source, server.files)
    assert_published(tier, server.files)


def test_what_another_reservation_brings_is_left_to_it(server, tier):
    async def rest():
        source = await open_remote(server.url, tier, QUICK)
        reservation = reservation_of(source)
        reservation.elsewhere = {part for part in reservation.parts if part[0] == 0}
        await source.fill(reservation, _core.StopFlag())
        await source.settle()
        assert {file for file, *_ in reservation.written} == {1} | set(range(2, len(reservation.sizes)))

    asyncio.run(rest())


def test_bytes_come_in_the_order_of_the_claim_and_few_at_a_time(server):
    """What is claimed first is there before the last is asked for."""
    options = RemoteOptions(range_bytes=MIB, in_flight=2)
    source, reservation, _ = run_load(server.url, None, options)
    order = [(file, begin) for file, begin, _ in reservation.written]
    ranks = [sorted(order).index(one) for one in order]
    # Whoever comes first may be one of two at any time, so each is at most one ahead of all that were taken before.
    assert all(rank <= place + 1 for place, rank in enumerate(ranks))
    assert server.most_under_way <= 2
    assert_same(reservation, source, server.files)


def test_a_single_file_is_a_checkpoint(tmp_path, tier):
    plain = write_plain(tmp_path / "model")
    with RangeServer(files_of(plain)) as server:
        source, reservation, _ = run_load(f"{server.url}/{SHARDS[1]}", tier)
        assert_same(reservation, source, server.files)
        assert_published(tier, {SHARDS[1]: server.files[SHARDS[1]]})
        assert source.checkpoint.names() == ["layers.1.a", "layers.1.b"]
        with pytest.raises(CheckpointNotFoundError, match=r"other\.safetensors"):
            run_load(f"{server.url}/other.safetensors", tier)


def test_a_folder_without_weights_is_no_checkpoint(tier):
    with RangeServer({"config.json": b"{}"}) as server, pytest.raises(CheckpointNotFoundError, match="no checkpoint"):
        run_load(server.url, tier)


def test_a_missing_partition_is_named(server, tier):
    name = sorted(name for name in server.files if name.endswith(".safetensors"))[-1]
    del server.files[name]
    with pytest.raises(CorruptCheckpointError, match=f"{name} is missing"):
        run_load(server.url, tier)


def test_headers_are_checked_before_a_tensor_is_fetched(server, tier):
    name = sorted(name for name in server.files if name.endswith(".safetensors"))[0]
    server.files[name] = b"\xff" * 20 + server.files[name][20:]
    with pytest.raises(CorruptCheckpointError, match=name):
        run_load(server.url, tier)
    assert all(request.begin == 0 for request in server.gets())


def test_a_header_longer_than_the_first_read_is_read_whole(tmp_path):
    data = bytes(10)
    members = {f"tensor.{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(3000)}
    members["w"] = {"dtype": "U8", "shape": [10], "data_offsets": [0, 10]}
    from checkpoints import write_safetensors

    path = write_safetensors(tmp_path / "model.safetensors", members, data)
    with RangeServer({path.name: path.read_bytes()}) as server:
        source, reservation, _ = run_load(server.url, None)
        assert len(source.checkpoint.tensors) == 3001
        assert_same(reservation, source, server.files)


FETCHER = """
import asyncio, sys
from remote_checkpoints import QUICK, reservation_of
from sllm_store import _core
from sllm_store.disk_tier import DiskTier
from sllm_store.remote import open_remote
async def main():
    source = await open_remote(sys.argv[1], DiskTier(sys.argv[2]), QUICK)
    await source.fill(reservation_of(source), _core.StopFlag())
asyncio.run(main())
"""


def journal_bytes(tier: Path) -> int:
    return sum(path.stat().st_size for path in tier.glob("partial/*/.sllm-journal"))


def test_a_fetch_goes_on_after_kill_9(server, tmp_path):
    """The server stalls in the second partition. What the killed process had synced is not fetched again."""
    last = sorted(name for name in server.files if name.endswith(".safetensors"))[-1]
    stalled = Fault("stall", 99, lambda request: request.name == last and request.begin > 0)
    server.faults.append(stalled)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", "import sllm_store.disk_copy as c; c.SYNC_PERIOD_S = 0.0\n" + FETCHER]
    with subprocess.Popen([*command, server.url, str(tmp_path / "tier")], env=environment) as process:
        deadline = time.monotonic() + DEADLINE_S
        while journal_bytes(tmp_path / "tier") < 16 * 3 and time.monotonic() < deadline and process.poll() is None:
            server.closing.wait(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
    assert journal_bytes(tmp_path / "tier") >= 16 * 3
    server.faults.clear()
    tier = DiskTier(tmp_path / "tier")
    there = tier.bytes_of(server.url)
    assert there >= 3 * MIB
    source, reservation, account = run_load(server.url, tier)
    assert_same(reservation, source, server.files)
    assert_published(tier, server.files)
    assert account["bytes_from_disk"] > 0
    assert account["bytes_fetched"] + account["bytes_from_disk"] == sum(reservation.sizes)
    tier.close()


def test_urls_are_taken_apart():
    url = parse_url("s3://bucket/models/llama/", allow_http=False)
    assert (url.folder, url.file, url.tier, url.can_list) == ("s3://bucket/models/llama", "", "s3://bucket", True)
    url = parse_url("https://host:8443/x/model.safetensors", allow_http=False)
    assert (url.folder, url.file, url.tier) == ("https://host:8443/x", "model.safetensors", "https://host:8443")
    assert parse_url("http://[::1]:80/x", allow_http=False).scheme == "http"
    assert parse_url("http://elsewhere/x", allow_http=True).scheme == "http"


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("http://elsewhere/x", InvalidArgumentError, "unencrypted"),
        ("http://127.0.0.1.evil.com/x", InvalidArgumentError, "unencrypted"),
        ("ftp://host/x", UnsupportedError, "none of"),
        ("s3:///x", InvalidArgumentError, "names no bucket"),
        ("https:///x", InvalidArgumentError, "names no host"),
        ("https://me:secret@host/x", InvalidArgumentError, "environment"),
        ("https://host/x?token=secret", InvalidArgumentError, "environment"),
        ("https://[host/x", InvalidArgumentError, "no URL"),
    ],
)
def test_urls_that_may_not_be_are_refused_without_their_secrets(url, error, text):
    with pytest.raises(error, match=text) as caught:
        parse_url(url, allow_http=False)
    assert "secret" not in str(caught.value)


def test_options_are_checked():
    for wrong in ({"range_bytes": 1000}, {"in_flight": 0}, {"progress_s": 0.0}, {"attempts": 0}):
        with pytest.raises(InvalidArgumentError):
            RemoteOptions(**wrong)


def test_claimed_pieces_become_whole_parts():
    sizes = [9 * MIB + 100, 50_000]
    pieces = [
        (0, 0, 4 * MIB, 0),
        (0, 4 * MIB, 4 * MIB, 77),
        (0, 8 * MIB, 8192, 5),
        (0, 8 * MIB + 8192, MIB + 4096 - 8192, 9),
        (1, 0, 8192, 1),
        (1, 8192, 45056, 2),
    ]
    parts = [(0, 0, 4 * MIB), (0, 4 * MIB, 8 * MIB), (0, 8 * MIB, 9 * MIB + 100), (1, 0, 50_000)]
    assert list(claimed_parts(pieces, sizes)) == parts
    missing = {(0, 1), (0, 2), (1, 0)}
    ranges = list(ranges_of(parts, 8 * MIB, is_there=lambda file, span: (file, span) not in missing, is_claimed=True))
    assert [(one.file, one.begin, one.end, one.is_there) for one in ranges] == [
        (0, 0, MIB, True),
        (0, MIB, 3 * MIB, False),
        (0, 3 * MIB, 9 * MIB + 100, True),
        (1, 0, 50_000, False),
    ]
    assert ranges[2].parts == [(3 * MIB, 4 * MIB), (4 * MIB, 8 * MIB), (8 * MIB, 9 * MIB + 100)]


def wait_until_it_answers(url: str, process: subprocess.Popen) -> None:
    for _ in range(300):
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
    raise TimeoutError(url)


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A server of the S3 protocol, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_it_answers(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
            log.close()


@pytest.fixture
def bucket(s3, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{s3}/models", method="PUT"), timeout=DEADLINE_S).close()

    store = obstore.store.S3Store("models", client_options={"allow_http": True})

    def put(name: str, data: bytes) -> None:
        # In parts where it is large, as tools do, whose etags are no checksums.
        obstore.put(store, name, data, chunk_size=5 * MIB)

    return put


def test_every_byte_arrives_from_s3(bucket, folder, tier, tmp_path):
    files, place = files_of(folder), f"a b/{tmp_path.name}"
    for name, data in files.items():
        bucket(f"{place}/{name}", data)
    bucket(f"{place}/modeling.py", b"print()")
    bucket(f"{place}/original/consolidated.00.pth", b"x")
    bucket(f"{place}/.hidden", b"x")
    bucket(f"{place}/README.md", b"# llama")
    source, reservation, account = run_load(f"s3://models/{place}", tier)
    assert_same(reservation, source, files)
    assert_published(tier, files | {"README.md": b"# llama"})
    assert account["retries"] == 0
    assert source.tier == "disk"
    source, reservation, _ = run_load(f"s3://models/{place}", tier)
    assert reservation.local_fills == 1
    assert_same(reservation, source, files)


def test_an_object_replaced_in_s3_is_another_checkpoint(bucket, tmp_path, tier):
    folder = write_converted(tmp_path / "model")
    for name, data in files_of(folder).items():
        bucket(f"replaced/{name}", data)
    source, *_ = run_load("s3://models/replaced", tier)
    other = tmp_path / "other"
    sllm_store.convert(tmp_path / "model-plain" / SHARDS[0], other)
    for name, data in files_of(other).items():
        bucket(f"replaced/{name}", data)
    again, reservation, _ = run_load("s3://models/replaced", tier)
    assert_same(reservation, again, files_of(other))
    assert again.checkpoint.partitions[0].identity != source.checkpoint.partitions[0].identity


def test_what_s3_has_not_is_not_found(bucket, tier):
    with pytest.raises(CheckpointNotFoundError):
        run_load("s3://models/no/such/model", tier)
    with pytest.raises(CheckpointNotFoundError):
        run_load("s3://no-such-bucket/model", tier)
