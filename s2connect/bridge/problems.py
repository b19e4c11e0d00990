"""Mistakes in a bridge's file, each with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s2connect.bridge.toml_lines import Place, line_of
from s2connect.errors import ConfigurationError


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
    """Problems found while a file is read.

    Args:
        lines: Line of each value (:func:`~s2connect.bridge.toml_lines.lines_of`).

    Attributes:
        found: The problems, in the order of their discovery.
    """

    def __init__(self, lines: Mapping[Place, int]) -> None:
        self.found: list[Problem] = []
        self._lines = lines

    def add(self, place: Place, what: str, *, fatal: bool = True) -> None:
        """Add a problem with the value at ``place``."""
        self.found.append(Problem(line_of(self._lines, place), what, fatal))
