"""When the communication client tries again, without I/O (REC)."""

from __future__ import annotations

from s2connect.transports.backoff import BASE_DELAY as BASE_DELAY
from s2connect.transports.backoff import MAX_DELAY as MAX_DELAY
from s2connect.transports.backoff import Backoff as _Backoff

SHORT_SESSION = 5.0
"""A session that the server asked to restart within this many seconds of its start counts as a failed attempt, so that
a server which always asks cannot make us spin (REC-03)."""


class Backoff(_Backoff):
    """The delays of sessions: those of REC-02, and none where the server asks for a new session (REC-03)."""

    def restart(self, *, lasted: float, chance: float) -> float:
        """The server asked for a new session at once (REC-03): seconds to wait, zero unless it keeps asking."""
        return self.failed(chance) if lasted < SHORT_SESSION else 0.0
