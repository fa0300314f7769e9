"""Each border translates every error there is."""

import builtins
import re
from collections.abc import Iterator

import click
import pytest

import sllm_ctl.cli
import sllm_store.cli
from sllm_store import _core, errors

_TREE_LINE = re.compile(r"[├└]── (\w+)\s+(?:\((\w+)\))?")


def subclasses(cls: type[errors.SllmError]) -> Iterator[type[errors.SllmError]]:
    for inner in cls.__subclasses__():
        yield inner
        yield from subclasses(inner)


CLASSES = sorted(subclasses(errors.SllmError), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("code", _core.error_codes())
def test_each_code_of_the_core_has_a_class(code: str) -> None:
    assert errors.class_of(code).code == code


@pytest.mark.parametrize("cls", CLASSES)
def test_each_class_has_a_code_of_the_core_and_is_public(cls: type[errors.SllmError]) -> None:
    assert "code" in vars(cls)
    assert cls.code in _core.error_codes()
    assert getattr(errors, cls.__name__) is cls


def test_the_documented_tree_is_the_real_one() -> None:
    documented = dict(_TREE_LINE.findall(errors.__doc__ or ""))
    assert sorted(documented) == [cls.__name__ for cls in CLASSES]
    for cls in CLASSES:
        foreign = [base.__name__ for base in cls.__mro__ if hasattr(builtins, base.__name__)]
        first = [] if foreign[0] == "Exception" else foreign[:1]
        assert [name for name in [documented[cls.__name__]] if name] == first


@pytest.mark.parametrize("program", [sllm_store.cli, sllm_ctl.cli], ids=["sllm-store", "sllm-ctl"])
@pytest.mark.parametrize("cls", CLASSES)
def test_each_class_ends_a_command_with_its_exit_code(
    program: object, cls: type[errors.SllmError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = issubclass(cls, errors.InvalidArgumentError)
    assert exit_code_when_raising(program, cls("the thing failed"), monkeypatch) == (2 if usage else 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the thing failed" in captured.err


@pytest.mark.parametrize("program", [sllm_store.cli, sllm_ctl.cli], ids=["sllm-store", "sllm-ctl"])
@pytest.mark.parametrize(
    ("error", "code"),
    [(click.exceptions.Abort(), 130), (KeyboardInterrupt(), 130), (click.UsageError("no such flag"), 2)],
)
def test_a_foreign_end_of_a_command_has_its_exit_code(
    program: object, error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code_when_raising(program, error, monkeypatch) == code


def exit_code_when_raising(program: object, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> object:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(program.program, "main", fail)  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as caught:
        program.main()  # type: ignore[attr-defined]
    return caught.value.code
