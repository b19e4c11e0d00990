"""All messages of both data models of S2 JSON, and how a text becomes one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Union

import msgspec

from s2connect.errors import UsageError
from s2connect.messages import ddbc, frbc, general, ombc, pebc, ppbc
from s2connect.messages.base import IdentifiedMessage, S2Message
from s2connect.messages.decoding import decoded, encode
from s2connect.messages.envelope import (
    MAX_VALUES,
    NIL_ID,
    InvalidMessage,
    Message,
    ReceptionStatusValue,
    read_message,
)
from s2connect.messages.id_pattern import has_id
from s2connect.messages.identifiers import odd_ids
from s2connect.messages.labels import ID_WORDS, shown
from s2connect.messages.schema import SchemaReading
from s2connect.model.common import spelled_by_peer
from s2connect.model.text import for_display

if TYPE_CHECKING:
    from s2connect.messages.rules.base import Finding

V1: Final = "v1.0.0"
"""The data model of S2 Connect 1.0.0."""

BETA: Final = "0.0.2-beta"
"""The data model that plain S2 over WebSocket speaks; it differs in DDBC only."""

_MODULES: Final = (general, pebc, ppbc, ombc, frbc, ddbc)
_NOT_V1: Final = (ppbc.SequenceInstruction, ddbc.BetaSystemDescription)


def _messages() -> dict[str, type[S2Message]]:
    found: dict[str, type[S2Message]] = {}
    for module in _MODULES:
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, S2Message) and kind.__module__ == module.__name__:
                found.setdefault(str(kind.__struct_config__.tag), kind)
    return {name: kind for name, kind in found.items() if not kind.__name__.startswith("_") and kind not in _NOT_V1}


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
    parsed = _valid(text, version)
    return parsed if parsed is not None else read_typed(read_message(text), version, strict=strict).parsed


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


def read_whole(text: str, version: str) -> Message:
    """Read a message, with all of it by its schema where nothing is wrong with it; otherwise only its envelope.

    Raises:
        InvalidMessage: As by :func:`read_message`.
        UsageError: ``version`` is unknown.
    """
    parsed = _valid(text, version)
    return _read(text, parsed) if parsed is not None else read_message(text)


def _valid(text: str, version: str) -> S2Message | None:
    """Return a message, or None if a text is or seems invalid, or longer than usual."""
    model = _MODELS.get(version) or _MODELS[data_model(version)]
    return decoded(text, model.decode) if len(text) <= MAX_VALUES else None


def _read(text: str, parsed: S2Message) -> Message:
    reading = Reading(parsed)
    if isinstance(parsed, IdentifiedMessage):
        return Message(text, parsed.message_type, parsed.message_id, reading=reading)
    assert isinstance(parsed, general.ReceptionStatus)
    return Message(
        text,
        parsed.message_type,
        None,
        parsed.subject_message_id,
        parsed.status,
        parsed.diagnostic_label,
        reading=reading,
    )


def written(parsed: S2Message) -> Message:
    """Write a typed message, and validate it by the schema of its class.

    Raises:
        UsageError: A list in it was changed, and is not as the schema says.
    """
    try:
        text = encode(parsed)
        same = msgspec.json.decode(text, type=type(parsed))
    except (msgspec.MsgspecError, TypeError, UnicodeError) as error:
        raise UsageError(f"The {parsed.message_type} is not as the schema says: {error}.") from None
    if not all(map(has_id, odd_ids(same))):
        raise UsageError(f"The {parsed.message_type} is not as the schema says: an identifier has {ID_WORDS}.")
    return _read(text.decode(), same)


def read_typed(message: Message, version: str = V1, *, strict: bool = False) -> Reading:
    """Parse a message whose envelope was read before. Arguments and errors are those of :func:`parse`.

    What was read before by the same class is not read again.
    """
    model = _MODELS.get(version) or _MODELS[data_model(version)]
    kind = model.kinds.get(message.type)
    if kind is None:
        message.body  # noqa: B018 - what is no strict JSON is INVALID_DATA whatever else it is
        raise _invalid_message(message, f"message_type: {shown(message.type)} is none of the data model")
    known: Reading | None = message.reading
    if known is not None and type(known.parsed) is kind and not known.warnings:
        return known
    parsed = decoded(message.text, model.decode)
    nulls = model is _MODELS[BETA]
    reading = _read_again(message, kind, strict=strict, nulls=nulls) if parsed is None else Reading(parsed)
    msgspec.structs.force_setattr(message, "reading", reading)
    return reading


class _Model(NamedTuple):
    """A data model: its messages by type, and what decodes them."""

    kinds: Mapping[str, type[S2Message]]
    decode: Callable[[str], S2Message]


_MODELS: Final = {
    version: _Model(kinds, msgspec.json.Decoder(Union[tuple(kinds.values())]).decode)  # noqa: UP007
    for version, kinds in MESSAGES.items()
}


def _read_again(message: Message, kind: type[S2Message], *, strict: bool, nulls: bool) -> Reading:
    """Read a message that is invalid, or seems so: with labels, and with what is tolerated."""
    again = SchemaReading(message.body, kind, nulls=nulls and not strict, moments=not strict)
    if again.problems:
        raise _invalid_message(message, again.label)
    try:
        # Not strictly: 5.0 becomes 5. Nothing else is left to be made right.
        parsed = msgspec.convert(again.value, kind, strict=False)
    except msgspec.ValidationError:
        raise _invalid_message(message, "not as the schema says") from None
    if not again.tolerated:
        return Reading(parsed)
    from s2connect.messages.rules.base import tolerated  # loads the rules; most programs never need it

    return Reading(parsed, tolerated(again))


def _invalid_message(message: Message, label: str) -> InvalidMessage:
    answerable = message.id is not None
    return InvalidMessage(ReceptionStatusValue.INVALID_MESSAGE, message.id or NIL_ID, label, answerable=answerable)
