"""A checkpoint at a URL, through a daemon: fetched once, kept on the disk, mapped like any other."""

import json
import os
import subprocess
import time

import pytest
from range_server import RangeServer
from store_process import PROGRAM, WAIT_S, bytes_of, load, make_checkpoint, running_store

from sllm_store.errors import CheckpointNotFoundError, UnsupportedError


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def remote(here):
    """A server of one checkpoint, its URL, and the oracle."""
    oracle = make_checkpoint(here / "it", seed=1, partition_bytes=3 << 20)
    files = {f"it/{path.name}": path.read_bytes() for path in (here / "it").iterdir()}
    with RangeServer(files) as server:
        yield server, f"{server.url}/it", oracle


@pytest.fixture
def store(here, tmp_path):
    with running_store(here / "s.sock", "--disk", str(tmp_path / "disk"), "--disk-limit", "64MiB") as running:
        yield running


def test_a_url_is_fetched_once_and_mapped(store, remote):
    server, url, oracle = remote
    reports = []
    assert bytes_of(load(url, store.path, on_report=reports.append)) == oracle
    # What lies beside the weights is fetched after the answer, in its own time.
    asked = [request for request in server.requests if request.name.endswith(".safetensors")]
    assert bytes_of(load(url, store.path, on_report=reports.append)) == oracle
    assert [request for request in server.requests if request.name.endswith(".safetensors")] == asked
    assert [(report.store, report.verified, report.bytes_read > 0) for report in reports] == [
        ("mapped", True, True),
        ("mapped", True, False),
    ]


def test_auto_goes_through_the_store_or_says_why_it_cannot(store, remote, monkeypatch):
    _, url, oracle = remote
    monkeypatch.setenv("SLLM_STORE", str(store.path))
    assert bytes_of(load(url, "auto")) == oracle
    with pytest.raises(UnsupportedError, match="loaded through a store"):
        load(url, None)
    with pytest.raises(CheckpointNotFoundError):
        load(f"{url}-absent", "auto")


def test_a_daemon_that_starts_again_finds_the_copy_on_the_disk(here, tmp_path, remote):
    server, url, oracle = remote
    at = ("--disk", str(tmp_path / "disk"))
    with running_store(here / "s.sock", *at) as first:
        load(url, first.path)
        deadline = time.monotonic() + WAIT_S
        while first.state().disk_bytes < sum(map(len, server.files.values())) and time.monotonic() < deadline:
            os.sched_yield()
        assert first.stop() == 0
    with running_store(here / "s.sock", *at) as second:
        count = len(server.requests)
        assert bytes_of(load(url, second.path)) == oracle
        # What is there is asked for, and nothing of it is fetched again.
        fetched = [request for request in server.requests[count:] if request.method == "GET" and request.begin > 0]
        assert fetched == []


def test_prefetch_and_evict_take_urls(store, remote):
    _, url, _ = remote
    done = json.loads(run("prefetch", url, "--socket", store.path, "--json"))
    assert done["resident_bytes"] == done["nbytes"]
    (state,) = json.loads(run("status", "--socket", store.path, "--json"))["checkpoints"]
    assert state["path"] == url
    gone = json.loads(run("evict", url, "--disk", "--socket", store.path, "--json"))
    assert gone["pool_bytes"] > 6 << 20


def run(*arguments: object) -> str:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT_S).stdout
