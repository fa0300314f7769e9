import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sllm_ctl.cli import program
from sllm_store import PlatformReport, _core, platform_probe, probe_platform


def test_reports_this_kernel_and_this_core() -> None:
    report = probe_platform()
    assert report.kernel == os.uname().release
    assert report.crc32c_implementation == _core.crc32c_implementation()


def test_io_uring_is_probed_by_trying_it_and_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    report = probe_platform()
    assert os.listdir("/proc/self/fd") == before
    assert report.io_uring.detail


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.ENOMEM, errno.EINVAL])
def test_a_refused_io_uring_says_why(number: int) -> None:
    assert platform_probe._why_no_io_uring(number).startswith(os.strerror(number).lower())


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
