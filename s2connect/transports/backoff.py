"""How long to wait before the next attempt, without I/O (REC-02)."""

from __future__ import annotations

BASE_DELAY = 2.0
"""REC-02: seconds."""
MAX_DELAY = 600.0
"""REC-02: seconds."""


class Backoff:
    """``delay_n = random(0, min(600 s, 2 s * 2^n))`` (REC-02)."""

    def __init__(self) -> None:
        self._n = 0

    def failed(self, chance: float) -> float:
        """An attempt has failed: seconds to wait from now. ``chance`` is uniform in [0, 1)."""
        ceiling = min(MAX_DELAY, BASE_DELAY * 2.0 ** min(self._n, 16))
        self._n += 1
        return chance * ceiling

    def established(self) -> None:
        """The attempt succeeded: the next failure counts from the beginning."""
        self._n = 0
