"""The table of figures: ours, the peer's, the ratio, the budget, and whether it is met."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.budgets import BUDGETS, Budget
from benchmarks.harness import Numbers

HEAD: Final = (
    "| figure | unit | ours | peer | peer's | ratio | budget | |\n| --- | --- | ---: | --- | ---: | ---: | --- | --- |"
)
FACTORS: Final = {"ms": 1e3, "µs": 1e6, "KB": 1e-3, "MB": 1e-6}
"""From seconds and bytes to the unit of a row."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        figure: What was measured, in the words of its budget if it has one.
        unit: Of both values.
        ours: Our value, None if it could not be measured.
        beside: Name of the peer, empty for none.
        peer: Its value, None if it is not installed.
        smaller: The size of a run that is too small for the figure's budget, in words.
    """

    figure: str
    unit: str
    ours: float | None
    beside: str = ""
    peer: float | None = None
    smaller: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours to the peer's value, None without one."""
        return self.ours / self.peer if self.ours is not None and self.peer else None

    @property
    def budget(self) -> Budget | None:
        """The budget of this figure beside this peer."""
        return next((one for one in BUDGETS if (one.figure, one.peer) == (self.figure, self.beside)), None)

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, why that cannot be said, or nothing for a figure without a budget."""
        if (budget := self.budget) is None:
            return ""
        if self.smaller:
            return f"only {self.smaller}"
        if self.ours is None:
            return "not measured"
        return {True: "met", False: "**missed**", None: "no peer"}[budget.met(self.ours, self.peer)]

    def as_line(self) -> str:
        """Return the line in Markdown."""
        peer = "not installed" if self.peer is None and self.beside and self.ours is not None else number(self.peer)
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        budget = "" if self.budget is None else str(self.budget)
        cells = (self.figure, self.unit, number(self.ours), self.beside, peer, ratio, budget, self.verdict)
        return f"| {' | '.join(cells)} |"


def number(value: float | None) -> str:
    """Return three significant digits, without an exponent."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def row(
    figure: str,
    unit: str,
    key: str,
    ours: Numbers | None,
    beside: str = "",
    peer: Numbers | None = None,
    smaller: str = "",
) -> Row:
    """Return a row out of results in seconds and bytes."""
    factor = FACTORS.get(unit, 1.0)
    mine = None if ours is None else ours[key] * factor
    return Row(figure, unit, mine, beside, None if peer is None else peer[key] * factor, smaller)


def missing(themes: Iterable[str], rows: Sequence[Row]) -> Iterator[Row]:
    """Return rows without a value for the budgets of these themes that were not measured."""
    measured = {(one.figure, one.beside) for one in rows}
    for budget in BUDGETS:
        if budget.theme in set(themes) and (budget.figure, budget.peer) not in measured:
            yield Row(budget.figure, budget.unit, None, budget.peer)


def to_json(machine: str, rows: Sequence[Row], curves: Sequence[Any] = ()) -> str:
    """Return a run as JSON: the machine, the rows, and the points of the growth curves."""
    found = [asdict(one) | {"budget": str(one.budget or ""), "verdict": one.verdict} for one in rows]
    return json.dumps({"machine": machine, "rows": found, "curves": list(curves)}, indent=1, ensure_ascii=False)


def from_json(text: str) -> tuple[str, list[Row], list[Any]]:
    """Read what :func:`to_json` has written."""
    found = json.loads(text)
    names = Row.__dataclass_fields__
    rows = [Row(**{name: one[name] for name in names}) for one in found["rows"]]
    return found["machine"], rows, found["curves"]
