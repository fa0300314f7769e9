"""Words that say nothing, kept out of identifiers and file names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from house_rules.trees import cpp_files, python_files, without_comments_and_strings

_FOG = ("manager", "handler", "helper", "util", "common", "misc", "info", "wrapper")
FORBIDDEN = frozenset([*_FOG, *(f"{word}s" for word in _FOG)])
FORBIDDEN_FIRST = frozenset(["do", "new"])
# What a process has; process_ before anything else is the verb that says nothing.
_OF_A_PROCESS = frozenset(["cpu", "exit", "group", "id", "memory", "pool", "tree"])

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# Another namespace's names are not ours to choose, nor are the CUDA driver's symbols.
_FOREIGN = re.compile(r"cu[A-Z]\w*")
_CPP_NAME = re.compile(r"(?P<qualifier>\w+\s*::\s*)?\b(?P<name>[A-Za-z_]\w*)\b(?P<call>\s*\()?")


def fault_of(identifier: str, *, is_function: bool) -> str:
    """What is wrong with a name, or nothing."""
    words = [word.lower() for word in _WORD.findall(identifier)]
    for word in words:
        if word in FORBIDDEN:
            return f"the word {word}"
    if len(words) > 1 and words[0] in FORBIDDEN_FIRST:
        return f"the prefix {words[0]}_"
    if is_function and len(words) > 1 and words[0] == "process" and words[1] not in _OF_A_PROCESS:
        return "process_ as a verb"
    return "a version number" if re.search(r"_v[0-9]+$", identifier) else ""


def complaints(root: Path) -> list[str]:
    """Names in Python and C++ that break the rule."""
    found = []
    for name, tree in python_files(root, "python", "tools", "benchmarks", "tests"):
        found += _name_complaints(name, [(1, Path(name).stem, False), *_python_names(tree)])
    for name, text in cpp_files(root, "csrc", "tests"):
        found += _name_complaints(name, [(1, Path(name).stem, False), *_cpp_names(text)])
    return found


def _name_complaints(file: str, names: list[tuple[int, str, bool]]) -> Iterator[str]:
    seen = set()
    for line, identifier, is_function in names:
        fault = fault_of(identifier, is_function=is_function)
        if fault and identifier not in seen:
            seen.add(identifier)
            yield f"{file}:{line}: {identifier} has {fault}, which says nothing"


def _python_names(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, True
        elif isinstance(node, ast.ClassDef):
            yield node.lineno, node.name, False
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, False
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, False
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, False


def _cpp_names(text: str) -> Iterator[tuple[int, str, bool]]:
    code = without_comments_and_strings(re.sub(r"^\s*#\s*include[^\n]*", "", text, flags=re.MULTILINE))
    for match in _CPP_NAME.finditer(code):
        if _FOREIGN.fullmatch(match["name"]):
            continue
        if not match["qualifier"] or match["qualifier"].startswith("sllm"):
            yield code.count("\n", 0, match.start("name")) + 1, match["name"], match["call"] is not None
