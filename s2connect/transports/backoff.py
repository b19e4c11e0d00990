"""Back-off: delay before the next attempt, without I/O (REC)."""

from __future__ import annotations

BASE_DELAY = 2.0
"""REC-02: seconds."""
MAX_DELAY = 600.0
"""REC-02: seconds."""

BUSY_DELAY = 30.0
"""REC-02, S2C-26: longest delay in seconds after a response that says that the server is busy."""
MAX_BUSY = 40
"""Consecutive busy responses (some ten minutes) after which they count as failures."""

SHORT_SESSION = 5.0
"""REC-03: a session that the server asked to restart within so many seconds of its start counts as a failed attempt."""

REFUSED_DELAY = 6 * 3600.0
"""SESC-05 [D]: mean seconds between two attempts at a server that accepts none of our tokens. It may have been restored
from an older copy, and be put right."""


def after_refusal(chance: float) -> float:
    """Return the seconds until the next attempt at a server that accepts none of our tokens (SESC-05).

    Args:
        chance: Uniform in [0, 1): the devices of a server do not all come at once.
    """
    return REFUSED_DELAY * (0.75 + chance / 2)


class Backoff:
    """``delay_n = random(0, min(600 s, 2 s * 2^n))`` (REC-02)."""

    def __init__(self) -> None:
        self._n = 0
        self._busy = 0

    def failed(self, chance: float) -> float:
        """Return the seconds to wait after a failed attempt. ``chance`` is uniform in [0, 1)."""
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

    def restart(self, *, lasted: float, chance: float) -> float:
        """Return the seconds to wait where the server asks for a new session: none, unless it keeps asking (REC-03)."""
        return self.failed(chance) if lasted < SHORT_SESSION else 0.0

    def established(self) -> None:
        """Start over: an attempt has succeeded."""
        self._n = self._busy = 0
