"""The demo's own steps, on a model of a hundred kilobytes and without a network."""

import importlib
import sys
from pathlib import Path

import pytest

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers")

import tiny_gguf  # noqa: E402

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("demo")


def test_both_loaders_find_the_same_weights_in_what_the_demo_makes(demo, tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    path = tiny_gguf.write(tmp_path / "gguf/model.gguf", "llama", gguf.GGMLQuantizationType.Q8_0)
    plain = demo.make_plain_folder(path, tmp_path)
    converted = demo.convert_once(plain, tmp_path / "converted")
    ours, theirs = demo.timed("sllm", converted), demo.timed("transformers", plain)
    assert ours["total"] == theirs["total"] > 0
    assert ours["report"]["verified"]
    assert theirs["report"] is None


def test_what_is_there_is_not_made_again(demo, tmp_path: Path) -> None:
    model = demo.MODELS["smollm2"]
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/model.gguf").touch()
    (tmp_path / "plain").mkdir()
    assert demo.fetch_gguf(model, tmp_path) == tmp_path / "gguf/model.gguf"
    assert demo.make_plain_folder(tmp_path / "gguf/model.gguf", tmp_path) == tmp_path / "plain"


def test_a_step_that_fails_leaves_nothing_behind(demo, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(SystemExit, match="demo: failed"):
        demo.make_plain_folder(tmp_path / "model.gguf", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_converted_folder_that_is_damaged_is_not_taken(demo, tmp_path: Path) -> None:
    (tmp_path / "sllm.json").write_text("{}")
    assert not demo.is_valid(tmp_path)
    assert not demo.is_valid(tmp_path / "absent")


@pytest.mark.skipif(sys.platform != "linux", reason="asks the page cache of Linux")
def test_a_file_just_written_is_cached(demo, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(1 << 20))
    with path.open("rb") as file:
        assert demo.is_cached(file.fileno(), 1 << 20)
