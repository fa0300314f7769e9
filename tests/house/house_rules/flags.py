"""Commands and their flags: each documented in docs/cli.md, each read by its command."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

import click

_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def complaints(program: click.Command, name: str, documentation: str) -> list[str]:
    """What the documentation lacks or invents, and parameters that no code reads."""
    found = []
    sections = _sections(documentation)
    for path, command in _walk(program, name):
        if path not in sections:
            found.append(f"docs/cli.md has no section `{path}`")
            continue
        found += _flag_complaints(path, command, sections[path])
        found += [f"{path} takes {parameter} and never reads it" for parameter in unread_parameters(command)]
    known = {path for path, _ in _walk(program, name)}
    invented = sorted(path for path in sections if path.split()[0] == name and path not in known)
    return found + [f"docs/cli.md has a section `{path}`, which is no command" for path in invented]


def unread_parameters(command: click.Command) -> list[str]:
    """Parameters that click hands to the command's function and its body never mentions."""
    if command.callback is None:
        return []
    callback = inspect.unwrap(command.callback)
    tree = ast.parse(textwrap.dedent(inspect.getsource(callback)))
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    exposed = [parameter for parameter in command.params if parameter.expose_value and parameter.name]
    return [parameter.name for parameter in exposed if parameter.name and parameter.name not in read]


def _walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _walk(inner, f"{path} {name}")


def _sections(documentation: str) -> dict[str, str]:
    """Text below each heading that is a command in backquotes, up to the next heading."""
    sections = {}
    for part in re.split(r"^#+ ", documentation, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        if match := re.match(r"`([a-z -]+)`", heading):
            sections[match[1]] = body
    return sections


def _flag_complaints(path: str, command: click.Command, section: str) -> Iterator[str]:
    documented = set(_FLAG.findall(section))
    flags = {flag for parameter in command.params if isinstance(parameter, click.Option) for flag in parameter.opts}
    flags |= {flag for parameter in command.params for flag in parameter.secondary_opts}
    flags = {flag for flag in flags if flag.startswith("--")}
    for flag in sorted(flags - documented):
        yield f"docs/cli.md does not document {flag} of `{path}`"
    for flag in sorted(documented - flags - {"--help"}):
        yield f"docs/cli.md documents {flag} of `{path}`, which it does not take"
