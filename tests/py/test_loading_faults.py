"""Whatever goes wrong in a load ends in an error that names the file, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoints import evict

import sllm_store
from sllm_store import load_tensors
from sllm_store.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    UnsupportedError,
)
from sllm_store.manifest import SPAN_BYTES

READS = 6


@pytest.fixture
def folder(tmp_path):
    """A converted checkpoint of two partitions and a few extents each."""
    generator = torch.Generator().manual_seed(3)
    tensors = {name: torch.randn(5_000_011, generator=generator) for name in ("first", "second")}
    sllm_store.save_tensors(tensors, tmp_path / "it", partition_size=21 << 20)
    evict(tmp_path / "it")
    return tmp_path / "it"


@pytest.fixture
def nothing_left(folder):
    """Fails if the test leaves a descriptor or a thread; torch's own come with its first work, which is before."""
    load_tensors(folder)
    before = residue()
    yield
    assert comes_down_to(before)


def residue() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def comes_down_to(before: tuple[int, int]) -> bool:
    """Whether nothing is left; a joined thread leaves /proc a moment after it was joined."""
    deadline = time.monotonic() + 5
    while residue() != before and time.monotonic() < deadline:
        os.sched_yield()
    return residue() == before


def partition(folder: Path, number: int = 2) -> Path:
    return folder / f"model-0000{number}-of-00002.safetensors"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.fixture(params=["own", "auto", "map"])
def load(request):
    """load_tensors into each kind of memory; the files that a test changed are in the page cache, others not."""
    return partial(load_tensors, memory=request.param)


@pytest.mark.usefixtures("nothing_left")
class TestDamage:
    @pytest.mark.parametrize("keep", [0, 5000, -1])
    def test_a_truncated_partition(self, folder, load, keep):
        path = partition(folder)
        os.truncate(path, keep if keep >= 0 else path.stat().st_size - 1)
        with pytest.raises(CorruptCheckpointError, match=rf"{path}.*truncated or replaced"):
            load(folder)

    @pytest.mark.parametrize("offset", [5000, 3 * SPAN_BYTES, 3 * SPAN_BYTES - 1, -1])
    def test_a_flipped_byte_of_data_names_its_span(self, folder, load, offset):
        path = partition(folder)
        offset %= path.stat().st_size
        flip(path, offset)
        begin = offset // SPAN_BYTES * SPAN_BYTES
        with pytest.raises(CorruptCheckpointError, match=rf"{path} is damaged: .* bytes {begin} to "):
            load(folder)

    def test_a_flipped_byte_is_found_by_a_load_that_touches_its_span_and_only_then(self, folder, load):
        flip(partition(folder), 3 * SPAN_BYTES)
        assert set(load(folder, names=["first"])) == {"first"}
        with pytest.raises(CorruptCheckpointError):
            load(folder, names=["second"])

    @pytest.mark.parametrize("offset", [0, 3, 9, 200, 4095])
    def test_a_flipped_byte_of_a_header(self, folder, load, offset):
        flip(partition(folder), offset)
        with pytest.raises(CorruptCheckpointError, match=str(partition(folder))):
            load(folder)

    def test_a_flipped_byte_of_the_manifest(self, folder, load):
        flip(folder / "sllm.json", 50)
        with pytest.raises(CorruptCheckpointError, match=r"sllm\.json is damaged.*convert the checkpoint again"):
            load(folder)

    def test_a_missing_partition(self, folder, load):
        partition(folder).unlink()
        with pytest.raises(CorruptCheckpointError, match=rf"{partition(folder)} is missing"):
            load(folder)

    def test_a_manifest_of_a_newer_version(self, folder, load):
        from sllm_store import _core

        body = b'{"format":"sllm-checkpoint","version":99'
        (folder / "sllm.json").write_bytes(body + f',"crc32c":"{_core.crc32c(body):08x}"}}\n'.encode())
        with pytest.raises(UnsupportedError, match="version 99.*install a newer sllm"):
            load(folder)

    def test_a_folder_that_is_no_checkpoint(self, tmp_path, load):
        with pytest.raises(CheckpointNotFoundError, match="is no checkpoint"):
            load(tmp_path)


def run_child(code: str, *arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, **(env or {})}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="session")
def faulty_pread(tmp_path_factory):
    """The environment that puts faulty_pread.c in front of libc."""
    library = tmp_path_factory.mktemp("preload") / "faulty_pread.so"
    source = Path(__file__).with_name("faulty_pread.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


RESIDUE = """
import os, sys, time
def residue():
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
def comes_down_to(before):
    deadline = time.monotonic() + 5
    while residue() != before and time.monotonic() < deadline:
        os.sched_yield()
    return residue() == before
"""

# One process for all places of a fault: importing torch takes longer than the loads.
EVERY_PLACE = (
    RESIDUE
    + """
import ctypes, hashlib
from sllm_store import errors, load_tensors
folder, kind, places = sys.argv[1], sys.argv[2], int(sys.argv[3])
reset = ctypes.CDLL(os.environ["LD_PRELOAD"]).faulty_pread_reset
def digests():
    reports = []
    tensors = load_tensors(folder, queue="threads", on_report=reports.append)
    return [hashlib.sha256(tensors[name].numpy().tobytes()).hexdigest() for name in tensors], reports[0].repeats
expected, none = digests()
assert none == 0
before = residue()
for place in range(places):
    reset()
    os.environ["FAULTY_PREAD"] = f"{kind}:{place}"
    try:
        assert digests() == (expected, 1)
        print("whole")
    except errors.SllmError as error:
        print(type(error).__name__, error)
    assert comes_down_to(before), (before, residue())
"""
)


@pytest.mark.parametrize("kind", ["short", "eintr"])
def test_short_reads_and_interruptions_change_nothing(folder, faulty_pread, kind):
    outcome = run_child(EVERY_PLACE, folder, kind, READS, env=faulty_pread)
    assert outcome.stdout.split() == ["whole"] * READS, outcome.stderr


def test_an_input_output_error_names_the_file_and_the_place(folder, faulty_pread):
    outcome = run_child(EVERY_PLACE, folder, "eio", READS, env=faulty_pread)
    lines = outcome.stdout.splitlines()
    assert len(lines) == READS, outcome.stderr
    for line in lines:
        assert line.startswith("StoreIOError cannot read ")
        assert str(folder) in line
        assert line.endswith("input/output error")


INTERRUPTED = (
    RESIDUE
    + """
import signal
# A runner may have started us with the signal ignored, as shells do in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
from sllm_store import load_model, load_tensors
load_tensors(sys.argv[1], names=[], queue="threads")
before = residue()
try:
    load_tensors(sys.argv[1], queue="threads")
except KeyboardInterrupt:
    assert comes_down_to(before), (before, residue())
    print("interrupted")
"""
)


@pytest.mark.parametrize("at", [0, READS - 1])
def test_ctrl_c_ends_a_load_once_its_reads_have_ended(folder, faulty_pread, tmp_path, at):
    stalled, go = tmp_path / "stalled", tmp_path / "go"
    os.mkfifo(stalled)
    os.mkfifo(go)
    names = {"FAULTY_PREAD": f"stall:{at}", "FAULTY_PREAD_STALLED": str(stalled), "FAULTY_PREAD_GO": str(go)}
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(folder)],
        env={**os.environ, **faulty_pread, **names},
        stdout=subprocess.PIPE,
        text=True,
    )
    stalled.open("rb").close()
    child.send_signal(signal.SIGINT)
    go.open("wb").close()
    output, _ = child.communicate(timeout=60)
    assert (output, child.returncode) == ("interrupted\n", 0)


UNPRIVILEGED = """
import os, sys
from sllm_store import errors, load_tensors
load_tensors(sys.argv[1], names=[])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    load_tensors(sys.argv[1])
except errors.PermissionDeniedError as error:
    assert isinstance(error, PermissionError)
    print(error)
"""


@pytest.mark.parametrize("name", ["sllm.json", "model-00002-of-00002.safetensors"])
def test_a_file_without_permission_is_named(folder, name):
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/") and "pytest" in str(parent):
            parent.chmod(0o755)
    readable = run_child(UNPRIVILEGED, folder)
    assert (readable.stdout, readable.returncode) == ("", 0), readable.stderr
    (folder / name).chmod(0)
    outcome = run_child(UNPRIVILEGED.replace("load_tensors(sys.argv[1], names=[])\n", "", 1), folder)
    assert name in outcome.stdout, outcome.stderr
    assert "permission denied" in outcome.stdout


def test_a_file_system_without_direct_io_is_read_buffered(folder):
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    copy = memory / f"sllm-test-{os.getpid()}"
    shutil.copytree(folder, copy)
    try:
        reports = []
        tensors = load_tensors(copy, on_report=reports.append)
        expected = load_tensors(folder)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        assert reports[0].direct_files + reports[0].buffered_files == 2
        assert (reports[0].direct_files == 0) == refuses_direct_io(partition(copy))
    finally:
        shutil.rmtree(copy)


def refuses_direct_io(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return True
    return False


def test_a_file_that_is_replaced_after_its_header_was_read_is_refused(folder, monkeypatch):
    from sllm_store import reading

    def replace_then_plan(*arguments):
        path = partition(folder)
        shutil.copy(path, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
        return make_plan(*arguments)

    make_plan = reading.make_plan
    monkeypatch.setattr(reading, "make_plan", replace_then_plan)
    with pytest.raises(CorruptCheckpointError, match="changed while it was being loaded"):
        load_tensors(folder)
