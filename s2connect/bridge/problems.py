"""Mistakes in a bridge's file, each with its line, which the parser of the standard library does not report."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s2connect.errors import ConfigurationError

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


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something about a file.

    Attributes:
        line: On which line.
        what: What is wrong.
        fatal: Whether the bridge cannot run with it; otherwise it is a warning.
    """

    line: int
    what: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}" if self.fatal else f"line {self.line}: warning: {self.what}"


class BridgeFileError(ConfigurationError):
    """A file has mistakes; the text names all of them.

    Attributes:
        problems: The mistakes, and the warnings.
    """

    kind = "bridge_file"

    def __init__(self, file: Path, problems: Sequence[Problem]) -> None:
        """Take the mistakes of a file."""
        fatal = [problem for problem in problems if problem.fatal]
        count = f"{len(fatal)} mistakes" if len(fatal) > 1 else "a mistake"
        listed = "; ".join(f"{problem}" for problem in fatal)
        super().__init__(f"{file} has {count}: {listed}", hint="Nothing was changed. docs/bridge.md explains the file.")
        self.file = file
        self.problems = tuple(problems)


class Problems:
    """Problems found while a file is read, in the order of their discovery."""

    def __init__(self, text: str) -> None:
        self.found: list[Problem] = []
        self._lines = lines_of(text)

    def add(self, place: Place, what: str, *, fatal: bool = True) -> None:
        """Add a problem with the value at ``place``, or else with the table that it is in."""
        while place not in self._lines:
            place = place[:-1]
        self.found.append(Problem(self._lines[place], what, fatal))


def lines_of(text: str) -> Mapping[Place, int]:
    """Find the line of every table and key; what is inside an inline table or array has the line of its key."""
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
