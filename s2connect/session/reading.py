"""Reading from a peer, and its pauses (WS-07)."""

from __future__ import annotations

import asyncio

from s2connect.session.budget import PeerBudget, PeerLimits
from s2connect.session.withholding import DeliveryGuard, Withholding
from s2connect.transports.base import Connection


class Reading:
    """Reading from a connection: paused for a peer that uses more than its budget, and for other reasons.

    Attributes:
        withholding: Withholding of what comes while another process may have the session; None without a guard.
    """

    __slots__ = ("_budget", "_connection", "_loop", "_reasons", "_timer", "withholding")

    def __init__(self, connection: Connection, limits: PeerLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._budget = PeerBudget(limits)
        self._loop = loop
        self._reasons = 0
        self._timer: asyncio.Handle | None = None
        self.withholding: Withholding | None = None

    def guard_with(self, guard: DeliveryGuard) -> None:
        """Withhold what comes while ``guard`` does not know whether the session is this process's."""
        self.withholding = Withholding(guard, self._connection, self.pause, self.resume, self._loop.time)

    def charge(self, size: int, worked: float) -> bool:
        """Charge a processed text, and pause as long as the budget says. Returns whether it is the first such pause.

        Arguments are those of :meth:`PeerBudget.charge`.
        """
        pause = self._budget.charge(size, worked, now=self._loop.time())
        if pause is None or self._timer is not None:
            return False
        self.pause()
        if pause == 0.0:  # a turn of the others
            self._timer = self._loop.call_soon(self._rested)
            return False
        self._timer = self._loop.call_later(pause, self._rested)
        return self._budget.slowed == 1

    def pause(self) -> None:
        """Pause reading until :meth:`resume` was called as often."""
        self._reasons += 1
        if self._reasons == 1:
            self._connection.pause_reading()

    def resume(self) -> None:
        """Read on, unless there is another reason to pause."""
        self._reasons -= 1
        if self._reasons == 0:
            self._connection.resume_reading()

    def end(self) -> None:
        """Release the timer, and drop what is withheld, which can no longer be acknowledged: the connection ended."""
        if self.withholding is not None:
            self.withholding.end()
            self.withholding = None  # each refers to the other
        if self._timer is not None:
            self._timer.cancel()

    def _rested(self) -> None:
        self._timer = None
        self.resume()
