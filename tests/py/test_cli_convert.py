import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest
from raw_safetensors import Raw, raw, read_folder, write

from sllm_store.commands.sizes import parse_size

PROGRAM = "import sys; from sllm_store.cli import main; sys.argv[0] = 'sllm-store'; main()"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    write(tmp_path / "src" / "model.safetensors", {f"t{i}": raw("F32", [500], i) for i in range(4)})
    (tmp_path / "src" / "modeling.py").write_text("pass")
    return tmp_path / "src"


def test_the_report_goes_to_stdout_and_nothing_to_stderr(tmp_path: Path, source: Path) -> None:
    ran = run(source, tmp_path / "dst", "--json", "--partition-size", "4KB", "--include-code")
    assert (ran.returncode, ran.stderr) == (0, "")
    report = json.loads(ran.stdout)
    assert report.pop("seconds") > 0
    assert report == {
        "path": str(tmp_path / "dst"),
        "source": "safetensors",
        "nbytes": 8000,
        "tensors": 4,
        "tied": 0,
        "partitions": 2,
        "companions": ["modeling.py"],
        "left_out": [],
    }


def test_a_person_reads_a_sentence_that_says_what_was_left_out(tmp_path: Path, source: Path) -> None:
    ran = run(source, tmp_path / "dst")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"4 tensors, 0.000 GB, in 1 files at {tmp_path}/dst, from safetensors in ")
    assert ran.stdout.endswith("; left out: modeling.py\n")


def test_overwrite_replaces(tmp_path: Path, source: Path) -> None:
    assert run(source, tmp_path / "dst").returncode == 0
    ran = run(source, tmp_path / "dst")
    assert ran.returncode == 1
    assert ran.stderr == (
        f"error: {tmp_path}/dst exists and is not empty; hint: --overwrite replaces a converted checkpoint\n"
    )
    assert run(source, tmp_path / "dst", "--overwrite").returncode == 0


def test_a_cast_is_by_name_in_any_case(tmp_path: Path, source: Path) -> None:
    pytest.importorskip("torch")
    assert run(source, tmp_path / "dst", "--dtype", "bf16").returncode == 0
    assert {tensor.dtype for tensor in read_folder(tmp_path / "dst").values()} == {"BF16"}
    assert run(source, tmp_path / "other", "--dtype", "int8").returncode == 2


def test_legacy_pickles_are_announced_on_stderr_first(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    ran = run(tmp_path / "old.bin", tmp_path / "dst")
    assert ran.returncode == 0
    assert ran.stderr == (
        f"warning: {tmp_path}/old.bin is in a format of torch that cannot be mapped: it needs its size in memory\n"
    )


def test_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", {"a": Raw("U8", [1 << 20], bytes(1 << 20))})
    try:
        master, terminal = pty.openpty()
    except OSError as error:
        pytest.skip(f"this machine gives no terminal: {error}")
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "convert",
        str(tmp_path / "a.safetensors"),
        str(tmp_path / "dst"),
        "--json",
    ]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, env=environment, check=True)
    os.close(terminal)
    shown = os.read(master, 1 << 16)
    os.close(master)
    assert b"1.0/1.0 MB" in shown
    assert json.loads(ran.stdout)["nbytes"] == 1 << 20


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1", 1),
        ("7B", 7),
        ("5GB", 5 * 10**9),
        ("4GiB", 4 << 30),
        ("4 gib", 4 << 30),
        ("10kb", 10_000),
        ("3MiB", 3 << 20),
    ],
)
def test_sizes_are_decimal_or_binary_as_they_say(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "5XB", "-1", "1.5GB", "0", "0GB"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size like 5GB or 4GiB"):
        parse_size(text)
