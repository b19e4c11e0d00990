"""Watches over sessions and links: pass what they see to meters, ring and curves. Called for every message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from s2connect.bridge.relay import Out
from s2connect.messages.envelope import RECEPTION_STATUS, Message
from s2connect.messages.general import PowerMeasurement
from s2connect.model.common import Role
from s2connect.session.observers import Direction
from s2connect.web.meter import OK, Meter, Rate
from s2connect.web.power import Body, Curves
from s2connect.web.ring import MAX_TEXT, MessageRing, cut

MEASUREMENT: Final = "PowerMeasurement"

MAX_UNANSWERED: Final = 16
"""Measurements of a session or link that wait for their answer; beyond it the oldest is left out of the curve."""


class Journal:
    """Ring and curves that all watches share.

    Attributes:
        ring: The last messages.
        curves: Measured values.
        sleepers: Called, once, when there is something new.
    """

    __slots__ = ("curves", "ring", "sleepers")

    def __init__(self) -> None:
        self.ring = MessageRing()
        self.curves = Curves()
        self.sleepers: list[Callable[[], object]] = []

    def wake(self) -> None:
        """Wake the tasks that wait for news."""
        sleepers, self.sleepers = self.sleepers, []
        for call in sleepers:
            call()


class Unanswered:
    """Measurements that wait for their answer: a curve has those that the other side has accepted."""

    __slots__ = ("_bodies",)

    def __init__(self) -> None:
        self._bodies: dict[str | None, Body] = {}

    def add(self, message: Message) -> None:
        """Add a measurement."""
        self._bodies[message.id] = partial(_measurement, message)
        if len(self._bodies) > MAX_UNANSWERED:
            del self._bodies[next(iter(self._bodies))]

    def pop(self, answer: Message) -> Body | None:
        """Return the measurement that a ReceptionStatus accepts; None if it refuses it, or is about something else."""
        body = self._bodies.pop(answer.subject_id, None) if self._bodies else None
        return body if answer.status == OK else None


class SessionWatch:
    """Observer of one session.

    Args:
        meter: Meter of the peer.
        journal: Ring and curves.
        measurements: Direction in which measurements pass: those of the device.
        clock: Seconds of a clock that never goes back.
    """

    __slots__ = (
        "_append",
        "_clock",
        "_journal",
        "_last_id",
        "_last_type",
        "_measurements",
        "_meter",
        "_ring",
        "_unanswered",
    )

    def __init__(self, meter: Meter, journal: Journal, measurements: Direction, clock: Callable[[], float]) -> None:
        self._meter = meter
        self._journal = journal
        self._ring = journal.ring
        self._append = journal.ring.entries.append
        self._measurements = measurements
        self._clock = clock
        self._last_id: str | None = None
        self._last_type = ""
        self._unanswered = Unanswered()

    def __call__(self, direction: Direction, message: Message) -> None:
        """Note a message of the session."""
        # Written out, because it is called for every message.
        meter, now, kind, text = self._meter, self._clock(), message.type, message.text
        if kind != RECEPTION_STATUS:
            if direction == "received":
                rate = meter.received
                meter.received_characters += len(text)
                self._last_id, self._last_type = message.id, kind
            else:
                rate = meter.sent
            if now >= rate.end:
                rate.next_step(now)
            rate.total += 1
            if kind == MEASUREMENT and direction == self._measurements:
                self._unanswered.add(message)
        else:
            if direction != self._measurements and (body := self._unanswered.pop(message)) is not None:
                self._journal.curves.add(meter.key, meter.title, body, now)
            if message.status != OK:
                self._refused(direction, message, now)
        self._ring.count += 1
        self._append((now, meter, direction, kind, message.status, text if len(text) <= MAX_TEXT else cut(text)))
        if self._journal.sleepers:
            self._journal.wake()

    def _refused(self, direction: Direction, message: Message, now: float) -> None:
        subject, ring = message.subject_id or "", self._ring
        if direction == "received":
            by, kind = "peer", ring.find(self._meter, "sent", subject)
        else:
            by = "us"
            kind = self._last_type if subject == self._last_id else ring.find(self._meter, "received", subject)
        self._meter.refuse(by, kind, message.status or "", message.label or "", now)


class LinkSideWatch(Rate):
    """One side of a link: counts its messages, and names them in the ring."""

    __slots__ = ("_title", "key")

    def __init__(self, key: str, title: Callable[[], str]) -> None:
        super().__init__()
        self.key = key
        self._title = title

    @property
    def title(self) -> str:
        """Name of the peer."""
        return self._title()


class LinkWatch:
    """Watch over one link of a bridge; a :class:`s2connect.bridge.link.LinkWatch`.

    Attributes:
        sides: By role of the peer.
    """

    __slots__ = ("_append", "_journal", "_ring", "_unanswered", "sides")

    def __init__(self, key: str, title: Callable[[Role], str], journal: Journal) -> None:
        self.sides = {role: LinkSideWatch(side_key(key, role), partial(title, role)) for role in Role}
        self._journal = journal
        self._ring = journal.ring
        self._append = journal.ring.entries.append
        self._unanswered = Unanswered()

    def passed(self, side: Role, message: Message | None, text: str, outs: Sequence[Out], now: float) -> None:
        """Note a text of one side, and what follows from it."""
        # Written out, because it is called for every message.
        from_, kind, status = self.sides[side], "", None
        if message is not None:
            kind, status = message.type, message.status
            if kind != RECEPTION_STATUS:
                if now >= from_.end:
                    from_.next_step(now)
                from_.total += 1
                if kind == MEASUREMENT and side is Role.RM:
                    self._unanswered.add(message)
            elif side is Role.CEM and (body := self._unanswered.pop(message)) is not None:
                device = self.sides[Role.RM]
                self._journal.curves.add(device.key, device.title, body, now)
        self._ring.count += 1
        self._append((now, from_, "received", kind, status, text if len(text) <= MAX_TEXT else cut(text)))
        for to, out, _ in outs:
            if out is not text:  # the bridge's own, or a translation
                self._ring.add(now, self.sides[to], "sent", "", None, out)
        if self._journal.sleepers:
            self._journal.wake()

    def answered(self, out: Out, now: float) -> None:
        """Note an answer of the bridge to what the other side did not answer."""
        self._ring.add(now, self.sides[out.to], "sent", "", None, out.text)


def _measurement(message: Message) -> PowerMeasurement | dict[str, Any]:
    """Return a measurement as it was read already, or its members."""
    parsed = message.reading.parsed if message.reading is not None else None
    return parsed if isinstance(parsed, PowerMeasurement) else message.body


def side_key(link: str, role: Role) -> str:
    """Return the key of a side of a link."""
    return f"{link}/{role.lower()}"
