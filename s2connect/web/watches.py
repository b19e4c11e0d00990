"""Watches over sessions and links: pass what they see to meters, ring and curves. Called for every message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from s2connect.bridge.counters import Counters
from s2connect.bridge.relay import Out
from s2connect.messages.envelope import RECEPTION_STATUS, Message
from s2connect.messages.general import PowerMeasurement
from s2connect.model.common import Role
from s2connect.session.session import Direction
from s2connect.web.meter import OK, Meter, Rate
from s2connect.web.power import Curves
from s2connect.web.ring import MessageRing

MEASUREMENT: Final = "PowerMeasurement"


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
        """Tell those who wait for news."""
        sleepers, self.sleepers = self.sleepers, []
        for call in sleepers:
            call()


class SessionWatch:
    """Observer of one session.

    Args:
        meter: Meter of the peer.
        journal: Ring and curves.
        measurements: Direction in which measurements pass: those of the device.
        clock: Seconds of a clock that never goes back.
    """

    __slots__ = ("_clock", "_journal", "_last_id", "_last_type", "_measurements", "_meter")

    def __init__(self, meter: Meter, journal: Journal, measurements: Direction, clock: Callable[[], float]) -> None:
        self._meter = meter
        self._journal = journal
        self._measurements = measurements
        self._clock = clock
        self._last_id: str | None = None
        self._last_type = ""

    def __call__(self, direction: Direction, message: Message) -> None:
        """Note a message of the session."""
        meter, journal, now = self._meter, self._journal, self._clock()
        kind, text = message.type, message.text
        if direction == "received":
            meter.received_characters += len(text)
        if kind != RECEPTION_STATUS:
            if direction == "received":
                meter.received.count(now)
                self._last_id, self._last_type = message.id, kind
            else:
                meter.sent.count(now)
            if kind == MEASUREMENT and direction == self._measurements:
                journal.curves.add(meter.key, meter.title, partial(_measurement, message), now)
        elif message.status != OK:
            self._refused(direction, message, now)
        journal.ring.add(now, meter.key, meter.title, direction, kind, message.status, text)
        if journal.sleepers:
            journal.wake()

    def _refused(self, direction: Direction, message: Message, now: float) -> None:
        subject, ring = message.subject_id or "", self._journal.ring
        if direction == "received":
            by, kind = "peer", ring.find(self._meter.key, "sent", subject)
        else:
            by = "us"
            kind = self._last_type if subject == self._last_id else ring.find(self._meter.key, "received", subject)
        self._meter.refuse(by, kind, message.status or "", message.label or "", now)


class LinkWatch:
    """Watch over one link of a bridge; a :class:`s2connect.bridge.link.LinkWatch`.

    Attributes:
        counters: Counters of the link.
        rates: Messages of each side, by its role.
    """

    __slots__ = ("_journal", "_keys", "_titles", "counters", "rates")

    def __init__(self, key: str, titles: Callable[[Role], str], counters: Counters, journal: Journal) -> None:
        self.counters = counters
        self.rates = {Role.RM: Rate(), Role.CEM: Rate()}
        self._keys = {role: side_key(key, role) for role in Role}
        self._titles = titles
        self._journal = journal

    def passed(self, side: Role, message: Message | None, text: str, outs: Sequence[Out], now: float) -> None:
        """Note a text of one side, and what follows from it."""
        ring, key = self._journal.ring, self._keys[side]
        title = self._titles(side)
        if message is None:
            ring.add(now, key, title, "received", "", "", text)
        else:
            kind = message.type
            if kind != RECEPTION_STATUS:
                self.rates[side].count(now)
                if kind == MEASUREMENT and side is Role.RM:
                    self._journal.curves.add(key, title, partial(_measurement, message), now)
            ring.add(now, key, title, "received", kind, message.status, text)
        for to, out, _ in outs:
            if out is not text:  # the bridge's own, or a translation
                ring.add(now, self._keys[to], self._titles(to), "sent", "", "", out)
        if self._journal.sleepers:
            self._journal.wake()

    def answered(self, out: Out, now: float) -> None:
        """Note an answer of the bridge to what the other side did not answer."""
        self._journal.ring.add(now, self._keys[out.to], self._titles(out.to), "sent", "", "", out.text)


def _measurement(message: Message) -> PowerMeasurement | dict[str, Any]:
    """Return a measurement as it was read already, or its members."""
    parsed = message.reading.parsed if message.reading is not None else None
    return parsed if isinstance(parsed, PowerMeasurement) else message.body


def side_key(link: str, role: Role) -> str:
    """Return the key of a side of a link."""
    return f"{link}/{role.lower()}"
