"""Where the store's socket is looked for, and whose are trusted."""

import os
import socket
from pathlib import Path

import pytest

from sllm_store import store_paths
from sllm_store.errors import CheckpointNotFoundError, ConflictError, PermissionDeniedError


def test_the_environment_names_the_only_socket():
    environment = {"SLLM_STORE": "/a/b.sock", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert store_paths.socket_paths(environment) == [Path("/a/b.sock")]


def test_the_users_own_socket_comes_before_the_systems():
    system = Path("/run/sllm/store.sock")
    assert store_paths.socket_paths({"XDG_RUNTIME_DIR": "/run/user/7"}) == [Path("/run/user/7/sllm/store.sock"), system]
    assert store_paths.socket_paths({}) == [system]
    assert store_paths.socket_paths({"SLLM_STORE": "", "XDG_RUNTIME_DIR": ""}) == [system]


@pytest.fixture
def bound(tmp_path):
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(tmp_path / "s"))
        yield tmp_path / "s"


def test_our_own_socket_and_roots_are_trusted(bound, monkeypatch):
    store_paths.check_socket(bound)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if bound.stat().st_uid == 0:
        store_paths.check_socket(bound)


def test_somebody_elses_socket_is_not_trusted(bound, monkeypatch):
    if os.getuid() == 0:
        os.chown(bound, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionDeniedError, match="neither ours nor root's"):
        store_paths.check_socket(bound)


def test_what_is_absent_or_no_socket_is_told_apart(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="cannot find the store's socket"):
        store_paths.check_socket(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(ConflictError, match="is no socket"):
        store_paths.check_socket(tmp_path / "file")
