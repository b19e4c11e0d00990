"""Tolerated deviations from the schemas: harmless ones of deployed software (MSG-08).

It stands in front of the models and comes into play only where the strict reading has failed: it gives a value that is
strict again, with a warning for each change. What is written is never touched by it.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import cache
from types import NoneType
from typing import Annotated, Any, Final, NamedTuple, get_args, get_origin

from pydantic import AwareDatetime

from s2connect.messages.base import S2Object
from s2connect.messages.rules.base import Findings, warning

NULL: Final = warning(
    "READ-01",
    "members that may be missing, in 0.0.2-beta",
    "A member without a value is left out. (null is read as that; in v1.0.0 it is refused.)",
)
MOMENT: Final = warning(
    "READ-02",
    "times",
    "A time has at most nine digits of a second, and no second 60. (Further digits are cut off, and second 60 is read "
    "as the beginning of the next minute.)",
)

_MOMENT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d):(\d\d)(?:(\.\d{1,9}+)\d*+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
).fullmatch


class _Member(NamedTuple):
    """Facts about a member of an object."""

    optional: bool
    is_moment: bool
    inside: type[S2Object] | None
    """Class of the member's object, or of the objects in its list."""


def mended(
    value: dict[str, Any], kind: type[S2Object], *, nulls: bool, moments: bool = True
) -> tuple[dict[str, Any], Findings]:
    """Return a JSON object with the tolerated deviations corrected, and the findings about them.

    Args:
        value: The object, which is left as it is. What is no object of ``kind`` in it is passed over.
        kind: What it shall be.
        nulls: Leave out members that are null and may be missing (READ-01).
        moments: Write times as they shall be (READ-02).
    """
    found = Findings()
    return _object(value, kind, "", _Wish(nulls, moments), found), found


class _Wish(NamedTuple):
    nulls: bool
    moments: bool


def _object(value: Any, kind: type[S2Object], path: str, wish: _Wish, found: Findings) -> Any:
    if not isinstance(value, dict):
        return value
    members, changed = _members(kind), dict(value)
    for name, inner in value.items():
        member = members.get(name)
        if member is None:
            continue
        place = f"{path}.{name}" if path else name
        if inner is None:
            if wish.nulls and member.optional:
                found.add(NULL, place, "null is read as missing")
                del changed[name]
        elif member.is_moment:
            if wish.moments and isinstance(inner, str) and (moment := _moment(inner)) is not None:
                found.add(MOMENT, place, f"read as {moment}")
                changed[name] = moment
        elif member.inside is None:
            continue
        elif isinstance(inner, list):
            inside = member.inside
            changed[name] = [_object(one, inside, f"{place}[{i}]", wish, found) for i, one in enumerate(inner)]
        else:
            changed[name] = _object(inner, member.inside, place, wish, found)
    return changed


@cache
def _members(kind: type[S2Object]) -> dict[str, _Member]:
    """Return the members of an object, by their names on the wire."""
    found = {}
    for name, field in kind.model_fields.items():
        shape, optional = _bare(field.annotation)
        if get_origin(shape) is list:
            shape = _bare(get_args(shape)[0])[0]
        inside = shape if isinstance(shape, type) and issubclass(shape, S2Object) else None
        found[field.alias or name] = _Member(optional, shape is AwareDatetime, inside)
    return found


def _bare(annotation: Any) -> tuple[Any, bool]:
    """Return a type without its metadata, and whether the member may be missing."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    kinds = get_args(annotation)
    if NoneType in kinds:
        return _bare(next(kind for kind in kinds if kind is not NoneType))[0], True
    return annotation, False


def _moment(text: str) -> str | None:
    """Return a time in the form of RFC 3339; None if it has that form already, or is no time."""
    match = _MOMENT(text)
    if match is None:
        return None
    minute, second, fraction, offset = match.groups()
    if second != "60":
        strict = f"{minute}:{second}{fraction or ''}{offset}"
        return strict if strict != text else None
    try:
        return (datetime.fromisoformat(f"{minute}:59{offset}".upper()) + timedelta(seconds=1)).isoformat()
    except (ValueError, OverflowError):
        return None
