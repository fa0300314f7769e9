"""`sllm-store`: convert, inspect, verify and load checkpoints, and keep them in memory.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

import sys
from importlib import import_module
from typing import Final

import click

from sllm_store._version import __version__
from sllm_store.errors import InvalidArgumentError, SllmError

# One module a command, imported when it is named: `--help` needs none of what they need.
_COMMANDS: Final = ("convert", "evict", "inspect", "lease", "load", "prefetch", "serve", "status", "verify")


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"sllm_store.commands.{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sllm-store")
def program() -> None:
    """Convert, inspect, verify and load model checkpoints, and keep them in memory."""


def main() -> None:
    """Run the program; ours is the border between errors and exit codes."""
    try:
        sys.exit(program.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SllmError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidArgumentError) else 1)
