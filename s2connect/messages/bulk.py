"""Validation of many JSON values at once: whether all of them follow the schema, without saying where one does not.

A message has up to 32,768 values, and to look at each takes 50 ms. So :mod:`s2connect.messages.schema` reads those
alone that do not pass here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType, inspect

from s2connect.messages.id_pattern import are_whole_ids, has_id, is_id

MAX_WHOLE: Final = 2**53
"""Greatest duration that may be written as 5.0 here: msgspec makes integers of those only."""

_Duration = Annotated[float, Meta(ge=0, le=MAX_WHOLE, multiple_of=1)]


def fit(values: list[Any], kind: inspect.Type, *, nulls: bool) -> bool:
    """Return True if all values are of a type, False if one is not, or may not be.

    Args:
        values: Entries of a list. 5.0 passes as a duration, and so do objects of a class of messages as themselves.
        kind: Their type, in which there are no times.
        nulls: Let members pass that are null and may be missing.
    """
    if isinstance(kind, inspect.StructType):
        values = [value for value in values if not isinstance(value, kind.cls)]
    try:
        typed = msgspec.convert(values, list[_strict(kind, nulls)])  # type: ignore[misc]
    except msgspec.ValidationError:
        return False
    if is_id(kind):
        return ids_fit(typed)
    if not isinstance(kind, inspect.StructType):
        return True
    return ids_fit([name for name in _collect(typed, _ids(kind.cls), []) if name is not UNSET and name is not None])


def ids_fit(names: Sequence[str]) -> bool:
    """Return whether all texts are identifiers as the schema has them."""
    return are_whole_ids(names) or all(map(has_id, names))


def _strict(kind: inspect.Type, nulls: bool) -> Any:
    """Return a type for ``convert`` that takes what the schema takes, but for identifiers."""
    match kind:
        case inspect.Metadata() | inspect.StrType():
            return str
        case inspect.StructType():
            return _twin(kind.cls, nulls)
        case inspect.ListType():
            bounds = Meta(min_length=kind.min_length, max_length=kind.max_length)
            return Annotated[list[_strict(kind.item_type, nulls)], bounds]  # type: ignore[misc]
        case inspect.EnumType():
            return kind.cls
        case inspect.IntType():
            return _Duration
        case inspect.BoolType():
            return bool
        case inspect.FloatType():
            return float
    raise NotImplementedError(kind)


@cache
def _twin(kind: type[msgspec.Struct], nulls: bool) -> type[msgspec.Struct]:
    """Return a class with the same members. Those that may be missing may be null only with ``nulls``."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    members: list[Any] = []
    for field in info.fields:
        if isinstance(field.type, inspect.UnionType):  # the other one is None
            strict = _strict(field.type.types[0], nulls)
            members.append((field.name, strict | (None if nulls else UnsetType), None if nulls else UNSET))
        else:
            members.append((field.name, _strict(field.type, nulls)))
    names = {field.name: field.encode_name for field in info.fields}
    return msgspec.defstruct(kind.__name__, members, rename=names, forbid_unknown_fields=True, kw_only=True, gc=False)


class _Ids(NamedTuple):
    """Members of a class that are identifiers, lists of them, and lists of objects with some."""

    ids: list[Callable[[Any], Any]]
    lists: list[Callable[[Any], list[str]]]
    objects: list[tuple[Callable[[Any], list[Any]], _Ids]]


@cache
def _ids(kind: type[msgspec.Struct]) -> _Ids:
    found = _Ids([], [], [])
    for field in inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        inner = field.type.types[0] if isinstance(field.type, inspect.UnionType) else field.type
        if is_id(inner):
            found.ids.append(attrgetter(field.name))
        elif isinstance(inner, inspect.ListType) and is_id(inner.item_type):
            found.lists.append(attrgetter(field.name))
        elif isinstance(inner, inspect.ListType) and isinstance(inner.item_type, inspect.StructType):
            found.objects.append((attrgetter(field.name), _ids(inner.item_type.cls)))
    return found


def _collect(things: list[Any], where: _Ids, found: list[Any]) -> list[Any]:
    """Add the identifiers of objects of one class, member by member, so that the loops are those of built-in types."""
    for get in where.ids:
        found.extend(map(get, things))
    for get in where.lists:
        found.extend(itertools.chain.from_iterable(map(get, things)))
    for get, below in where.objects:
        _collect(list(itertools.chain.from_iterable(map(get, things))), below, found)
    return found
