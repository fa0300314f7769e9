"""Sizes as people write them."""

import re
from typing import Final

import click

_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def parse_size(text: str) -> int:
    """The bytes that a size such as 5GB (5,000,000,000) or 4GiB (4,294,967,296) means, else a usage error."""
    match = re.fullmatch(r"([0-9]+) *([a-z]*)", text.strip(), re.IGNORECASE)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or int(match[1]) == 0:
        raise click.BadParameter(f"{text} is not a size like 5GB or 4GiB")
    return int(match[1]) * unit
