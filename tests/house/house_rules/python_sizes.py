"""Sizes of Python code: files, functions, nesting, parameters, classes."""

import ast
from collections.abc import Iterator
from pathlib import Path

from house_rules.layering import exported_names
from house_rules.trees import cpp_files, files, python_files

MAX_FILE_LINES = 400
MAX_TEST_FILE_LINES = 600
MAX_FUNCTION_LINES = 50
MAX_NESTING = 3
MAX_PARAMETERS = 5
MAX_PUBLIC_METHODS = 12

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_NESTING = ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.TryStar | ast.Match
_SOURCES = ("python", "tools", "benchmarks")


def file_complaints(root: Path) -> list[str]:
    """Files that have to be split, Python's and C++'s."""
    names = [
        path.relative_to(root).as_posix() for folder in (*_SOURCES, "tests") for path in files(root, folder, ".py")
    ]
    names += [name for name, _ in cpp_files(root, "csrc", "tests")]
    found = []
    for name in names:
        limit = MAX_TEST_FILE_LINES if name.startswith("tests/") else MAX_FILE_LINES
        lines = len((root / name).read_text().splitlines())
        if lines > limit:
            found.append(f"{name}:{limit}: {lines} lines, {limit} are allowed; split it")
    return found


def function_complaints(root: Path) -> list[str]:
    """Functions that are too long, too nested or take too much."""
    exports = exported_names(root) if (root / "python/sllm_store/__init__.py").exists() else {}
    found = []
    for name, tree in python_files(root, *_SOURCES, "tests"):
        for function, is_method in _functions(tree):
            complaints = [_length_complaint(function), _nesting_complaint(function)]
            if not name.startswith("tests/"):
                complaints.append(_parameter_complaint(function, is_method, function.name in exports))
            found += [f"{name}:{function.lineno}: {function.name} {complaint}" for complaint in complaints if complaint]
    return found


def class_complaints(root: Path) -> list[str]:
    """Classes that offer too much."""
    found = []
    for name, tree in python_files(root, *_SOURCES):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods = [item for item in node.body if isinstance(item, _Function) and item.name[0] != "_"]
                if len(methods) > MAX_PUBLIC_METHODS:
                    found.append(
                        f"{name}:{node.lineno}: {node.name} has {len(methods)} public methods, "
                        f"{MAX_PUBLIC_METHODS} are allowed"
                    )
    return found


def _functions(tree: ast.AST) -> Iterator[tuple[_Function, bool]]:
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, _Function):
                yield child, isinstance(node, ast.ClassDef)


def _length_complaint(function: _Function) -> str:
    # The contract is not counted: a public function documents each parameter.
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        first = function.body[0]
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return f"has {lines} lines, {MAX_FUNCTION_LINES} are allowed" if lines > MAX_FUNCTION_LINES else ""


def _nesting_complaint(function: _Function) -> str:
    depth = _nesting(function.body)
    return f"nests {depth} deep, {MAX_NESTING} are allowed" if depth > MAX_NESTING else ""


def _nesting(body: list[ast.stmt]) -> int:
    deepest = 0
    for node in body:
        if not isinstance(node, _NESTING):
            continue
        branches = [*_branches(node)]
        deepest = max(deepest, 1 + max((_nesting(branch) for branch in branches), default=0))
        if isinstance(node, ast.If) and _is_elif(node):
            deepest = max(deepest, _nesting(node.orelse))
    return deepest


def _branches(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    yield getattr(node, "body", [])
    if not (isinstance(node, ast.If) and _is_elif(node)):
        yield getattr(node, "orelse", [])
    yield getattr(node, "finalbody", [])
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body


def _is_elif(node: ast.If) -> bool:
    return len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)


def _parameter_complaint(function: _Function, is_method: bool, is_exported: bool) -> str:
    if any("command" in ast.unparse(decorator) for decorator in function.decorator_list):
        return ""  # click calls it by keyword, and docs/cli.md has each flag
    positional = [*function.args.posonlyargs, *function.args.args][int(is_method) :]
    is_static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
    positional = [*function.args.posonlyargs, *function.args.args] if is_static else positional
    for argument in positional:
        if argument.annotation is not None and ast.unparse(argument.annotation) == "bool" and function.name[:2] != "__":
            return f"takes the bool {argument.arg} by position; make it keyword-only"
    count = len(positional) + (0 if is_exported else len(function.args.kwonlyargs))
    if count <= MAX_PARAMETERS:
        return ""
    return f"takes {count} parameters, {MAX_PARAMETERS} are allowed; group them in a frozen dataclass"
