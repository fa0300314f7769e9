"""The GPU benchmark: all of it over the simulated driver, on a tiny checkpoint; and its parts that only compute."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_every_section_runs_over_the_simulated_driver(simulated_driver: str, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--installed", "--simulated", simulated_driver]
    folders = ["--scratch", str(tmp_path / "scratch"), "--output", str(tmp_path)]
    environment = {**os.environ, "SLLM_CUDA_SIM": "devices=1"}
    done = subprocess.run([*command, *folders, "--commit", "abc"], env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu-simulated.json").read_text())
    assert result["commit"] == "abc"
    assert result["cuts"] == {}
    assert "runai-model-streamer" in result["missing"]
    speeds = result["speeds"]
    assert "failure" not in speeds
    assert speeds["drive"]["best_gb_per_s"] > 0
    assert speeds["resident"]["gb_per_s"] > 0
    assert [step["name"] for step in result["steps"]["steps"]][0] == "read by tensor"
    assert list(result["loaders"]) == ["load_tensors", "load_tensors, again"]
    for loader in result["loaders"].values():
        assert "failure" not in loader
        assert {run["state"] for run in loader["runs"]} == {"cold", "warm"}
        assert loader["first"]["ready_s"]["runs"] == 1
    assert not (tmp_path / "scratch/checkpoint").exists()
    assert "load_tensors, again" in done.stdout
    assert str(tmp_path) not in (tmp_path / "gpu-simulated.json").read_text()


@pytest.mark.parametrize("nbytes", [1, 7, 8, 1000, 4097])
def test_a_digest_notices_a_byte_and_a_swap(nbytes: int) -> None:
    torch = pytest.importorskip("torch")
    import device_digests

    data = bytearray(os.urandom(nbytes))
    digests = device_digests.of_host_bytes(data, with_lanes=True)
    assert digests["lanes"] == device_digests.lanes(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    for place in {0, nbytes // 2, nbytes - 1}:
        other = bytearray(data)
        other[place] ^= 0x80
        found = device_digests.of_host_bytes(other, with_lanes=True)
        assert all(found[kind] != digests[kind] for kind in ("lanes", "crc32c"))
    if nbytes >= 16 and data[:8] != data[8:16]:
        swapped = data[8:16] + data[:8] + data[16:]
        assert device_digests.of_host_bytes(swapped, with_lanes=True)["lanes"] != digests["lanes"]


def test_what_a_loader_gets_wrong_is_named() -> None:
    import device_digests

    reference = {"a": 1, "b": 2}
    assert device_digests.fault_of({"a": 1, "b": 2}, reference, int) == ""
    assert device_digests.fault_of({"a": 1}, reference, int) == "1 tensors are missing, b first"
    assert device_digests.fault_of({"a": 1, "b": 3}, reference, int) == "1 tensors differ, b first"


def test_a_budget_gives_what_is_left_and_says_what_it_cut() -> None:
    from budget import Budget

    budget = Budget(40.0)
    assert budget.take("first", 30.0) == 30.0
    assert 39 < budget.take("second", 50.0) <= 40.0
    assert budget.cuts == {"second": "had 40 s of 50 s"}
    spent = Budget(0.0)
    assert spent.take("third", 30.0) == 0
    assert "not run" in spent.cuts["third"]


def test_the_checkpoint_is_as_large_as_the_scarcest_thing_allows() -> None:
    from device_checkpoint import Room, llama_of

    rich = Room(80 << 30, 100 << 30, 60 << 30, 4e9, 4e9)
    assert rich.checkpoint_bytes() == 8 << 30
    assert Room(9 << 30, 100 << 30, 60 << 30, 4e9, 4e9).checkpoint_bytes() == 3 << 30
    assert Room(80 << 30, 100 << 30, 60 << 30, 1e8, 4e9).checkpoint_bytes() == int(6e8)
    assert llama_of(8 << 30).layers == 57
    assert llama_of(1).layers == 1


def result_with(ours: float, theirs: float) -> dict:
    """A result of ours and one other loader at these speeds, in GB/s, from a drive of 3 and over a link of 50."""

    def loader(speed: float, *, is_ours: bool) -> dict:
        figures = {"gb_per_s": speed, "cpu_s_per_gb": 0.1, "ready_s": {"median": 1 / speed}}
        return {"is_ours": is_ours, "version": "1", "first": figures, "cold": figures, "warm": figures}

    speeds = {"drive": {"best": "way", "best_gb_per_s": 3.0}, "link": {"best_gb_per_s": 50.0}}
    return {
        "gpu": "NVIDIA X1",
        "nbytes": 10**9,
        "tensors": 5,
        "cuts": {"steps": "had 1 s of 2 s"},
        "speeds": {**speeds, "resident": {"gb_per_s": 48.0}},
        "loaders": {"load_tensors": loader(ours, is_ours=True), "peer": loader(theirs, is_ours=False)},
    }


def test_bounds_hold_where_ours_is_fast_and_not_where_it_is_slow() -> None:
    import device_summary
    import device_tables

    assert all(check.holds for check in device_summary.evaluate(result_with(2.9, 2.0)))
    slow = result_with(2.5, 2.7)
    broken = [check.name for check in device_summary.evaluate(slow) if not check.holds]
    assert broken == [
        "cold: of the slower of drive and link",
        *(f"{kind}: speed against peer" for kind in ("first", "cold", "warm")),
    ]
    assert device_tables.loads(slow).row_count == 2
    lines: list[str] = []
    device_tables.print_checks(slow, lines.append)
    assert lines[-1] == "cut short: steps had 1 s of 2 s"
    assert lines[1].startswith("DOES NOT HOLD")


def test_a_fault_of_one_run_is_its_loaders_failure() -> None:
    from device_summary import summarise_loads

    good = {"state": "cold", "is_first": True, "ready_s": 0.5, "cpu_s": 0.1, "fault": ""}
    figures = summarise_loads([good, {**good, "is_first": False}], 10**9)
    assert figures["first"]["gb_per_s"] == figures["cold"]["gb_per_s"] == 2.0
    broken = summarise_loads([good, {**good, "fault": "1 tensors differ, w first"}], 10**9)
    assert broken["failure"] == "1 tensors differ, w first"
    assert "cold" not in broken


def test_wheels_are_found_by_their_package_and_what_is_missing_is_named(tmp_path: Path) -> None:
    import brought

    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/instanttensor-0.2.2-cp312-cp312-manylinux_2_28_x86_64.whl").write_text("no wheel")
    found = brought.install(tmp_path / "wheels", tmp_path / "scratch")
    assert found.peers == {}
    assert found.missing["fastsafetensors"] == "not brought along"
    assert found.missing["instanttensor"] not in ("", "not brought along")


def test_reports_of_both_test_programs_are_counted() -> None:
    import xml.etree.ElementTree as ET

    import building

    cases = '<testcase name="a"/><testcase name="b"><failure/></testcase><testcase name="c"><skipped/></testcase>'
    counted = building.counts(ET.fromstring(f"<testsuites><testsuite>{cases}</testsuite></testsuites>"))
    assert counted == {"passed": 1, "skipped": 1, "failed": ["b"]}


def test_results_name_no_folders() -> None:
    from device_run import file_name, without_paths

    assert without_paths("cannot read /data/models/a.safetensors: 1/2") == "cannot read a.safetensors: 1/2"
    assert file_name("NVIDIA H100 80GB HBM3") == "gpu-nvidia-h100-80gb-hbm3"
