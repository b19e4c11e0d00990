"""Reading JSON from strangers (SEC-04)."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Deepest nesting that is read; nothing of S2 Connect goes deeper than five."""


class MalformedJson(ValueError):
    """A text is not JSON that can be trusted to mean one thing; the message never repeats it."""


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedJson("a member occurs twice in one object")
    return found


def _deepest(text: str) -> int:
    """Upper bound of the nesting, counting brackets and ignoring that some stand in strings."""
    depth = deepest = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def read_json(data: bytes | str) -> Any:
    """Parse JSON strictly: UTF-8, no duplicate member, no NaN or Infinity, no lone surrogate, at most 64 levels.

    Raises:
        MalformedJson: It is anything else.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_DEPTH and _deepest(text) > MAX_DEPTH:
            raise MalformedJson("nested too deeply")
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except MalformedJson:
        raise
    except (ValueError, RecursionError):
        raise MalformedJson("not JSON in UTF-8") from None
    return value
