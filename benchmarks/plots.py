"""Pictures for the documents: growth curves, and budgets beside the peers. Needs matplotlib (extra ``bench``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.table import Row

MET, MISSED, LIMIT = "#3a7d5d", "#c0563b", "#222222"


def growth(curves: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the time of each operation by size, to that at the smallest size, as a PNG; the budget is a dashed line."""
    subjects = list(dict.fromkeys(point["subject"] for point in curves))
    if not subjects:
        raise SystemExit("There are no growth curves: run the theme growth, too.")
    figure = Figure(figsize=(5.2 * len(subjects), 5.4))
    axes = figure.subplots(1, len(subjects), squeeze=False)
    names = {"message path": "things in the history", "store": "pairings in the store"}
    for axis, subject in zip(axes[0], subjects, strict=True):
        points = [point for point in curves if point["subject"] == subject and not point.get("may_grow")]
        for operation in dict.fromkeys(point["operation"] for point in points):
            curve = [(point["size"], point["seconds"]) for point in points if point["operation"] == operation]
            first = curve[0][1]
            label = f"{operation}: {first * 1e6:,.0f} µs"
            axis.plot([size for size, _ in curve], [seconds / first for _, seconds in curve], marker="o", label=label)
        axis.axhline(1.2, color=LIMIT, linestyle="--", linewidth=1, label="budget: 1.2")
        axis.set(xscale="log", ylim=(0, max(2.0, axis.get_ylim()[1])), title=subject.capitalize())
        axis.set(xlabel=names.get(subject, subject), ylabel="time, of that at the smallest size")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    _save(figure, file)


def budgets(rows: Sequence[Row], file: Path) -> None:
    """Draw each measured budget as a bar: how much of what it allows was needed. Left of the line it is met."""
    bars = [(row, share) for row in rows if (share := _used(row)) is not None]
    figure = Figure(figsize=(10, 0.26 * len(bars) + 1))
    axis = figure.subplots()
    for place, (row, share) in enumerate(reversed(bars)):
        axis.barh(place, min(share, 3.0), color=MET if share <= 1 else MISSED, height=0.7)
        beside = f"{row.ratio:.2f} of {row.beside}" if row.ratio is not None else f"{row.ours:,.3g} {row.unit}".rstrip()
        axis.text(max(1.0, min(share, 3.0)) + 0.02, place, f"{beside} ({row.budget})", va="center", fontsize=6.5)
    axis.axvline(1.0, color=LIMIT, linestyle="--", linewidth=1)
    axis.set(yticks=range(len(bars)), xlim=(0, 4.2), ylim=(-0.6, len(bars) - 0.4), xlabel="share of the budget")
    axis.set_yticklabels([row.figure for row, _ in reversed(bars)], fontsize=6.5)
    _save(figure, file)


def _used(row: Row) -> float | None:
    """Return how much of its budget a figure needs; None if that cannot be said."""
    budget, value = row.budget, row.ours if row.budget is None or not row.budget.peer else row.ratio
    if budget is None or value is None or row.smaller:
        return None
    if budget.at_least:
        return budget.limit / value if value else None
    return value / budget.limit if budget.limit else float(value > 0) * 2


def _save(figure: Figure, file: Path) -> None:
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    # Without metadata of the machine, so that the same figures give the same file.
    figure.savefig(file, dpi=110, format="png", metadata={"Software": None})
