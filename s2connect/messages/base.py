"""Base classes and member types of the typed messages of S2 JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, dataclass_transform, get_type_hints
from uuid import UUID, uuid4

import msgspec
from msgspec import Meta, StructMeta

from s2connect.errors import UsageError
from s2connect.messages.id_pattern import Id as Id
from s2connect.messages.id_pattern import has_id
from s2connect.messages.schema import SchemaReading

_MILLISECOND: Final = timedelta(milliseconds=1)
_PERCENTAGE: Final = re.compile(r"(?<=\d\d)ppr$")

Timestamp = Annotated[datetime, Meta(tz=True)]
"""A moment, with its time zone. On the wire RFC 3339, with up to nine digits of a second; microseconds are kept."""

Duration = Annotated[int, Meta(ge=0)]
"""Milliseconds. Constructors take a timedelta, too, to the nearest millisecond."""


def length(least: int, most: int | None = None) -> Meta:
    """Return the bounds of a list."""
    return Meta(min_length=least, max_length=most)


def new_id() -> str:
    """Return a new identifier, a UUID (MSG-05)."""
    return str(uuid4())


class _Kind(StructMeta):
    """Metaclass of messages: constructors take members by name, and validate them. Decoders do not pass here."""

    if not TYPE_CHECKING:

        def __new__(mcls, *args, **options):
            return super().__new__(mcls, *args, kw_only=True, **options)

        def __call__(cls, **members):  # noqa: N805
            on_wire = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
            value = {on_wire.get(name, name): given for name, given in members.items()}
            if "message_id" in on_wire:
                value.setdefault("message_id", new_id())
            try:
                for name, given in value.items():
                    value[name] = _on_wire(given)
                made = msgspec.convert(value, cls)
                problem = None if _ids_fit(made, value.values()) else SchemaReading(value, cls).label
            except (ValueError, msgspec.ValidationError) as error:
                problem = SchemaReading(value, cls).label or error
            if problem:
                raise UsageError(f"This is no {cls.__name__}: {problem}.")
            return made


def _on_wire(value: Any) -> Any:
    match value:
        case str():
            value.encode()  # lone surrogates have no UTF-8
        case float() if not math.isfinite(value):
            raise ValueError("a number is expected")
        case UUID():
            return str(value)
        case timedelta():
            return round(value / _MILLISECOND)
        case list() | tuple():
            return list(map(_on_wire, value))
    return value


@cache
def id_members(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the attributes of a class that are an identifier, or None."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(name for name in kind.__struct_fields__ if hints[name] in (Id, Id | None))


@cache
def _ids_of(kind: type[msgspec.Struct]) -> Callable[[Any], tuple[str | None, ...]]:
    names = id_members(kind)
    return attrgetter(*names, names[0]) if names else lambda _: ()  # of a single name it returns no tuple


def _ids_fit(made: S2Object, given: Iterable[Any]) -> bool:
    """Return whether the identifiers of a new object follow the schema; False where objects in it may have odd ones."""
    for value in given:
        if isinstance(value, dict) or (isinstance(value, list) and not {dict, str}.isdisjoint(map(type, value))):
            return False
    return all(name is None or has_id(name) for name in _ids_of(type(made))(made))


def _wire_name(attribute: str) -> str:
    return _PERCENTAGE.sub("PPR", attribute.rstrip("_"))


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class S2Object(
    msgspec.Struct,
    metaclass=_Kind,
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,  # there are no cycles
    omit_defaults=True,
    rename=_wire_name,
):
    """An object of S2 JSON: representable by the schema, which does not mean that it makes sense. Immutable.

    Attributes have the names of the wire in lower case. What the wire misspells has its wire spelling there only.
    Constructors take all members by name.

    Raises:
        UsageError: A member is missing, unknown, or not as the schema says. (Raised by constructors.)
    """

    def to_json(self) -> str:
        """Write it as JSON; members without a value are left out."""
        return msgspec.json.encode(self).decode()

    def to_value(self) -> dict[str, Any]:
        """Return the object as JSON value, as ``to_json`` writes it."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value

    def replace(self, **members: Any) -> Self:
        """Return a copy with other members, by name.

        Raises:
            UsageError: As by the constructor.
        """
        return type(self)(**{name: getattr(self, name) for name in self.__struct_fields__} | members)


class S2Message(S2Object, tag_field="message_type"):
    """A message of S2 JSON."""

    @property
    def message_type(self) -> str:
        """Type of the message, e.g. ``FRBC.StorageStatus``."""
        tag: str = self.__struct_config__.tag  # type: ignore[assignment]
        return tag


class IdentifiedMessage(S2Message):
    """A message with an id of its own, a new one unless given: all but ReceptionStatus."""

    message_id: Id = ""  # constructors fill it in; a decoder that made one up would hide that a text has none
