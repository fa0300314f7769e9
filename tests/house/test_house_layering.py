"""The folder list reads like a diagram, and imports obey it."""

from pathlib import Path

from house_rules import layering

ROOT = Path(__file__).parents[2]


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_packages_import_downwards_only() -> None:
    assert layering.package_complaints(ROOT) == []


def test_an_upward_import_and_an_unexported_one_are_noticed(tmp_path: Path) -> None:
    write(tmp_path, "python/sllm_store/__init__.py", '_EXPORTS = {"convert": "convert"}\n')
    write(tmp_path, "python/sllm_store/plan.py", "def plan():\n    import sllm_ctl.node\n")
    write(tmp_path, "python/sllm_ctl/good.py", "from sllm_store import convert, errors\nimport sllm_store\n")
    write(tmp_path, "python/sllm_ctl/bad.py", "from sllm_store import _core\nfrom sllm_store.convert import convert\n")
    assert layering.package_complaints(tmp_path) == [
        "python/sllm_ctl/bad.py:1: sllm_ctl may use only what sllm_store exports, not sllm_store _core",
        "python/sllm_ctl/bad.py:2: sllm_ctl may use only what sllm_store exports, not sllm_store.convert convert",
        "python/sllm_store/plan.py:2: sllm_store must not import sllm_ctl",
    ]


def test_torch_is_imported_in_few_modules_and_by_none_that_others_import_first() -> None:
    assert layering.torch_complaints(ROOT) == []


def test_torch_at_the_top_or_elsewhere_is_noticed(tmp_path: Path) -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef load():\n    import torch\n"
    write(tmp_path, "python/sllm_store/sources/gguf_values.py", "import torch\n")
    torch_only = "import sllm_store.sources.gguf_values\nfrom sllm_store.sources import gguf_values\n"
    write(tmp_path, "python/sllm_store/convert.py", torch_only)
    write(tmp_path, "python/sllm_store/loading.py", "if True:\n    import torch\n")
    write(tmp_path, "python/sllm_store/plan.py", "def plan():\n    from torch import nn\n")
    write(tmp_path, "python/sllm_store/transformers.py", guarded)
    *at_the_top, elsewhere = layering.torch_complaints(tmp_path)
    inside = "inside the function that needs it: it imports torch"
    assert at_the_top == [
        f"python/sllm_store/convert.py:1: import sllm_store.sources.gguf_values {inside}",
        f"python/sllm_store/convert.py:2: import sllm_store.sources {inside}",
        f"python/sllm_store/loading.py:2: import torch {inside}",
    ]
    assert elsewhere.startswith("python/sllm_store/plan.py:2: imports torch; only ")


def test_floors_include_downwards_only() -> None:
    assert layering.include_complaints(ROOT) == []


def test_an_upward_a_python_and_a_cuda_include_are_noticed(tmp_path: Path) -> None:
    write(tmp_path, "csrc/io/file.cpp", '#include "base/error.h"\n#include "load/plan.h"\n#include <pybind11/stl.h>\n')
    write(tmp_path, "csrc/device/cuda.cpp", "#include <cuda.h>\n#include <torch/torch.h>\n")
    write(tmp_path, "csrc/bindings/base.cpp", '#include <pybind11/stl.h>\n#include "store/store.h"\n')
    write(tmp_path, "csrc/extra/x.h", "")
    assert layering.include_complaints(tmp_path) == [
        "csrc/device/cuda.cpp:1: includes cuda.h: the core builds without torch and CUDA",
        "csrc/device/cuda.cpp:2: includes torch/torch.h: the core builds without torch and CUDA",
        "csrc/extra/x.h:1: extra is not one of the floors base < io < memory < device < load < store < bindings",
        "csrc/io/file.cpp:2: includes load/plan.h: io is below load",
        "csrc/io/file.cpp:3: includes pybind11/stl.h: only bindings/ knows Python",
    ]
