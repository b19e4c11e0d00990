"""Times until messages were acknowledged: a histogram, and the slowest of the last hour. Sans-I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Final

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram in seconds; one more has what took longer."""

WINDOW: Final = 3600.0
"""Seconds for which the slowest is remembered."""

STEPS: Final = 12
"""Parts of the window: what is older than it may count for one part longer."""


class Latencies:
    """Acknowledgement times of one peer. Times of its clock, in seconds, never go back.

    Attributes:
        counts: Number of times, by the first of the :data:`BOUNDS` that they do not exceed.
        total: Their sum in seconds.
        overdue: Messages that were not acknowledged in time.
    """

    __slots__ = ("_end", "_longest", "_slowest", "counts", "overdue", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.overdue = 0
        self._end = self._longest = 0.0  # of the present step
        self._slowest: deque[tuple[int, float]] = deque(maxlen=STEPS + 1)

    def add(self, seconds: float, now: float) -> None:
        """Add the time that a message took which was acknowledged now."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        if now >= self._end:
            step = int(now * (STEPS / WINDOW))
            self._end, self._longest = (step + 1) * (WINDOW / STEPS), seconds
            self._slowest.append((step, seconds))
        elif seconds > self._longest:
            self._longest = seconds
            self._slowest[-1] = self._slowest[-1][0], seconds

    def absorb(self, other: Latencies) -> None:
        """Add the numbers of another peer, but not its slowest."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        self.overdue += other.overdue

    def slowest(self, now: float) -> float | None:
        """Return the longest time of the last hour, None if there was none."""
        first = int(now * (STEPS / WINDOW)) - STEPS
        return max((seconds for step, seconds in self._slowest if step >= first), default=None)
