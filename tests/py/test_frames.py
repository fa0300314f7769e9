"""Frames between clients and the store, and what strangers may do to them."""

import array
import asyncio
import os
import socket
import threading
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllm_store.async_frames import Connection
from sllm_store.errors import CancelledError, DeadlineError, InvalidArgumentError, UnavailableError
from sllm_store.frames import Channel, FrameError, FrameReader, encode
from sllm_store.protocol import MAX_FRAME_BYTES, Answer, Failed, Hello, Leased, Request, Welcome

WELCOME = Welcome(1, 2, 3)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def rights(*fds: int) -> list:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]


def read_all(reader: FrameReader) -> list[bytes | None]:
    found = []
    while True:
        try:
            found.append(reader.read())
        except BlockingIOError:
            return found
        if found[-1] is None:
            return found


class TestReader:
    def test_frames_come_out_as_they_went_in_however_they_are_cut(self, pair):
        ours, theirs = pair
        theirs.setblocking(False)
        reader = FrameReader(theirs)
        bodies = [b"a", b"", b"b" * 70_000]
        stream = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
        got = []
        for start in range(0, len(stream), 997):
            ours.send(stream[start : start + 997])
            got += read_all(reader)
        ours.close()
        assert [*got, *read_all(reader)] == [*bodies, None]

    def test_a_descriptor_belongs_to_the_message_it_came_with(self, pair):
        ours, theirs = pair
        theirs.setblocking(False)
        reader = FrameReader(theirs)
        ours.send(encode(WELCOME))
        ours.sendmsg([encode(Hello(1))], rights(ours.fileno()))
        ours.send(encode(WELCOME))
        owners = []
        for _ in range(3):
            assert reader.read()
            fd = reader.take_fd()
            owners.append(fd is not None)
            if fd is not None:
                assert os.fstat(fd) == os.fstat(ours.fileno())
                assert not os.get_inheritable(fd)
                os.close(fd)
        assert owners == [False, True, False]

    @pytest.mark.parametrize("where", [0, 1, 3, 4, 5])
    def test_descriptors_anywhere_leak_nothing(self, pair, where):
        ours, theirs = pair
        theirs.setblocking(False)
        before = open_fds()
        reader = FrameReader(theirs)
        frame = encode(WELCOME)
        ours.send(frame[:where])
        ours.sendmsg([frame[where:]], rights(0))
        assert reader.read() == frame[4:]
        reader.close()
        assert open_fds() == before

    def test_several_descriptors_are_a_broken_frame_and_leak_nothing(self, pair):
        ours, theirs = pair
        theirs.setblocking(False)
        before = open_fds()
        reader = FrameReader(theirs)
        ours.sendmsg([encode(WELCOME)], rights(0, 1, 2))
        with pytest.raises(FrameError, match="more than one descriptor"):
            reader.read()
        reader.close()
        assert open_fds() == before

    def test_an_oversized_frame_is_refused_by_its_length(self, pair):
        ours, theirs = pair
        theirs.setblocking(False)
        ours.send((MAX_FRAME_BYTES + 1).to_bytes(4, "little"))
        with pytest.raises(FrameError, match=f"{MAX_FRAME_BYTES + 1} bytes is over the limit"):
            FrameReader(theirs).read()

    @pytest.mark.parametrize("cut", [1, 3, 4, 6])
    def test_half_a_frame_is_a_broken_one(self, pair, cut):
        ours, theirs = pair
        theirs.setblocking(False)
        ours.send(encode(WELCOME)[:cut])
        ours.close()
        with pytest.raises(FrameError, match="ended"):
            FrameReader(theirs).read()


class TestMessages:
    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_garbage_is_a_decoding_error(self, data):
        for kind in (Request, Answer):
            try:
                msgspec.msgpack.decode(data, type=kind)
            except msgspec.DecodeError:
                continue

    def test_every_message_survives(self):
        leased = Leased([(0, 4096, 8192, 0)], 1 << 22, True, 5, {"total_s": 0.5, "queue": "none", "reads": 3})
        for message in (WELCOME, leased, Failed("io", "x")):
            assert msgspec.msgpack.decode(encode(message)[4:], type=Answer) == message

    def test_one_over_the_limit_is_refused(self):
        with pytest.raises(InvalidArgumentError, match="a Failed of .* over the limit"):
            encode(Failed("io", "x" * MAX_FRAME_BYTES))


class TestChannel:
    def test_what_one_side_sends_the_other_receives(self, pair):
        ours, theirs = map(Channel, pair, ["us", "them"])
        large = Failed("io", "x" * (8 << 20))
        sender = threading.Thread(target=ours.send, args=(large, 0), kwargs={"timeout_s": 10})
        sender.start()
        message, fd = theirs.receive(timeout_s=10)
        sender.join()
        assert message == large
        assert fd is not None
        os.close(fd)

    def test_silence_and_closed_ears_end_at_the_deadline(self, pair):
        channel = Channel(pair[0], "there")
        start = time.monotonic()
        with pytest.raises(DeadlineError, match="the store at there"):
            channel.receive(timeout_s=0.05)
        with pytest.raises(DeadlineError):
            channel.send(Failed("io", "x" * (8 << 20)), timeout_s=0.05)
        assert time.monotonic() - start < 5

    def test_a_stop_ends_a_wait(self, pair):
        with pytest.raises(CancelledError):
            Channel(pair[0], "there", lambda: True).receive(timeout_s=60)

    def test_a_store_that_goes_is_unavailable(self, pair):
        channel = Channel(pair[0], "there")
        pair[1].close()
        with pytest.raises(UnavailableError, match="there closed the connection"):
            channel.receive(timeout_s=10)
        with pytest.raises(UnavailableError, match="there is gone"):
            channel.send(WELCOME, timeout_s=10)

    def test_a_store_that_sends_nonsense_is_unavailable(self, pair):
        channel = Channel(pair[0], "there")
        pair[1].send(b"\2\0\0\0ab")
        with pytest.raises(UnavailableError, match="no answer"):
            channel.receive(timeout_s=10)


class TestConnection:
    def test_frames_pass_both_ways(self, pair):
        async def talk():
            first, second = map(Connection, pair)
            large = Failed("io", "x" * (8 << 20))
            _, body = await asyncio.gather(first.send(large, 0), second.receive())
            fd = second.take_fd()
            os.close(fd)
            first.close()
            return msgspec.msgpack.decode(body, type=Answer) == large, await second.receive()

        assert asyncio.run(talk()) == (True, None)

    def test_a_client_that_stops_reading_is_given_up(self, pair):
        async def talk():
            await Connection(pair[0], timeout_s=0.05).send(Failed("io", "x" * (8 << 20)))

        with pytest.raises(FrameError, match="does not read"):
            asyncio.run(talk())

    def test_a_client_that_stops_within_a_frame_is_given_up(self, pair):
        async def talk():
            pair[1].send(b"\2\0")
            await Connection(pair[0], timeout_s=0.05).receive()

        with pytest.raises(FrameError, match="too long"):
            asyncio.run(talk())

    def test_the_first_frame_has_a_deadline(self, pair):
        with pytest.raises(FrameError, match="too long"):
            asyncio.run(first_frame(pair[0]))

    def test_the_end_of_a_client_is_noticed(self, pair):
        async def talk():
            connection = Connection(pair[0])
            over = asyncio.ensure_future(connection.until_over())
            await asyncio.wait([over], timeout=0.01)
            was_over = over.done()
            pair[1].close()
            await asyncio.wait_for(over, 10)
            return was_over

        assert asyncio.run(talk()) is False


async def first_frame(ours: socket.socket) -> object:
    return await Connection(ours, timeout_s=0.05).receive(is_first=True)
