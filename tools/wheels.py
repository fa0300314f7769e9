"""Build a wheel for each Python found, install each by itself, and try it.

Each build runs in isolation, so it proves that a compiler and the package index are enough.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELHOUSE = ROOT / "wheelhouse"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
MAX_IMPORT_MS = 150
# The core runs on any Linux with these; torch and CUDA are found at run time, by Python and dlopen.
ALLOWED_LIBRARIES = re.compile(r"lib(stdc\+\+|gcc_s|c|m|pthread|dl|rt)\.so|ld-linux")
ALLOWED_FILES = re.compile(r"sllm_store/|sllm_ctl/|sllm-[^/]+\.dist-info/")

SMOKE_TEST = """
import sys, time
start = time.perf_counter()
import sllm_store
milliseconds = 1000 * (time.perf_counter() - start)
assert "torch" not in sys.modules
from sllm_store import _core
assert _core.crc32c(b"123456789") == 0xE3069283
print(milliseconds)
"""


def main() -> None:
    """Build and try all of them; exit 1 if one fails."""
    failed = False
    for version in VERSIONS:
        python = find_python(version)
        if python is None:
            print(f"{version}: skipped, python{version} is neither on the path nor in pyenv")
            continue
        try:
            print(f"{version}: {build_and_try(python)}", flush=True)
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"{version}: failed: {error}\n{getattr(error, 'stderr', None) or ''}", flush=True)
            failed = True
    sys.exit(failed)


def find_python(version: str) -> str | None:
    """An interpreter that runs and is of this version; a pyenv shim may be there and not run."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [f"python{version}", *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for candidate in filter(shutil.which, candidates):
        check = [candidate, "-c", f"import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"]
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def build_and_try(python: str) -> str:
    """Build the wheel, look into it, install it into an empty environment, and run it there."""
    with tempfile.TemporaryDirectory() as scratch:
        venv = Path(scratch, "venv")
        output(python, "-m", "venv", str(venv))
        inner = str(venv / "bin/python")
        build = f"--config-settings=build-dir={scratch}/build"
        output(inner, "-m", "pip", "wheel", "-qq", str(ROOT), "--no-deps", build, "-w", f"{scratch}/wheels")
        (wheel,) = Path(scratch, "wheels").iterdir()
        check_files(wheel)
        output(inner, "-m", "pip", "install", "-qq", str(wheel))
        check_libraries(next(venv.glob("lib/python*/site-packages/sllm_store/_core*.so")))
        milliseconds = min(float(output(inner, "-c", SMOKE_TEST)) for _ in range(5))
        if milliseconds > MAX_IMPORT_MS:
            raise ValueError(f"importing sllm_store takes {milliseconds:.0f} ms, {MAX_IMPORT_MS} are allowed")
        programs = [output(str(venv / "bin" / name), "--version").strip() for name in ("sllm-store", "sllm-ctl")]
        WHEELHOUSE.mkdir(exist_ok=True)
        shutil.copy(wheel, WHEELHOUSE)
        return f"{wheel.name}, {wheel.stat().st_size} bytes, imports in {milliseconds:.0f} ms; {'; '.join(programs)}"


def check_files(wheel: Path) -> None:
    """Nothing but the packages: no tests, no sources of the core."""
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [name for name in names if not ALLOWED_FILES.match(name) or name.endswith((".cpp", ".h"))]
    if strangers or any("test" in name for name in names):
        raise ValueError(f"{wheel.name} contains {strangers or 'tests'}")


def check_libraries(core: Path) -> None:
    """The core links the C++ runtime and the C library."""
    needed = re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-d", str(core)))
    strangers = [name for name in needed if not ALLOWED_LIBRARIES.match(name)]
    if strangers or not needed:
        raise ValueError(f"{core.name} links {strangers}")


def output(*command: str) -> str:
    """What a command prints; CalledProcessError, with its complaint, where it fails."""
    # Outside the source tree, so that what is imported is what was installed.
    outside = tempfile.gettempdir()
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=outside).stdout


if __name__ == "__main__":
    main()
