"""Watches over sessions and links: pass what they see to meters, ring and curves. Called for every message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from s2connect.bridge.relay import Out
from s2connect.messages.envelope import RECEPTION_STATUS, Message
from s2connect.model.common import Role
from s2connect.session.observers import Direction
from s2connect.web.meter import OK, Meter, Rate
from s2connect.web.power import Curves, Device, values_of
from s2connect.web.ring import MessageRing, Source

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

    def refill(self, now: float) -> None:
        """Let as much be kept and read as time has passed for: when :attr:`MessageRing.due` has come."""
        self.ring.refill(now)
        self.curves.refill(now)

    def wake(self) -> None:
        """Wake the tasks that wait for news."""
        sleepers, self.sleepers = self.sleepers, []
        for call in sleepers:
            call()


class Unanswered:
    """Measurements that wait for their answer: a curve has those that the other side has accepted."""

    __slots__ = ("_messages",)

    def __init__(self) -> None:
        self._messages: dict[str | None, Message] = {}

    def add(self, message: Message) -> None:
        """Add a measurement."""
        self._messages[message.id] = message
        if len(self._messages) > MAX_UNANSWERED:
            del self._messages[next(iter(self._messages))]

    def pop(self, answer: Message) -> Message | None:
        """Return the measurement that a ReceptionStatus accepts; None if it refuses it, or is about something else."""
        message = self._messages.pop(answer.subject_id, None) if self._messages else None
        return message if answer.status == OK else None


class Readings:
    """Accepted measurements of one device, on their way to its curves.

    Where a fleet measures more than :data:`~s2connect.web.power.READS_PER_SECOND`, some are left out: of each device
    one of each point of its curve is read, and all of those that somebody looks at.

    Attributes:
        wanted: The next one is to be read, also if none are left for the fleet.
    """

    __slots__ = ("_all", "_curves", "_device", "_source", "wanted")

    def __init__(self, source: Source, curves: Curves) -> None:
        self._source = source
        self._curves = curves
        self._device: Device | None = None
        self._all = False
        self.wanted = True

    def begin_step(self, now: float) -> None:
        """Begin a step of the rate of the device, of which a point of its curve has several."""
        device = self._device
        self._all = device is not None and now < device.watched_until
        if self._all or device is None or now >= device.end:
            self.wanted = True

    def add(self, message: Message, now: float) -> None:
        """Read a measurement."""
        self._curves.left -= 1
        self.wanted = self._all
        device = self._device
        if device is None or now >= device.end:
            device = self._device = self._curves.device(self._source.key, self._source.title, now)
        device.add(values_of(message))


class SessionWatch:
    """Observer of one session: :meth:`note`.

    Args:
        meter: Meter of the peer.
        journal: Ring and curves.
        measurements: Direction in which measurements pass: those of the device.
        clock: Seconds of a clock that never goes back.
    """

    __slots__ = ("_clock", "_curves", "_is_manager", "_journal", "_last", "_meter", "_readings", "_ring", "_unanswered")

    def __init__(self, meter: Meter, journal: Journal, measurements: Direction, clock: Callable[[], float]) -> None:
        self._meter = meter
        self._journal = journal
        self._ring = journal.ring
        self._curves = journal.curves
        self._is_manager = measurements == "received"
        self._clock = clock
        self._last: Message | None = None  # that was received, until it is answered; mostly that is at once
        self._readings = Readings(meter, journal.curves)
        self._unanswered = Unanswered()

    def note(self, direction: Direction, message: Message) -> None:
        """Note a message of the session."""
        # Called for every message. A server with many sessions works with cold caches, so that each line counts.
        # Keeping a message costs more than counting it: the processor has to fetch that memory anew.
        ring = self._ring
        if message.type != RECEPTION_STATUS:
            now, meter = self._clock(), self._meter
            if direction == "received":
                rate = meter.received
                meter.received_characters += len(message.text)
                if self._last is not None:
                    self._answer_later(self._last)
                self._last = message
            else:
                rate = meter.sent
                if not self._is_manager and message.type == MEASUREMENT:
                    self._unanswered.add(message)
            if now >= rate.end:
                rate.next_step(now)
                self._readings.begin_step(now)
            rate.total += 1
            if now >= ring.due:
                self._journal.refill(now)
            if ring.left <= 0:
                return
            ring.add(now, meter, direction, message.type, None, message.text)
        else:
            last, ok = self._last, message.status == OK
            if last is not None and direction == "sent" and last.id == message.subject_id:
                self._last = None
                if ok and (self._curves.left > 0 or self._readings.wanted) and self._is_measured(last):
                    self._readings.add(last, self._clock())
            else:
                last = None
                if (direction == "sent") is self._is_manager:
                    accepted = self._unanswered.pop(message)
                    if accepted is not None and (self._curves.left > 0 or self._readings.wanted):
                        self._readings.add(accepted, self._clock())
            if not ok:
                self._refused(direction, message, last)
            elif ring.left <= 0:
                return
            ring.add(self._clock(), self._meter, direction, RECEPTION_STATUS, message.status, message.text)
        if self._journal.sleepers:
            self._journal.wake()

    def _is_measured(self, received: Message) -> bool:
        return self._is_manager and received.type == MEASUREMENT

    def _answer_later(self, received: Message) -> None:
        if self._is_measured(received):
            self._unanswered.add(received)

    def _refused(self, direction: Direction, message: Message, refused: Message | None) -> None:
        by = "peer" if direction == "received" else "us"
        of: Direction = "sent" if direction == "received" else "received"
        kind = refused.type if refused is not None else self._ring.find(self._meter, of, message.subject_id or "")
        self._meter.refuse(by, kind, message.status or "", message.label or "", self._clock())


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

    __slots__ = ("_journal", "_readings", "_ring", "_unanswered", "sides")

    def __init__(self, key: str, title: Callable[[Role], str], journal: Journal) -> None:
        self.sides = {role: LinkSideWatch(side_key(key, role), partial(title, role)) for role in Role}
        self._journal = journal
        self._ring = journal.ring
        self._readings = Readings(self.sides[Role.RM], journal.curves)
        self._unanswered = Unanswered()

    def passed(self, side: Role, message: Message | None, text: str, outs: Sequence[Out], now: float) -> None:
        """Note a text of one side, and what follows from it."""
        # Written out, because it is called for every message.
        from_, ring, kind, status = self.sides[side], self._ring, "", None
        if message is not None:
            kind, status = message.type, message.status
            if kind != RECEPTION_STATUS:
                if now >= from_.end:
                    from_.next_step(now)
                    self._readings.begin_step(now)
                from_.total += 1
                if kind == MEASUREMENT and side is Role.RM:
                    self._unanswered.add(message)
            elif side is Role.CEM:
                accepted = self._unanswered.pop(message)
                if accepted is not None and (self._journal.curves.left > 0 or self._readings.wanted):
                    self._readings.add(accepted, now)
        if now >= ring.due:
            self._journal.refill(now)
        if ring.left > 0 or (status is not None and status != OK):
            ring.add(now, from_, "received", kind, status, text)
        for to, out, _ in outs:
            if out is not text and ring.left > 0:  # the bridge's own, or a translation
                ring.add(now, self.sides[to], "sent", "", None, out)
        if self._journal.sleepers:
            self._journal.wake()

    def answered(self, out: Out, now: float) -> None:
        """Note an answer of the bridge to what the other side did not answer."""
        self._ring.add(now, self.sides[out.to], "sent", "", None, out.text)


def side_key(link: str, role: Role) -> str:
    """Return the key of a side of a link."""
    return f"{link}/{role.lower()}"
