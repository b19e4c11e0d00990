"""One attempt a second on one node (PAIR-02)."""

from __future__ import annotations

RESPONSE_DELAY = 1.0
"""PAIR-02: seconds between a ``requestPairing`` and its answer, and between two answers of one node."""

MAX_QUEUED = 5
"""PAIR-02 [D]: attempts that may wait on one node; clients give up after five seconds or so."""


class NodeGate:
    """Hands out the moments at which requests on one node are answered; sans-I/O."""

    __slots__ = ("_delay", "_free_at", "_max_queued")

    def __init__(self, *, delay: float = RESPONSE_DELAY, max_queued: int = MAX_QUEUED) -> None:
        self._delay = delay
        self._max_queued = max_queued
        self._free_at = 0.0

    def admit(self, *, now: float) -> float | None:
        """Queue one request: the time at which it may be answered, or None where the queue is full."""
        start = max(now, self._free_at)
        if start - now >= self._delay * self._max_queued > 0:
            return None
        self._free_at = start + self._delay
        return self._free_at
