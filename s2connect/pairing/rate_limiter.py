"""Rate limiter of pairing attempts: one a second per node, fair between source addresses (PAIR-02)."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from s2connect.https.rate import network_of

RESPONSE_DELAY = 1.0
"""PAIR-02: seconds between a ``requestPairing`` and its answer, and between two answers of one node."""

MAX_QUEUED_PER_ADDRESS = 5
"""PAIR-02 [D]: most queued attempts of one address at one node; clients give up after some five seconds."""

MAX_QUEUED = 100
"""PAIR-02 [D]: most queued attempts at one node."""

FREE_FAILURES = 5
"""Failed attempts of one address at one node before that address is slowed down (TOK-05)."""

SLOWED_DELAY = 5.0
"""Seconds between two attempts of an address that is slowed down."""

FAILURES_KEPT_FOR = 300.0
"""Seconds for which an address is slowed down after its last failure: the lifetime of a dynamic code (TOK-02)."""

MAX_REMEMBERED = 1024
"""Most addresses remembered at one node; the longest unseen one is forgotten first (SEC-03)."""

VERSION: Final = 1
"""Version of :meth:`NodeRateLimiter.dump`."""


@dataclass(eq=False, slots=True)
class Turn:
    """Queued request."""

    source: str  # as it is counted: an IPv4 address or the /64 of an IPv6 address
    ready_at: float  # it is answered no sooner
    displaced: bool = False  # replaced by a request of another source, which had fewer waiting
    id: str = ""  # its name among several instances
    ask_at: float = 0.0  # it is of no use to ask for it sooner, where asking has a price


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0
    not_before: float = 0.0


class NodeRateLimiter:
    """Queue of the requests on one node: sources take turns, so that none can keep another waiting; sans-I/O.

    Sources that had no turn of late come before those that had one. In a full queue, a request replaces the last one
    of the source that has most waiting. A request joins with :meth:`queue` and asks with :meth:`wait` until
    its turn has come.
    """

    def __init__(self, *, delay: float = RESPONSE_DELAY) -> None:
        self._delay = delay
        self._free_at = float("-inf")
        self._waiting: OrderedDict[str, deque[Turn]] = OrderedDict()  # the source served longest ago first
        self._served: OrderedDict[str, float] = OrderedDict()  # last turn; the source served longest ago first
        self._failures: OrderedDict[str, _Failures] = OrderedDict()  # the source that failed longest ago first
        self._queued = 0

    def dump(self) -> dict[str, Any]:
        """Return the state as a plain JSON value: turns in the order of their sources, and what is known of sources."""
        return {
            "version": VERSION,
            "free_at": None if self._free_at == float("-inf") else self._free_at,
            "waiting": [
                [source, [[turn.id, turn.ready_at] for turn in turns]] for source, turns in self._waiting.items()
            ],
            "served": dict(self._served),
            "failures": {source: [f.count, f.last, f.not_before] for source, f in self._failures.items()},
        }

    @classmethod
    def load(cls, value: Mapping[str, Any], *, delay: float = RESPONSE_DELAY) -> NodeRateLimiter:
        """Return the limiter of :meth:`dump`. What is missing of sources without a turn makes no difference to others.

        Raises:
            ValueError: It is of another version.
        """
        if value.get("version") != VERSION:
            raise ValueError("the state of a rate limiter was written by another version")
        limiter = cls(delay=delay)
        if value["free_at"] is not None:
            limiter._free_at = value["free_at"]
        for source, turns in value["waiting"]:
            limiter._waiting[source] = deque(Turn(source, ready_at, id=name) for name, ready_at in turns)
        limiter._queued = sum(map(len, limiter._waiting.values()))
        limiter._served.update(sorted(value["served"].items(), key=lambda served: served[1]))
        for source, known in sorted(value["failures"].items(), key=lambda failures: failures[1][1]):
            limiter._failures[source] = _Failures(*known)
        return limiter

    def turn(self, identifier: str) -> Turn | None:
        """Return the queued request of that name."""
        return next((turn for turns in self._waiting.values() for turn in turns if turn.id == identifier), None)

    def ahead(self, turn: Turn) -> int:
        """Return how many requests come before a queued one, if nobody leaves."""
        place = self._waiting[turn.source].index(turn)
        order = sorted(self._waiting, key=self._served.__contains__)  # as they are served
        mine = order.index(turn.source)
        others = ((number, len(self._waiting[source])) for number, source in enumerate(order) if number != mine)
        return place + sum(min(length, place + (number < mine)) for number, length in others)

    def queue(self, address: str, *, now: float) -> Turn | None:
        """Join the queue; None if the queue is full, or full for this address."""
        source = network_of(address)
        mine = self._waiting.get(source, ())
        if len(mine) >= MAX_QUEUED_PER_ADDRESS:
            return None
        if self._queued >= MAX_QUEUED:
            longest = max(self._waiting, key=lambda name: len(self._waiting[name]))
            if len(self._waiting[longest]) <= len(mine) + 1:
                return None
            displaced = self._waiting[longest][-1]
            displaced.displaced = True
            self._remove(displaced)
        mine = self._waiting.setdefault(source, deque())
        turn = Turn(source, now + self._delay)
        mine.append(turn)
        self._queued += 1
        return turn

    def wait(self, turn: Turn, *, now: float) -> float | None:
        """Take the turn and return None if it has come; otherwise return the time at which to call again.

        A displaced one gets no turn: look at that first.
        """
        if now < self._free_at:
            return self._free_at
        following = self._following(now)
        if following is turn:
            self._remove(turn)
            self._free_at = now + self._delay
            self._remember(turn.source, now)
            if turn.source in self._waiting:
                self._waiting.move_to_end(turn.source)
            failures = self._failures.get(turn.source)
            if failures is not None and failures.count > FREE_FAILURES:
                failures.not_before = now + SLOWED_DELAY
            return None
        if following is not None:
            return now + self._delay  # that request is about to take its turn, and the next turn comes a delay later
        return min(max(waiting[0].ready_at, self._not_before(source, now)) for source, waiting in self._waiting.items())

    def _remember(self, source: str, now: float) -> None:
        self._served.pop(source, None)
        self._served[source] = now
        oldest = next(iter(self._served))
        if len(self._served) > MAX_REMEMBERED or self._served[oldest] <= now - FAILURES_KEPT_FOR:
            del self._served[oldest]

    def leave(self, turn: Turn) -> None:
        """Leave the queue: the request will not be answered. Does nothing after its turn."""
        if turn in self._waiting.get(turn.source, ()):
            self._remove(turn)

    def failed(self, address: str, *, now: float) -> None:
        """Count a failed attempt of an address; after some, the address is slowed down."""
        source = network_of(address)
        failures = self._failures.pop(source, None)
        if failures is None or now >= failures.last + FAILURES_KEPT_FOR:
            failures = _Failures()
        failures.count += 1
        failures.last = now
        self._failures[source] = failures
        if len(self._failures) > MAX_REMEMBERED:
            self._failures.popitem(last=False)

    def _following(self, now: float) -> Turn | None:
        """Return the request whose turn is now."""
        following = None
        for source, waiting in self._waiting.items():
            if waiting[0].ready_at <= now and self._not_before(source, now) <= now:
                if source not in self._served:
                    return waiting[0]
                following = following or waiting[0]
        return following

    def _not_before(self, source: str, now: float) -> float:
        failures = self._failures.get(source)
        if failures is None or now >= failures.last + FAILURES_KEPT_FOR:
            return now
        return failures.not_before

    def _remove(self, turn: Turn) -> None:
        waiting = self._waiting[turn.source]
        waiting.remove(turn)
        self._queued -= 1
        if not waiting:
            del self._waiting[turn.source]
