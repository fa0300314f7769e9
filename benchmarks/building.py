"""The native core, and its tests, built on a machine without network, in a folder of their own."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LAST_LINES = 40


class BuildError(Exception):
    """A build that failed, with the end of what it printed."""


def build_package(scratch: Path) -> Path:
    """Build the package with the Python that runs this, into the folder that is returned; nothing is fetched."""
    target = scratch / "site"
    shutil.rmtree(target, ignore_errors=True)
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    options += [f"--config-settings=build-dir={scratch / 'core'}", "--target", str(target)]
    _run([sys.executable, "-m", "pip", "install", "-v", *options, str(ROOT)])
    return target


def build_tests(scratch: Path) -> Path:
    """The C++ tests' program."""
    cmake = shutil.which("cmake", path=_path())
    if cmake is None:
        raise BuildError("cmake is not on the path")
    build = scratch / "cpp"
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=_path()) else []
    _run([cmake, "-S", str(ROOT), "-B", str(build), *generator, "-DCMAKE_BUILD_TYPE=Release", "-DSLLM_TESTS=ON"])
    _run([cmake, "--build", str(build), "--parallel", str(os.cpu_count() or 1)])
    return build / "tests/cpp/sllm_tests"


def has_googletest() -> bool:
    """Whether the compiler finds its headers."""
    compiler = os.environ.get("CXX", "c++")
    program = "#include <gtest/gtest.h>\n"
    command = [compiler, "-x", "c++", "-fsyntax-only", "-"]
    return subprocess.run(command, input=program, text=True, capture_output=True, check=False).returncode == 0


def run_cpp_tests(program: Path, timeout_s: float) -> dict[str, Any]:
    """The contract of devices, on the real one: how many tests ran, and which failed."""
    report = program.parent / "report.xml"
    return _run_tests([str(program), "--gtest_filter=*/gpu", f"--gtest_output=xml:{report}"], report, timeout_s)


def run_python_tests(scratch: Path, timeout_s: float) -> dict[str, Any]:
    """Those marked `gpu`: how many ran, and which failed."""
    report = scratch / "pytest.xml"
    files = [str(path) for path in sorted((ROOT / "tests/py").glob("test_*.py")) if "mark.gpu" in path.read_text()]
    # Another torch warns of other things than the one that the tests are written with.
    options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default", f"--junitxml={report}"]
    return _run_tests([sys.executable, "-m", "pytest", *options, *files], report, timeout_s)


def module_is_there(name: str) -> bool:
    """Whether this Python could import it."""
    return importlib.util.find_spec(name) is not None


def _run_tests(command: list[str], report: Path, timeout_s: float) -> dict[str, Any]:
    report.unlink(missing_ok=True)
    start = time.perf_counter()
    try:
        subprocess.run(command, cwd=ROOT, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {timeout_s:.0f} s"}
    if not report.exists():
        return {"error": "no report was written"}
    return {**counts(ET.parse(report).getroot()), "seconds": round(time.perf_counter() - start, 1)}


def counts(root: ET.Element) -> dict[str, Any]:
    """pytest's and GoogleTest's reports alike."""
    cases = list(root.iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "skipped": len(skipped),
        "failed": [case.get("name") for case in failed],
    }


def _run(command: list[str]) -> None:
    environment = {**os.environ, "PATH": _path(), "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-_LAST_LINES:])
        raise BuildError(f"{Path(command[0]).name} failed with status {done.returncode}:\n{last}")


def _path() -> str:
    """This Python's own programs, then those of the packages that were brought along, then all others."""
    brought = [str(Path(entry) / "bin") for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join([sysconfig.get_path("scripts"), *brought, os.environ.get("PATH", os.defpath)])
