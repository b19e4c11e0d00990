"""Base classes and member types of the typed messages of S2 JSON."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin
from uuid import UUID, uuid4

from annotated_types import Ge
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from s2connect.errors import UsageError

T = TypeVar("T")

ID_PATTERN: Final = r"[a-zA-Z0-9\-_:]{2,64}"
"""As in the schema, which does not anchor it: a text that holds such a part is representable (MSG-05, S2C-21)."""

_MILLISECOND: Final = timedelta(milliseconds=1)

_RFC3339: Final = r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$"


class _AbsentNotNull:
    """A member that may be left out, but is never ``null`` on the wire."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        nullable: Any = handler(source)
        inner = nullable["schema"]  # that of `T | None`
        return core_schema.json_or_python_schema(json_schema=inner, python_schema=nullable)


class _Rfc3339:
    """Time stamps on the wire are RFC 3339 with an offset; pydantic alone takes numbers in strings as well."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        python = handler(source)
        text = core_schema.str_schema(pattern=_RFC3339, strict=True)
        moment = core_schema.datetime_schema(tz_constraint="aware", strict=False)
        return core_schema.json_or_python_schema(core_schema.chain_schema([text, moment]), python)


class _IdOfUuid:
    """Type of identifiers: constructors accept a UUID."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = handler(source)
        python = core_schema.no_info_before_validator_function(_id_of, text)
        return core_schema.json_or_python_schema(text, python)


def _id_of(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


class _WholeNumber:
    """Type of integers, among which JSON Schema counts 5.0. Constructors accept a timedelta for a duration."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        python = core_schema.no_info_before_validator_function(_milliseconds_of, handler(source))
        whole = core_schema.no_info_after_validator_function(_whole, core_schema.float_schema(strict=True, ge=0))
        both = core_schema.union_schema(
            [core_schema.int_schema(strict=True, ge=0), whole],
            mode="left_to_right",
            custom_error_type="duration",
            custom_error_message="is no whole number of at least 0",
        )
        return core_schema.json_or_python_schema(both, python)


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ValueError("not a whole number")
    return int(value)


def _milliseconds_of(value: object) -> object:
    return round(value / _MILLISECOND) if isinstance(value, timedelta) else value


Maybe = Annotated[T | None, _AbsentNotNull()]
"""A member that may be missing: None here, left out on the wire."""

Id = Annotated[str, Field(pattern=ID_PATTERN), _IdOfUuid()]
"""An identifier (MSG-05). Constructors take a UUID, too."""

Timestamp = Annotated[AwareDatetime, _Rfc3339()]
"""A moment, with its time zone. On the wire RFC 3339, with up to nine digits of a second; microseconds are kept."""

Duration = Annotated[int, Ge(0), _WholeNumber()]
"""Milliseconds. Constructors take a timedelta, too, to the nearest millisecond."""


def is_id(field: FieldInfo) -> bool:
    """Return whether a member of an object is one identifier, optional or not."""
    parts = [*field.metadata, *(part for kind in get_args(field.annotation) for part in get_args(kind))]
    return get_origin(field.annotation) is not list and any(isinstance(part, _IdOfUuid) for part in parts)


def new_id() -> str:
    """Return a new identifier, a UUID (MSG-05)."""
    return str(uuid4())


_AS_ON_THE_WIRE: Final = {"by_alias": True, "exclude_none": True}
_HARMLESS: Final = _AS_ON_THE_WIRE | {"round_trip": False, "warnings": True}


def _check_writing(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name not in ("indent", "ensure_ascii") and (name not in _HARMLESS or _HARMLESS[name] != value):
            raise UsageError(
                f"With {name}={value!r} the text would be no message of S2.",
                hint="to_json() and to_value() write it as on the wire; model_dump() gives the attributes.",
            )


class S2Object(BaseModel):
    """An object of S2 JSON: representable by the schema, which does not mean that it makes sense. Immutable.

    Attributes have the names of the wire in lower case. What the wire misspells has its wire spelling there only.
    """

    model_config = ConfigDict(
        allow_inf_nan=False,
        defer_build=True,  # an import must not pay for messages that a program may never see
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        strict=True,
        validate_by_alias=True,
        validate_by_name=True,
    )

    def to_json(self) -> str:
        """Write it as JSON; members without a value are left out."""
        return super().model_dump_json(by_alias=True, exclude_none=True)

    def to_value(self) -> dict[str, Any]:
        """Return the object as JSON value, as ``to_json`` writes it."""
        return super().model_dump(mode="json", by_alias=True, exclude_none=True)

    def model_dump_json(self, **options: Any) -> str:
        """Write it as :meth:`to_json` does.

        Raises:
            UsageError: An option of pydantic was given that would write something else.
        """
        _check_writing(options)
        return super().model_dump_json(**(options | _AS_ON_THE_WIRE))

    def model_dump(self, *, mode: str = "python", **options: Any) -> dict[str, Any]:
        """Return the attributes by name; with ``mode="json"`` the same as :meth:`to_value`.

        Raises:
            UsageError: With ``mode="json"``, an option of pydantic was given that would write something else.
        """
        if mode == "json":
            _check_writing(options)
            options |= _AS_ON_THE_WIRE
        return super().model_dump(mode=mode, **options)


class S2Message(S2Object):
    """A message of S2 JSON."""

    message_type: str


class IdentifiedMessage(S2Message):
    """A message with an id of its own, a new one unless given: all but ReceptionStatus."""

    message_id: Id = Field(default_factory=new_id)
