"""Whether a text said each member once, seen from the message that it became (SEC-04)."""

from __future__ import annotations

from functools import cache
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from s2connect.messages.base import S2Object


def each_member_once(text: str, parsed: S2Object) -> bool:
    """Whether it is certain that no member occurs twice in one object of a text; otherwise only reading it can tell.

    Every string of a message becomes something in its model: a name, or a value whose type is written as a string. Of a
    member that occurs twice the model has one, so the text has more strings than it. Without an escape, strings can be
    counted by their quotation marks, which takes a fifth of the time of reading the text again.

    Args:
        text: JSON that was read without an error.
        parsed: All of what it became, with nothing filled in.
    """
    return "\\" not in text and text.count('"') == 2 * _strings(parsed)


class _Plan(NamedTuple):
    """How the strings of an object of a class are counted.

    Attributes:
        fixed: Those of which each object has this many.
        optional: Members that may be missing, and how many strings they have if not.
        nested: Members that are objects with a varying number.
        lists: Members that are lists, perhaps missing, and how many strings an item has; None where that varies.
    """

    fixed: int
    optional: tuple[tuple[str, int], ...]
    nested: tuple[str, ...]
    lists: tuple[tuple[str, int | None], ...]


def _strings(value: S2Object) -> int:
    fixed, optional, nested, lists = _plan(value.__class__)
    members = value.__dict__
    found = fixed
    for name, strings in optional:
        if members[name] is not None:
            found += strings
    for name in nested:
        found += _strings(members[name])
    for name, each in lists:
        items = members[name]
        if items is not None:
            found += 1 + (len(items) * each if each is not None else sum(map(_strings, items)))
    return found


@cache
def _plan(kind: type[S2Object]) -> _Plan:
    fixed = 0
    optional, nested, lists = [], [], []
    for name, field in kind.model_fields.items():
        shape, may_be_missing = _bare(field.annotation)
        if get_origin(shape) is list:
            lists.append((name, _fixed(_bare(get_args(shape)[0])[0])))
            continue
        each = _fixed(shape)
        if may_be_missing:
            assert each is not None, "an object that may be missing is simple"
            optional.append((name, 1 + each))
        elif each is None:
            fixed += 1
            nested.append(name)
        else:
            fixed += 1 + each
    return _Plan(fixed, tuple(optional), tuple(nested), tuple(lists))


def _fixed(shape: Any) -> int | None:
    """How many strings a value of a type has; None where that varies."""
    if isinstance(shape, type) and issubclass(shape, S2Object):
        plan = _plan(shape)
        return None if plan.optional or plan.nested or plan.lists else plan.fixed
    return 0 if shape in (bool, float, int) else 1


def _bare(annotation: Any) -> tuple[Any, bool]:
    """A type without what is said about it, and whether it may be missing."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    kinds = get_args(annotation)
    if NoneType in kinds:
        return _bare(next(kind for kind in kinds if kind is not NoneType))[0], True
    return annotation, False
