"""Every command and flag is documented, and read by its command."""

from pathlib import Path

import click
import pytest
from house_rules import flags

import sllm_ctl.cli
import sllm_store.cli

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("program", "name"), [(sllm_store.cli.program, "sllm-store"), (sllm_ctl.cli.program, "sllm-ctl")]
)
def test_commands_are_documented_and_read_their_flags(program: click.Group, name: str) -> None:
    assert flags.complaints(program, name, (ROOT / "docs/cli.md").read_text()) == []


@click.group()
def program() -> None:
    """Stand in for a program."""


@program.command()
@click.option("--json", "as_json", is_flag=True)
@click.option("--used/--unused")
def show(as_json: bool, used: bool) -> None:
    """Read one of two flags."""
    click.echo(used)


def test_undocumented_invented_and_unread_flags_are_noticed() -> None:
    documentation = "# x\n## `tool`\n## `tool show`\n`--used`, `--unused` and `--gone`\n## `tool hide`\n"
    assert flags.complaints(program, "tool", documentation) == [
        "docs/cli.md does not document --json of `tool show`",
        "docs/cli.md documents --gone of `tool show`, which it does not take",
        "tool show takes as_json and never reads it",
        "docs/cli.md has a section `tool hide`, which is no command",
    ]


def test_an_undocumented_command_is_noticed() -> None:
    assert flags.complaints(program, "tool", "## `tool`\n") == ["docs/cli.md has no section `tool show`"]
