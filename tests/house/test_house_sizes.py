"""Files, functions and classes stay small; what grows is split, never exempt."""

from pathlib import Path

import pytest
from house_rules import cpp_sizes, python_sizes

ROOT = Path(__file__).parents[2]


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_files_are_short() -> None:
    assert python_sizes.file_complaints(ROOT) == []


def test_long_files_are_noticed(tmp_path: Path) -> None:
    write(tmp_path, "python/pkg/long.py", "x = 1\n" * 401)
    write(tmp_path, "csrc/base/long.inc", "int x;\n" * 401)
    write(tmp_path, "tests/py/test_fine.py", "x = 1\n" * 600)
    write(tmp_path, "tests/cpp/long_test.cpp", "int x;\n" * 601)
    assert python_sizes.file_complaints(tmp_path) == [
        "python/pkg/long.py:400: 401 lines, 400 are allowed; split it",
        "csrc/base/long.inc:400: 401 lines, 400 are allowed; split it",
        "tests/cpp/long_test.cpp:600: 601 lines, 600 are allowed; split it",
    ]


def test_python_functions_are_small() -> None:
    assert python_sizes.function_complaints(ROOT) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def f():\n" + "    x = 1\n" * 50, "f has 51 lines, 50 are allowed"),
        (
            "def f(x):\n if x:\n  for _ in x:\n   with x:\n    while x:\n     x = 0\n",
            "f nests 4 deep, 3 are allowed",
        ),
        ("def f(a, b, c, *, d, e, g): ...\n", "f takes 6 parameters, 5 are allowed; group them in a frozen dataclass"),
        ("class C:\n    def f(self, a, b, c, d, e, g): ...\n", "f takes 6 parameters, 5 are allowed"),
        ("def f(flag: bool): ...\n", "f takes the bool flag by position; make it keyword-only"),
    ],
)
def test_a_python_function_over_a_limit_is_noticed(tmp_path: Path, text: str, complaint: str) -> None:
    write(tmp_path, "python/pkg/module.py", text)
    (found,) = python_sizes.function_complaints(tmp_path)
    assert complaint in found


@pytest.mark.parametrize(
    "text",
    [
        "def f(a, b, c, d, e): ...\n",
        "class C:\n    def f(self, a, b, c, d, e): ...\n",
        "def f():\n" + "    x = 1\n" * 49,
        "def f():\n    '''One.\n" + "    more\n" * 60 + "    '''\n",
        "def f(x):\n" + "".join(f"    {'if' if n == 0 else 'elif'} x == {n}:\n        x = 0\n" for n in range(6)),
        "@click.command()\ndef f(a: bool, b: int, c: int, d: int, e: int, g: int): ...\n",
    ],
)
def test_python_functions_at_the_limits_pass(tmp_path: Path, text: str) -> None:
    write(tmp_path, "python/pkg/module.py", text)
    assert python_sizes.function_complaints(tmp_path) == []


def test_an_exported_function_may_take_more_by_keyword(tmp_path: Path) -> None:
    write(tmp_path, "python/sllm_store/__init__.py", '_EXPORTS = {"load": "loading"}\n')
    write(tmp_path, "python/sllm_store/loading.py", "def load(path, *, a, b, c, d, e, g): ...\n")
    assert python_sizes.function_complaints(tmp_path) == []


def test_python_classes_offer_little() -> None:
    assert python_sizes.class_complaints(ROOT) == []


def test_a_python_class_with_many_methods_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, "python/pkg/module.py", "class C:\n" + "".join(f"    def f{n}(self): ...\n" for n in range(13)))
    (found,) = python_sizes.class_complaints(tmp_path)
    assert "C has 13 public methods, 12 are allowed" in found


def test_cpp_functions_and_classes_are_small() -> None:
    assert cpp_sizes.complaints(ROOT) == []


_LONG = "  step();\n" * 49
_DEEP = "  if (a) {\n    for (;;) {\n      while (b) {\n        if (c) {\n          d();\n" + "  }\n" * 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("namespace sllm {\nvoid f() {\n" + _LONG + "}\n}\n", "f has 51 lines, 50 are allowed"),
        ("struct S {\n  void f() const {\n  " + _LONG + "}\n};\n", "f has 51 lines, 50 are allowed"),
        ("S::S(int a) : a_(a), b_{a} {\n" + _LONG + "}\n", "S::S has 51 lines, 50 are allowed"),
        ("void f(int a) {\n" + _DEEP + "}\n", "f nests 4 deep, 3 are allowed"),
        (
            "template <typename T>\nint f(std::map<int, T> a, int b, int c, int d, int e, int g) {\n}\n",
            "f takes 6 parameters, 5 are allowed; make a struct of them",
        ),
        (
            "class C : public B {\n public:\n" + "".join(f"  int f{n}() const;\n" for n in range(13)) + "};\n",
            "a class with 13 public methods, 12 are allowed",
        ),
    ],
)
def test_cpp_over_a_limit_is_noticed(tmp_path: Path, text: str, complaint: str) -> None:
    write(tmp_path, "csrc/base/module.cpp", text)
    (found,) = cpp_sizes.complaints(tmp_path)
    assert complaint in found


@pytest.mark.parametrize(
    "text",
    [
        "void f() {\n" + "  step();\n" * 48 + "}\n",
        "void f() {\n  // {{{{\n  call(\"{\", '{', [&] { return 1; });\n}\n" + "int a;\n" * 60 + "void g() {\n}\n",
        "const std::array kCodes = {\n" + "  1,\n" * 60 + "};\n",
        "class C {\n  " + "".join(f"  int f{n}() const;\n" for n in range(13)) + "};\n",
        "enum class E {\n" + "  kA,\n" * 60 + "};\n",
        "void f(std::map<int, int> a, std::map<int, int> b, std::function<void(int, int)> c) {\n}\n",
    ],
)
def test_cpp_within_the_limits_passes(tmp_path: Path, text: str) -> None:
    write(tmp_path, "csrc/base/module.cpp", text)
    assert cpp_sizes.complaints(tmp_path) == []


def test_every_cpp_function_of_a_file_is_found() -> None:
    text = (ROOT / "csrc/base/crc32c.cpp").read_text()
    heads = [block.head for block, _ in cpp_sizes.blocks(text) if block.kind == "function"]
    names = [head[: head.find("(")].split()[-1] for head in heads]
    assert {"choose_update", "update_by_table", "shift_long_lane", "crc32c", "crc32c_combine"} <= set(names)
