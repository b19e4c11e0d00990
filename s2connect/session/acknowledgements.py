"""Acknowledgements of our messages by ReceptionStatus. Sans-I/O: ``now`` is an argument, nothing sleeps."""

from __future__ import annotations

from enum import Enum

from s2connect.errors import UsageError
from s2connect.session.latencies import Latencies

ACKNOWLEDGEMENT_TIMEOUT = 15.0
"""Seconds that a ReceptionStatus may take. Software in the field gives up after 5; the standard names no time."""

MAX_OUTSTANDING = 1000
"""Bound on messages that wait for their ReceptionStatus at the same time."""


class Acknowledged(Enum):
    """Match of a ReceptionStatus with the messages that were sent."""

    EXPECTED = "expected"
    """To a message that waits for it."""
    LATE = "late"
    """It answers a message that was given up."""
    UNKNOWN = "unknown"
    """To nothing that was sent, or to something that was acknowledged before."""


_EXPECTED = Acknowledged.EXPECTED  # Python 3.11 looks a member up slowly


class Acknowledgements:
    """The ledger of sent messages: oldest first, bounded, and a memory of those that were given up.

    Attributes:
        latencies: Gets the times that acknowledgements took; None where nobody wants to know.
    """

    __slots__ = ("_given_up", "_limit", "_timeout", "_waiting", "latencies")

    def __init__(self, *, timeout: float = ACKNOWLEDGEMENT_TIMEOUT, limit: int = MAX_OUTSTANDING) -> None:
        self.latencies: Latencies | None = None
        self._timeout = timeout
        self._limit = limit
        self._waiting: dict[str, float] = {}
        self._given_up: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._waiting

    def sent(self, message_id: str, *, now: float) -> None:
        """Note a message that is being sent; ``now`` never goes back.

        Raises:
            UsageError: A message with this id waits already, or as many as allowed wait.
        """
        if message_id in self._waiting:
            raise UsageError("A message with this message_id waits for its acknowledgement already.")
        if len(self._waiting) >= self._limit:
            raise UsageError(f"{self._limit} messages wait for their acknowledgement; wait for one of them first.")
        self._given_up.pop(message_id, None)
        self._waiting[message_id] = now + self._timeout

    def acknowledged(self, message_id: str, now: float | None = None) -> Acknowledged:
        """Note a ReceptionStatus that has come, ``now`` where the time that it took counts."""
        deadline = self._waiting.pop(message_id, None)
        if deadline is not None:
            if self.latencies is not None and now is not None:
                self.latencies.add(now - (deadline - self._timeout), now)
            return _EXPECTED
        if message_id in self._given_up:
            del self._given_up[message_id]
            return Acknowledged.LATE
        return Acknowledged.UNKNOWN

    def give_up(self, message_id: str) -> None:
        """Stop waiting for a message; its ReceptionStatus is late from now on. No error for an unknown one."""
        if self._waiting.pop(message_id, None) is not None:
            self._given_up[message_id] = None
            if len(self._given_up) > self._limit:
                del self._given_up[next(iter(self._given_up))]

    def expired(self, now: float) -> list[str]:
        """Give up the messages whose time is over, and return their ids, oldest first."""
        over: list[str] = []
        for message_id, deadline in self._waiting.items():
            if deadline > now:
                break
            over.append(message_id)
        for message_id in over:
            self.give_up(message_id)
        if over and self.latencies is not None:
            self.latencies.overdue += len(over)
        return over

    @property
    def deadline(self) -> float | None:
        """Return the time at which the next message expires; None while nothing waits."""
        return next(iter(self._waiting.values()), None)
