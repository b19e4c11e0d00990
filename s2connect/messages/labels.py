"""Parts of labels for the sender of a message: its values and the allowed ones, cut and fit for a terminal (MSG-03)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from s2connect.model.text import for_display

ID_WORDS: Final = "2 to 64 letters, digits, '-', '_' or ':'"
"""Definition of an identifier (MSG-05)."""

MAX_SHOWN_CHARACTERS: Final = 40
"""Longest value, and name of a member, that a label shows."""

MAX_ALLOWED_CHARACTERS: Final = 90
"""Longest list of allowed values that a label shows."""


def shown(value: Any) -> str:
    """Return a value of a message, cut and fit for a terminal; for an object or a list only its kind."""
    if isinstance(value, dict | msgspec.Struct):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = f'"{for_display(value, MAX_SHOWN_CHARACTERS)}"' if isinstance(value, str) else json.dumps(value, default=str)
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


def place(path: Iterable[str | int]) -> str:
    """Return a place in a message, e.g. ``actuators[0].id``, from names of members and indexes."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
