"""Overload control, without I/O: limits new conversations so that a server can finish those already begun.

A server that takes in more than it can do does nothing in the end: everybody waits, gives up and starts again. So a
conversation (TLS, session initiation or pairing, upgrade to a WebSocket) begins only where those that are under way
come on without delay. The others wait before any cryptography, as many as get their turn within :data:`QUEUE_SECONDS`;
the rest are refused, which costs next to nothing. How many are under way follows the measured lag of the event loop,
and how many wait follows the measured rate: neither is configured.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from typing import Final

TARGET_LAG: Final = 0.1
"""Seconds that a socket which is ready may wait for the event loop, at most, when conversations begin."""

INTERVAL: Final = 0.3
"""Seconds in which the lag has to be above the target all the time before the limit is lowered."""

MIN_LIMIT: Final = 32
"""Lowest limit of conversations under way, whatever the lag is: the lag may have other causes."""

MAX_LIMIT: Final = 8192
"""Highest limit: the connections of a server, because many that cost nothing may count as under way."""

BEYOND_EVERY: Final = 0.03
"""Seconds between two conversations that begin beyond the limit."""

GROWTH: Final = 1.1
"""Factor by which the limit grows after a low lag, while it holds conversations up."""

UNDER_WAY_SECONDS: Final = 3.0
"""Seconds in which a busy loop can finish all conversations under way, at the recent rate."""

QUIET: Final = 1.0
"""Seconds without a step after which a conversation does not count: it costs nothing until its peer sends."""

QUEUE_SECONDS: Final = 2.0
"""Longest wait in the queue, in seconds at the recent rate; connections beyond it are refused."""

MIN_QUEUE: Final = 64
"""Smallest bound of the queue, in connections."""

QUIET_QUEUE: Final = 256
"""Connections that may wait at least where the loop has little to do: a gateway that pairs all its nodes at once."""

RATE_MEMORY: Final = 2.0
"""Seconds over which the rate is averaged."""

MAX_RETRY_AFTER: Final = 30
"""Longest ``Retry-After`` in seconds."""


class Overload:
    """Overload controller of a server: admits or refuses conversations. Times are of one clock that never goes back.

    A conversation is anything hashable that its owner names in :meth:`step` whenever it comes on.
    """

    def __init__(self) -> None:
        self._limit = float(MIN_LIMIT)
        self._steps: OrderedDict[Hashable, float] = OrderedDict()
        self._held_up = False
        self._lowest: float | None = None
        self._interval_ends = 0.0
        self._lag = 0.0
        self._turns = self._refused = 0
        self._rate = self._refusal_rate = 0.0
        self._looked: float | None = None
        self._expected: Counter[str] = Counter()
        self._offers = 0
        self._next_beyond = 0.0

    # Measurements

    def step(self, conversation: Hashable, *, now: float) -> None:
        """Note that a conversation begins or progresses."""
        self._steps.pop(conversation, None)
        self._steps[conversation] = now

    def end(self, conversation: Hashable) -> None:
        """Note that a conversation is over, or has become a session. Idempotent."""
        self._steps.pop(conversation, None)

    def look(self, lag: float, *, now: float) -> None:
        """Record a measurement, several times a second: a socket that was ready has waited for ``lag`` seconds."""
        self._lag = lag
        self._measure_rates(now)
        held_up, self._held_up = self._held_up, False
        if lag <= TARGET_LAG:
            self._lowest, self._interval_ends = None, now + INTERVAL
            if held_up:
                self._limit = min(max(self._ceiling(lag), self._limit), self._limit * GROWTH + 1)
            return
        self._lowest = lag if self._lowest is None else min(self._lowest, lag)
        if now >= self._interval_ends:
            active = min(self._limit, self.under_way(now=now))
            self._limit = max(MIN_LIMIT, active * max(0.5, TARGET_LAG / self._lowest))
            self._lowest, self._interval_ends = None, now + max(INTERVAL, 2 * lag)

    def _ceiling(self, lag: float) -> float:
        """Return the number that finishes in a few seconds; unbounded while the loop is idle: then peers are slow."""
        if lag <= TARGET_LAG / 4:
            return MAX_LIMIT
        return max(MIN_LIMIT, min(MAX_LIMIT, UNDER_WAY_SECONDS * self._rate))

    def _measure_rates(self, now: float) -> None:
        if self._looked is not None and now > self._looked:
            span = now - self._looked
            share = 1.0 - math.exp(-span / RATE_MEMORY)
            if self._held_up or self._refused:  # else it is the rate of what was asked for
                self._rate += share * (self._turns / span - self._rate)
            self._refusal_rate += share * (self._refused / span - self._refusal_rate)
        self._looked = now
        self._turns = self._refused = 0

    def under_way(self, *, now: float) -> int:
        """Return the number of conversations that progress."""
        quiet = now - QUIET - 10 * self._lag  # where we are late, a step takes longer
        while self._steps:
            conversation, then = next(iter(self._steps.items()))
            if then > quiet:
                break
            del self._steps[conversation]
        return len(self._steps)

    # Decisions

    def begins(self, network: str, *, now: float) -> bool:
        """Return whether a conversation of a network may begin now. Call :meth:`step` when it does."""
        if self.under_way(now=now) >= self._limit + (self._offers if self.is_expected(network) else 0):
            self._held_up = True
            return False
        self._turns += 1
        return True

    def begins_beyond(self, *, now: float) -> bool:
        """Return whether one may begin beyond the limit. Call :meth:`step` when it does."""
        if now < self._next_beyond:
            return False
        self._next_beyond = now + BEYOND_EVERY
        self._turns += 1
        return True

    def takes(self, network: str, *, waiting: int) -> bool:
        """Return whether another connection of a network may join the queue, in which so many wait."""
        least = QUIET_QUEUE if self._lag <= TARGET_LAG / 4 else MIN_QUEUE
        if waiting < max(least, QUEUE_SECONDS * self._rate) or self.is_expected(network):
            return True
        self._refused += 1
        return False

    def begins_anew(self, conversation: Hashable, *, now: float) -> bool:
        """Return whether another conversation may begin on a connection on which one was carried on already."""
        self._steps.pop(conversation, None)
        if self.under_way(now=now) >= self._limit:
            self._held_up = True
            self._refused += 1
            return False
        self._turns += 1
        self.step(conversation, now=now)
        return True

    def retry_after(self) -> int:
        """Return the seconds after which a refused peer should retry: when the present queue has been served."""
        return min(MAX_RETRY_AFTER, 1 + int(QUEUE_SECONDS * self._refusal_rate / max(self._rate, 1.0)))

    # Conversations that have begun and go on over another connection

    def expect(self, network: str) -> None:
        """Give priority to the connection that a peer was offered; each call needs one of :meth:`expect_no_more`."""
        self._expected[network] += 1
        self._offers += 1

    def expect_no_more(self, network: str) -> None:
        """Note that an offer is used, or has expired."""
        self._offers -= 1
        self._expected[network] -= 1
        if not self._expected[network]:
            del self._expected[network]

    def is_expected(self, network: str) -> bool:
        """Return whether a peer of a network was offered a session and has not come yet."""
        return network in self._expected

    @property
    def expected(self) -> Iterable[str]:
        """The networks of those that were offered a session."""
        return self._expected
