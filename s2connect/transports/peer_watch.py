"""Silence of a peer, for telling a vanished one from a slow one."""

from __future__ import annotations

from collections.abc import Callable


class PeerWatch:
    """Watch over a peer: the seconds of reading without a sign of life of it. Sans-I/O.

    Time in which nothing is read does not count: then the signs of life of the peer stand in a queue, and a slow
    receiver here must not cost a living peer its connection.
    """

    __slots__ = ("_asked", "_heard", "_number", "_stopped")

    def __init__(self, now: float) -> None:
        self._heard = now
        self._stopped: float | None = None
        self._number = 0  # of the question
        self._asked: Callable[[], None] | None = None

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

    def ask(self, call: Callable[[], None]) -> bytes:
        """Return a question to the peer; ``call`` is called with its answer, unless another is asked meanwhile."""
        self._number, self._asked = self._number + 1, call
        return self._number.to_bytes(8)

    def answered(self, data: bytes) -> None:
        """Note an answer of the peer."""
        if self._asked is not None and data == self._number.to_bytes(8):
            call, self._asked = self._asked, None
            call()
