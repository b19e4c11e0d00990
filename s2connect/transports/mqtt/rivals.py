"""Hints at a second client with our MQTT client id, without I/O (MQ-16)."""

from __future__ import annotations

from collections import deque

QUICK_LOSS = 60.0
"""Seconds: a connection that ends earlier was lost quickly."""

SUSPICIOUS_LOSSES = 3
"""Quick losses within :data:`WINDOW` that hint at a second client: each of the two ends the other's connection."""

WINDOW = 900.0
"""Seconds in which quick losses are counted."""


class Rivals:
    """Counts connections that a broker has ended soon, which not every broker explains.

    Attributes:
        suspicion: Sentence for a person; empty where nothing hints at a second client.
    """

    def __init__(self, where: str, client_id: str) -> None:
        self.suspicion = ""
        self._where = where
        self._client_id = client_id
        self._losses: deque[float] = deque(maxlen=SUSPICIOUS_LOSSES)

    def taken_over(self) -> str:
        """Note that the broker said that another client has our id; return the sentence."""
        self.suspicion = (
            f"Another client came to the broker {self._where} with our client id {self._client_id}; the two end each "
            "other's connection. A copy of this home may run. Stop it, or give each a client_id of its own."
        )
        return self.suspicion

    def lost(self, *, lasted: float, now: float) -> bool:
        """Note the end of a connection; return whether it gives a new suspicion."""
        if lasted >= QUICK_LOSS:
            self.held()
            return False
        self._losses.append(now)
        many = len(self._losses) == SUSPICIOUS_LOSSES and now - self._losses[0] <= WINDOW
        if not many or self.suspicion:
            return False
        self.suspicion = (
            f"The connection to the broker {self._where} was lost {SUSPICIOUS_LOSSES} times soon after it began. A "
            f"second client may have our client id {self._client_id}: a copy of this home, or another program. Give "
            "each a client_id of its own; the log of the broker tells."
        )
        return True

    def held(self) -> None:
        """Note that a connection holds."""
        self.suspicion = ""
        self._losses.clear()
