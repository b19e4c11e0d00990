"""Enumerations of S2 JSON, and the validation level of a session. Quick to import: nothing here loads pydantic."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


class WireEnum(StrEnum):
    """An enumeration whose values are strings on the wire. Constructors of messages take the strings as well."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        by_value = core_schema.enum_schema(cls, list(cls), sub_type="str", strict=False)
        return core_schema.json_or_python_schema(handler(source), by_value)


class Check(StrEnum):
    """Validation level of a session: the part of each message that is validated before it is accepted or sent."""

    ENVELOPE = "envelope"
    """It is a message, and no handshake (MSG-01)."""
    SCHEMA = "schema"
    """Also every member, by the schema of the session's version."""
    RULES = "rules"
    """Also the state of the session (MSG-02) and the rules about its content."""
