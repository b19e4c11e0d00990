"""``replay``: validates a recorded conversation message by message, as the session validated it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from s2connect.diagnostics.message_files import Entry, Record, entries_of, is_frame, role_of
from s2connect.diagnostics.message_sources import NO_MESSAGES, UNCUT, read_file, shown_name
from s2connect.diagnostics.validate import agreed_version, known_version, parse
from s2connect.errors import UsageError
from s2connect.messages.catalogue import V1, parse_message
from s2connect.messages.conversation import Conversation, ValidationResult
from s2connect.messages.envelope import (
    HANDSHAKES,
    NIL_ID,
    RECEPTION_STATUS,
    InvalidMessage,
    Message,
    ReceptionStatusValue,
)
from s2connect.messages.rules import Finding
from s2connect.messages.state import TABLE
from s2connect.model.common import Role
from s2connect.service.failures import ExitCode, Failure
from s2connect.session.acknowledgements import ACKNOWLEDGEMENT_TIMEOUT
from s2connect.session.session import SessionEnd


class Problem(StrEnum):
    """Kind of a remark about a line of a log."""

    REFUSED = "refused"  # invalid by schema, state, rules or earlier messages
    UNANSWERED = "unanswered"  # no ReceptionStatus came, though the session went on
    LATE = "late"  # the ReceptionStatus came later than a session waits for one
    NOT_OK = "not_ok"  # the other side refused the message
    ANSWERED_TWICE = "answered_twice"
    ANSWER_TO_NOTHING = "answer_to_nothing"  # a ReceptionStatus about a message that is not in the log
    DUPLICATE_ID = "duplicate_id"  # the sender had another message with the same id
    WARNING = "warning"  # it breaks a rule for which nothing is refused
    LEFT_OUT = "left_out"  # the log is not complete: conclusions from the rest are uncertain
    UNREADABLE = "unreadable"  # no line of a log
    TORN = "torn"  # not written to its end, as after a crash


HARMLESS = frozenset({Problem.LATE, Problem.NOT_OK, Problem.WARNING, Problem.TORN, Problem.LEFT_OUT})
"""Problems that are reported and do not make a conversation wrong."""


class Remark(NamedTuple):
    """Remark about a message of a log. ``type`` and ``detail`` may hold text of a peer: clean them before display."""

    line: int
    session: str
    sender: Role | None
    type: str | None
    problem: Problem
    detail: str
    finding: Finding | None = None


class ReplayResult(NamedTuple):
    """Result of the validation of a recorded conversation: remarks by line, and numbers."""

    remarks: list[Remark]
    sessions: int
    messages: int
    answers: int  # ReceptionStatus messages among them

    @property
    def ok(self) -> bool:
        """True if all problems are harmless."""
        return all(remark.problem in HARMLESS for remark in self.remarks)


@dataclass
class _LoggedMessage:
    line: int
    session: str
    sender: Role
    type: str | None
    time: datetime | None
    answered: bool = False

    @property
    def now(self) -> datetime | None:
        return self.time if self.time is not None and self.time.tzinfo is not None else None

    def remark(self, problem: Problem, detail: str, finding: Finding | None = None) -> Remark:
        return Remark(self.line, self.session, self.sender, self.type, problem, detail, finding)


@dataclass
class _LoggedSession:
    """State of a session of a log, up to the line that has been read."""

    name: str
    conversation: Conversation
    own_role: Role | None = None
    last: datetime | None = None
    last_line: dict[Role, int] = field(default_factory=dict)  # of the last message, by sender
    handshakes: set[Role] = field(default_factory=set)  # roles that have sent one
    complete: bool = True
    messages: dict[tuple[Role, str], _LoggedMessage] = field(default_factory=dict)


def replay_file(name: str, version: str | None, role: Role | None) -> ReplayResult:
    """Validate a recorded conversation; ``-`` is standard input. Blocks.

    Version None takes what the log says, and otherwise v1.0.0. ``role`` is that of the side that wrote the log; None
    takes what the log says, or what follows from the messages.

    Raises:
        Failure: The file cannot be read, or there is no conversation in it.
        UsageError: The version is unknown, or the roles are unknown.
    """
    content = read_file(name)
    entries = list(entries_of(content))
    if not any(entry.record is not None and entry.text is not None for entry in entries):
        what = f"There is no recorded conversation in {shown_name(name)}."
        hint = (
            "Understood are what serve --record writes, and logs of other software in which messages stand as JSON. "
            "Messages alone: s2connect validate"
        )
        raise Failure(NO_MESSAGES, what, UNCUT if is_frame(content) else hint, code=ExitCode.USAGE)
    replay = _Replay(version, role, entries)
    remarks = sorted(replay.run(), key=lambda remark: remark.line)
    return ReplayResult(remarks, replay.sessions, replay.messages, replay.answers)


class _Replay:
    def __init__(self, version: str | None, role: Role | None, entries: list[Entry]) -> None:
        self._version = version
        self._role = role
        self._entries = entries
        self._open: dict[str, _LoggedSession] = {}
        self._foreign = any(entry.record is not None and entry.record.foreign for entry in entries)
        self.sessions = self.messages = self.answers = 0

    def run(self) -> Iterator[Remark]:
        following: list[Entry | None] = [*self._entries[1:], None]
        for entry, after in zip(self._entries, following, strict=True):
            record = entry.record
            if record is None:
                if not (self._foreign and entry.other):
                    yield self._no_record(entry, after)
            elif record.foreign and entry.broken:  # cut by its logger: its effects on the conversation are unknown
                if (session := self._open.get(record.session)) is not None:
                    session.complete = False
                detail = "The message in this line is cut off."
                yield Remark(entry.line, record.session, None, None, Problem.LEFT_OUT, detail)
            elif record.event == "session_opened":
                yield from self._end(record.session)
                self._begin(record)
            elif record.event == "session_closed":
                closed = self._open.get(record.session)
                if closed is not None and record.reason != SessionEnd.LOST:  # a loss is noticed late
                    closed.last = record.time or closed.last
                yield from self._end(record.session)
            elif record.event == "left_out":
                for one in self._open.values():
                    one.complete = False
                yield Remark(entry.line, "", None, None, Problem.LEFT_OUT, "Here the log is not complete.")
            elif entry.text is not None:
                yield from self._text(entry, entry.text, record)
        for name in list(self._open):
            yield from self._end(name)

    def _text(self, entry: Entry, text: str, record: Record) -> Iterator[Remark]:
        session = self._open.get(record.session) or self._begin(record)
        message = parse(text)
        sender = self._sender(session, message, record, entry.line)
        if sender is None:
            detail = "It does not say whether the message was received or sent, and either side may send it."
            yield Remark(entry.line, record.session, None, None, Problem.UNREADABLE, detail)
            return
        if record.foreign and isinstance(message, Message) and message.type == "Handshake":
            if sender in session.handshakes:  # a new session
                yield from self._end(record.session)
                session = self._begin(record)
            session.handshakes.add(sender)
        kind = message.type if isinstance(message, Message) else None
        logged = _LoggedMessage(entry.line, session.name, sender, kind, record.time)
        yield from self._message(session, logged, message, record.foreign)

    @staticmethod
    def _no_record(entry: Entry, after: Entry | None) -> Remark:
        """Return the remark about a line without a record.

        After a crash the last line may be half; if recording went on later, it was with a new session.
        """
        if entry.broken and (after is None or (after.record is not None and after.record.event == "session_opened")):
            return Remark(entry.line, "", None, None, Problem.TORN, "This line was not written to its end.")
        return Remark(entry.line, "", None, None, Problem.UNREADABLE, "It is no line of a log.")

    def _begin(self, record: Record) -> _LoggedSession:
        conversation = Conversation(known_version(self._version or record.s2_version or V1))
        session = _LoggedSession(record.session, conversation)
        self._open[record.session] = session
        self.sessions += 1
        return session

    def _sender(
        self, session: _LoggedSession, message: Message | InvalidMessage, record: Record, line: int
    ) -> Role | None:
        """Return the sender of a message, from the log or from the message; None if unknown."""
        if record.sender is not None:
            return record.sender
        if record.direction in ("sent", "received"):
            if session.own_role is None:
                session.own_role = self._role_of(record, line)
            return session.own_role if record.direction == "sent" else session.own_role.other
        if not record.foreign or isinstance(message, InvalidMessage):
            return None
        answered = (one.sender.other for (_, name), one in session.messages.items() if name == message.subject_id)
        return _only_sender(message) or next(answered, None)

    def _role_of(self, record: Record, line: int) -> Role:
        """Return the role of the side that wrote the log: as given, or by the first message that only one may send."""
        if self._role is not None:
            return self._role
        if record.role in tuple(Role):
            return Role(record.role)
        for entry in self._entries:
            other = entry.record
            if entry.line < line or other is None or entry.text is None or other.session != record.session:
                continue
            if (sender := _only_sender(parse(entry.text))) is not None and other.direction is not None:
                return sender if other.direction == "sent" else sender.other
        raise UsageError(
            "The log does not say whether an energy manager or a device wrote it.",
            hint="Say it: --role cem or --role rm",
        )

    def _message(
        self, session: _LoggedSession, logged: _LoggedMessage, message: Message | InvalidMessage, foreign: bool
    ) -> Iterator[Remark]:
        session.last = logged.time or session.last
        session.last_line[logged.sender] = logged.line
        self.messages += 1
        if isinstance(message, InvalidMessage):
            yield logged.remark(Problem.REFUSED, f"{message.status}: {message.label}")
            return
        handshake = foreign and message.type in HANDSHAKES
        if handshake:
            verdict = _handshake_verdict(message)
            if self._version is None and (agreed := agreed_version(message)) is not None:
                session.conversation = Conversation(agreed)
        else:
            verdict = session.conversation.validate(logged.sender, message, now=logged.now)
        if not verdict.ok:
            yield logged.remark(Problem.REFUSED, f"{verdict.status}: {verdict.label}")
        for finding in verdict.warnings:
            yield logged.remark(Problem.WARNING, finding.label, finding)
        if message.type == RECEPTION_STATUS:
            yield from self._answer(session, logged, message)
            return
        key = logged.sender, message.id or NIL_ID
        if (earlier := session.messages.get(key)) is not None:
            yield logged.remark(Problem.DUPLICATE_ID, f"Line {earlier.line} has a message with the same id.")
        session.messages[key] = logged
        if not handshake:
            session.conversation.sent(logged.sender, message, now=logged.now)

    def _answer(self, session: _LoggedSession, answer: _LoggedMessage, status: Message) -> Iterator[Remark]:
        self.answers += 1
        subject = status.subject_id or NIL_ID
        logged = session.messages.get((answer.sender.other, subject))
        if logged is None:
            if session.complete:
                detail = f"{status.status}: about a message that is not in the log."
                yield answer.remark(Problem.ANSWER_TO_NOTHING, detail)
            return
        if logged.answered:
            yield logged.remark(Problem.ANSWERED_TWICE, f"Line {answer.line} answers it once more.")
            return
        logged.answered = True
        seconds = _seconds(logged.time, answer.time) or 0.0
        if seconds > ACKNOWLEDGEMENT_TIMEOUT:
            yield logged.remark(Problem.LATE, f"Answered after {seconds:.1f} s, in line {answer.line}.")
        ok = status.status == ReceptionStatusValue.OK
        if not ok:
            label = f": {status.label}" if status.label else ""
            yield logged.remark(Problem.NOT_OK, f"Line {answer.line} refuses it, {status.status}{label}")
        session.conversation.answered(logged.sender, subject, ok=ok, now=answer.now)

    def _end(self, name: str) -> Iterator[Remark]:
        """End a session; messages sent just before need no answer."""
        session = self._open.pop(name, None)
        if session is None or not session.complete:
            return
        for logged in session.messages.values():
            if logged.answered:
                continue
            left = _seconds(logged.time, session.last)
            if left is None:
                if session.last_line.get(logged.sender.other, 0) < logged.line:  # the log ends before the answer
                    continue
                detail = "It was never answered, though the other side went on."
            elif left > ACKNOWLEDGEMENT_TIMEOUT:
                detail = f"It was never answered, though the session went on for {left:.1f} s."
            else:
                continue
            yield logged.remark(Problem.UNANSWERED, detail)


def _seconds(begin: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds between two times of a log; None if one is missing, or only one has a time zone."""
    if begin is None or end is None or (begin.tzinfo is None) is not (end.tzinfo is None):
        return None
    return (end - begin).total_seconds()


def _handshake_verdict(message: Message) -> ValidationResult:
    """Validate a handshake message of plain S2 by its schema."""
    try:
        parse_message(message, V1)
    except InvalidMessage as error:
        return ValidationResult(error.status, error.label, error.subject_id)
    return ValidationResult(ReceptionStatusValue.OK, None, message.id or NIL_ID)


def _only_sender(message: Message | InvalidMessage) -> Role | None:
    """Return the only role that may send messages of this type, or the role that a Handshake names."""
    if isinstance(message, InvalidMessage):
        return None
    if message.type == "HandshakeResponse":
        return Role.CEM
    if message.type in HANDSHAKES:
        with suppress(InvalidMessage):
            return role_of(message.body.get("role"))
        return None
    senders = {role for row in TABLE.values() for role in Role if message.type in row[role]}
    return senders.pop() if len(senders) == 1 else None
