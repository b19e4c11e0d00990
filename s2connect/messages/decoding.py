"""Texts that are messages beyond doubt, decoded and validated without reading them twice.

msgspec decodes a text and validates most of it. This module looks at what it leaves out: members that occur twice or
are null, identifiers, and variants of times. A text that it does not vouch for may still be a message:
:mod:`s2connect.messages.schema` decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import inspect

from s2connect.messages.base import S2Message
from s2connect.messages.envelope import MAX_ID_CHARACTERS
from s2connect.messages.id_pattern import has_id
from s2connect.messages.identifiers import odd_ids

encode: Final = msgspec.json.Encoder().encode

# Of what msgspec takes as a time: with a T, at most nine digits of a second, and a colon in the offset.
_moment_at: Final = re.compile(
    r'[ \t\n\r]*:[ \t\n\r]*".{10}[Tt].{8}(?:\.\d{1,9}+)?(?:[Zz]|[+-]\d\d:\d\d)"', re.ASCII
).match


def decoded(text: str, decode: Callable[[str], S2Message]) -> S2Message | None:
    """Return a message, or None if its text departs from the schema, or seems to."""
    try:
        parsed = decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
    # Of a member that occurs twice the message has one, and of one that is null none, so the text has more quotation
    # marks around strings than the message written anew.
    kind = type(parsed)
    moments, marks = _PLANS.get(kind) or plan(kind)
    bare = text.replace("\\\\", "").replace('\\"', "") if "\\" in text else text
    if bare.count('"') != count_marks(parsed, marks):
        return None
    if (odd := odd_ids(parsed)) and not (all(map(has_id, odd)) and len(odd[0]) <= MAX_ID_CHARACTERS):
        return None  # the first may be the message's own
    # Only messages have times. Where no member occurs twice, the quoted name is that of the member, or a text that is
    # followed by no colon.
    for name in moments:
        place = text.find(name)
        if place < 0:
            if getattr(parsed, name.strip('"')) is not None:
                return None
        elif _moment_at(text, place + len(name)) is None:
            return None
    return parsed


class _Marks(NamedTuple):
    """Quotation marks of a message of a class: always; for members with a value; for each entry of lists."""

    always: int
    members: tuple[tuple[Callable[[Any], Any], int], ...]
    lists: tuple[tuple[Callable[[Any], list[Any]], int], ...]


def count_marks(parsed: S2Message, marks: _Marks | None) -> int:
    """Return how many quotation marks are around strings of a message. It is written if its class has no marks."""
    if marks is None:
        text = encode(parsed)
        if b"\\" in text:
            text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        return text.count(b'"')
    count, members, lists = marks
    for get, number in members:
        if get(parsed) is not None:
            count += number
    for get, number in lists:
        count += number * len(get(parsed))
    return count


Plan = tuple[tuple[str, ...], _Marks | None]
_PLANS: Final[dict[type[S2Message], Plan]] = {}
"""By class: the members that are times, in quotation marks, and its marks, None if they are not so simple."""


def plan(kind: type[S2Message]) -> Plan:
    """Return the plan of a class, and remember it."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    types = {field.name: _type_of(field) for field in info.fields}
    moments = tuple(f'"{name}"' for name, inner in types.items() if isinstance(inner, inspect.DateTimeType))
    found = _PLANS[kind] = moments, _marks(info)
    return found


def _type_of(field: inspect.Field) -> inspect.Type:
    return field.type.types[0] if isinstance(field.type, inspect.UnionType) else field.type  # the other is None


def _marks(info: inspect.StructType) -> _Marks | None:
    """Return the marks of a class; None if objects in it have optional members or lists of their own."""
    always, members, lists = 4 if info.tag_field else 0, [], []
    for field in info.fields:
        kind = _type_of(field)
        each = _each(kind.item_type if isinstance(kind, inspect.ListType) else kind)
        if each is None:
            return None
        if field.default is None:
            if isinstance(kind, inspect.ListType):
                return None
            members.append((attrgetter(field.name), 2 + each))
        elif isinstance(kind, inspect.ListType):
            lists.append((attrgetter(field.name), each))
            always += 2
        else:
            always += 2 + each
    return _Marks(always, tuple(members), tuple(lists))


def _each(kind: inspect.Type) -> int | None:
    """Return the marks of a value; None if they are not always as many."""
    if isinstance(kind, inspect.StructType):
        within = _marks(kind)
        return None if within is None or within.members or within.lists else within.always
    if isinstance(kind, inspect.FloatType | inspect.IntType | inspect.BoolType):
        return 0
    return None if isinstance(kind, inspect.ListType) else 2
