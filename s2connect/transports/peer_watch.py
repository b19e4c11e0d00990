"""Silence of a peer, for telling a vanished one from a slow one."""

from __future__ import annotations


class PeerWatch:
    """Watch over a peer: the seconds of reading without a sign of life of it. Sans-I/O.

    Time in which nothing is read does not count: then the signs of life of the peer stand in a queue, and a slow
    receiver here must not cost a living peer its connection.
    """

    __slots__ = ("_heard", "_stopped")

    def __init__(self, now: float) -> None:
        self._heard = now
        self._stopped: float | None = None

    def stop(self, now: float) -> None:
        """Note that reading stops."""
        if self._stopped is None:
            self._stopped = now

    def listen(self, now: float) -> None:
        """Note that reading goes on."""
        if self._stopped is not None:
            self._heard += now - self._stopped
            self._stopped = None

    def heard(self, now: float) -> None:
        """Note a sign of life of the peer."""
        self._heard = now
        if self._stopped is not None:
            self._stopped = now

    def silence(self, now: float) -> float:
        """Return the seconds of reading without a sign of life."""
        return (now if self._stopped is None else self._stopped) - self._heard
