"""Lines of the values in a TOML file, which the parser of the standard library does not report."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Final

Place = tuple[str | int, ...]
"""Path of a value: keys of tables, and indices in arrays of tables."""

_TOKEN: Final = re.compile(
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
    line, at = 1, 0
    while at < len(text):
        end = _end_of_statement(text, at)
        statement = text[at:end]
        keys = tuple(_keys(tomllib.loads(statement)))
        if not statement.lstrip().startswith("["):
            for length in range(1, len(keys) + 1):
                lines.setdefault((*table, *keys[:length]), line)
        else:
            table = (*_place(keys[:-1], arrays), keys[-1])
            lines.setdefault(table, line)
            if statement.lstrip().startswith("[["):
                arrays[table] = arrays.get(table, -1) + 1
                table = (*table, arrays[table])
                lines.setdefault(table, line)
        line += statement.count("\n")
        at = end
    return lines


def _keys(value: object) -> Iterator[str]:
    """Yield the keys of one statement, from the outermost on."""
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        yield key


def _place(keys: tuple[str, ...], arrays: Mapping[Place, int]) -> Place:
    """Return the path of a header; in an array of tables, that of the last one."""
    place: Place = ()
    for key in keys:
        place = (*place, key)
        if place in arrays:
            place = (*place, arrays[place])
    return place


def _end_of_statement(text: str, at: int) -> int:
    """Return the end of a header, of a key with its value, or of an empty line."""
    depth = 0
    while (found := _TOKEN.match(text, at)) is not None:
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
