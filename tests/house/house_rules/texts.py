"""What must not stand in any file: notes to self, somebody's paths, sleeping, swallowing, printing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from house_rules.trees import cpp_files, files, python_files, without_comments_and_strings

_FOLDERS = ("python", "csrc", "tests", "tools", "benchmarks", "docs", ".ci")
_SUFFIXES = (".py", ".cpp", ".h", ".inc", ".sh", ".md", ".txt", ".json", ".toml", "")
_ROOT_FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "CMakeLists.txt", "pyproject.toml")
_NOTE = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
_MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|Users|work|tmp|mnt)/\w")
_CPP_SLEEP = re.compile(r"\b(sleep_for|sleep_until|usleep|nanosleep|sleep)\s*\(")


def note_complaints(root: Path) -> list[str]:
    """Notes to self: the issue tracker has those."""
    return _matches(root, _NOTE, "a note to self; finish it or file it")


def path_complaints(root: Path) -> list[str]:
    """Absolute paths that exist on one machine only."""
    return _matches(root, _MACHINE_PATH, "a path of one machine")


def sleep_complaints(root: Path) -> list[str]:
    """Sleeping, in source or in tests: wait for the event itself, with a deadline."""
    found = []
    for name, tree in python_files(root, "python", "tests", "tools", "benchmarks"):
        found += [f"{name}:{node.lineno}: sleeps; wait for the event" for node in _calls(tree, "sleep")]
    for name, text in cpp_files(root, "csrc", "tests"):
        code = without_comments_and_strings(text)
        for match in _CPP_SLEEP.finditer(code):
            found.append(f"{name}:{code.count(chr(10), 0, match.start()) + 1}: sleeps; wait for the event")
    return found


def except_complaints(root: Path) -> list[str]:
    """Handlers that catch everything and do not raise again."""
    found = []
    for name, tree in python_files(root, "python"):
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _raises_again(node):
                found.append(f"{name}:{node.lineno}: catches everything; name the errors, or raise again")
    return found


def print_complaints(root: Path) -> list[str]:
    """`print` in the packages: data goes through click, reports are values."""
    return [
        f"{name}:{node.lineno}: prints; a library returns values, a command uses click.echo"
        for name, tree in python_files(root, "python")
        for node in _calls(tree, "print")
    ]


def _matches(root: Path, pattern: re.Pattern[str], complaint: str) -> list[str]:
    paths = [path for folder in _FOLDERS for path in files(root, folder, *_SUFFIXES)]
    paths += [path for name in _ROOT_FILES if (path := root / name).exists()]
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(root).as_posix()}:{number}: {match[0]} is {complaint}")
    return found


def _calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for node in sorted(calls, key=lambda call: call.lineno):
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        # `console.print` is rich's, and goes where it was told to.
        if called == name and not (name == "print" and isinstance(node.func, ast.Attribute)):
            yield node


def _is_broad(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(isinstance(item, ast.Name) and item.id in ("Exception", "BaseException") for item in kinds)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise)
