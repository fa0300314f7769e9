"""What the package exports is there, documented, and cheap to import."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from house_rules import layering

import sllm_store

ROOT = Path(__file__).parents[2]
MAX_IMPORT_MS = 150

# Time of the processor, not of the clock: other tests and builds share the machine.
_TIMED_IMPORT = """
import json, sys, time
start = time.process_time()
import {module}
print(json.dumps([1000 * (time.process_time() - start), "torch" in sys.modules]))
"""


@pytest.mark.parametrize("name", sllm_store.__all__)
def test_each_export_is_there_and_documented(name: str) -> None:
    value = getattr(sllm_store, name)
    if name != "__version__":
        assert inspect.getdoc(value), f"{name} has no docstring"
        # msgspec, NamedTuple and dataclasses write a signature where there is no docstring.
        assert not (inspect.getdoc(value) or "").startswith(f"{name}("), f"{name} has no docstring of its own"


def test_exports_are_typed_as_they_are_found() -> None:
    tree = ast.parse((ROOT / "python/sllm_store/__init__.py").read_text())
    typed = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sllm_store."):
            typed |= {alias.name: (node.module or "").removeprefix("sllm_store.") for alias in node.names}
    assert typed == layering.exported_names(ROOT)
    assert sorted(sllm_store.__all__) == sorted([*typed, "errors"])


def test_no_module_shadows_an_export() -> None:
    # Importing sllm_store.x makes the module the package's attribute x, whatever was exported by that name.
    modules = {path.stem for path in (ROOT / "python/sllm_store").iterdir()}
    assert modules.isdisjoint(layering.exported_names(ROOT))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute no_such_name"):
        sllm_store.no_such_name  # noqa: B018


@pytest.mark.parametrize("module", ["sllm_store", "sllm_store.cli", "sllm_ctl.cli"])
def test_importing_takes_milliseconds_and_no_torch(module: str) -> None:
    runs = [_import_in_a_child(module) for _ in range(5)]
    assert not any(imports_torch for _, imports_torch in runs)
    assert min(milliseconds for milliseconds, _ in runs) < MAX_IMPORT_MS


def _import_in_a_child(module: str) -> tuple[float, bool]:
    command = [sys.executable, "-c", _TIMED_IMPORT.format(module=module)]
    milliseconds, imports_torch = json.loads(subprocess.check_output(command, timeout=60))
    return milliseconds, imports_torch
