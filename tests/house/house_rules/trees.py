"""Finding and reading the files that the rules look at."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

# Rules quote what they forbid, so they do not apply to themselves.
_EXEMPT = ("tests/house/", "tests/data/")
_CPP = (".cpp", ".h", ".inc")


def files(root: Path, folder: str, *suffixes: str) -> Iterator[Path]:
    """Files below `root/folder` with one of the suffixes, in a stable order."""
    for path in sorted((root / folder).rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix in suffixes and path.is_file() and not name.startswith(_EXEMPT):
            yield path


def python_files(root: Path, *folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Each Python file's name, relative to `root`, with its syntax tree."""
    for folder in folders:
        for path in files(root, folder, ".py"):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(), str(path))


def cpp_files(root: Path, *folders: str) -> Iterator[tuple[str, str]]:
    """Each C++ file's name, relative to `root`, with its text."""
    for folder in folders:
        for path in files(root, folder, *_CPP):
            yield path.relative_to(root).as_posix(), path.read_text()


_NOISE = re.compile(
    r"""
    //[^\n]*
    | /\*.*?\*/
    | R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"
    | "(?:\\.|[^"\\\n])*"
    | (?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'  # not the separators of 1'000'000
    """,
    re.VERBOSE | re.DOTALL,
)


def without_comments_and_strings(text: str) -> str:
    """C++ with its comments and literals blanked, every other character where it was."""
    return _NOISE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
