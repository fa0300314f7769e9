"""Wheels that are brought along to a machine without an index: which, how they are packed, where they are installed.

Tools go into one folder, and only those that the machine's Python lacks. Loaders to compare with go into a folder each,
which only the process that measures them has on its path: none of them changes what the others import.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_BYTES = 64 << 20
_PYTHON = "3.12"
# pip takes a platform literally: a wheel for 2.30 does not count as one for 2.31.
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)),
    *(f"manylinux{name}_x86_64" for name in ("2014", "2010", "1")),
)


@dataclass(frozen=True)
class Wheel:
    """A package: what pip is asked for, and what is imported of it."""

    requirement: str
    module: str

    @property
    def package(self) -> str:
        """Its name, without a version."""
        return self.requirement.partition("==")[0]


# What the package, its commands, the tests and the benchmarks import; without the first three nothing is measured.
TOOLS = (
    Wheel("msgspec", "msgspec"),
    Wheel("click", "click"),
    Wheel("rich", "rich"),
    Wheel("markdown-it-py", "markdown_it"),
    Wheel("mdurl", "mdurl"),
    Wheel("pygments", "pygments"),
    Wheel("pytest", "pytest"),
    Wheel("pluggy", "pluggy"),
    Wheel("iniconfig", "iniconfig"),
    Wheel("packaging", "packaging"),
    Wheel("pytest-timeout", "pytest_timeout"),
    Wheel("ninja", "ninja"),
    Wheel("humanize", "humanize"),  # runai-model-streamer imports it
)
NEEDED = TOOLS[:3]
PEERS = (
    # The first with prefetch(); 0.9.0 itself is not out.
    Wheel("safetensors==0.9.0rc1", "safetensors"),
    Wheel("runai-model-streamer==0.17.0", "runai_model_streamer"),
    Wheel("fastsafetensors==0.5.0", "fastsafetensors"),
    Wheel("instanttensor==0.2.2", "instanttensor"),
)


@dataclass
class Brought:
    """What is there: the tools' folder, each loader's by its package, and why others are not."""

    tools: Path
    peers: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def pack(folder: Path) -> int:
    """Download all wheels, tools first; the exit status. What is not to be had or exceeds the limit is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    total = _source_bytes()
    print(f"{total / 2**20:7.2f} MiB  the source")
    left_out = []
    for wheel in (*TOOLS, *PEERS):
        path = _download(wheel, folder)
        if path is None or total + path.stat().st_size > LIMIT_BYTES:
            left_out.append(wheel.requirement)
            if path is not None:
                path.unlink()
            continue
        total += path.stat().st_size
        print(f"{path.stat().st_size / 2**20:7.2f} MiB  {path.name}", flush=True)
    print(f"{total / 2**20:7.2f} MiB  of {LIMIT_BYTES >> 20}, left out: {', '.join(left_out) or 'nothing'}")
    return 1 if left_out else 0


def install(folder: Path | None, scratch: Path) -> Brought:
    """Install from the folder, without any index. Whatever is not to be had is missing, by name."""
    brought = Brought(scratch / "tools")
    wanted = [wheel for wheel in TOOLS if not _is_there(wheel.module)]
    found = {wheel: _find(wheel, folder) for wheel in (*wanted, *PEERS)}
    _install([path for wheel in wanted if (path := found[wheel])], brought.tools)
    for wheel, path in found.items():
        target = scratch / "peers" / wheel.module
        if path is None:
            brought.missing[wheel.package] = "not brought along"
        elif wheel in PEERS and (fault := _install([path], target)):
            brought.missing[wheel.package] = fault
        elif wheel in PEERS:
            brought.peers[wheel.package] = target
    return brought


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _find(wheel: Wheel, folder: Path | None) -> Path | None:
    """The newest wheel of the package, by its file's name."""
    if folder is None:
        return None
    name = wheel.package.replace("-", "_").lower()
    found = [path for path in folder.glob("*.whl") if path.name.split("-")[0].lower() == name]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _install(paths: Sequence[Path], target: Path) -> str:
    """Why it failed, or nothing."""
    if not paths:
        return ""
    shutil.rmtree(target, ignore_errors=True)
    options = ["--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", "-q", *options, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return ((done.stderr or done.stdout).strip().splitlines() or ["pip failed"])[-1] if done.returncode else ""


def _download(wheel: Wheel, folder: Path) -> Path | None:
    before = _find(wheel, folder)
    if before is not None:
        before.unlink()
    options = ["--no-deps", "--only-binary=:all:", "--python-version", _PYTHON, "--implementation", "cp"]
    for platform in _PLATFORMS:
        options += ["--platform", platform]
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", *options]
    done = subprocess.run([*command, "-d", str(folder), wheel.requirement], check=False)
    return None if done.returncode else _find(wheel, folder)


def _source_bytes() -> int:
    listed = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    return sum(path.stat().st_size for name in listed.split("\0") if name and (path := ROOT / name).is_file())
