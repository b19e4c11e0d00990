"""Lines of the values in a TOML file, which the parser of the standard library does not report."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Final

Place = tuple[str | int, ...]
"""Path of a value: keys of tables, and indices in arrays of tables."""

_SKIPPED: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY: Final = re.compile(r"""[ \t]*(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|([A-Za-z0-9_-]+))[ \t]*(\.?)""")
_VALUE: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[{]|[\]}]|\n|[^\"'#\[\]{}\n]+",
    re.DOTALL,
)


def lines_of(text: str) -> Mapping[Place, int]:
    """Find the line of every table and key; what is inside an inline table or array has the line of its key.

    Args:
        text: A file that :mod:`tomllib` can read.
    """
    lines: dict[Place, int] = {(): 1}
    arrays: dict[Place, int] = {}
    table: Place = ()
    at = 0
    while True:
        at = _end(_SKIPPED, text, at)
        if at >= len(text):
            return lines
        line = text.count("\n", 0, at) + 1
        if text[at] == "[":
            double = text.startswith("[[", at)
            keys, at = _keys(text, at + (2 if double else 1))
            table = _place(keys[:-1], arrays)
            if double:
                here = (*table, keys[-1])
                lines.setdefault(here, line)
                arrays[here] = arrays.get(here, -1) + 1
                table = (*here, arrays[here])
            else:
                table = (*table, keys[-1])
            lines.setdefault(table, line)
            at += 2 if double else 1
        else:
            keys, at = _keys(text, at)
            for length in range(1, len(keys) + 1):
                lines.setdefault((*table, *keys[:length]), line)
            at = _after_value(text, at + 1)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found is not None else at


def _keys(text: str, at: int) -> tuple[list[str], int]:
    keys: list[str] = []
    while (found := _KEY.match(text, at)) is not None:
        at = found.end()
        if found[1] is not None:
            keys.append(tomllib.loads(f'k = "{found[1]}"')["k"])
        else:
            keys.append(found[2] if found[2] is not None else found[3])
        if not found[4]:
            break
    return keys, at


def _place(keys: list[str], arrays: Mapping[Place, int]) -> Place:
    """Return the path of a header; in an array of tables, that of the last one."""
    place: Place = ()
    for key in keys:
        place = (*place, key)
        if place in arrays:
            place = (*place, arrays[place])
    return place


def _after_value(text: str, at: int) -> int:
    depth = 0
    while (found := _VALUE.match(text, at)) is not None:
        token, at = found[0], found.end()
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        elif token == "\n" and depth == 0:
            return at
    return len(text)


def line_of(lines: Mapping[Place, int], place: Place) -> int:
    """Return the line of a value, or of the table that it is in."""
    while place not in lines:
        place = place[:-1]
    return lines[place]
