"""Labels of schema errors for the sender of a message: place, value (cut) and allowed values (MSG-03)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from s2connect.messages.base import ID_PATTERN
from s2connect.messages.envelope import ID_WORDS
from s2connect.model.text import for_display

MAX_PROBLEMS: Final = 3
"""Most problems named in a label."""

MAX_COLLECTED: Final = 1000
"""Most problems of one message that are collected; a hostile message has a hundred thousand."""

MAX_SHOWN_CHARACTERS: Final = 40
"""Longest value, and name of a member, that a label shows."""

MAX_ALLOWED_CHARACTERS: Final = 90
"""Longest list of allowed values that a label shows."""


def problems(error: ValidationError, value: Any) -> str:
    """Return the deviations of a message from its schema.

    Args:
        error: What the strict reading found.
        value: The message as JSON value. Parts of it are shown, cut and fit for a terminal.
    """
    if error.error_count() > MAX_COLLECTED:
        return f"{error.error_count()} departures from the schema"
    found = error.errors(include_url=False, include_input=False)
    named = [_problem(e["type"], e["loc"], e.get("ctx", {}), value) for e in found[:MAX_PROBLEMS]]
    if len(found) > MAX_PROBLEMS:
        named.append(f"and {len(found) - MAX_PROBLEMS} more")
    return "; ".join(named)


def shown(value: Any) -> str:
    """Return a value of a message, cut and fit for a terminal; for an object or a list only its kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = f'"{for_display(value, MAX_SHOWN_CHARACTERS)}"' if isinstance(value, str) else json.dumps(value)
    return for_display(text, MAX_SHOWN_CHARACTERS + 2)


def listed(values: Iterable[str]) -> str:
    """Return allowed values as a list fit for a terminal, cut to the room of a label."""
    text = ""
    for value in values:
        value = for_display(value, MAX_SHOWN_CHARACTERS)
        longer = f"{text}, {value}" if text else value
        if len(longer) > MAX_ALLOWED_CHARACTERS:
            return f"{text}, …"
        text = longer
    return text


def _problem(kind: str, loc: tuple[str | int, ...], context: Mapping[str, Any], value: Any) -> str:
    place = _place(loc)
    if kind == "missing":
        return f"{place}: is missing"
    if kind == "extra_forbidden":
        return f"{place}: is no member of it"
    inner = _value_at(value, loc)
    if inner is None:
        return f"{place}: is null, which no member may be"
    allowed = _ALLOWED.get(kind, _by_schema)(context)
    if kind in ("too_long", "too_short") and isinstance(inner, list):
        return f"{place}: has {len(inner)} entries; {allowed}"
    return f"{place}: {shown(inner)}; {allowed}"


def _value_at(value: Any, loc: tuple[str | int, ...]) -> Any:
    """Return the value at a place; an empty object if there is none."""
    for part in loc:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return {}
    return value


def _place(loc: tuple[str | int, ...]) -> str:
    """Format a place, e.g. ``actuators[0].id``; names that are no members come from the network."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            place += f"{'.' if place else ''}{for_display(part, MAX_SHOWN_CHARACTERS)}"
    return place or "message"


def _by_schema(_: Mapping[str, Any]) -> str:
    return "is not as the schema says"


def _pattern(context: Mapping[str, Any]) -> str:
    return f"allowed are {ID_WORDS}" if context.get("pattern") == ID_PATTERN else _A_MOMENT


def _enum(context: Mapping[str, Any]) -> str:
    # pydantic's list reads "'A', 'B' or 'C'"; no value of an enumeration holds a quotation mark.
    return f"allowed are {listed(str(context.get('expected', '')).split(chr(39))[1::2])}"


_A_MOMENT: Final = "a time is written as in 2026-01-31T12:00:00Z"
_A_DURATION: Final = "a duration is a whole number of milliseconds, at least 0"

_ALLOWED: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "bool_type": lambda _: "allowed are true and false",
    "datetime_from_date_parsing": lambda _: _A_MOMENT,
    "datetime_parsing": lambda _: _A_MOMENT,
    "datetime_type": lambda _: _A_MOMENT,
    "duration": lambda _: _A_DURATION,
    "enum": _enum,
    "finite_number": lambda _: "a number is expected",
    "float_type": lambda _: "a number is expected",
    "list_type": lambda _: "a list is expected",
    "literal_error": _enum,
    "model_attributes_type": lambda _: "an object is expected",
    "model_type": lambda _: "an object is expected",
    "string_pattern_mismatch": _pattern,
    "string_type": lambda _: "a text is expected",
    "timezone_aware": lambda _: _A_MOMENT,
    "too_long": lambda context: f"allowed: at most {context.get('max_length')}",
    "too_short": lambda context: f"needed: at least {context.get('min_length')}",
}
"""Allowed values, by pydantic's kind of problem."""
