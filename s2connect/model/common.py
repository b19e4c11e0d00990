"""Objects of ``s2-connect-common.yml``, and how wire objects are read and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, NewType, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.text import for_display

NodeId = NewType("NodeId", UUID)
"""Globally unique identifier of a node."""

WEBSOCKET = "WebSocket"
"""The one communication protocol that the standard defines."""

MQTT = "X-MQTT5-0"
"""Our binding of S2 to MQTT 5, which the standard announces and does not define (MQ-01)."""

SHA256 = "SHA256"
"""The one hash function that the standard defines (HMAC-03)."""

DEFAULT_S2_VERSION = "v1.0.0"
"""The S2 JSON version of S2 Connect 1.0.0, in the spelling of the standard (VER-06)."""


MAX_FAULTS = 3
"""Most faults named for one object; there may be one for each member."""

_MAX_PATH_CHARACTERS = 100
_QUOTE = "'"
_MAX_VALUE_CHARACTERS = 40

_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "string_type": "is not a text",
    "string_too_long": "is longer than {max_length} characters",
    "string_too_short": "is shorter than {min_length} characters",
    "string_pattern_mismatch": "has characters that it may not have",
    "bool_type": "is neither true nor false",
    "uuid_parsing": "is not a UUID",
    "uuid_type": "is not a UUID",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "tuple_type": "is not a list",
    "list_type": "is not a list",
    "too_short": "has fewer than {min_length} items",
    "too_long": "has more than {max_length} items",
    "dict_type": "is not an object",
    "model_type": "is not an object",
    "model_attributes_type": "is not an object",
    "value_error": "is {error}",
    "secret": "{what}",
    "url": "{what}",
}
"""Texts for pydantic's kinds of faults; our own types bring their texts along."""


class MalformedMessage(ValueError):
    """The body is not JSON or does not follow its schema.

    The text names the member and what is wrong with it, e.g. ``connectionDetails.accessToken is missing``, in our own
    words. Of values it repeats those alone that should be a name of an enumeration, cleaned and cut.
    """


class Role(StrEnum):
    """Role of a node: energy manager or device."""

    CEM = "CEM"
    RM = "RM"

    @property
    def other(self) -> Role:
        """The role a node of this role pairs with (ROLE-01)."""
        return Role.RM if self is Role.CEM else Role.CEM


class Deployment(StrEnum):
    """Deployment of an endpoint: in the local network or on the internet."""

    WAN = "WAN"
    LAN = "LAN"


class Wire(BaseModel):
    """An object on the wire: camelCase there, snake_case here, unknown members ignored (VER-07), immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        defer_build=True,  # an import must not pay for objects that a program may never read
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_by_alias=True,
        validate_by_name=True,
    )

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Read one object.

        Raises:
            MalformedMessage: Not JSON (SEC-04) or not this schema.
        """
        return cls.from_value(_parsed(data))

    @classmethod
    def from_own_json(cls, data: bytes) -> Self:
        """Read an object that :meth:`to_json` wrote, as :meth:`from_json` does, in a fraction of its time."""
        try:
            return cls.model_validate_json(data, by_alias=True, by_name=False)
        except ValidationError:
            return cls.from_json(data)

    @classmethod
    def from_value(cls, value: Any) -> Self:
        """Read one object from parsed JSON.

        Raises:
            MalformedMessage: Not this schema.
        """
        if not isinstance(value, dict):
            raise MalformedMessage("it is not an object")
        # Only the wire's spelling counts here, whatever the constructor accepts.
        try:
            return cls.model_validate(value, by_alias=True, by_name=False)
        except ValidationError as error:
            raise MalformedMessage(_describe(error)) from None

    def to_json(self) -> bytes:
        """Write the object; members without a value are left out."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode("utf-8")

    def to_value(self) -> dict[str, Any]:
        """Return the object as JSON value, as ``to_json`` writes it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _parsed(data: bytes | str) -> Any:
    try:
        return read_json(data)
    except MalformedJson as error:
        raise MalformedMessage(str(error)) from None


def _describe(error: ValidationError) -> str:
    """Return the first faulty members and their faults, without texts of the validation library.

    A value is repeated only where a name of an enumeration was expected: such a member never holds a secret.
    """
    faults = error.errors(include_url=False)
    inner = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    found = [fault for fault in faults if fault["loc"] not in inner or not fault["loc"]]  # what is in it says it better
    texts = [f"{_path(fault['loc'])} {_fault(fault)}" for fault in found[:MAX_FAULTS]]
    if len(found) > MAX_FAULTS:
        texts.append(f"{len(found) - MAX_FAULTS} more")
    return "; ".join(texts)


def _path(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return for_display(text.removeprefix("."), _MAX_PATH_CHARACTERS) or "it"


def _fault(fault: Any) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "too_short" and context["min_length"] == 1:
        return "is empty"
    if kind == "enum":
        value = fault["input"]
        given = f'"{for_display(value, _MAX_VALUE_CHARACTERS)}"' if isinstance(value, str) else "no text"
        return f"is {given}, not {context['expected'].replace(_QUOTE, '')}"
    return _WORDS.get(kind, "is not as the standard says").format_map(context)


def read_list(data: bytes | str, item: type[Wire]) -> list[Any]:
    """Read a JSON array of objects of one kind.

    Raises:
        MalformedMessage: Not an array of those.
    """
    value = _parsed(data)
    if not isinstance(value, list):
        raise MalformedMessage("it is not an array")
    return [item.from_value(element) for element in value]


def _known_strings(value: Any) -> Any:
    """Keep the strings of a list that will be matched by name: what is no string can match nothing (VER-07)."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_known_strings)]
"""List of protocols, versions or algorithms: unknown values are kept out by matching, not refused (VER-07)."""


def or_other(kind: type[StrEnum]) -> BeforeValidator:
    """Return a validator that reads a value of a later minor version as ``Other`` (VER-07)."""
    return BeforeValidator(lambda value: "Other" if isinstance(value, str) and value not in set(kind) else value)


class EndpointDescription(Wire):
    """An endpoint as it presents itself."""

    name: str | None = None
    logo_url: str | None = None
    deployment: Deployment | None = None


class NodeDescription(Wire):
    """A node as it presents itself."""

    id: NodeId
    brand: str
    logo_url: str | None = None
    type: str
    model_name: str
    user_defined_name: str | None = None
    role: Role

    @property
    def title(self) -> str:
        """Name for a person; from a peer it is hostile until cleaned."""
        return self.user_defined_name or f"{self.brand} {self.model_name}"


def spelled_by_peer(offered: Iterable[str], wanted: str) -> str | None:
    """Find a version in a peer's list, in the peer's spelling, or None (VER-06).

    ``v1.0.0`` and ``1.0.0`` are the same version; there are no ranges.
    """
    return next((text for text in offered if text.removeprefix("v") == wanted.removeprefix("v")), None)


def choose_version(own: Iterable[str], offered: Iterable[str]) -> str | None:
    """Pick the first of our own versions that the peer offers, in its spelling, or None (VER-06)."""
    texts = tuple(offered)
    return next((found for wanted in own if (found := spelled_by_peer(texts, wanted)) is not None), None)


def choose_name(own: Iterable[str], offered: Iterable[str]) -> str | None:
    """Pick the first of our own protocols or algorithms that the peer offers, or None."""
    texts = set(offered)
    return next((name for name in own if name in texts), None)
