"""`sllm-ctl`: look after a cluster of nodes.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

import sys
from importlib import import_module
from typing import Final

import click

from sllm_store import __version__
from sllm_store.errors import InvalidArgumentError, SllmError

# One module a command, imported when it is named.
_COMMANDS: Final = ("doctor",)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"sllm_ctl.commands.{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sllm-ctl")
def program() -> None:
    """Look after the machines that models run on."""


def main() -> None:
    """Run the program; ours is the border between errors and exit codes."""
    try:
        sys.exit(program.main(standalone_mode=False) or 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SllmError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidArgumentError) else 1)
