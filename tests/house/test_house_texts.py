"""What must not stand in any file."""

from pathlib import Path

from house_rules import texts

ROOT = Path(__file__).parents[2]


def module(root: Path, text: str) -> Path:
    (root / "python").mkdir(exist_ok=True)
    (root / "python/module.py").write_text(text)
    return root


def test_no_notes_to_self() -> None:
    assert texts.note_complaints(ROOT) == []


def test_a_note_to_self_is_noticed(tmp_path: Path) -> None:
    root = module(tmp_path, "x = 1\n# TODO: y\n")
    assert texts.note_complaints(root) == ["python/module.py:2: TODO is a note to self; finish it or file it"]


def test_no_machine_paths() -> None:
    assert texts.path_complaints(ROOT) == []


def test_a_machine_path_is_noticed(tmp_path: Path) -> None:
    root = module(tmp_path, 'a = "/home/me/model"\nb = "/proc/self"\nc = "docs/work/x"\nd = "~/work/x"\n')
    assert texts.path_complaints(root) == ["python/module.py:1: /home/m is a path of one machine"]


def test_nothing_sleeps() -> None:
    assert texts.sleep_complaints(ROOT) == []


def test_sleeping_is_noticed_in_both_languages(tmp_path: Path) -> None:
    root = module(tmp_path, "async def f():\n    await asyncio.sleep(1)\n    time.sleep(1)\n")
    (root / "csrc").mkdir()
    (root / "csrc/a.cpp").write_text("// sleep()\nstd::this_thread::sleep_for(kPause);\n")
    assert texts.sleep_complaints(root) == [
        "python/module.py:2: sleeps; wait for the event",
        "python/module.py:3: sleeps; wait for the event",
        "csrc/a.cpp:2: sleeps; wait for the event",
    ]


def test_nothing_catches_everything() -> None:
    assert texts.except_complaints(ROOT) == []


def test_catching_everything_is_noticed(tmp_path: Path) -> None:
    root = module(
        tmp_path,
        "try: f()\nexcept (ValueError, Exception): pass\ntry: f()\nexcept: pass\n"
        "try: f()\nexcept BaseException:\n    g()\n    raise\ntry: f()\nexcept OSError: pass\n",
    )
    assert [complaint.split(":")[1] for complaint in texts.except_complaints(root)] == ["2", "4"]


def test_packages_do_not_print() -> None:
    assert texts.print_complaints(ROOT) == []


def test_printing_is_noticed(tmp_path: Path) -> None:
    root = module(tmp_path, "print(1)\nconsole.print(2)\n")
    assert [complaint.split(":")[1] for complaint in texts.print_complaints(root)] == ["1"]
