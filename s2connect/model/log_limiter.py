"""Limiter of log lines that peers cause: one a minute for each peer and kind of line. Sans-I/O."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

PERIOD: Final = 60.0
"""Seconds between two log lines of one kind."""

MAX_KINDS: Final = 1000
"""Most kinds remembered; beyond it the oldest is forgotten, and logged at its next line (SEC-03)."""


class LogLimiter:
    """Rate limiter of log lines, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, tuple[float, int]] = {}

    def due(self, kind: Hashable, now: float) -> str | None:
        """Return the suffix of the line, which may be empty; None if the line is not to be logged.

        Args:
            kind: Peer and kind of the line.
            now: Seconds of a clock that never goes back.
        """
        at, passed_over = self._kinds.get(kind, (now - PERIOD, 0))
        if now - at < PERIOD:
            self._kinds[kind] = at, passed_over + 1
            return None
        self._kinds.pop(kind, None)
        self._kinds[kind] = now, 0
        if len(self._kinds) > MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        return f" ({passed_over} more such lines were not logged)" if passed_over else ""

    def forget(self) -> None:
        """Forget all kinds."""
        self._kinds.clear()


process_lines: Final = LogLimiter()
"""Limiter of lines about connections, shared because a peer that reconnects every second has a new one each time."""
