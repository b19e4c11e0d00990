"""Comparison of two commits, pair by pair: short pieces of the themes in turns, and the ratio of each pair."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.harness import ROOT, Effort, WorkerFailed
from benchmarks.table import number
from benchmarks.trees import name_of, tree, workers_of

THEMES: Final = ("start", "initiation", "messages", "parsing", "bridge", "flood", "memory")
"""Themes that are compared by default, in short pieces; the others can be named, and take minutes."""

HEAD: Final = "| figure | unit | {a} | {b} | ratio | from | to |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"


@dataclass
class Pairs:
    """Values of one figure by round, for both commits."""

    unit: str
    values: tuple[dict[int, float], dict[int, float]] = field(default_factory=lambda: ({}, {}))

    def ratios(self) -> list[float]:
        """Return B to A of each round that has both, in ascending order."""
        a, b = self.values
        return sorted(b[turn] / a[turn] for turn in a.keys() & b.keys() if a[turn])

    def as_line(self, figure: str, a: str, b: str) -> str:
        """Return the medians of both and of the ratios, with the lowest and the highest, in Markdown."""
        of_a, of_b = (median(values.values()) if values else None for values in self.values)
        found = self.ratios()
        ratios = [f"{median(found):.2f}", f"{found[0]:.2f}", f"{found[-1]:.2f}"] if found else [""] * 3
        cells = [figure, self.unit, number(of_a) or f"not in {a}", number(of_b) or f"not in {b}", *ratios]
        return f"| {' | '.join(cells)} |"


def piece(theme: str, directory: Path) -> Iterator[tuple[str, str, float]]:
    """Return figure, unit and our value of each row of a theme, measured with the code of a directory.

    It ends where that code cannot do what comes next.
    """
    with workers_of(directory):
        try:
            for row in importlib.import_module(f"benchmarks.{theme}").measure(Effort("piece")):
                if row.ours is not None:
                    yield row.figure, row.unit, row.ours
        except WorkerFailed:
            return


def compare(a: str, b: str, themes: Sequence[str], rounds: int, repository: Path = ROOT) -> Iterator[str]:
    """Compare commit ``a`` with commit ``b``, or with the files as they are if that is empty; return lines of a table.

    Raises:
        NoSuchCommit: The repository does not hold one of them.
    """
    name_a, name_b = name_of(a, repository), name_of(b, repository) if b else "these files"
    with ExitStack() as stack:
        directories = [stack.enter_context(tree(commit, repository)) for commit in (a, b)]
        yield f"Medians of {rounds} pairs in turns; the ratios are of each pair: {name_b} to {name_a}.\n"
        yield HEAD.format(a=name_a, b=name_b)
        for theme in themes:
            figures: dict[str, Pairs] = defaultdict(lambda: Pairs(""))
            for turn in range(rounds):
                # A B, then B A: what drifts within a round hits both.
                for side in (0, 1) if turn % 2 == 0 else (1, 0):
                    for figure, unit, value in piece(theme, directories[side]):
                        pairs = figures[figure]
                        pairs.unit = unit
                        pairs.values[side][turn] = value
            for figure, pairs in figures.items():
                yield pairs.as_line(figure, name_a, name_b)
            if not figures:
                yield f"| {theme} | | not in {name_a} | not in {name_b} | | | |"
