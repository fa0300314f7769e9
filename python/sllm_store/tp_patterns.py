"""Which pattern of a tensor-parallel plan a tensor's name falls under.

1. A plan may write out the tensor's name, or that of its module, which is the name without its last component.
2. Else each component that is a number, the first one aside, becomes `*`, and the tensor's name so generalised is
   looked for, then its module's: `layers.*.mlp.up_proj`.
3. Either is looked for as it is; then without a leading `model.`, so that the plan of a base model fits checkpoints
   of models with a head; then with its first components replaced by one `*`, the fewest first and none included:
   `*.up_proj` is that module wherever it is.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")
_ONE_OF_MANY: Final = re.compile(r"\.\*\.")
_BASE_MODEL: Final = "model."


def match_patterns(names: Iterable[str], patterns: Collection[str]) -> dict[str, str]:
    """The pattern that each name falls under, without the names that fall under none."""
    found: dict[str, str] = {}
    of_general: dict[str, str | None] = {}
    for name in names:
        general = _NUMBER.sub("*", name)
        if general not in of_general:
            of_general[general] = _first(_spellings_with_module(general), patterns)
        pattern = _first((name, _module(name)), patterns) or of_general[general]
        if pattern is not None:
            found[name] = pattern
    return found


def parent_among_many(name: str, modules: Collection[str]) -> str | None:
    """The first of `modules` that holds a numbered row of modules in which `name` is, or None."""
    general = _NUMBER.sub("*", name)
    parents = (general[: numbered.start()] for numbered in _ONE_OF_MANY.finditer(general))
    return _first((spelling for parent in parents for spelling in _spellings(parent)), modules)


def _first(spellings: Iterable[str], patterns: Collection[str]) -> str | None:
    return next((spelling for spelling in spellings if spelling in patterns), None)


def _spellings_with_module(general: str) -> Iterator[str]:
    yield from _spellings(general)
    if module := _module(general):
        yield from _spellings(module)


def _spellings(general: str) -> Iterator[str]:
    yield general
    if general.startswith(_BASE_MODEL):
        yield general.removeprefix(_BASE_MODEL)
    components = general.split(".")
    for count in range(len(components)):
        yield ".".join(("*", *components[count:]))


def _module(name: str) -> str:
    return name.rpartition(".")[0]
