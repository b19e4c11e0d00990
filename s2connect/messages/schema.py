"""Reading of a JSON value by a message class, member by member: names what departs from the schema, for labels.

The decoders of :mod:`s2connect.messages.catalogue` are quick, but name the first problem only, and know neither what is
tolerated (MSG-08) nor 5.0 as an integer. So what they refuse, or take although the schema may not, is read here again.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import EnumMeta
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import inspect

from s2connect.messages.bulk import MAX_WHOLE, fit
from s2connect.messages.labels import ID_WORDS, MAX_SHOWN_CHARACTERS, listed, place, shown
from s2connect.model.text import for_display

MAX_PROBLEMS: Final = 3
"""Most problems named in a label."""

MAX_COLLECTED: Final = 1000
"""Most problems of one message that are counted one by one; a hostile message has a hundred thousand."""

MAX_TOLERATED: Final = 10
"""Most members that are null whose places are kept; as many as a rule names."""

MAX_SINGLY: Final = 200
"""Entries of lists that are read one by one although they follow the schema: for nulls, and for durations beyond
``MAX_WHOLE`` with a fraction or exponent, which nobody writes."""

_Path = tuple[str | int, ...]

_A_MOMENT: Final = "a time is written as in 2026-01-31T12:00:00Z"
_A_DURATION: Final = "a duration is a whole number of milliseconds, at least 0"
_A_NUMBER: Final = "a number is expected"
_A_TEXT: Final = "a text is expected"

_MOMENT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d):(\d\d)(?:(\.\d{1,9}+)(\d*+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
).fullmatch
"""A time of RFC 3339, with its fraction of a second in nine digits and further ones."""


class _Member(NamedTuple):
    """A member of an object; a value of exactly the type ``plain`` needs no second look."""

    name: str
    required: bool
    kind: inspect.Type
    plain: type | None


@cache
def _members(kind: type[msgspec.Struct]) -> tuple[tuple[_Member, ...], frozenset[str]]:
    """Return the members of an object, and all their names."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    members = []
    for field in info.fields:
        inner = field.type.types[0] if isinstance(field.type, inspect.UnionType) else field.type  # the other is None
        members.append(_Member(field.encode_name, field.required, inner, _PLAIN.get(type(inner))))
    names = {member.name for member in members} | ({info.tag_field} if info.tag_field else set())
    return tuple(members), frozenset(names)


_PLAIN: Final[dict[type[inspect.Type], type]] = {
    inspect.FloatType: float,
    inspect.BoolType: bool,
    inspect.StrType: str,
}


@cache
def _values(kind: EnumMeta) -> str:
    return f"allowed are {listed(kind)}"


class SchemaReading:
    """A JSON value read by a class, to the first faulty entry of each list.

    Args:
        value: The value, which is left as it is. Objects of message classes in it count as read.
        kind: The class.
        nulls: Take members that are null and may be missing as missing (READ-01).
        moments: Take times with too many digits of a second, or second 60 (READ-02).

    Attributes:
        value: The value without what was tolerated, and with integers instead of 5.0.
        problems: How many departures from the schema there are.
        tolerated: Place of each member that was null and left out, with an empty text, and of each corrected time, with
            the time.
    """

    def __init__(self, value: Any, kind: type[msgspec.Struct], *, nulls: bool = False, moments: bool = False) -> None:
        self.problems = 0
        self.tolerated: list[tuple[str, str]] = []
        self._singly = 0
        self._take_nulls = nulls
        self._take_moments = moments
        self._labels: list[str] = []
        self.value = self._read_object(value, kind, ())

    @property
    def label(self) -> str:
        """The first problems: place, value (cut) and what is allowed."""
        if self.problems > MAX_COLLECTED:
            return f"{self.problems} departures from the schema"
        more = self.problems - len(self._labels)
        return "; ".join([*self._labels, f"and {more} more"] if more else self._labels)

    def _wrong(self, path: _Path, what: str) -> None:
        self.problems += 1
        if len(self._labels) < MAX_PROBLEMS:
            self._labels.append(f"{place(path) or 'message'}: {what}")

    def _read(self, value: Any, kind: inspect.Type, path: _Path) -> Any:
        good, allowed = False, ""
        match kind:
            case _ if value is None:
                self._wrong(path, "is null, which no member may be")
                return value
            case inspect.StrType():
                good, allowed = isinstance(value, str), _A_TEXT
            case inspect.Metadata(extra={"pattern": pattern}):
                good, allowed = isinstance(value, str), _A_TEXT
                if good:
                    good, allowed = re.search(pattern, value) is not None, f"allowed are {ID_WORDS}"
            case inspect.EnumType():
                good, allowed = isinstance(value, str) and value in kind.cls._value2member_map_, _values(kind.cls)
            case inspect.StructType():
                if isinstance(value, dict):
                    return self._read_object(value, kind.cls, path)
                good, allowed = isinstance(value, kind.cls), "an object is expected"
            case inspect.IntType():
                if isinstance(value, float) and value.is_integer():
                    value = int(value) if value >= 0 else value
                good, allowed = type(value) is int and value >= 0, _A_DURATION
            case inspect.ListType():
                if isinstance(value, list):
                    return self._read_list(value, kind, path)
                allowed = "a list is expected"
            case inspect.DateTimeType():
                return self._read_moment(value, path)
            case inspect.FloatType():
                good, allowed = type(value) in (int, float) and abs(value) <= sys.float_info.max, _A_NUMBER
            case inspect.BoolType():
                good, allowed = isinstance(value, bool), "allowed are true and false"
        if not good:
            self._wrong(path, f"{shown(value)}; {allowed}")
        return value

    def _read_object(self, value: dict[str, Any], kind: type[msgspec.Struct], path: _Path) -> dict[str, Any]:
        read = dict(value)
        members, names = _members(kind)
        for name, required, inner, plain in members:
            if name not in value:
                if required:
                    self._wrong((*path, name), "is missing")
                continue
            given = value[name]
            kind_given = type(given)
            if kind_given is plain and (kind_given is not float or math.isfinite(given)):
                continue
            if given is None and self._take_nulls and not required:
                self.tolerated.append((place((*path, name)), ""))
                del read[name]
            else:
                read[name] = self._read(given, inner, (*path, name))
        if not names.issuperset(value):
            for name in value:
                if name not in names:
                    self._wrong((*path, for_display(name, MAX_SHOWN_CHARACTERS)), "is no member of it")
        return read

    def _read_list(self, value: list[Any], kind: inspect.ListType, path: _Path) -> list[Any]:
        read, before = value[: kind.max_length], self.problems
        for index in self._seemingly_faulty(read, kind.item_type, path):
            read[index] = self._read(read[index], kind.item_type, (*path, index))
            if self.problems > before:
                return read
        if self.problems > before:
            return read
        if kind.max_length is not None and len(value) > kind.max_length:
            self._wrong(path, f"has {len(value)} entries; allowed: at most {kind.max_length}")
        elif len(value) < (kind.min_length or 0):
            self._wrong(path, f"has {len(value)} entries; needed: at least {kind.min_length}")
        return read

    def _seemingly_faulty(self, entries: list[Any], kind: inspect.Type, path: _Path) -> Iterator[int]:
        """Yield the places of entries that do not simply follow the schema, each before the ones behind are looked at.

        Halves what may hold the next one until it is found, and begins with few entries, because faulty ones often
        follow each other.
        """
        begin, size = 0, 1
        while begin < len(entries):
            nulls = self._take_nulls and len(self.tolerated) >= MAX_TOLERATED
            end = min(begin + size, len(entries))
            if fit(entries[begin:end], kind, nulls=nulls):
                begin, size = end, 8 * size
                continue
            while end - begin > 1:
                middle = (begin + end) // 2
                if fit(entries[begin:middle], kind, nulls=nulls):
                    begin = middle
                else:
                    end = middle
            if self._singly == MAX_SINGLY:
                self._wrong(path, f"has too many durations that are written as none up to {MAX_WHOLE} is")
                return
            self._singly += 1
            yield begin
            begin, size = begin + 1, 1

    def _read_moment(self, value: Any, path: _Path) -> Any:
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value
        match = _MOMENT(value) if isinstance(value, str) else None
        if match is None:
            self._wrong(path, f"{shown(value)}; {_A_MOMENT if isinstance(value, str | datetime) else _A_TEXT}")
            return value
        minute, second, fraction, further, offset = match.groups("")
        try:
            if second == "60" and self._take_moments:
                moment = msgspec.convert(f"{minute}:59{offset}", datetime) + timedelta(seconds=1)
                text = moment.isoformat()
            else:
                moment = msgspec.convert(f"{minute}:{second}{fraction[:7]}{offset}", datetime)
                text = f"{minute}:{second}{fraction}{offset}"
        except (msgspec.ValidationError, OverflowError):
            self._wrong(path, f"{shown(value)}; {_A_MOMENT}")
            return value
        if self._take_moments:
            if text != value:
                self.tolerated.append((place(path), text))
            return moment
        if further:
            self._wrong(path, f"{shown(value)}; {_A_MOMENT}")
        return value
