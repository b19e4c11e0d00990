"""All messages of both data models of S2 JSON, and how a text becomes one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import ValidationError

from s2connect.errors import UsageError
from s2connect.messages import ddbc, frbc, general, ombc, pebc, ppbc
from s2connect.messages.base import S2Message
from s2connect.messages.envelope import NIL_ID, InvalidMessage, Message, ReceptionStatusValue, read_message
from s2connect.messages.labels import problems, shown
from s2connect.model.common import spelled_by_peer
from s2connect.model.text import for_display

if TYPE_CHECKING:
    from s2connect.messages.rules.base import Finding

V1: Final = "v1.0.0"
"""The data model of S2 Connect 1.0.0."""

BETA: Final = "0.0.2-beta"
"""The data model that plain S2 over WebSocket speaks; it differs in DDBC only."""

_MODULES: Final = (general, pebc, ppbc, ombc, frbc, ddbc)


def _messages() -> dict[str, type[S2Message]]:
    found: dict[str, type[S2Message]] = {}
    for module in _MODULES:
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, S2Message) and thing.__module__ == module.__name__:
                name = thing.model_fields["message_type"].default
                if isinstance(name, str):  # a base class has none
                    found.setdefault(name, thing)
    return found


_V1: Final = _messages()
_BETA: Final = {t: m for t, m in _V1.items() if t != "DDBC.PresentDemandStatus"} | {
    "DDBC.SystemDescription": ddbc.BetaSystemDescription
}

MESSAGES: Final[Mapping[str, Mapping[str, type[S2Message]]]] = MappingProxyType(
    {V1: MappingProxyType(_V1), BETA: MappingProxyType(_BETA)}
)
"""By data model and ``message_type``: the class of a message."""


@cache
def data_model(version: str) -> str:
    """Return the data model of a version, in whichever spelling both sides agreed on (VER-06).

    Raises:
        UsageError: The version is unknown.
    """
    for known in MESSAGES:
        if spelled_by_peer([version], known) is not None:
            return known
    raise UsageError(f"S2 JSON {for_display(version, 40)} is unknown here; known are {', '.join(MESSAGES)}.")


def parse(text: str | bytes, version: str = V1, *, strict: bool = False) -> S2Message:
    """Read a message, its envelope first and then all of it by its schema.

    Whether it makes sense is another question, which :mod:`s2connect.messages.rules` answers.

    Args:
        text: The message.
        version: S2 JSON version, in any spelling.
        strict: Refuse what a session takes with a warning (MSG-08, rules READ-01 and READ-02).

    Raises:
        InvalidMessage: It is no JSON (strictly: no member twice, no NaN, at most 64 levels) or has no usable
            ``message_id`` (``INVALID_DATA``); it is not of its schema, or of no message that the data model has
            (``INVALID_MESSAGE``). Rules MSG-03, MSG-05, SEC-04.
        UsageError: ``version`` is unknown.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidMessage(ReceptionStatusValue.INVALID_DATA, NIL_ID, "not UTF-8") from None
    return read_typed(read_message(text), version, strict=strict).parsed


def parse_message(message: Message, version: str = V1) -> S2Message:
    """Read the whole of a message whose envelope has been read. The errors are those of :func:`parse`."""
    return read_typed(message, version).parsed


class Reading(NamedTuple):
    """A completely parsed message.

    Attributes:
        parsed: The typed message.
        warnings: What was tolerated (MSG-08).
    """

    parsed: S2Message
    warnings: tuple[Finding, ...] = ()


def read_typed(message: Message, version: str = V1, *, strict: bool = False) -> Reading:
    """Parse a message whose envelope was read before. Arguments and errors are those of :func:`parse`."""
    kinds = MESSAGES.get(version) or MESSAGES[data_model(version)]
    kind = kinds.get(message.type)
    if kind is None:
        message.body  # noqa: B018 - what is no strict JSON is INVALID_DATA whatever else it is
        raise _invalid_message(message, f"message_type: {shown(message.type)} is none of the data model")
    try:
        parsed: S2Message = kind.__pydantic_validator__.validate_json(message.text, by_alias=True, by_name=False)
    except ValidationError as error:
        body = message.body  # likewise
        if strict:
            raise _invalid_message(message, problems(error, body)) from None
        return _tolerantly(message, kind, error, nulls=kinds is MESSAGES[BETA])
    if may_have_duplicate_keys(message.text, parsed):  # which pydantic does not mind
        message.body  # noqa: B018 - reads it strictly
    return Reading(parsed)


def may_have_duplicate_keys(text: str, parsed: S2Message) -> bool:
    """Return False if certainly no object of a text has a member twice (SEC-04), without reading the text again.

    Of a member that occurs twice the model has one, so the text has more quotation marks than the model written anew.
    """
    if "\\" in text:
        return True
    written = parsed.__pydantic_serializer__.to_json(parsed, by_alias=True, exclude_none=True)
    return text.count('"') != written.count(b'"')


def _tolerantly(message: Message, kind: type[S2Message], error: ValidationError, *, nulls: bool) -> Reading:
    """Parse, with the tolerated deviations, a message that strict parsing refused with ``error``."""
    from s2connect.messages.rules.tolerance import mended  # loads the rules; most programs never need it

    value, found = mended(message.body, kind, nulls=nulls)
    try:
        if not found:
            raise error
        text = json.dumps(value, ensure_ascii=False)
        parsed = kind.__pydantic_validator__.validate_json(text, by_alias=True, by_name=False)
    except ValidationError as wrong:
        raise _invalid_message(message, problems(wrong, value)) from None
    return Reading(parsed, tuple(found))


def _invalid_message(message: Message, label: str) -> InvalidMessage:
    answerable = message.id is not None
    return InvalidMessage(ReceptionStatusValue.INVALID_MESSAGE, message.id or NIL_ID, label, answerable=answerable)
