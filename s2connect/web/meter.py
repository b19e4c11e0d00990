"""Meter of the messages between us and one peer, through all its sessions. Sans-I/O."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from s2connect.messages.envelope import ReceptionStatusValue
from s2connect.session.latencies import Latencies
from s2connect.web.facts import MAX_REFUSALS

STEP: Final = 5.0
"""Seconds of one step of a rate."""

STEPS: Final = 12
"""Steps of a minute."""

MAX_LABEL: Final = 400
"""Characters that are kept of a label."""

OTHER: Final = "OTHER"
"""Counts every status that is not in the standard, because peers can invent any."""

OK: Final = str(ReceptionStatusValue.OK)


class Rate:
    """Number of events: in all, and of the last minute, to :data:`STEP` seconds. Its clock never goes back.

    Attributes:
        total: Number in all.
        end: End of the present step. Where each call counts, an event is ``total += 1``, after :meth:`next_step` if
            ``end`` has come.
    """

    __slots__ = ("_past", "_since", "end", "total")

    def __init__(self) -> None:
        self.total = 0
        self.end = 0.0
        self._since = 0  # the total when the present step began
        self._past: deque[tuple[int, int]] = deque(maxlen=STEPS)  # number of a step, and of its events

    def count(self, now: float) -> None:
        """Count an event."""
        if now >= self.end:
            self.next_step(now)
        self.total += 1

    def next_step(self, now: float) -> None:
        """Begin the step of a time."""
        if self.total > self._since:
            self._past.append((round(self.end / STEP) - 1, self.total - self._since))
        self._since = self.total
        self.end = (int(now / STEP) + 1) * STEP

    def last_minute(self, now: float) -> int:
        """Return the number of events of the last minute."""
        if now >= self.end + STEPS * STEP:
            return 0
        first = int(now / STEP) - STEPS + 1
        present = self.total - self._since if round(self.end / STEP) - 1 >= first else 0
        return present + sum(number for step, number in self._past if step >= first)


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal at a time of the meter's clock."""

    at: float
    by: str
    type: str
    status: str
    label: str


class Meter:
    """Meter of one peer.

    Attributes:
        key: Its stable name.
        title: Name of the peer, raw.
        received: Messages of the peer, ReceptionStatuses not counted.
        sent: Messages to it, likewise.
        received_characters: Characters of all texts that it sent.
        latencies: Times that it took to acknowledge.
        refused_by_us: Its messages that were refused here, by status.
        refused_by_peer: Messages that it refused, by status.
        refusals: The last ones.
    """

    __slots__ = (
        "key",
        "latencies",
        "received",
        "received_characters",
        "refusals",
        "refused_by_peer",
        "refused_by_us",
        "sent",
        "title",
    )

    def __init__(self, key: str, title: str) -> None:
        self.key = key
        self.title = title
        self.received = Rate()
        self.sent = Rate()
        self.received_characters = 0
        self.latencies = Latencies()
        self.refused_by_us: Counter[str] = Counter()
        self.refused_by_peer: Counter[str] = Counter()
        self.refusals: deque[Refused] = deque(maxlen=MAX_REFUSALS)

    def absorb(self, other: Meter) -> None:
        """Add the numbers of a peer that is gone."""
        self.received.total += other.received.total
        self.sent.total += other.sent.total
        self.received_characters += other.received_characters
        self.refused_by_us.update(other.refused_by_us)
        self.refused_by_peer.update(other.refused_by_peer)
        self.latencies.absorb(other.latencies)

    def refuse(self, by: str, kind: str, status: str, label: str, now: float) -> None:
        """Count a ReceptionStatus that is not ``OK``."""
        counts = self.refused_by_peer if by == "peer" else self.refused_by_us
        counts[status if status in ReceptionStatusValue.__members__ else OTHER] += 1
        self.refusals.append(Refused(now, by, kind[:MAX_LABEL], status[:MAX_LABEL], label[:MAX_LABEL]))
