"""What may be said in a session, by either side: schema, state and meaning of each message in one judgement."""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from s2connect.messages.base import IdentifiedMessage, S2Message
from s2connect.messages.catalogue import data_model, parse_message
from s2connect.messages.envelope import HANDSHAKES, NIL_ID, InvalidMessage, Message, ReceptionStatusValue
from s2connect.messages.general import SelectControlType
from s2connect.messages.state import SessionState
from s2connect.model.common import Role

MAX_IN_FLIGHT: Final = 1000
"""Messages that are remembered while they wait for their answer; beyond it the oldest is forgotten."""


class Check(StrEnum):
    """How much of a message is judged."""

    ENVELOPE = "envelope"
    """That it is a message, and no handshake (MSG-01)."""
    SCHEMA = "schema"
    """Also every member, by the schema of the session's version."""
    RULES = "rules"
    """Also whether it may be sent now (MSG-02), and what it says."""


class Verdict(NamedTuple):
    """What becomes of a message.

    Attributes:
        status: What its ReceptionStatus says (MSG-03).
        label: What is wrong with it, with the number of the rule; None where nothing is. Holds no value of the message.
        subject_id: Which id the ReceptionStatus names.
        parsed: The typed message, where it was read that far.
    """

    status: ReceptionStatusValue
    label: str | None
    subject_id: str
    parsed: S2Message | None

    @property
    def ok(self) -> bool:
        """Whether it is taken."""
        return self.status is ReceptionStatusValue.OK


class Conversation:
    """One session, judged message by message as it goes on. Knows both sides, so either side or a listener can use it.

    For every message in the order of sending: :meth:`judge`, and if it is taken either :meth:`accepted` by who answers
    it, or :meth:`sent` and, once its ReceptionStatus has come, :meth:`answered` by who has to wait for that.

    Args:
        version: S2 JSON version of the session, in any spelling (VER-06).
        check: How much is judged.

    Raises:
        UsageError: ``version`` is unknown.
    """

    def __init__(self, version: str, *, check: Check = Check.RULES) -> None:
        self.check = check
        self.state = SessionState()
        self._version = version if check is Check.ENVELOPE else data_model(version)
        self._in_flight: OrderedDict[tuple[Role, str], IdentifiedMessage] = OrderedDict()

    def judge(self, sender: Role, message: Message) -> Verdict:
        """Judge a message as if it came now; changes nothing but that its ``parsed`` is set.

        The first of these decides: a handshake (MSG-01, ``INVALID_CONTENT``), the schema (``INVALID_MESSAGE``, or
        ``INVALID_DATA`` for what is no strict JSON), the state (MSG-02, ``INVALID_CONTENT``), the rules
        (``INVALID_CONTENT``).
        """
        identifier = message.id or NIL_ID
        if message.type in HANDSHAKES:
            no_handshakes = f"MSG-01: S2 Connect sessions have no {message.type}"
            return Verdict(ReceptionStatusValue.INVALID_CONTENT, no_handshakes, identifier, None)
        if self.check is Check.ENVELOPE:
            return Verdict(ReceptionStatusValue.OK, None, identifier, None)
        try:
            parsed = parse_message(message, self._version)
        except InvalidMessage as error:
            return Verdict(error.status, error.label, error.subject_id, None)
        msgspec.structs.force_setattr(message, "_parsed", parsed)
        label = self._broken_rule(sender, parsed) if self.check is Check.RULES else None
        status = ReceptionStatusValue.INVALID_CONTENT if label else ReceptionStatusValue.OK
        return Verdict(status, label, identifier, parsed)

    def accepted(self, sender: Role, message: Message | S2Message) -> None:
        """A message that was judged is, or will be, answered ``OK``."""
        if (parsed := self._identified(message)) is not None:
            self.sent(sender, parsed)
            self.answered(sender, parsed.message_id, ok=True)

    def sent(self, sender: Role, message: Message | S2Message) -> None:
        """A message that was judged is on its way; its ReceptionStatus is to come."""
        if (parsed := self._identified(message)) is None:
            return
        self._in_flight[sender, parsed.message_id] = parsed
        if len(self._in_flight) > MAX_IN_FLIGHT:
            self._in_flight.popitem(last=False)
        if isinstance(parsed, SelectControlType):
            self.state.selecting(parsed.message_id, parsed.control_type)

    def answered(self, sender: Role, message_id: str, *, ok: bool) -> None:
        """The ReceptionStatus about a message of ``sender`` has come; late ones count, and repeated ones do not."""
        parsed = self._in_flight.pop((sender, message_id), None)
        if isinstance(parsed, SelectControlType):
            (self.state.selected if ok else self.state.refused)(message_id)

    def _identified(self, message: Message | S2Message) -> IdentifiedMessage | None:
        """The typed message, unless nothing follows from it."""
        if self.check is not Check.RULES:
            return None
        parsed = message.parsed if isinstance(message, Message) else message
        return parsed if isinstance(parsed, IdentifiedMessage) else None

    def _broken_rule(self, sender: Role, message: S2Message) -> str | None:
        return self.state.problem(sender, message.message_type)
