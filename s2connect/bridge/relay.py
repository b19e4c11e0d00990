"""Relay of a link's messages, without I/O: check, forward, acknowledge (MSG-03, MSG-06)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

from s2connect import Check, Conversation, InvalidMessage, Message, Role
from s2connect.bridge.counters import BRIDGE, PEER, Counters
from s2connect.errors import UsageError
from s2connect.messages import (
    HANDSHAKES,
    NIL_ID,
    RECEPTION_STATUS,
    SESSION_REQUEST,
    Finding,
    ReceptionStatusValue,
    Translator,
    Untranslatable,
    data_model,
    read_message,
    reception_status,
)
from s2connect.session import (
    DEFAULT_LIMITS,
    MAX_OUTSTANDING,
    Acknowledged,
    Acknowledgements,
    Latencies,
    PeerBudget,
    PeerLimits,
    TokenBucket,
)
from s2connect.transports import MAX_MESSAGE_BYTES

_log = logging.getLogger(__name__)

ENDED: Final = "the link to the other side has ended"

FAR_SIDE_PATIENCE: Final = 4.0
"""Seconds that the far side has for its ReceptionStatus; software in the field gives up after five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Limits and validation of a link.

    Attributes:
        check: Validation level of messages.
        max_message_bytes: Longest message.
        messages_per_second: How many each side may send in the long run, ReceptionStatuses not counted; 0 for no limit.
        burst: How many it may send at once.
        patience: Seconds that the far side has for its ReceptionStatus.
        limits: How much of this process each side may use; reading pauses for one that uses more.
    """

    check: Check = Check.ENVELOPE
    max_message_bytes: int = MAX_MESSAGE_BYTES
    messages_per_second: float = 0.0
    burst: int = 100
    patience: float = FAR_SIDE_PATIENCE
    limits: PeerLimits = DEFAULT_LIMITS


class Fate(StrEnum):
    """Fate of a message; the values name the counters of a link."""

    FORWARDED = "forwarded"
    ACKNOWLEDGED = "acknowledged"
    """The far side answered, whatever it said."""
    REFUSED = "refused"
    """The bridge answered, because the message is none, or breaks the policy."""
    UNANSWERED = "unanswered"
    """The far side did not answer in time, or until the link ended, and the bridge said so."""
    LATE = "late"
    """A ReceptionStatus that came after that; it went no further."""
    STRAY = "stray"
    """A ReceptionStatus to nothing that was sent, or a second one; it went no further."""


# Python 3.11 looks a member up more slowly than it counts.
_FORWARDED, _ACKNOWLEDGED, _OK = Fate.FORWARDED, Fate.ACKNOWLEDGED, ReceptionStatusValue.OK
_UNKNOWN, _LATE = Acknowledged.UNKNOWN, Acknowledged.LATE

_DETAILS: Final = "ResourceManagerDetails"
_NOTED: Final = frozenset({SESSION_REQUEST, _DETAILS})

_SHORT: Final = 400
"""Bytes below which a text that names the type of a ReceptionStatus is taken for one, until it is read."""


class Out(NamedTuple):
    """A text to send.

    Attributes:
        to: The side it goes to, named by the role of the peer there.
        text: What to send.
        key: Of a message that was forwarded, the id under which it may be withdrawn as long as it has not left.
    """

    to: Role
    text: str
    key: str | None = None


_out = partial(tuple.__new__, Out)
"""Makes an :class:`Out` of a tuple, without a call of Python."""


class Overdue(NamedTuple):
    """A message that the far side did not acknowledge in time.

    Attributes:
        key: Its id. If it has not left the bridge yet, it must not leave any more.
        to: The side that it was meant for.
        answer: ReceptionStatus to its sender; it has no key, and is never withdrawn.
    """

    key: str
    to: Role
    answer: Out


class _Side:
    """Messages of one side."""

    def __init__(self, role: Role, policy: Policy, counts: dict[str, int], latencies: Latencies | None) -> None:
        self.role = role
        self.other = role.other
        self.ledger = Acknowledgements(timeout=policy.patience)
        self.budget = PeerBudget(policy.limits)
        self.ledger.latencies = latencies
        self.counts = counts
        for what in (*map(str, Fate), "bytes", "slowed"):
            counts.setdefault(what, 0)
        self.rate = TokenBucket(policy.messages_per_second, policy.burst) if policy.messages_per_second else None
        self.types: dict[str, str] = {}  # forwarded messages by id, until they are answered
        self.warned: set[str] = set()

    def is_too_fast(self, now: float) -> bool:
        """Return whether a message now is more than the side may send."""
        return self.rate is not None and self.rate.tokens(now) < 1.0


class Relay:
    """Relay of one link's messages while both sides are connected.

    The bridge never answers ``OK`` itself: it passes on the far side's ReceptionStatus, and answers ``TEMPORARY_ERROR``
    where none comes. The one exception is what the translation between two versions has to keep
    (see :class:`~s2connect.messages.versions.Translator`).

    Args:
        versions: S2 JSON version by side, in any spelling (VER-06).
        policy: Limits and validation.
        counters: Counters of the link, which outlive its sessions.
        on_details: Called with the first ResourceManagerDetails that is forwarded.
        wall: Clock for translations.

    Attributes:
        last_read: The message of the last text; None for what is none.
        validates: Whether messages are read further than their envelope, which is most of the work.

    Raises:
        UsageError: A version is unknown that the policy or a translation needs.
    """

    def __init__(
        self,
        versions: Mapping[Role, str],
        policy: Policy,
        *,
        counters: Counters | None = None,
        on_details: Callable[[Message], None] | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.policy = policy
        self.counters = counters = counters or Counters()
        self._on_details = on_details
        self._clock = 0.0
        self.last_read: Message | None = None
        self._farewells: dict[Role, str] = {}
        self._wall = wall
        self._sides = {
            role: _Side(role, policy, counters.messages[role], counters.latencies.get(role))
            for role in (Role.RM, Role.CEM)
        }
        rm, cem = versions[Role.RM], versions[Role.CEM]
        conversation = Conversation(rm, check=policy.check)
        self._conversations = {Role.RM: conversation, Role.CEM: conversation}
        # Of an envelope only a handshake is refused, and only the rules look back on what was said before.
        self.validates, self._looks_back = policy.check is not Check.ENVELOPE, policy.check is Check.RULES
        self._translator: Translator | None = None
        if rm != cem and data_model(rm) != data_model(cem):
            self._translator = Translator(rm, cem)
            self._conversations[Role.CEM] = Conversation(cem, check=policy.check)

    def received(self, side: Role, text: str, *, now: float) -> list[Out]:
        """Process a text from one side; ``now`` never goes back.

        Returns:
            The texts to send, in this order.
        """
        self._clock = now
        from_ = self._sides[side]
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        from_.counts["bytes"] += size
        try:
            message = self._read(from_, text, size, now) if self.validates else read_message(text)
            self.last_read = message
            if message.type != RECEPTION_STATUS:
                return self._message(side, message, size, now)
            if self._translator is None:
                return self._pass_on(side, message)
            return self._answered(self._translator, side, message)
        except InvalidMessage as error:
            self.last_read = None
            if not error.answerable:
                from_.counts[Fate.STRAY] += 1
                return []
            return self._refuse(side, None, error.subject_id, error.status, error.label)

    def charge(self, side: Role, text: str, worked: float, *, now: float) -> float | None:
        """Charge a text to its sender's side. Arguments and result are those of ``PeerBudget.charge``."""
        budget = self._sides[side].budget
        pause = budget.charge(len(text), worked, now=now)
        if pause:
            self._sides[side].counts["slowed"] += 1
            if budget.slowed == 1 and (more := self.counters.lines.due((side, "slowed"), now)) is not None:
                what = "link %s: the %s sends more than it may and is read from more slowly%s"
                _log.warning(what, self.counters.name, side, more, extra={"link": self.counters.name})
        return pause

    def _read(self, from_: _Side, text: str, size: int, now: float) -> Message:
        """Read a text where messages are validated: typed at once if it will be, otherwise its envelope only."""
        if size > self.policy.max_message_bytes or from_.is_too_fast(now):
            return read_message(text)
        if size < _SHORT and RECEPTION_STATUS in text:
            return read_message(text)  # it will not be validated
        return self._conversations[from_.role].read(text)

    def _message(self, side: Role, message: Message, size: int, now: float) -> list[Out]:
        from_, identifier, policy = self._sides[side], message.id or NIL_ID, self.policy
        kind = message.type
        if size > policy.max_message_bytes:
            # Not PERMANENT_ERROR: it would end the session and bring the same message back, for ever (MQ-15).
            label = f"longer than the {policy.max_message_bytes} bytes that this link carries: {size}"
            return self._refuse(side, kind, identifier, ReceptionStatusValue.INVALID_CONTENT, label)
        if from_.rate is not None:
            if from_.is_too_fast(now):
                label = f"more than {policy.messages_per_second:g} messages a second"
                return self._refuse(side, kind, identifier, ReceptionStatusValue.TEMPORARY_ERROR, label)
            from_.rate.take(1.0, now)
        day = self._wall() if self._looks_back else None
        if self.validates or kind in HANDSHAKES:
            verdict = self._conversations[side].validate(side, message, now=day)
            if verdict.warnings:
                self._warn(side, message, verdict.warnings, now)
            if not verdict.ok:
                return self._refuse(side, kind, verdict.subject_id, verdict.status, verdict.label)
        try:
            from_.ledger.sent(identifier, now=now)
        except UsageError:
            label = "a message with this message_id, or too many, wait for their ReceptionStatus"
            return self._refuse(side, kind, identifier, ReceptionStatusValue.TEMPORARY_ERROR, label)
        from_.types[identifier] = kind
        if len(from_.types) > 2 * MAX_OUTSTANDING:  # waiting messages, and those given up
            del from_.types[next(iter(from_.types))]
        if self._translator is not None:
            return self._translated(self._translator, side, message)
        if self._looks_back:
            self._conversations[side].sent(side, message, now=day)
        from_.counts[_FORWARDED] += 1
        if kind in _NOTED:
            self._note(from_, message)
        return [_out((from_.other, message.text, identifier))]

    def _note(self, from_: _Side, message: Message) -> None:
        """Note a forwarded message that says something about its session or its device."""
        if message.type == SESSION_REQUEST:
            self._farewells[from_.other] = message.id or NIL_ID
        elif message.type == _DETAILS and self._on_details is not None and from_.other is Role.CEM:
            self._on_details(message)
            self._on_details = None

    def _translated(self, translator: Translator, side: Role, message: Message) -> list[Out]:
        from_, identifier = self._sides[side], message.id or NIL_ID
        try:
            message = translator.conforming(side, message)
            translation = translator.translate(side, message, now=self._wall())
        except (Untranslatable, InvalidMessage) as error:
            from_.ledger.acknowledged(identifier)
            from_.types.pop(identifier, None)
            if isinstance(error, InvalidMessage):
                raise
            return self._refuse(side, message.type, identifier, ReceptionStatusValue.INVALID_CONTENT, error.reason)
        self._conversations[side].sent(side, message, now=self._now())
        from_.counts[_FORWARDED] += 1
        self._note(from_, message)
        if translation.back:
            from_.ledger.acknowledged(identifier)
            from_.types.pop(identifier, None)
            self._conversations[side].answered(side, identifier, ok=True, now=self._now())
        for text in translation.onward:
            onward, there = read_message(text), self._conversations[side.other]
            there.validate(side, onward, now=self._now())
            there.sent(side, onward, now=self._now())
        answers = [Out(side, text) for text in translation.back]
        # What was written anew has no key: of two texts that belong together, none may be withdrawn.
        key = identifier if translation.onward == (message.text,) and not answers else None
        return [*answers, *(Out(side.other, text, key) for text in translation.onward)]

    def _answered(self, translator: Translator, side: Role, message: Message) -> list[Out]:
        """Handle a ReceptionStatus from one side between two versions."""
        self._conversations[side].answered(
            side.other, message.subject_id or NIL_ID, ok=message.status == _OK, now=self._now()
        )
        onward = translator.translate(side, message, now=self._wall()).onward
        return [out for text in onward for out in self._pass_on(side, read_message(text))]

    def _pass_on(self, side: Role, message: Message) -> list[Out]:
        """Handle a ReceptionStatus from one side, about a message of the other."""
        subject, sender = message.subject_id or NIL_ID, self._sides[side].other
        of = self._sides[sender]
        found = of.ledger.acknowledged(subject, self._clock)
        if found is _UNKNOWN:
            of.counts[Fate.STRAY] += 1
            return []
        kind = of.types.pop(subject, None)
        if message.status != _OK:
            self.counters.refuse(sender, kind, message.status or "", message.label, by=PEER, now=self._clock)
        if self._looks_back:
            ok = message.status == _OK
            self._conversations[sender].answered(sender, subject, ok=ok, now=self._wall())
        if found is _LATE:
            of.counts[Fate.LATE] += 1
            _log.debug("link %s: a ReceptionStatus of the %s came late", self.counters.name, side)
            return []
        of.counts[_ACKNOWLEDGED] += 1
        return [_out((sender, message.text, None))]

    def _refuse(
        self, side: Role, kind: str | None, subject: str, status: ReceptionStatusValue, label: str | None
    ) -> list[Out]:
        self._sides[side].counts[Fate.REFUSED] += 1
        self.counters.refuse(side, kind, status, label, by=BRIDGE, now=self._clock)
        return [Out(side, reception_status(subject, status, label))]

    def _warn(self, side: Role, message: Message, warnings: Iterable[Finding], now: float) -> None:
        """Log findings, each rule once for each side, and once a minute where sessions begin anew (MSG-08)."""
        warned = self._sides[side].warned
        for finding in warnings:
            if finding.rule.id in warned:
                continue
            warned.add(finding.rule.id)
            if (more := self.counters.lines.due((side, finding.rule.id), now)) is not None:
                what = "link %s: %s of the %s has a fault that does no harm: %s%s"
                about = {"link": self.counters.name}
                _log.warning(what, self.counters.name, message.type, side, finding.label, more, extra=about)

    def _now(self) -> datetime | None:
        """Return the time of the day; None where nothing depends on it."""
        return self._wall() if self._looks_back else None

    @property
    def deadline(self) -> float | None:
        """Return the time at which :meth:`overdue` has a result; None while nothing waits."""
        deadlines = [d for s in self._sides.values() if (d := s.ledger.deadline) is not None]
        return min(deadlines, default=None)

    def overdue(self, now: float) -> list[Overdue]:
        """Give up the messages whose ReceptionStatus has not come in time, of each side the oldest first."""
        self._clock = now
        label = f"no answer of the other side within {self.policy.patience:g} s"
        found = self._given_up(now, label)
        for overdue in found:
            sender = overdue.to.other
            kind = self._sides[sender].types.get(overdue.key)
            self.counters.refuse(sender, kind, ReceptionStatusValue.TEMPORARY_ERROR, label, by=BRIDGE, now=now)
        return found

    def ended(self) -> list[Overdue]:
        """Give up all messages that wait for a ReceptionStatus, because the link has ended."""
        return self._given_up(math.inf, ENDED)

    def _given_up(self, now: float, label: str) -> list[Overdue]:
        found: list[Overdue] = []
        for side, from_ in self._sides.items():
            for key in from_.ledger.expired(now):
                from_.counts[Fate.UNANSWERED] += 1
                answer = Out(side, reception_status(key, ReceptionStatusValue.TEMPORARY_ERROR, label))
                found.append(Overdue(key, side.other, answer))
        return found

    def withdrawn(self, overdue: Overdue) -> None:
        """Note that an overdue message was never sent, so that no ReceptionStatus about it will come."""
        sender = overdue.to.other
        self._sides[sender].ledger.acknowledged(overdue.key)
        self._conversations[sender].answered(sender, overdue.key, ok=False)
        if self._farewells.get(overdue.to) == overdue.key:
            del self._farewells[overdue.to]

    def knows_of_the_end(self, side: Role) -> bool:
        """Return whether a forwarded SessionRequest has announced the end of the session to this side."""
        return side in self._farewells
