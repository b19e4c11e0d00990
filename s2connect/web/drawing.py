"""Drawings of the page as SVG: power curves, with the same facts as text, and QR codes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

from s2connect.web.facts import Curve, Point

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH: Final = 600
HEIGHT: Final = 120
SPANS: Final = {300.0: "5 min ago", 900.0: "15 min ago", 1800.0: "half an hour ago", 3600.0: "an hour ago"}
"""Seconds that a drawing may show, in words; it is the least that has all points."""

ROWS: Final = 6
"""Rows of the table below a drawing, but for the one of now."""

_SHORT: Final = {
    "ELECTRIC.POWER.L1": "phase L1",
    "ELECTRIC.POWER.L2": "phase L2",
    "ELECTRIC.POWER.L3": "phase L3",
    "ELECTRIC.POWER.3_PHASE_SYMMETRIC": "three phases",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a drawing: a phase or another quantity."""

    label: str
    path: Markup
    now: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """Curves of one device that have the same unit, and a sentence and a table that say the same.

    Attributes:
        key: Of the peer or side.
        title: Name of the device.
        what: Kind of values, e.g. ``Power``.
        lines: The lines.
        zero: Height of the zero line.
        top: Greatest value.
        bottom: Least value.
        begin: Begin of the time that is shown.
        sentence: Present, least and greatest values.
        table: Rows of a moment and the value of each line then.
    """

    key: str
    title: str
    what: str
    lines: Sequence[Line]
    zero: float
    top: str
    bottom: str
    begin: str
    sentence: str
    table: Sequence[tuple[str, Sequence[str]]]


def drawings(curves: Iterable[Curve], now: float) -> list[Drawing]:
    """Return a drawing for each device and unit that has points; ``now`` in seconds since the epoch."""

    def place(curve: Curve) -> tuple[str, str]:
        return curve.key, curve.unit

    with_points = sorted((one for one in curves if one.points), key=lambda one: (one.title, *place(one), one.quantity))
    return [_draw(list(group), now) for _, group in groupby(with_points, place)]


def _draw(curves: Sequence[Curve], now: float) -> Drawing:
    from markupsafe import Markup

    first = curves[0]
    unit = first.unit
    values = [value for curve in curves for point in curve.points for value in (point.low, point.high)]
    low, high = min(0.0, *values), max(0.0, *values)
    if high == low:
        high = low + 1.0

    oldest = now - min(curve.points[0].at for curve in curves)
    span = next((one for one in SPANS if one >= oldest), max(SPANS))

    def across(at: float) -> str:
        return f"{WIDTH * (1 - min(max(now - at, 0.0), span) / span):.1f}"

    def down(value: float) -> str:
        return f"{HEIGHT * (high - value) / (high - low):.1f}"

    lines = []
    for curve in curves:
        start, *later = curve.points
        path = [f"M{across(start.at)} {down(start.last)}"]
        path.extend(_step(across(one.at), one, down) for one in later)
        path.append(f"H{WIDTH}")
        path_of_numbers = Markup("".join(path))  # noqa: S704 - letters and numbers
        lines.append(Line(_label(curve), path_of_numbers, amount(curve.points[-1].last, unit)))
    present = ", ".join(f"{line.label} {line.now}" if len(lines) > 1 else line.now for line in lines)
    table = [
        (_ago(ago), [_at(curve, now - ago) for curve in curves])
        for ago in (span * (1 - row / ROWS) for row in range(ROWS + 1))
    ]
    return Drawing(
        key=first.key,
        title=first.title,
        what="Power" if unit == "W" else lines[0].label.capitalize(),
        lines=lines,
        zero=float(down(0.0)),
        top=amount(high, unit),
        bottom=amount(low, unit),
        begin=SPANS[span],
        sentence=f"now {present}; lowest {amount(min(values), unit)}, highest {amount(max(values), unit)}",
        table=table,
    )


def _step(across: str, point: Point, down: Callable[[float], str]) -> str:
    """Return the part of a path for one step of time: to it, over its extremes, and to its last value."""
    extremes = f"V{down(point.low)}V{down(point.high)}" if point.low != point.high else ""
    return f"H{across}{extremes}V{down(point.last)}"


def _label(curve: Curve) -> str:
    return _SHORT.get(curve.quantity) or curve.quantity.replace(".", " ").replace("_", " ").lower()


def _at(curve: Curve, at: float) -> str:
    """Return the value at a moment, empty before the first."""
    known = [point for point in curve.points if point.at <= at]
    return amount(known[-1].last, curve.unit) if known else ""


def _ago(seconds: float) -> str:
    if not seconds:
        return "now"
    return f"{seconds / 60:.0f} min ago" if seconds % 60 == 0 else f"{seconds:.0f} s ago"


def amount(value: float, unit: str) -> str:
    """Return a value with its unit, in about three digits; watts as kW or MW where they are many."""
    if unit == "W" and abs(value) >= 1e6:
        value, unit = value / 1e6, "MW"
    elif unit == "W" and abs(value) >= 1e3:
        value, unit = value / 1e3, "kW"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}".removesuffix(".0")
    return f"{'0' if text == '-0' else text} {unit}"


def qr(text: str, title: str) -> Markup:
    """Return a QR code as an SVG element, on white so that cameras read it in the dark, with a text alternative."""
    import segno
    from markupsafe import Markup

    out = io.BytesIO()
    code = segno.make(text, error="l", micro=False)
    code.save(out, kind="svg", xmldecl=False, svgns=False, title=title, omitsize=True, border=2, light="#fff")
    # segno escapes the title, and the rest is of numbers.
    return Markup(out.getvalue().decode("utf-8").replace("<svg ", '<svg role="img" ', 1))  # noqa: S704
