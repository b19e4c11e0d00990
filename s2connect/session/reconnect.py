"""Reconnection delays of the communication client, without I/O (REC)."""

from __future__ import annotations

from s2connect.transports.backoff import BASE_DELAY as BASE_DELAY
from s2connect.transports.backoff import MAX_DELAY as MAX_DELAY
from s2connect.transports.backoff import Backoff as _Backoff

SHORT_SESSION = 5.0
"""A session that the server asked to restart within this many seconds of its start counts as a failed attempt, so that
a server which always asks cannot make us spin (REC-03)."""


REFUSED_DELAY = 6 * 3600.0
"""SESC-05 [D]: seconds between two tries at a server that accepts none of our tokens. It may have been restored from an
older copy, and be put right."""


def after_refusal(chance: float) -> float:
    """Return the seconds until the next attempt at a server that accepts none of our tokens (SESC-05).

    Args:
        chance: Uniform in [0, 1): the devices of a server do not all come at once.
    """
    return REFUSED_DELAY * (0.75 + chance / 2)


class Backoff(_Backoff):
    """The delays of sessions: those of REC-02, and none where the server asks for a new session (REC-03)."""

    def restart(self, *, lasted: float, chance: float) -> float:
        """The server asked for a new session at once (REC-03): seconds to wait, zero unless it keeps asking."""
        return self.failed(chance) if lasted < SHORT_SESSION else 0.0
