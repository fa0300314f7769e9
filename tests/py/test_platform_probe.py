import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import evict
from click.testing import CliRunner

import sllm_store
from sllm_ctl.cli import program
from sllm_store import PlatformReport, _core, probe_platform


def test_reports_this_kernel_and_this_core() -> None:
    report = probe_platform()
    assert report.kernel == os.uname().release
    assert report.crc32c_implementation == _core.crc32c_implementation()


def test_io_uring_is_probed_by_trying_it_and_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    report = probe_platform()
    assert os.listdir("/proc/self/fd") == before
    assert report.io_uring.detail


# As container runtimes forbid it: a filter that answers io_uring_setup(2), number 425, with an error (seccomp(2)).
FORBIDDEN = """
import ctypes, struct, sys
number, folder = int(sys.argv[1]), sys.argv[2]
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | number), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(program)))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
if libc.prctl(22, 2, filter) != 0:
    sys.exit(77)
from sllm_store import errors, load_tensors, probe_platform
print(probe_platform().io_uring)
load_tensors(folder, on_report=lambda report: print(report.queue))
try:
    load_tensors(folder, queue="io_uring")
except errors.UnsupportedError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EPERM, "a seccomp profile (containers have one)"), (errno.ENOSYS, "a sandbox hides it")],
)
def test_where_io_uring_is_forbidden_threads_read_and_doctor_says_why(tmp_path: Path, number: int, reason: str) -> None:
    import torch

    sllm_store.save_tensors({"w": torch.ones(6 << 20, dtype=torch.uint8)}, tmp_path / "it")
    evict(tmp_path / "it")
    command = [sys.executable, "-c", FORBIDDEN, str(number), str(tmp_path / "it")]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode == 77:
        pytest.skip("no seccomp filters here")
    probed, queue, refused = child.stdout.splitlines()
    assert "is_usable=False" in probed
    assert reason in probed
    assert queue == "threads"
    assert refused.startswith("refused: cannot set up io_uring")


def test_direct_io_is_tried_on_a_folder_and_on_a_file_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(8192))
    on_folder = probe_platform(tmp_path).direct_io
    on_file = probe_platform(file).direct_io
    assert on_folder.is_usable == on_file.is_usable
    assert os.listdir(tmp_path) == ["file"]


def test_direct_io_where_there_is_none_says_so() -> None:
    feature = probe_platform("/proc").direct_io
    assert not feature.is_usable
    assert "/proc" in feature.detail


def test_a_cuda_driver_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLLM_CUDA_DRIVER", "libno_such_driver.so.1")
    feature = probe_platform().cuda_driver
    assert not feature.is_usable
    assert "libno_such_driver.so.1" in feature.detail


def test_a_library_that_is_no_cuda_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLLM_CUDA_DRIVER", "libc.so.6")
    assert not probe_platform().cuda_driver.is_usable


def test_the_probe_imports_no_torch() -> None:
    code = "import sys, sllm_store; sllm_store.probe_platform(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_doctor_prints_every_finding_as_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(program, ["doctor", str(tmp_path), "--json"])
    assert result.exit_code == 0
    assert sorted(json.loads(result.stdout)) == sorted(PlatformReport.__dataclass_fields__)


def test_doctor_hints_at_a_low_locked_memory_limit() -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536)); "
    command = [sys.executable, "-c", limited + "from sllm_ctl.cli import main; main()", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0
    assert "locked memory  up to 0 MiB" in result.stdout
    assert "hint: raise the locked-memory limit" in result.stderr


def test_doctor_refuses_a_path_that_is_not_there() -> None:
    assert CliRunner().invoke(program, ["doctor", "no/such/path"]).exit_code == 2
