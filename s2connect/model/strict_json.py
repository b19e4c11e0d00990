"""Reading JSON from strangers (SEC-04)."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Deepest nesting that is read; nothing of S2 Connect goes deeper than five."""

# It matches at every quotation mark, closed or not, and so takes linear time.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_SQUARE = bytes.maketrans(b"{}", b"[]")
_TOO_MANY = b"[" * (MAX_DEPTH + 1)
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))


class MalformedJson(ValueError):
    """A text is not JSON that can be trusted to mean one thing; the message never repeats it."""


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise MalformedJson("a number is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedJson("a member occurs twice in one object")
    return found


def _is_too_deep(text: str) -> bool:
    """Return whether the brackets outside strings nest deeper than ``MAX_DEPTH`` or do not pair up: no JSON either.

    Takes one innermost pair after the other away, at the speed of ``bytes.replace``.
    """
    brackets = _STRING.sub("", text).encode("utf-8", "surrogatepass").translate(_SQUARE, _NO_BRACKETS)
    if 2 * brackets.count(b"[") != len(brackets) or _TOO_MANY in brackets:
        return True
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def read_json(data: bytes | str) -> Any:
    """Parse JSON strictly: UTF-8, no duplicate member, no NaN or Infinity, no lone surrogate, at most 64 levels.

    Numbers beyond the range of a double and integers of thousands of digits are refused as well.

    Raises:
        MalformedJson: It is anything else.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(text):
            raise MalformedJson("nested too deeply")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)
        if "\\u" in text or (isinstance(data, str) and not text.isascii()):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except MalformedJson:
        raise
    except (ValueError, RecursionError):
        raise MalformedJson("not JSON in UTF-8") from None
    return value
