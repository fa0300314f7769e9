"""The store's commands: what they print, how they start and end."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from store_process import PROGRAM, WAIT_S, children, make_checkpoint, running_store

from sllm_store.notify import notify


def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=WAIT_S
    )


def asked(*arguments: object) -> dict:
    outcome = run(*arguments, "--json")
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def folder(here):
    make_checkpoint(here / "it", seed=1)
    return here / "it"


@pytest.fixture
def store(here):
    with running_store(here / "s.sock") as running:
        yield running


def test_a_checkpoint_is_prefetched_shown_leased_and_evicted(store, folder):
    at = ("--socket", store.path)
    done = asked("prefetch", folder, *at)
    assert done["resident_bytes"] == done["nbytes"] > 6 << 20
    state = asked("status", *at)
    (checkpoint,) = state["checkpoints"]
    assert (checkpoint["path"], checkpoint["resident_bytes"]) == (str(folder), done["nbytes"])
    assert checkpoint["is_verified"]
    assert (state["pid"], state["pool_bytes"]) == (store.process.pid, 32 << 20)
    with children(1) as (client,):
        client.ask("load", folder, store.path)
        (lease,) = asked("lease", "list", *at)["leases"]
        assert lease["pid"] == client.process.pid
        listed = run("lease", "list", *at).stdout
        assert str(client.process.pid) in listed
    assert asked("evict", folder, *at)["pool_bytes"] > 0
    assert asked("status", *at)["resident_bytes"] == 0


def test_tables_show_what_a_person_asks(store, folder):
    at = ("--socket", store.path)
    assert re.search(r"6\.\d MiB of 6\.\d MiB are resident", run("prefetch", folder, *at).stdout)
    shown = run("status", *at, env={"COLUMNS": "200"}).stdout
    assert "pool" in shown
    assert "32.0 MiB" in shown
    assert str(folder) in shown
    assert "went from the pool" in run("evict", "--all", *at).stdout


def test_relative_paths_are_the_callers(store, folder):
    outcome = subprocess.run(
        [*PROGRAM, "prefetch", folder.name, "--socket", store.path], cwd=folder.parent, capture_output=True, check=False
    )
    assert outcome.returncode == 0


def test_load_goes_through_a_store_where_it_is_told(store, folder):
    assert asked("load", folder, "--store", store.path)["store"] == "mapped"
    assert asked("load", folder, "--store", "none")["store"] == ""
    assert asked("load", folder)["store"] == "unavailable"


def test_the_default_socket_is_the_environments(store, folder):
    assert run("status", env={"SLLM_STORE": str(store.path)}).returncode == 0
    outcome = run("status")
    assert outcome.returncode == 1
    assert "no store is running" in outcome.stderr


def test_misuse_is_a_usage_error(here):
    for arguments in (
        ["evict"],
        ["evict", "it", "--all"],
        ["serve", "--disk-limit", "1GiB"],
        ["serve", "--pool", "many"],
        ["serve", "--metrics", "9400"],
        ["serve", "--group", "no-such-group"],
        ["serve", "--socket", str(here / ("long" * 30))],
    ):
        assert run(*arguments).returncode == 2, arguments


def test_a_second_daemon_is_refused_and_the_first_serves_on(store):
    outcome = run("serve", "--socket", store.path, "--pool", "8MiB")
    assert outcome.returncode == 1
    assert "a store that lives listens" in outcome.stderr
    assert store.state().pool_bytes == 32 << 20


def test_what_is_no_socket_is_not_replaced(here):
    (here / "file").write_text("mine")
    outcome = run("serve", "--socket", here / "file", "--pool", "8MiB")
    assert outcome.returncode == 1
    assert "no socket" in outcome.stderr
    assert (here / "file").read_text() == "mine"


def test_the_socket_is_the_owners_alone(store):
    assert store.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(here, number):
    with running_store(here / "s.sock") as running, children(1) as (client,):
        idle = socket.socket(socket.AF_UNIX)
        idle.connect(str(running.path))
        running.process.send_signal(number)
        assert running.process.wait(WAIT_S) == 0
        assert not running.path.exists()
        assert idle.recv(1) == b""
        idle.close()
        assert client.process.poll() is None


def test_a_large_pool_is_ready_at_once(here):
    start = time.monotonic()
    before = memory_bytes()
    with running_store(here / "s.sock", pool=f"{before // 2 >> 20}MiB") as running:
        assert time.monotonic() - start < 5
        assert running.state().pool_bytes >= before // 2 - (4 << 20)


def test_a_pool_over_the_machines_memory_is_refused_with_both_sizes(here):
    outcome = run("serve", "--socket", here / "large.sock", "--pool", "900000GiB")
    assert outcome.returncode == 1
    assert f"a pool of {900000 << 30} bytes" in outcome.stderr
    assert "do not fit into" in outcome.stderr
    assert not (here / "large.sock").exists()


def memory_bytes() -> int:
    from sllm_store.pool_sizes import memory_limit

    return memory_limit().nbytes


def test_metrics_are_served_where_it_is_told(here, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running_store(here / "s.sock", "--metrics", f"127.0.0.1:{port}") as running:
        for _ in range(2):
            asked("load", folder, "--store", running.path)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
            text = answer.read().decode()
        state = running.state()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["sllm_store_pool_bytes"]) == 32 << 20
    assert float(values["sllm_store_hit_bytes_total"]) == state.hit_bytes > 0
    assert float(values["sllm_store_filled_bytes_total"]) == state.filled_bytes > 0
    assert float(values['sllm_store_load_seconds_count{tier="disk"}']) == 1
    assert float(values['sllm_store_load_seconds_count{tier="pool"}']) == 1
    assert float(values['sllm_store_tier_read_bytes_total{tier="disk"}']) > 6 << 20
    assert float(values[f'sllm_store_checkpoint_resident_bytes{{checkpoint="{folder}"}}']) > 6 << 20


def test_an_address_in_use_is_an_error(here):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        outcome = run("serve", "--socket", here / "s.sock", "--pool", "8MiB", "--metrics", address)
    assert outcome.returncode == 1
    assert f"cannot serve metrics at {address}" in outcome.stderr


def test_who_started_us_is_told_by_a_path_or_an_abstract_name(tmp_path):
    path, abstract = str(tmp_path / "n"), f"sllm-{os.getpid()}"
    for name, address in ((path, path), (f"@{abstract}", f"\0{abstract}")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(address)
            listener.settimeout(WAIT_S)
            notify("READY=1", {"NOTIFY_SOCKET": name})
            assert listener.recv(100) == b"READY=1"
        # Nobody listens any more, which is no reason to fail.
        notify("STOPPING=1", {"NOTIFY_SOCKET": name})
    notify("READY=1", {})
