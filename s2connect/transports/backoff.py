"""Back-off: delay before the next attempt, without I/O (REC-02)."""

from __future__ import annotations

BASE_DELAY = 2.0
"""REC-02: seconds."""
MAX_DELAY = 600.0
"""REC-02: seconds."""


BUSY_DELAY = 30.0
"""REC-02, S2C-26: longest delay in seconds after a response that says that the server is busy."""
MAX_BUSY = 40
"""Consecutive busy responses (some ten minutes) after which they count as failures."""


class Backoff:
    """``delay_n = random(0, min(600 s, 2 s * 2^n))`` (REC-02)."""

    def __init__(self) -> None:
        self._n = 0
        self._busy = 0

    def failed(self, chance: float) -> float:
        """An attempt has failed: seconds to wait from now. ``chance`` is uniform in [0, 1)."""
        ceiling = min(MAX_DELAY, BASE_DELAY * 2.0 ** min(self._n, 16))
        self._n += 1
        return chance * ceiling

    def busy(self, chance: float, *, retry_after: float = 0.0) -> float:
        """Return the seconds to wait after a busy response.

        Not as long as after another failure, because it goes on with those that came before us, and spread over as much
        time again as it asks for, so that those that it refused do not come back at the same moment.
        """
        self._busy += 1
        ceiling = min(BUSY_DELAY, BASE_DELAY * 2.0 ** min(self._n, 16))
        delay = self.failed(chance)
        if self._busy <= MAX_BUSY:
            delay = chance * max(ceiling, retry_after)
        return retry_after + delay

    def established(self) -> None:
        """The attempt succeeded: the next failure counts from the beginning."""
        self._n = self._busy = 0
