"""Whatever becomes of a client or of the daemon, tensors keep their bytes and the store serves on."""

import grp
import hashlib
import os
import signal
import socket
import struct
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from store_process import bytes_of, children, load, make_checkpoint, running_store

from sllm_store import client
from sllm_store.client import StoreClient
from sllm_store.errors import OutOfMemoryError, PermissionDeniedError, UnavailableError, UnsupportedError
from sllm_store.frames import encode
from sllm_store.protocol import MAX_FRAME_BYTES, Hello, Leased, Load, Prefetch, Prefetched, State, Status

# What leaks once a client is seen among descriptors that come and go.
REPEATS = 5


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def models(here):
    """Folders of 10 MB, and what is in each."""
    return {here / f"m{seed}": make_checkpoint(here / f"m{seed}", seed, 10 << 20) for seed in range(4)}


@pytest.fixture
def store(here):
    with running_store(here / "s.sock") as running:
        yield running


def digests(oracle: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in oracle.items()}


def thrash(store, models) -> None:
    """Fill the pool with other things, several times over."""
    for _ in range(3):
        for folder, oracle in list(models.items())[1:]:
            assert bytes_of(load(folder, store.path)) == oracle


class TestClients:
    def test_a_killed_client_holds_nothing(self, store, models):
        (folder, *_) = models
        with children(1) as (client,):
            client.ask("load", folder, store.path)
            (lease,) = store.leases()
            assert (lease.path, lease.pid, lease.uid) == (str(folder), client.process.pid, os.getuid())
            assert store.evict() == 0
            client.kill()
            assert store.leases() == []
        assert store.evict() > 0
        assert store.state().resident_bytes == 0

    @pytest.mark.parametrize("after", [0, 1, 2, 5, 10, 20])
    def test_a_client_that_dies_in_the_middle_leaves_the_pool_whole(self, store, models, after):
        folder, oracle = next(iter(models.items()))
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(store.path))
            raw.sendall(encode(Hello(1)))
            raw.recv(1000)
            raw.sendall(encode(Load(str(folder), [], [(0, 0, 10 << 20)], 0.0)))
            raw.settimeout(after / 1000 or None)
            if after:
                with suppress(TimeoutError):
                    raw.recv(1)
        assert bytes_of(load(folder, store.path)) == oracle
        assert store.state().filling_bytes == 0
        assert store.leases() == []

    @pytest.mark.parametrize("deed", ["close descriptors", "fork and go"])
    def test_tensors_live_without_descriptors_and_in_a_forked_child(self, store, models, deed):
        folder, oracle = next(iter(models.items()))
        with children(1) as (client,):
            client.ask("load", folder, store.path)
            forked = client.ask(deed)
            assert len(store.leases()) == 1
            thrash(store, models)
            assert client.ask("digest", folder) == digests(oracle)
            assert len(store.leases()) == 1
            client.process.stdin.close()
            if forked:
                os.waitid(os.P_PID, client.process.pid, os.WEXITED | os.WNOWAIT)
                assert client.process.stdout.readline() == ""
            client.process.wait(60)
        assert store.leases() == []

    def test_a_client_cannot_write_to_the_pool(self, store, models):
        import fcntl
        import mmap

        folder, oracle = next(iter(models.items()))
        with StoreClient(store.path) as client:
            _, fd = client.request_fd(Load(str(folder), [], [(0, 0, 4096)], 0.0), Leased)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(OSError, match="Invalid argument"):
            os.ftruncate(fd, 0)
        with pytest.raises(OSError, match="not permitted"):
            mmap.mmap(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), 4096, mmap.MAP_SHARED)
        with pytest.raises(OSError, match="not permitted"):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        os.close(fd)
        assert bytes_of(load(folder, store.path)) == oracle


class TestStrangers:
    def greeted(self, store) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(30)
        raw.connect(str(store.path))
        raw.sendall(encode(Hello(1)))
        assert raw.recv(1000)
        return raw

    @pytest.mark.parametrize(
        "data",
        [
            b"\3\0\0\0abc",
            struct.pack("<I", MAX_FRAME_BYTES + 1),
            b"GET / HTTP/1.1\r\n\r\n",
            encode(Status()) + encode(Status()) + encode(Hello(1)),
            encode(Hello(1)),
            b"\0\0\0\0",
        ],
        ids=["garbage", "oversized", "http", "out of turn", "hello again", "empty"],
    )
    def test_nonsense_costs_its_own_connection_alone(self, store, data):
        before = store.open_fds()
        for _ in range(REPEATS):
            with self.greeted(store) as raw, StoreClient(store.path) as bystander:
                raw.sendall(data)
                read_to_the_end(raw)
                assert bystander.request(Status(), State).clients >= 1
        assert comes_below(store.open_fds, before + REPEATS)

    @pytest.mark.parametrize("count", [1, 3, 200])
    def test_descriptors_that_nobody_asked_for_are_closed(self, store, count):
        before = store.open_fds()
        for _ in range(REPEATS):
            with self.greeted(store) as raw:
                socket.send_fds(raw, [encode(Status())], [0] * count)
                read_to_the_end(raw)
        assert comes_below(store.open_fds, before + REPEATS)

    def test_a_client_that_stops_reading_hinders_nobody(self, store, models):
        (folder, *_) = models
        with self.greeted(store) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            raw.sendall(encode(Status()))
            load(folder, store.path)

    def test_half_a_frame_hinders_nobody(self, store, models):
        (folder, *_) = models
        with self.greeted(store) as raw:
            raw.sendall(encode(Status())[:7])
            load(folder, store.path)

    def test_ranges_and_paths_of_nowhere_are_errors_of_the_request(self, store, models):
        from sllm_store.errors import CheckpointNotFoundError, InvalidArgumentError

        (folder, *_) = models
        with StoreClient(store.path) as client:
            for ranges in ([(0, 0, 1 << 50)], [(9, 0, 1)], [(0, 5, 4)], [(-1, 0, 1)], [(0, -5, 4)]):
                with pytest.raises(InvalidArgumentError):
                    client.request(Load(str(folder), [], ranges, 0.0), Leased)
            with pytest.raises(CheckpointNotFoundError):
                client.request(Load("/nonexistent/it", [], [(0, 0, 1)], 0.0), Leased)
            with pytest.raises(InvalidArgumentError, match="no absolute path"):
                client.request(Load("it", [], [(0, 0, 1)], 0.0), Leased)

    def test_a_client_that_cannot_see_the_files_is_told_what_is_in_them(self, store, models):
        from sllm_store.protocol import Describe, Described

        (folder, *_) = models
        with StoreClient(store.path) as client:
            described = client.request(Describe(str(folder)), Described)
        assert described.manifest == (folder / "sllm.json").read_bytes()
        assert [file.name for file in described.files] == ["model.safetensors"]

    def test_a_client_of_another_version_is_told(self, store):
        from sllm_store.protocol import Failed, Welcome

        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(30)
            raw.connect(str(store.path))
            raw.sendall(encode(Hello(99)))
            import msgspec

            answer = msgspec.msgpack.decode(raw.recv(1000)[4:], type=Failed | Welcome)
        assert answer.code == UnsupportedError.code
        assert "not 99" in answer.message

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
    @pytest.mark.parametrize("options", [(), ("--allow-uid", "54321"), ("--group", grp.getgrgid(0).gr_name)])
    def test_another_user_is_served_only_where_it_is_named(self, options):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            with running_store(Path(folder) / "s", *options) as running:
                mode = {(): 0o600, "--allow-uid": 0o666, "--group": 0o660}[options[0] if options else ()]
                assert running.path.stat().st_mode & 0o777 == mode
                os.chmod(running.path, 0o666)
                is_named = options[:1] == ("--allow-uid",)
                assert outcome_as(54321, 54321, running.path) == ("served" if is_named else "forbidden")
                assert outcome_as(54322, 54322, running.path) == "forbidden"
                is_member = options[:1] == ("--group",)
                assert outcome_as(54322, 0, running.path) == ("served" if is_member else "forbidden")


class TestDaemon:
    def test_a_killed_daemon_leaves_tensors_and_the_next_one_serves(self, here, models, monkeypatch):
        folder, oracle = next(iter(models.items()))
        path = here / "mortal.sock"
        monkeypatch.setenv("SLLM_STORE", str(path))
        with running_store(path) as first:
            tensors = load(folder, path)
            first.kill()
        assert path.exists()
        assert bytes_of(tensors) == oracle
        reports = []
        assert bytes_of(load(folder, "auto", on_report=reports.append)) == oracle
        with pytest.raises(UnavailableError):
            load(folder, path)
        with running_store(path) as second:
            assert bytes_of(load(folder, "auto", on_report=reports.append)) == oracle
            assert second.stop() == 0
            assert bytes_of(tensors) == oracle
        assert [report.store for report in reports] == ["unavailable", "mapped"]
        assert not path.exists()

    def test_a_daemon_that_stands_still_is_no_matter_for_auto(self, store, models, monkeypatch):
        folder, oracle = next(iter(models.items()))
        monkeypatch.setenv("SLLM_STORE", str(store.path))
        monkeypatch.setattr(client, "GREETING_S", 0.2)
        store.process.send_signal(signal.SIGSTOP)
        reports = []
        assert bytes_of(load(folder, "auto", on_report=reports.append)) == oracle
        assert reports[0].store == "deadline"
        store.process.send_signal(signal.SIGCONT)
        assert bytes_of(load(folder, store.path)) == oracle

    def test_whoever_waits_for_room_hears_of_it_and_gets_it(self, store, models):
        folders = list(models)
        held = [load(folder, store.path) for folder in folders[:3]]
        said = []
        wanted = Load(str(folders[3]), [], [(0, 0, 10 << 20)], 0.0)
        with StoreClient(store.path) as waiting, pytest.raises(OutOfMemoryError, match="others hold it"):
            waiting.request_fd(wanted, Leased)
        patient = msgspec.structs.replace(wanted, wait_s=60.0)
        with StoreClient(store.path) as waiting:
            _, fd = waiting.request_fd(patient, Leased, lambda *progress: (said.append(progress), held.clear()))
        os.close(fd)
        assert said

    def test_a_daemon_that_dies_in_the_middle_is_no_matter_for_auto(self, here, models, monkeypatch):
        folder, oracle = next(iter(models.items()))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(here / "liar.sock"))
            listener.listen()

            def die_late() -> None:
                from sllm_store.protocol import Welcome

                theirs, _ = listener.accept()
                with theirs:
                    theirs.recv(1000)
                    theirs.sendall(encode(Welcome(1, 1, 1)))
                    theirs.recv(1000)

            dying = threading.Thread(target=die_late)
            dying.start()
            monkeypatch.setenv("SLLM_STORE", str(here / "liar.sock"))
            reports = []
            assert bytes_of(load(folder, "auto", on_report=reports.append)) == oracle
            dying.join()
        assert reports[0].store == "unavailable"

    @pytest.mark.parametrize("after", [0, 3, 10, 30])
    def test_a_daemon_that_is_told_to_stop_in_the_middle_of_a_load_does(self, store, models, after):
        (folder, *_) = models
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(30)
            raw.connect(str(store.path))
            raw.sendall(encode(Hello(1)))
            raw.recv(1000)
            raw.sendall(encode(Load(str(folder), [], [(0, 0, 10 << 20)], 0.0)))
            raw.settimeout(after / 1000 or None)
            if after:
                with suppress(TimeoutError):
                    raw.recv(1)
            start = time.monotonic()
            assert store.stop() == 0
            assert time.monotonic() - start < 10

    def test_prefetch_brings_as_much_as_fits(self, here, models):
        make_checkpoint(here / "large", seed=9, nbytes=40 << 20)
        with running_store(here / "s.sock") as running:
            with StoreClient(running.path) as client:
                done = client.request(Prefetch(str(here / "large")), Prefetched)
            assert 16 << 20 <= done.resident_bytes <= 32 << 20
            assert running.state().resident_bytes == done.resident_bytes


def comes_below(ask, limit) -> bool:
    """Whether it becomes that soon; the daemon closes its end a moment after we see ours closed."""
    deadline = time.monotonic() + 10
    while ask() >= limit and time.monotonic() < deadline:
        os.sched_yield()
    return ask() < limit


def read_to_the_end(raw: socket.socket) -> None:
    # What the daemon left unread makes the kernel say that the connection was reset.
    with suppress(ConnectionResetError):
        while raw.recv(1 << 16):
            pass


def outcome_as(uid: int, gid: int, path: Path) -> str:
    """What a process of that user and that group alone meets at the store."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        try:
            StoreClient(path)
            outcome = "served"
        except PermissionDeniedError:
            outcome = "forbidden"
        finally:
            os.write(writer, outcome.encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        return said.read()
