"""Pauses of reading from a peer (WS-07)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from s2connect.session.budget import PeerBudget, PeerLimits
from s2connect.transports.base import Connection


class DeliveryGuard(Protocol):
    """Guard of a session that another process may have taken over."""

    def may_deliver(self) -> bool:
        """Return whether the session is known to be this process's."""

    def when_it_may(self, call: Callable[[], None]) -> None:
        """Call ``call``, once, when that is known, or is not to be found out; the session may be closing by then."""


class Reading:
    """Reading from a connection: paused for a peer that uses more than its budget, and for other reasons."""

    __slots__ = ("_budget", "_connection", "_loop", "_reasons", "_timer", "_withheld", "guard")

    def __init__(self, connection: Connection, limits: PeerLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._budget = PeerBudget(limits)
        self._loop = loop
        self._reasons = 0
        self._timer: asyncio.Handle | None = None
        self._withheld: list[str] | None = None
        self.guard: DeliveryGuard | None = None

    def withholds(self, text: str, deliver: Callable[[str], None]) -> bool:
        """Return whether a text must not be delivered now: ``deliver`` is called with it later, or never."""
        if self._withheld is not None:
            self._withheld.append(text)
            return True
        if self.guard is None or self.guard.may_deliver():
            return False
        self._withheld = [text]
        self.pause()
        self.guard.when_it_may(partial(self._release, deliver))
        return True

    def _release(self, deliver: Callable[[str], None]) -> None:
        texts, self._withheld = self._withheld or (), None
        self.resume()
        for text in texts:
            deliver(text)

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
        self._withheld = self._withheld and []
        if self._timer is not None:
            self._timer.cancel()

    def _rested(self) -> None:
        self._timer = None
        self.resume()
