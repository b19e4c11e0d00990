"""Envelope of an S2 JSON message: type, id and size, read without the rest (MSG-03, MSG-05, MSG-06)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec

from s2connect.errors import UsageError
from s2connect.messages.labels import ID_WORDS
from s2connect.model.strict_json import MalformedJson, read_json
from s2connect.model.text import for_display

if TYPE_CHECKING:
    from s2connect.messages.base import S2Message

NIL_ID: Final = "00000000-0000-0000-0000-000000000000"
"""MSG-03: the subject of the answer to a message whose own id cannot be read."""

RECEPTION_STATUS: Final = "ReceptionStatus"
"""Type of the acknowledgement of a message."""

SESSION_REQUEST: Final = "SessionRequest"
"""Type of the message by which a side asks for a reconnect or the end of the session."""

HANDSHAKES: Final = frozenset({"Handshake", "HandshakeResponse"})
"""MSG-01: messages of plain S2 that S2 Connect sessions do not have."""

MAX_VALUES: Final = 32_768
"""SEC-03: values and objects of one message, counted by commas and opening brackets. The richest that make sense have
12,000: a forecast of a day in steps of five minutes with all bounds of three phases, or a storage of 500 elements."""

MAX_LABEL_CHARACTERS: Final = 200
"""Longest ``diagnostic_label`` that is written; the schema has no bound."""

_CROWDED: Final = f"more than {MAX_VALUES} values"

BINARY_FRAME: Final = "(binary frame)"
"""Stand-in that a connection receives for a binary frame: no message, with a label for the sender (WS-05)."""

MAX_ID_CHARACTERS: Final = 256
"""SEC-03: longest ``message_id`` that is accepted and answered; MSG-05 has 64."""

_ID: Final = re.compile(r"[a-zA-Z0-9\-_:]{2,64}")


class ReceptionStatusValue(StrEnum):
    """Status of a ReceptionStatus (MSG-03)."""

    OK = "OK"
    INVALID_DATA = "INVALID_DATA"
    INVALID_MESSAGE = "INVALID_MESSAGE"
    INVALID_CONTENT = "INVALID_CONTENT"
    TEMPORARY_ERROR = "TEMPORARY_ERROR"
    PERMANENT_ERROR = "PERMANENT_ERROR"


class InvalidMessage(ValueError):
    """A received text is no S2 message. The attributes are those of the ReceptionStatus about it (MSG-03).

    Attributes:
        status: ``INVALID_DATA`` or ``INVALID_MESSAGE``.
        subject_id: The id of the message, or the nil UUID where it has none.
        label: What is wrong with it: where, the value, cut and fit for a terminal, and what is allowed.
        answerable: False for a broken ReceptionStatus, which is not answered.
    """

    def __init__(self, status: ReceptionStatusValue, subject_id: str, label: str, *, answerable: bool = True) -> None:
        super().__init__(label)
        self.status = status
        self.subject_id = subject_id
        self.label = label
        self.answerable = answerable


class _Header(msgspec.Struct, gc=False):
    message_type: str | None = None
    message_id: str | None = None
    subject_message_id: str | None = None
    status: str | None = None
    diagnostic_label: str | None = None


class Message(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One received S2 message. Made by :func:`read_message`.

    Attributes:
        text: The exact text, which a relay forwards unchanged (MSG-06).
        type: ``message_type``.
        id: ``message_id``; None for a ReceptionStatus.
        subject_id: Of a ReceptionStatus, the message it is about; otherwise None.
        status: Of a ReceptionStatus, its status as the peer wrote it, which may be a value that is not known here.
        label: Of a ReceptionStatus, its ``diagnostic_label``; from the network, clean before display.
    """

    text: str
    type: str
    id: str | None
    subject_id: str | None = None
    status: str | None = None
    label: str | None = None
    _body: dict[str, Any] | None = None
    reading: Any = None

    def __repr__(self) -> str:
        return f"Message(type={self.type!r}, id={self.id!r})"

    @property
    def body(self) -> dict[str, Any]:
        """The whole message as parsed JSON, parsed strictly at the first access (SEC-04). Do not change it.

        Raises:
            InvalidMessage: The text is not strict JSON: a member twice, a lone surrogate, too deep.
        """
        if self._body is None:
            known = self.reading is not None  # then the text is strict JSON, and reading it takes a fifth
            msgspec.structs.force_setattr(self, "_body", _decode(self.text) if known else _read_object(self.text))
        assert self._body is not None
        return self._body

    @property
    def parsed(self) -> S2Message:
        """The message as the typed model of the session's version, as the session has validated it.

        Raises:
            UsageError: It was not read further than its envelope: the session checks no more (``Check.ENVELOPE``).
        """
        if self.reading is None:
            raise UsageError(
                "The message was not read further than its envelope; open the session with another check, or use body."
            )
        return self.reading.parsed  # type: ignore[no-any-return]


def is_identifier(text: str) -> bool:
    """Return whether a whole text is an identifier (MSG-05), as in every message written here."""
    return _ID.fullmatch(text) is not None


def _can_be_answered(identifier: str) -> bool:
    """Return whether a received identifier follows its unanchored pattern (MSG-05, errata S2C-21)."""
    return len(identifier) <= MAX_ID_CHARACTERS and _ID.search(identifier) is not None


_decode_header = msgspec.json.Decoder(_Header).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def _invalid_data(label: str) -> InvalidMessage:
    return InvalidMessage(ReceptionStatusValue.INVALID_DATA, NIL_ID, label)


def _read_object(text: str) -> dict[str, Any]:
    try:
        value = read_json(text)
    except MalformedJson as error:
        what = "a binary frame; S2 messages are text" if text == BINARY_FRAME else f"not strict JSON: {error}"
        raise _invalid_data(what) from None
    if not isinstance(value, dict):
        raise _invalid_data("not a JSON object")
    return value


def _read_odd_header(text: str) -> _Header:
    """Read a header of which msgspec only said that something is wrong with it."""
    value = _read_object(text)
    return _Header(**{n: v for n in _Header.__struct_fields__ if isinstance(v := value.get(n), str)})


def read_message(text: str) -> Message:
    """Parse the envelope of a received text; the rest is parsed when ``body`` is read.

    Raises:
        InvalidMessage: It is not JSON, not an object or has no usable ``message_id`` (``INVALID_DATA`` about the nil
            UUID), or it has no ``message_type`` or more than ``MAX_VALUES`` (``INVALID_MESSAGE``; of the latter, no
            more is looked at). Rules MSG-03, MSG-05, SEC-03.
    """
    crowded = len(text) > MAX_VALUES and text.count(",") + text.count("{") + text.count("[") > MAX_VALUES
    try:
        header = _decode_header(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        if crowded:
            raise _invalid_data(_CROWDED) from None
        header = _read_odd_header(text)
    kind = header.message_type
    if kind == RECEPTION_STATUS:
        subject = header.subject_message_id
        if subject is None or not _can_be_answered(subject) or header.status is None or crowded:
            raise InvalidMessage(
                ReceptionStatusValue.INVALID_MESSAGE, NIL_ID, "incomplete ReceptionStatus", answerable=False
            )
        return Message(text, kind, None, subject, header.status, header.diagnostic_label)
    identifier = header.message_id
    if identifier is None:
        raise _invalid_data("message_id: is missing, or no text")
    if not _can_be_answered(identifier):
        raise _invalid_data(f'message_id: "{for_display(identifier, 40)}"; allowed are {ID_WORDS}')
    if crowded:
        raise InvalidMessage(ReceptionStatusValue.INVALID_MESSAGE, identifier, _CROWDED)
    if kind is None:
        _read_object(text)  # what is no strict JSON is INVALID_DATA whatever else it is
        raise InvalidMessage(ReceptionStatusValue.INVALID_MESSAGE, identifier, "message_type: is missing, or no text")
    return Message(text, kind, identifier)


def check_sendable(message_type: object) -> None:
    """Refuse what an application does not send by itself on a session.

    Raises:
        UsageError: No type, a handshake of plain S2 (MSG-01), or a ReceptionStatus, which the session writes (MSG-03).
    """
    if not isinstance(message_type, str):
        raise UsageError("The message has no message_type.")
    if message_type in HANDSHAKES:
        raise UsageError(f"S2 Connect sessions have no {message_type}: versions are agreed before the session.")
    if message_type == RECEPTION_STATUS:
        raise UsageError("A ReceptionStatus is sent by the session itself.")


def write_message(message: Mapping[str, Any]) -> tuple[str, str]:
    """Write a message as JSON and return the text and the message's id; a missing ``message_id`` becomes a new UUID.

    Raises:
        UsageError: See :func:`check_sendable`; or the id breaks MSG-05, or a value has no place in JSON.
    """
    check_sendable(message.get("message_type"))
    identifier = message.get("message_id")
    if identifier is None:
        identifier = str(uuid4())
        message = {**message, "message_id": identifier}
    elif not isinstance(identifier, str) or not is_identifier(identifier):
        raise UsageError(f"A message_id has {ID_WORDS}.")
    try:
        text = _encode(message).decode()
        if "null" in text:  # it may stand for NaN
            text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            text.encode("utf-8")
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        raise UsageError(
            "The message cannot be written as JSON: it holds NaN, or something JSON has no form for."
        ) from None
    return text, identifier


def reception_status(subject_id: str, status: ReceptionStatusValue, label: str | None = None) -> str:
    """Write the ReceptionStatus about a message (MSG-03)."""
    tail = f',"diagnostic_label":{_quoted(label[:MAX_LABEL_CHARACTERS])}}}' if label else "}"
    return f'{{"message_type":"ReceptionStatus","subject_message_id":{_quoted(subject_id)},"status":"{status}"{tail}'


def _quoted(text: str) -> str:
    return _encode(text).decode()
