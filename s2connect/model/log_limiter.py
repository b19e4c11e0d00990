"""Rate limiter of reports: one a minute of each kind, with the number of those in between. Sans-I/O."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

PERIOD: Final = 60.0
"""Seconds between two reports of one kind."""

MAX_KINDS: Final = 1000
"""Most kinds remembered; beyond it the oldest is forgotten, and reported the next time (SEC-03)."""


class LogLimiter:
    """Rate limiter of log lines and events: one of a kind in ``period`` seconds, by the latest ``max_kinds`` kinds."""

    def __init__(self, *, period: float = PERIOD, max_kinds: int = MAX_KINDS) -> None:
        self._period = period
        self._max_kinds = max_kinds
        self._kinds: dict[Hashable, tuple[float, int]] = {}

    def count(self, kind: Hashable, now: float) -> int:
        """Count one of a kind. Returns how many to report now, those since the last report included; 0 for none.

        ``now`` are seconds of a clock that never goes back.
        """
        next_at, passed_over = self._kinds.get(kind, (now, 0))
        if now < next_at:
            self._kinds[kind] = next_at, passed_over + 1
            return 0
        self._kinds.pop(kind, None)
        self._kinds[kind] = now + self._period, 0
        if len(self._kinds) > self._max_kinds:
            del self._kinds[next(iter(self._kinds))]
        return passed_over + 1

    def due(self, kind: Hashable, now: float) -> str | None:
        """Count a line. Returns its suffix, which may be empty; None if the line is not to be logged."""
        count = self.count(kind, now)
        if not count:
            return None
        return f" ({count - 1} more such lines were not logged)" if count > 1 else ""


process_lines: Final = LogLimiter()
"""Limiter of lines about connections, shared because a peer that reconnects every second has a new one each time."""
