"""Sizes of C++ functions and classes, found by their braces.

Not a parser: it relies on clang-format, which puts a space in front of a body's brace and none in front of an
initializer's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from house_rules.python_sizes import MAX_FUNCTION_LINES, MAX_NESTING, MAX_PARAMETERS, MAX_PUBLIC_METHODS
from house_rules.trees import cpp_files, without_comments_and_strings

_ATTRIBUTE = re.compile(r"__attribute__\s*\(\([^)]*\)*\s*\)\)|\[\[.*?\]\]|\balignas\([^)]*\)|\bdecltype\([^)]*\)")
_PREPROCESSOR = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
_SCOPE = re.compile(r"\b(namespace|class|struct|union|enum|extern)\b")
_TYPE = re.compile(r"\b(?:class|struct)\s+(?:\w+\s+)*?(\w+)\s*(?:final\s*)?(?::[^:].*)?$", re.DOTALL)
_CONTROL = re.compile(r"^\s*(?:\}?\s*else\b|if\b|for\b|while\b|switch\b|do\b|try\b|catch\b)")
_CALLEE = re.compile(r"(~?\w+|operator\W+)\s*\($")
_ACCESS = re.compile(r"\b(public|protected|private)\s*:(?!:)")


@dataclass
class Block:
    """One pair of braces with the text in front of it."""

    kind: str  # "scope", "function", "control" or "initializer"
    head: str
    line: int
    depth: int = 0
    deepest: int = 0
    access: str = "public"
    methods: set[str] = field(default_factory=set)


def complaints(root: Path) -> list[str]:
    """Functions and classes over the limits."""
    found = []
    for name, text in cpp_files(root, "csrc", "tests"):
        for block, last_line in blocks(text):
            found += [f"{name}:{block.line}: {complaint}" for complaint in _block_complaints(block, last_line)]
    return found


def blocks(text: str) -> Iterator[tuple[Block, int]]:
    """Each function and each class, when it ends, with the line of its closing brace."""
    text = _blank(_PREPROCESSOR, without_comments_and_strings(text))
    text = _blank(_ATTRIBUTE, text)
    open_blocks: list[Block] = []
    start = 0
    parentheses = 0
    for position, character in enumerate(text):
        parentheses += (character == "(") - (character == ")")
        if character == "{":
            block = _open(text, start, position, open_blocks, parentheses)
            open_blocks.append(block)
            if block.kind != "initializer":
                start = position + 1
        elif character == "}" and open_blocks:
            block = open_blocks.pop()
            if block.kind in ("function", "scope"):
                yield block, text.count("\n", 0, position) + 1
            if block.kind != "initializer":
                start = position + 1
        elif character == ";" and parentheses == 0 and not _is_in_initializer(open_blocks):
            _note_method(text[start:position], open_blocks)
            start = position + 1


def _blank(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def _is_in_initializer(open_blocks: list[Block]) -> bool:
    return bool(open_blocks) and open_blocks[-1].kind == "initializer"


def _open(text: str, start: int, position: int, open_blocks: list[Block], parentheses: int) -> Block:
    head = text[start:position]
    line = text.count("\n", 0, start + len(head) - len(head.lstrip())) + 1
    kind = _kind(head, open_blocks, parentheses)
    depth = 0
    functions = [block for block in open_blocks if block.kind == "function"]
    if functions and kind == "control":
        depth = 1 + max((block.depth for block in open_blocks if block.kind == "control"), default=0)
        functions[0].deepest = max(functions[0].deepest, depth)
    if kind == "function":
        _note_method(head, open_blocks)
    access = "private" if re.search(r"\bclass\b", head) else "public"
    return Block(kind, head, line, depth, access=access)


def _kind(head: str, open_blocks: list[Block], parentheses: int) -> str:
    inside = any(block.kind == "function" for block in open_blocks)
    if not inside and _is_in_initializer(open_blocks):
        return "initializer"
    if inside:
        return "control" if _CONTROL.match(head) and parentheses == 0 else "initializer" if parentheses else "block"
    if parentheses or not head.endswith((" ", "\n")) or head.rstrip().endswith("="):
        return "initializer"
    if _SCOPE.search(head) and "(" not in head:
        return "scope"
    return "function" if "(" in head else "scope"


def _note_method(head: str, open_blocks: list[Block]) -> None:
    if not open_blocks or open_blocks[-1].kind != "scope":
        return
    owner = open_blocks[-1]
    if labels := _ACCESS.findall(head):
        owner.access = labels[-1]
    type_name = _TYPE.search(owner.head.rstrip())
    callee = _CALLEE.search(head[: head.find("(") + 1])
    if type_name is None or callee is None or owner.access != "public" or re.search(r"\b(friend|using)\b", head):
        return
    if callee[1].lstrip("~") != type_name[1] and not callee[1].startswith("operator"):
        owner.methods.add(callee[1])


def _block_complaints(block: Block, last_line: int) -> Iterator[str]:
    if block.kind == "scope":
        if len(block.methods) > MAX_PUBLIC_METHODS:
            yield f"a class with {len(block.methods)} public methods, {MAX_PUBLIC_METHODS} are allowed"
        return
    head = block.head.strip()
    name = head[: head.find("(")].split()[-1]
    lines = last_line - block.line + 1
    if lines > MAX_FUNCTION_LINES:
        yield f"{name} has {lines} lines, {MAX_FUNCTION_LINES} are allowed"
    if block.deepest > MAX_NESTING:
        yield f"{name} nests {block.deepest} deep, {MAX_NESTING} are allowed"
    if (count := _parameter_count(head)) > MAX_PARAMETERS:
        yield f"{name} takes {count} parameters, {MAX_PARAMETERS} are allowed; make a struct of them"


def _parameter_count(head: str) -> int:
    head = head.replace("operator()", "operator")
    depth = commas = 0
    inner = ""
    for character in head[head.find("(") :]:
        depth += (character in "([{<") - (character in ")]}>")
        inner += character
        commas += character == "," and depth == 1
        if depth == 0:
            break
    return commas + 1 if inner.strip("() \n") else 0
