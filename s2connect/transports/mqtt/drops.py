"""Counter of packets dropped on the topics of a broker, with rate-limited log lines. No I/O."""

from __future__ import annotations

from collections import Counter

LOG_INTERVAL = 60.0
"""Seconds between two lines of the log: whoever may publish on a topic decides how much there is to drop."""

EXPECTED = frozenset({"no_session", "repeated", "unknown"})
"""Reasons that belong to normal work, counted and not logged: frames of a session that has just ended, a repeat of
QoS 1, and an ``open`` for another instance of the server."""


class Drops:
    """Counter of dropped messages by reason.

    Attributes:
        counts: How often each reason was; the reasons are ours, so they are bounded.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._unsaid: Counter[str] = Counter()
        self._next = float("-inf")

    def add(self, reason: str, now: float) -> str | None:
        """Count one. Returns the line to log, None for no line or one that was logged lately.

        Args:
            reason: Short name.
            now: Loop time in seconds.
        """
        reason = str(reason)
        self.counts[reason] += 1
        if reason in EXPECTED:
            return None
        self._unsaid[reason] += 1
        if now < self._next:
            return None
        self._next = now + LOG_INTERVAL
        said, self._unsaid = self._unsaid, Counter()
        reasons = ", ".join(f"{name}: {count}" for name, count in sorted(said.items()))
        return f"dropped {said.total()} since the last such line ({reasons})"
