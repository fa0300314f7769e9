"""Make a virtual environment for development: torch first, then the extras, then the native core.

Stamps in the environment hold a hash of what each step depends on, so an unchanged tree costs no pip at all.
It runs on the interpreter that the environment is made from, with the standard library alone.
"""

import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = "torch==2.13.0"
CPU_INDEX_HOST = "download.pytorch.org"
CPU_INDEX = f"https://{CPU_INDEX_HOST}/whl/cpu"
EXTRAS = os.environ.get("EXTRAS", "dev,gguf,transformers")


def main() -> None:
    """Bring the environment named on the command line up to date."""
    venv = ROOT / sys.argv[1]
    stamps = venv / ".stamps"
    install_system_packages()
    if is_stale(stamps / "python", python_key()):
        say(f"making {venv.name} with Python {sys.version.split()[0]}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        write_stamp(stamps / "python", python_key())
    packages, core = packages_key(), core_key()
    if is_stale(stamps / "packages", packages):
        install_torch(venv)
        say(f"installing the build tools, then sllm with its extras {EXTRAS}")
        pip(venv, *build_requirements())
        install_project(venv, f"{ROOT}[{EXTRAS}]")
        write_stamp(stamps / "packages", packages)
        write_stamp(stamps / "core", core)
    elif is_stale(stamps / "core", core):
        say("rebuilding the native core")
        install_project(venv, str(ROOT), "--no-deps")
        write_stamp(stamps / "core", core)


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def install_system_packages() -> None:
    """What pip cannot bring: a compiler, and the parts that Debian splits off its Python."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    missing = []
    if importlib.util.find_spec("ensurepip") is None:
        missing.append(f"{version}-venv")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append(f"{version}-dev")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        missing.append("g++")
    if missing and subprocess.run([ROOT / "tools/debian.sh", *missing], check=False).returncode:
        sys.exit(1)


def install_torch(venv: Path) -> None:
    """Before anything else, so that no later step pulls another build of it."""
    requirement = os.environ.get("TORCH") or TORCH
    index = []
    if requirement == TORCH and answers(CPU_INDEX_HOST):
        index = ["--index-url", CPU_INDEX]
        say(f"installing {requirement}, the CPU build")
    else:
        say(f"installing {requirement} from the configured index")
        say("PyPI's build brings CUDA, some gigabytes; TORCH= takes another requirement or a wheel")
    pip(venv, *requirement.split(), *index)


def answers(host: str) -> bool:
    """Whether a connection stands within two seconds."""
    try:
        socket.create_connection((host, 443), timeout=2).close()
    except OSError:
        return False
    return True


def build_requirements() -> list[str]:
    """What builds the core, installed up front because the project is built without isolation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tools = [line for line in project["project"]["optional-dependencies"]["dev"] if line.startswith(("cmake", "ninja"))]
    return [*project["build-system"]["requires"], *tools]


def install_project(venv: Path, project: str, *options: str) -> None:
    """An editable install: Python files are used where they lie, the core is built into the environment."""
    # Each environment builds in a folder of its own: the build remembers its interpreter.
    build = f"--config-settings=build-dir={ROOT}/build/{venv.name.lstrip('.')}/{{wheel_tag}}"
    pip(venv, "--no-build-isolation", build, *options, "--editable", project)


def pip(venv: Path, *arguments: str) -> None:
    """Install with the environment's pip; its own output says what failed."""
    path = f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    command = [
        str(venv / "bin/python"),
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
        *arguments,
    ]
    if subprocess.run(command, env={**os.environ, "PATH": path}, check=False).returncode:
        sys.exit(1)


def python_key() -> str:
    """The interpreter that the environment is made from."""
    return f"{sys.base_prefix} {sys.version}"


def packages_key() -> str:
    """All that decides which packages are installed."""
    return digest([ROOT / "pyproject.toml"], os.environ.get("TORCH", ""), EXTRAS)


def core_key() -> str:
    """All that the native core is built from."""
    sources = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())
    return digest([ROOT / "pyproject.toml", ROOT / "CMakeLists.txt", *sources])


def digest(paths: Iterable[Path], *texts: str) -> str:
    """A hash of files with their names, and of texts."""
    content = hashlib.sha256()
    for path in paths:
        content.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        content.update(path.read_bytes())
    content.update("\0".join(texts).encode())
    return content.hexdigest()


def is_stale(stamp: Path, key: str) -> bool:
    """Whether a step was last done with other inputs, or never."""
    return not stamp.exists() or stamp.read_text() != key


def write_stamp(stamp: Path, key: str) -> None:
    """Mark a step as done; written last, so an interrupted step is done again."""
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(key)


if __name__ == "__main__":
    main()
