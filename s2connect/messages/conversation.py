"""Validator of a session's messages, of both sides: schema, state and meaning of each message."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from s2connect.messages.base import IdentifiedMessage, S2Message
from s2connect.messages.catalogue import MESSAGES, data_model, read_typed, read_whole
from s2connect.messages.enums import Check
from s2connect.messages.envelope import HANDSHAKES, NIL_ID, InvalidMessage, Message, ReceptionStatusValue, read_message
from s2connect.messages.general import SelectControlType
from s2connect.messages.rules import Finding, Severity, check
from s2connect.messages.rules.base import with_value
from s2connect.messages.rules.history import History
from s2connect.messages.state import SessionState
from s2connect.model.common import Role

MAX_IN_FLIGHT: Final = 256
"""Messages that are remembered while they wait for their answer; beyond it the oldest is forgotten."""

MAX_IN_FLIGHT_CHARACTERS: Final = 1024 * 1024
"""The same in characters, but for the newest message: typed, they take a dozen times that in memory, and a message that
follows them may need all of them to be looked at."""

# Python 3.11 looks members of an enumeration up slowly, and these are needed for every message.
_ENVELOPE, _SCHEMA, _RULES, _OK = Check.ENVELOPE, Check.SCHEMA, Check.RULES, ReceptionStatusValue.OK


class ValidationResult(NamedTuple):
    """Result of validating a message.

    Attributes:
        status: What its ReceptionStatus says (MSG-03).
        label: What is wrong with it: the number of the rule, where, the value (cut) and what is allowed; None where
            nothing is.
        subject_id: Which id the ReceptionStatus names.
        parsed: The typed message, where it was read that far.
        warnings: Rules that it breaks without being refused for it.
    """

    status: ReceptionStatusValue
    label: str | None
    subject_id: str
    parsed: S2Message | None = None
    warnings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """True if the message is accepted."""
        return self.status is _OK


class Conversation:
    """Validator of one session, message by message. It follows both sides, so either side or a listener can use it.

    Call for every message, in the order of sending, :meth:`validate`; then, for one to be answered with ``OK``,
    :meth:`accepted`, or for one of our own :meth:`sent` and, once its ReceptionStatus has come, :meth:`answered`. A
    message without an answer yet may be accepted or not; a later one is refused only if it is invalid in both cases.
    The last three take refused messages as well, because the other side may accept them; what is not of its schema
    changes nothing.

    Args:
        version: S2 JSON version of the session, in any spelling (VER-06).
        check: Validation level.

    Raises:
        UsageError: ``version`` is unknown.
    """

    def __init__(self, version: str, *, check: Check = Check.RULES) -> None:
        self.check = check
        self.state = SessionState()
        self._history = History()
        self._if_all_taken: History | None = None
        self._version = version if check is Check.ENVELOPE else data_model(version)
        self._in_flight: dict[tuple[Role, str], tuple[IdentifiedMessage, int]] = {}
        self._in_flight_characters = 0

    @staticmethod
    def known_type(message_type: str) -> str | None:
        """Return a type that a data model has, and None for all others: peers choose those, and log lines go by it."""
        return message_type if any(message_type in kinds for kinds in MESSAGES.values()) else None

    def read(self, text: str) -> Message:
        """Read a received text, at once as far as :meth:`validate` needs it. The errors are those of read_message."""
        return read_message(text) if self.check is _ENVELOPE else read_whole(text, self._version)

    def validate(
        self, sender: Role, message: Message, *, now: datetime | None = None, strict: bool = False
    ) -> ValidationResult:
        """Validate a message as if received now; changes nothing but the message's ``parsed``.

        The first of these decides: a handshake (MSG-01, ``INVALID_CONTENT``), the schema (``INVALID_MESSAGE``, or
        ``INVALID_DATA`` for what is no strict JSON), the state (MSG-02, ``INVALID_CONTENT``), the rules
        (``INVALID_CONTENT``): first those that the message breaks by itself. What comes after it is not looked at.

        Args:
            sender: Who sends it.
            message: The message.
            now: Wall clock, with its time zone, for the rules that know of time; None leaves them out.
            strict: Refuse what is read with a warning only because deployed software writes it (MSG-08).
        """
        identifier = message.id or NIL_ID
        if message.type in HANDSHAKES:
            no_handshakes = f"MSG-01: S2 Connect sessions have no {message.type}"
            return ValidationResult(ReceptionStatusValue.INVALID_CONTENT, no_handshakes, identifier)
        if self.check is _ENVELOPE:
            return ValidationResult(_OK, None, identifier)
        try:
            parsed, tolerated = read_typed(message, self._version, strict=strict)
        except InvalidMessage as error:
            return ValidationResult(error.status, error.label, error.subject_id)
        if self.check is _SCHEMA:
            return ValidationResult(_OK, None, identifier, parsed, tolerated)
        problem = self.state.problem(sender, message.type)
        if problem and (strict or not self.state.is_late(sender, message.type)):
            return ValidationResult(ReceptionStatusValue.INVALID_CONTENT, problem, identifier, parsed, tolerated)
        found: list[Finding] = check(parsed)
        if not found or not _has_error(found):
            found += self._in_history(sender, parsed, now)
        if not found:
            return ValidationResult(_OK, None, identifier, parsed, tolerated)
        errors = [finding for finding in found if finding.rule.severity is Severity.ERROR]
        warnings = (*tolerated, *(finding for finding in found if finding.rule.severity is Severity.WARNING))
        if not errors:
            return ValidationResult(_OK, None, identifier, parsed, warnings)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        label = f"{with_value(errors[0], message.body)}{more}"
        return ValidationResult(ReceptionStatusValue.INVALID_CONTENT, label, identifier, parsed, warnings)

    def accepted(self, sender: Role, message: Message | S2Message, *, now: datetime | None = None) -> None:
        """Note that a validated message is, or will be, answered ``OK``."""
        parsed = self._identified(message)
        if parsed is None:
            return
        if isinstance(parsed, SelectControlType) or self._in_flight:
            self.sent(sender, parsed, now=now)
            self.answered(sender, parsed.message_id, ok=True, now=now)
        else:
            self._history.accept(sender, parsed, now)

    def sent(self, sender: Role, message: Message | S2Message, *, now: datetime | None = None) -> None:
        """Note that a validated message is sent; its ReceptionStatus is to come."""
        if (parsed := self._identified(message)) is None:
            return
        if self._if_all_taken is not None:
            self._if_all_taken.accept(sender, parsed, now)
        key = sender, parsed.message_id
        if key in self._in_flight:
            self._landed(*key)
        size = len(message.text) if isinstance(message, Message) else 0
        self._in_flight[key] = parsed, size
        self._in_flight_characters += size
        while len(self._in_flight) > MAX_IN_FLIGHT or (
            self._in_flight_characters > MAX_IN_FLIGHT_CHARACTERS and len(self._in_flight) > 1
        ):
            self._landed(*next(iter(self._in_flight)))
        if isinstance(parsed, SelectControlType):
            self.state.selecting(parsed.message_id, parsed.control_type)

    def answered(self, sender: Role, message_id: str, *, ok: bool, now: datetime | None = None) -> None:
        """Note the ReceptionStatus about a message of ``sender``. Late ones count, repeated ones do not."""
        parsed = self._landed(sender, message_id)
        if parsed is None:
            return
        if ok:
            self._history.accept(sender, parsed, now)
        if not ok or not self._in_flight:
            self._if_all_taken = None
        if isinstance(parsed, SelectControlType):
            (self.state.selected if ok else self.state.refused)(message_id)

    def _landed(self, sender: Role, message_id: str) -> IdentifiedMessage | None:
        """Remove a message from those that wait for their answer."""
        parsed, size = self._in_flight.pop((sender, message_id), (None, 0))
        self._in_flight_characters -= size
        return parsed

    def _identified(self, message: Message | S2Message) -> IdentifiedMessage | None:
        """Return the typed message; None where nothing follows from it."""
        if self.check is not _RULES:
            return None
        if isinstance(message, Message):
            try:
                message = read_typed(message, self._version).parsed
            except InvalidMessage:
                return None
        return message if isinstance(message, IdentifiedMessage) else None

    def _in_history(self, sender: Role, message: S2Message, now: datetime | None) -> list[Finding]:
        found = self._history.check(sender, message, now)
        if found and self._in_flight and _has_error(found):
            if self._if_all_taken is None:
                self._if_all_taken = self._history.fork()
                for (author, _), (earlier, _) in self._in_flight.items():
                    self._if_all_taken.accept(author, earlier, now)
            other = self._if_all_taken.check(sender, message, now)
            if not _has_error(other):
                return other
        return found


def _has_error(found: Iterable[Finding]) -> bool:
    return any(finding.rule.severity is Severity.ERROR for finding in found)
