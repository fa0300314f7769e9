"""From a web server into the native store's pool: every byte, as another process would map it."""

import asyncio
import mmap
import os

import pytest
from range_server import Fault, RangeServer
from remote_checkpoints import MIB, QUICK, assert_published, files_of, published, write_converted, write_plain

from sllm_store import _core
from sllm_store.errors import CorruptCheckpointError
from sllm_store.remote import RemoteSource, open_remote


@pytest.fixture(params=["converted", "plain"])
def server(request, tmp_path):
    write = write_converted if request.param == "converted" else write_plain
    with RangeServer(files_of(write(tmp_path / "model"))) as started:
        yield started


class Pooled:
    """A source's checkpoint in a store of its own, all of it reserved."""

    def __init__(self, source: RemoteSource, pool_bytes: int = 64 * MIB) -> None:
        parts = source.checkpoint.partitions
        self.files = [(part.size, list(part.proof.span_crcs()) if part.proof else []) for part in parts]
        self.names = [part.path.name for part in parts]
        self.store = _core.Store(pool_bytes=pool_bytes)
        self.number = self.store.add(self.files, 1e-9)
        self.reservation = self.reserve()

    def reserve(self) -> _core.Reservation:
        reservation = self.store.reserve(self.number, [(n, 0, size) for n, (size, _) in enumerate(self.files)])
        assert reservation is not None
        return reservation

    def contents(self) -> dict[str, bytes]:
        """What a process that got the lease reads."""
        _, fd = self.reservation.lease()
        files = [bytearray(size) for size, _ in self.files]
        with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as pool:
            os.close(fd)
            for file, offset, nbytes, place in self.reservation.pieces():
                end = min(offset + nbytes, len(files[file]))
                files[file][offset:end] = pool[place : place + end - offset]
        return dict(zip(self.names, map(bytes, files), strict=True))


def weights_of(server: RangeServer) -> dict[str, bytes]:
    return {name: data for name, data in server.files.items() if name.endswith(".safetensors")}


@pytest.mark.parametrize("claimed", ["and said", "and not said", "by nobody"])
def test_every_byte_is_resident_from_the_net_and_from_the_disk(server, tier, claimed):
    async def both():
        source = await open_remote(server.url, tier, QUICK)
        for _ in range(2):
            pooled = Pooled(source)
            pieces = pooled.reservation.claim() if claimed != "by nobody" else None
            said = pieces if claimed == "and said" else None
            account = await source.fill(pooled.reservation, _core.StopFlag(), said)
            assert account["bytes_read"] >= sum(size for size, _ in pooled.files)
            assert pooled.reservation.is_complete
            assert pooled.contents() == weights_of(server)
            # Whoever claims and does not say what has it given up first.
            assert pooled.store.status()["failed_fills"] == (claimed == "and not said")
            await source.settle()

    asyncio.run(both())
    assert_published(tier, server.files)


def test_a_fill_goes_on_after_one_that_failed(server, tier):
    failing = Fault("status", 999, lambda request: request.method == "GET" and request.begin == 2 * MIB)
    server.faults.append(failing)

    async def again():
        source = await open_remote(server.url, tier, QUICK)
        pooled = Pooled(source)
        with pytest.raises(Exception, match="cannot fetch"):
            await source.fill(pooled.reservation, _core.StopFlag(), pooled.reservation.claim())
        assert not pooled.reservation.is_complete
        failing.times = 0
        await source.fill(pooled.reservation, _core.StopFlag(), pooled.reservation.claim())
        assert pooled.contents() == weights_of(server)
        await source.settle()

    asyncio.run(again())
    assert_published(tier, server.files)


def test_a_damaged_published_copy_is_repaired_on_the_way(tmp_path, tier):
    with RangeServer(files_of(write_converted(tmp_path / "model"))) as server:

        async def repaired():
            source = await open_remote(server.url, tier, QUICK)
            first = Pooled(source)
            await source.fill(first.reservation, _core.StopFlag(), first.reservation.claim())
            await source.settle()
            (folder,) = published(tier)
            path = sorted(folder.glob("*.safetensors"))[0]
            with path.open("r+b") as file:
                file.seek(MIB + 9)
                file.write(b"damage")
            second = Pooled(source)
            account = await source.fill(second.reservation, _core.StopFlag(), second.reservation.claim())
            assert account["bad_ranges"] == 1
            assert second.contents() == weights_of(server)
            await source.settle()

        asyncio.run(repaired())
        assert_published(tier, server.files)


def test_two_reservations_share_what_one_brings(server, tier):
    async def shared():
        source = await open_remote(server.url, tier, QUICK)
        pooled = Pooled(source)
        other = pooled.reserve()
        claimed = pooled.reservation.claim()
        assert claimed
        assert other.claim() == []
        before = len(server.gets())
        await asyncio.gather(
            source.fill(pooled.reservation, _core.StopFlag(), claimed), source.fill(other, _core.StopFlag(), [])
        )
        assert other.is_complete
        fetched = [request for request in server.gets()[before:] if request.begin >= MIB]
        assert len({(request.name, request.begin) for request in fetched}) == len(fetched)
        await source.settle()

    asyncio.run(shared())
    assert_published(tier, server.files)


def test_wrong_bytes_become_no_residents(tmp_path, tier):
    with RangeServer(files_of(write_converted(tmp_path / "model"))) as server:
        server.faults.append(Fault("flip", 999, lambda request: request.method == "GET" and request.begin == MIB))

        async def refused():
            source = await open_remote(server.url, tier, QUICK)
            pooled = Pooled(source)
            with pytest.raises(CorruptCheckpointError, match="fetched twice"):
                await source.fill(pooled.reservation, _core.StopFlag(), pooled.reservation.claim())
            assert not pooled.reservation.is_complete
            assert pooled.store.status()["filling_bytes"] == 0

        asyncio.run(refused())
