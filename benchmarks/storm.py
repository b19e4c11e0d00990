"""Reconnect storm on paper: clients that lost their sessions at one moment come back with REC-02's back-off.

The clients are counted, not drawn: of those that try at one moment, as many are served as there is capacity for, and
the others are spread evenly over the span of their next delay. With hundreds of thousands of clients chance adds
nothing to that, and the same question has the same answer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from s2connect.transports.backoff import BASE_DELAY, MAX_BUSY, Backoff

SLOT: Final = 0.25
"""Seconds of one step."""

LONGEST: Final = 2 * 3600.0
"""Seconds after which a storm that is not over counts as one that does not end."""

Span = tuple[float, float]


def delays(*, busy: bool) -> list[Span]:
    """Return shortest and longest delay after each refusal in a row, in seconds; the last one for all further ones.

    They are those of our client. With ``busy`` a refusal says so (503, or a connection that is closed before TLS), and
    our client then waits less; other makers' may take it as any failure.
    """
    backoffs = Backoff(), Backoff()
    spans: list[Span] = []
    for _ in range(MAX_BUSY + 12 if busy else 12):
        low, high = (
            one.busy(chance) if busy else one.failed(chance) for one, chance in zip(backoffs, (0.0, 1.0), strict=True)
        )
        spans.append((low, high))
    return spans


@dataclass(frozen=True)
class Step:
    """Events of one slot.

    Attributes:
        seconds: End of the slot since the sessions were lost.
        tried: Attempts.
        served: Attempts that end in a session.
        waiting: Clients without a session at its end.
    """

    seconds: float
    tried: float
    served: float
    waiting: float


def storm(clients: float, per_second: float, *, first_within: float = BASE_DELAY, busy: bool = False) -> Iterator[Step]:
    """Let clients come back to instances that can serve so many session initiations a second, and refuse all others.

    Args:
        clients: Clients that lost their sessions at moment 0.
        per_second: Session initiations that are served in a second.
        first_within: Seconds over which the first attempts are spread evenly; those of REC-02 by default.
        busy: See :func:`delays`.
    """
    spans = [(0.0, first_within), *delays(busy=busy)]
    last = len(spans) - 1
    # By level, the number of refusals so far: how many try in a slot, and by how much that changes in later ones.
    trying = [0.0] * len(spans)
    changes: list[defaultdict[int, float]] = [defaultdict(float) for _ in spans]

    def spread(count: float, level: int, after: int) -> None:
        low, high = spans[level]
        first = after + math.floor(low / SLOT)
        slots = max(1, round((high - low) / SLOT))
        changes[level][first] += count / slots
        changes[level][first + slots] -= count / slots

    spread(clients, 0, 0)
    waiting, slot = clients, 0
    while waiting >= 0.5 and per_second > 0 and slot * SLOT < LONGEST:
        for level, change in enumerate(changes):
            if slot in change:
                trying[level] = max(0.0, trying[level] + change.pop(slot))
        tried = sum(trying)
        share = min(1.0, per_second * SLOT / tried) if tried else 0.0
        if share < 1.0:
            for level, count in enumerate(trying):
                if count:
                    spread(count * (1.0 - share), min(level + 1, last), slot + 1)
        slot += 1
        served = tried * share
        waiting -= served
        yield Step(slot * SLOT, tried, served, waiting)


@dataclass(frozen=True)
class Return:
    """Return of the clients of a storm.

    Attributes:
        half: Seconds until half of them have a session.
        all: Seconds until all have; infinite where that does not happen.
        peak: Most attempts in a second.
        attempts: Attempts in all.
    """

    half: float
    all: float
    peak: float
    attempts: float


def back(clients: float, per_second: float, *, first_within: float = BASE_DELAY, busy: bool = False) -> Return:
    """Return how long a storm lasts. Arguments as for :func:`storm`."""
    half, end, peak, attempts, waiting = math.inf, 0.0, 0.0, 0.0, clients
    for step in storm(clients, per_second, first_within=first_within, busy=busy):
        peak, attempts, end, waiting = max(peak, step.tried / SLOT), attempts + step.tried, step.seconds, step.waiting
        if step.waiting <= clients / 2:
            half = min(half, step.seconds)
    return Return(half if clients else 0.0, end if waiting < 0.5 else math.inf, peak, attempts)
