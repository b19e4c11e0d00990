"""When the communication client tries again, without I/O (REC)."""

from __future__ import annotations

BASE_DELAY = 2.0
"""REC-02: seconds."""
MAX_DELAY = 600.0
"""REC-02: seconds."""

SHORT_SESSION = 5.0
"""A session that the server asked to restart within this many seconds of its start counts as a failed attempt, so that
a server which always asks cannot make us spin (REC-03)."""


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
        """A session was established: the next failure counts from the beginning."""
        self._n = 0

    def restart(self, *, lasted: float, chance: float) -> float:
        """The server asked for a new session at once (REC-03): seconds to wait, zero unless it keeps asking."""
        return self.failed(chance) if lasted < SHORT_SESSION else 0.0
