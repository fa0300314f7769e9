"""Names say what a thing is."""

from pathlib import Path

import pytest
from house_rules import naming

ROOT = Path(__file__).parents[2]


def test_no_name_is_fog() -> None:
    assert naming.complaints(ROOT) == []


@pytest.mark.parametrize(
    ("identifier", "fault"),
    [
        ("CacheManager", "the word manager"),
        ("error_handlers", "the word handlers"),
        ("kInfoBytes", "the word info"),
        ("do_load", "the prefix do_"),
        ("newBuffer", "the prefix new_"),
        ("process_request", "process_ as a verb"),
        ("load_v2", "a version number"),
    ],
)
def test_fog_is_noticed(identifier: str, fault: str) -> None:
    assert naming.fault_of(identifier, is_function=True) == fault


@pytest.mark.parametrize("identifier", ["information", "news", "double", "process", "handle", "utility", "v2_header"])
def test_words_that_only_look_alike_pass(identifier: str) -> None:
    assert naming.fault_of(identifier, is_function=True) == ""


def test_fog_is_found_in_both_languages_and_in_file_names(tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "csrc").mkdir()
    (tmp_path / "python/utils.py").write_text("def f(info): ...\n")
    (tmp_path / "csrc/a.cpp").write_text(
        "// a helper\nint helper = 1;  // helper\npy::buffer_info ours(sllm::info);\ncuMemGetInfo_v2();\n"
    )
    assert naming.complaints(tmp_path) == [
        "python/utils.py:1: utils has the word utils, which says nothing",
        "python/utils.py:1: info has the word info, which says nothing",
        "csrc/a.cpp:2: helper has the word helper, which says nothing",
        "csrc/a.cpp:3: info has the word info, which says nothing",
    ]
