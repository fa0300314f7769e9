"""Who may import or include whom (the packages' own diagram, and the floors of csrc/)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from house_rules.trees import cpp_files, python_files

# Lowest first: a floor includes itself and those before it.
FLOORS = ("base", "io", "memory", "device", "load", "store", "bindings")

# Modules of sllm_store that may import torch, inside functions. Everything else must work without it.
TORCH_MODULES = (
    "sllm_store/casting.py",
    "sllm_store/filling.py",
    "sllm_store/loading.py",
    "sllm_store/sources/",
    "sllm_store/torch_tensors.py",
    "sllm_store/transformers.py",
)
# Those of them that are about nothing else, and import it at their top: only they import each other at the top.
TORCH_ONLY_MODULES = (
    "sllm_store/sources/gguf_tables.py",
    "sllm_store/sources/gguf_values.py",
)

_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
_PYTHON_HEADER = re.compile(r"^(pybind11/|Python\.h$)")
_FOREIGN_HEADER = re.compile(r"^(torch/|ATen/|c10/|cuda|nvml|nvrtc|driver_types\.h|vector_types\.h)")


def package_complaints(root: Path) -> list[str]:
    """sllm_store never imports sllm_ctl; sllm_ctl imports only what sllm_store exports."""
    exports = exported_names(root)
    found = []
    for name, tree in python_files(root, "python"):
        for line, module, member in _imports(tree):
            if name.startswith("python/sllm_store/") and module.split(".")[0] == "sllm_ctl":
                found.append(f"{name}:{line}: sllm_store must not import sllm_ctl")
            if name.startswith("python/sllm_ctl/") and not _is_exported(module, member, exports):
                found.append(f"{name}:{line}: sllm_ctl may use only what sllm_store exports, not {module} {member}")
    return found


def exported_names(root: Path) -> dict[str, str]:
    """What sllm_store exports, with the module of each, read from `_EXPORTS` without running it."""
    tree = ast.parse((root / "python/sllm_store/__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_EXPORTS" for t in node.targets):
            return dict(ast.literal_eval(node.value))
    return {}


def _is_exported(module: str, member: str, exports: dict[str, str]) -> bool:
    if module.split(".")[0] != "sllm_store":
        return True
    if module == "sllm_store":
        return member in ("", "errors") or member in exports
    return module == "sllm_store.errors"


def torch_complaints(root: Path) -> list[str]:
    """Importing a module imports no torch, but for those listed as torch's own, which others import when called."""
    found = []
    for name, tree in python_files(root, "python/sllm_store"):
        short = name.removeprefix("python/")
        typing_lines = _lines_under_type_checking(tree)
        at_import = {line for line, *_ in _imports(tree, into_functions=False)}
        for line, module, member in _imports(tree):
            if line in typing_lines or not _brings_torch(module, member):
                continue
            if line in at_import and short not in TORCH_ONLY_MODULES:
                found.append(f"{name}:{line}: import {module} inside the function that needs it: it imports torch")
            elif module.split(".")[0] == "torch" and not short.startswith(TORCH_MODULES):
                found.append(f"{name}:{line}: imports torch; only {', '.join(TORCH_MODULES)} may")
    return list(dict.fromkeys(found))


def include_complaints(root: Path) -> list[str]:
    """Floors include only those below; Python headers only in bindings/; torch's and CUDA's nowhere."""
    found = []
    for name, text in cpp_files(root, "csrc"):
        floor = name.split("/")[1]
        if floor not in FLOORS:
            found.append(f"{name}:1: {floor} is not one of the floors {' < '.join(FLOORS)}")
            continue
        for match in _INCLUDE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            if complaint := _include_complaint(floor, match[1] == '"', match[2]):
                found.append(f"{name}:{line}: {complaint}")
    return found


def _include_complaint(floor: str, is_own: bool, header: str) -> str:
    if _FOREIGN_HEADER.match(header):
        return f"includes {header}: the core builds without torch and CUDA"
    if _PYTHON_HEADER.match(header) and floor != "bindings":
        return f"includes {header}: only bindings/ knows Python"
    target = header.split("/")[0]
    if is_own and target not in FLOORS:
        return f"includes {header} by another path than from csrc/"
    if is_own and FLOORS.index(target) > FLOORS.index(floor):
        return f"includes {header}: {floor} is below {target}"
    return ""


def _brings_torch(module: str, member: str) -> bool:
    files = {f"{module.replace('.', '/')}.py", f"{module}.{member}".replace(".", "/") + ".py"}
    return module.split(".")[0] == "torch" or not files.isdisjoint(TORCH_ONLY_MODULES)


def _imports(tree: ast.AST, *, into_functions: bool = True) -> Iterator[tuple[int, str, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, node.module or "", alias.name
        elif into_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(node, into_functions=into_functions)


def _lines_under_type_checking(tree: ast.AST) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in node.body:
                lines.update(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    return lines
