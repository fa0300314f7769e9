"""The commands of `sllm-store`: what they print, and the exit codes that scripts rely on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import every_dtype, evict, write_safetensors

import sllm_store

PROGRAM = [sys.executable, "-c", "from sllm_store.cli import main; main()"]


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    members, data = every_dtype()
    write_safetensors(folder / "model.safetensors", members, data)
    return folder


@pytest.fixture(scope="module")
def converted(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "it"
    sllm_store.convert(plain, folder, partition_size=1000)
    return folder


def spoil(folder: Path, copy: Path, *offsets: int) -> Path:
    """A copy of the folder with the first partition's bytes at these offsets changed."""
    shutil.copytree(folder, copy)
    path = sorted(copy.glob("*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 1
    path.write_bytes(data)
    return path


def test_inspect_lists_every_tensor_with_its_place(converted):
    outcome = run("inspect", converted, "--json")
    listed = json.loads(outcome.stdout)
    checkpoint = sllm_store.open_checkpoint(converted)
    assert {tensor["name"] for tensor in listed["tensors"]} == set(checkpoint.tensors)
    assert listed["verifiable"]
    for tensor in listed["tensors"]:
        assert tensor["offset"] % tensor["alignment"] == 0
    assert "every byte has a crc32c" in run("inspect", converted).stdout
    assert "U8.matrix" in run("inspect", converted, "--tensors").stdout


def test_inspect_says_that_plain_safetensors_are_unverified(plain):
    assert "unverified" in run("inspect", plain).stdout


def test_verify_passes_what_is_intact(converted):
    outcome = run("verify", converted)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "all intact" in outcome.stdout


def test_verify_names_the_file_and_the_range(converted, tmp_path):
    path = spoil(converted, tmp_path / "it", -1)
    outcome = run("verify", tmp_path / "it")
    assert outcome.returncode == 1
    assert f"{path}: bytes 0 to {path.stat().st_size} are damaged" in outcome.stdout
    report = json.loads(run("verify", tmp_path / "it", "--json").stdout)
    assert report["bad"] == [{"path": str(path), "begin": 0, "end": path.stat().st_size}]


def test_verify_lists_every_damaged_range_of_a_large_file(tmp_path):
    import torch

    sllm_store.save_tensors({"w": torch.zeros(6 << 20, dtype=torch.uint8)}, tmp_path / "whole")
    path = spoil(tmp_path / "whole", tmp_path / "it", (1 << 20) + 5, (2 << 20) + 5, (5 << 20) + 1)
    report = json.loads(run("verify", tmp_path / "it", "--json").stdout)
    assert [(bad["begin"] >> 20, bad["end"] >> 20) for bad in report["bad"]] == [(1, 3), (5, 6)]
    assert report["bad"][0]["path"] == str(path)


def test_verify_without_a_manifest_points_to_convert(plain):
    outcome = run("verify", plain)
    assert outcome.returncode == 1
    assert "hint: sllm-store convert" in outcome.stderr


def test_load_prints_its_stages(converted):
    outcome = run("load", converted)
    assert outcome.returncode == 0
    assert "verified" in outcome.stdout
    assert "the limit was" in outcome.stdout
    assert not json.loads(run("load", converted, "--json", "--no-verify").stdout)["verified"]


def test_load_says_what_came_through_which_queue(tmp_path):
    import torch

    sllm_store.save_tensors({"w": torch.zeros(6 << 20, dtype=torch.uint8)}, tmp_path / "it")
    evict(tmp_path / "it")
    cold = json.loads(run("load", tmp_path / "it", "--json", "--queue", "threads").stdout)
    assert (cold["queue"], cold["verified"], cold["bytes_from_drive"]) == ("threads", True, cold["bytes_read"])
    (tmp_path / "it" / "model.safetensors").read_bytes()
    warm = json.loads(run("load", tmp_path / "it", "--json", "--queue", "threads").stdout)
    assert (warm["queue"], warm["bytes_from_drive"]) == ("none", 0)


def test_exit_codes_tell_failures_from_misuse(tmp_path):
    assert run("load", tmp_path / "absent").returncode == 1
    assert run("load").returncode == 2
    assert run("load", tmp_path, "--queue", "none").returncode == 2
    assert run("nothing").returncode == 2
    assert run("--version").stdout.startswith("sllm-store, version ")


def test_errors_go_to_stderr_alone(tmp_path):
    outcome = run("inspect", tmp_path / "absent")
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: cannot open checkpoint")


def test_no_command_but_load_of_tensors_needs_torch(converted):
    blocked = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "without_torch")}
    for command in ("inspect", "verify", "load"):
        outcome = subprocess.run(
            [*PROGRAM, command, converted], env=blocked, capture_output=True, text=True, check=False
        )
        assert outcome.returncode == 0, outcome.stderr
