"""The benchmarks' own steps, on a checkpoint of two megabytes; what they measure here means nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(script: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, "--shape", "tiny", "--rounds", "1", *arguments], check=True
    )


def test_the_readmes_tables_are_those_of_the_results() -> None:
    import readme

    text = readme.README.read_text()
    assert readme.with_tables(text, ROOT / "benchmarks/results") == text, "run benchmarks/readme.py"


def test_loaders_are_compared_and_make_a_table(tmp_path: Path) -> None:
    import readme

    loaders = ["own", "map", "safetensors"]
    choice = [part for name in loaders for part in ("--loader", name)]
    run("loading.py", "--state", "warm", "--no-fio", "--memory-mib", "64", *choice, "--output", str(tmp_path))
    result = json.loads((tmp_path / "loading-tiny.json").read_text())
    assert list(result["loaders"]) == loaders
    for loader in result["loaders"].values():
        assert "failure" not in loader
        assert loader["warm"]["ready_s"]["median"] > loader["warm"]["return_s"]["median"] > 0
    assert result["loaders"]["own"]["warm"]["mapped_bytes"] == 0
    assert result["loaders"]["safetensors"]["warm"]["mapped_bytes"] == result["nbytes"]
    assert {check["name"] for check in result["checks"]} >= {"warm, own: MiB above the checkpoint"}
    tables = ("loading", "ablation", "store", "remote")
    markers = "".join(f"<!-- {name} table: begin --><!-- {name} table: end -->" for name in tables)
    assert "| sllm, own | yes |" in readme.with_tables(markers, tmp_path)


@pytest.mark.skipif(not os.access("/proc/sys/vm/drop_caches", os.W_OK), reason="drops the page cache, as root")
def test_each_step_of_the_ablation_gives_the_files_bytes(tmp_path: Path) -> None:
    run("ablation.py", "--output", str(tmp_path))
    steps = json.loads((tmp_path / "ablation-tiny.json").read_text())["steps"]
    assert len(steps) == 6
    assert all(step["gb_per_s"] > 0 for step in steps)


def test_a_loader_that_fails_leaves_its_last_words(tmp_path: Path) -> None:
    import children
    from compared_files import Files

    nowhere = Files("tiny", *[str(tmp_path / "nowhere")] * 4, is_model=False).as_dict()
    request = {"loader": "own", "files": nowhere, "warmup": nowhere, "setting": None}
    assert "CheckpointNotFoundError" in children.measure("load", request, lambda: None)["error"]


def test_wrong_and_missing_tensors_are_faults() -> None:
    from rounds import Reference

    reference = Reference({"a": 1, "b": 2}, {"tied": 1}, 8)
    assert reference.fault_of({"a": 1, "b": 2}) == ""
    assert reference.fault_of({"a": 1, "b": 2, "tied": 1}) == ""
    assert reference.fault_of({"a": 1, "b": 3}) == "1 tensors differ, b first"
    assert reference.fault_of({"b": 2, "more": 5}) == "1 tensors differ, more first; 1 tensors are missing, a first"


def test_a_digest_changes_with_one_byte_of_the_file(tmp_path: Path) -> None:
    from checkpoints import write_safetensors
    from compared_files import stored_bytes, stored_digests

    members = {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}
    path = write_safetensors(tmp_path / "a.safetensors", members, b"\0\1\2\3")
    before = stored_digests(str(path))
    write_safetensors(path, members, b"\0\1\2\4")
    assert stored_digests(str(path))["a"] != before["a"]
    assert stored_bytes(str(path)) == 4


def test_fio_reads_the_file_once_in_parts() -> None:
    import fio

    way = fio.Way("io_uring", 2, 8, 4 << 20, is_registered=True)
    arguments = way.arguments("some/file", 21 << 20)
    assert {"--size=8388608", "--offset_increment=8388608", "--numjobs=2"} <= set(arguments)
    # An option of the engine is unknown before the engine is.
    assert arguments.index("--fixedbufs=1") > arguments.index("--ioengine=io_uring")
    assert not way.can_read(7 << 20)
    assert len(set(fio.GRID)) == 27


def test_what_fio_says_is_read() -> None:
    import fio

    job = {"error": 0, "read": {"io_bytes": 2000, "runtime": 500}}
    assert fio.parse("a note\n" + json.dumps({"jobs": [job]})) == {"nbytes": 2000, "seconds": 0.5}
    assert fio.parse(json.dumps({"jobs": [{**job, "error": 5}]})) == {"error": "error 5"}


def result_with(ours: float, theirs: float) -> dict:
    """A result of two loaders with these speeds, in GB/s, of a gigabyte."""

    def loader(speed: float, *, is_ours: bool) -> dict:
        figures = {
            "ready_gb_per_s": speed,
            "return_gb_per_s": speed,
            "ready_s": {"median": 1 / speed},
            "cpu_return_s_per_gb": {"median": 0.2},
            "peak_above_checkpoint_bytes": {"median": 1 << 20},
        }
        return {"owns": "yes", "is_ours": is_ours, "cold": figures, "warm": figures}

    return {
        "shape": "llama-4gb",
        "nbytes": 10**9,
        "fio": {"best_gb_per_s": 2.0},
        "rates": {"first_touch_gb_per_s": {"median": 2.0}, "first_touch_cpu_s_per_gb": {"median": 0.3}},
        "loaders": {"own": loader(ours, is_ours=True), "peer": loader(theirs, is_ours=False)},
    }


def test_bounds_hold_where_ours_is_fast_and_not_where_it_is_slow() -> None:
    import checks

    assert all(check.holds for check in checks.evaluate(result_with(2.0, 1.9)))
    broken = [check.name for check in checks.evaluate(result_with(1.7, 1.9)) if not check.holds]
    assert broken == [
        "cold, own: speed to ready against peer",
        "warm, own: speed to ready against peer",
        "cold, own: of fio's best",
        "warm, own: of the rate of first touch",
    ]


def test_without_verification_the_processor_is_compared_with_peers_alone() -> None:
    import checks

    result = result_with(2.0, 1.9)
    result["loaders"]["own, no verify"] = result["loaders"]["own"]
    compared = [check for check in checks.evaluate(result) if check.name.startswith("cold, own, no verify")]
    assert [(check.name, check.value, check.bound) for check in compared] == [
        ("cold, own, no verify: cpu s/GB, peer's", 0.2, 0.2)
    ]
