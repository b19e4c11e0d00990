"""Reading from a peer: pauses (WS-07), and what is withheld of a session that another process may have (WS-06)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from s2connect.session.budget import PeerBudget, PeerLimits
from s2connect.session.inbox import WAITING_LIMIT
from s2connect.transports.base import Connection

SIGN_FOR: Final = 0.8
"""Seconds for which a sign of the peer counts, from the question on: shorter than another process that gets the session
waits before it delivers."""

MAX_WITHHELD: Final = 1000
"""Texts, at most, that are withheld until a sign of the peer comes behind them."""


class DeliveryGuard(Protocol):
    """Guard of a session that another process may have taken over."""

    def may_deliver(self) -> bool:
        """Return whether the session is known to be this process's."""

    def when_it_may(self, call: Callable[[], None]) -> None:
        """Call ``call``, once, when that is known, or is not to be found out; the session may be closing by then."""

    def is_certain(self) -> bool:
        """Return whether this process would know if another had the session; if not, only the peer can tell."""

    def when_certain(self, call: Callable[[], None]) -> None:
        """Call ``call``, once, when it would know again; the session may be closing by then."""


class Reading:
    """Reading from a connection: paused for a peer that uses more than its budget, and for other reasons.

    While the guard is not certain, nothing is delivered without a sign of the peer, which it gives on this connection
    to a question that was asked after the text had come: a peer that has gone on elsewhere gives none. A sign counts
    for :data:`SIGN_FOR` seconds. One that takes longer may have been held up itself, so the peer is asked once more.
    """

    __slots__ = (
        "_budget",
        "_connection",
        "_has_paused",
        "_loop",
        "_passes",
        "_reasons",
        "_renews",
        "_signed_until",
        "_size",
        "_timer",
        "_waits",
        "_withheld",
        "guard",
    )

    def __init__(self, connection: Connection, limits: PeerLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._budget = PeerBudget(limits)
        self._loop = loop
        self._reasons = 0
        self._timer: asyncio.Handle | None = None
        self._withheld: list[str] | None = None
        self._size = 0  # of what is withheld
        self._has_paused = False  # because of what is withheld
        self._waits = False  # the guard calls when it is certain
        self._renews = False  # the peer is asked again in time
        self._passes = False  # what was withheld is delivered by a sign
        self._signed_until = float("-inf")
        self.guard: DeliveryGuard | None = None

    def withholds(self, text: str, deliver: Callable[[str], None]) -> bool:
        """Return whether a text must not be delivered now: ``deliver`` is called with it later, or never."""
        if self._withheld is not None:
            self._withheld.append(text)
            self._size += len(text)
            if len(self._withheld) >= MAX_WITHHELD or self._size >= WAITING_LIMIT:
                self._pause_for_withheld()
            return True
        guard = self.guard
        if guard is None:
            return False
        if not guard.may_deliver():
            self._withhold(text)
            self._pause_for_withheld()
            guard.when_it_may(partial(self._release, deliver))
            return True
        if guard.is_certain() or self._passes or self._is_signed(deliver) or not self._ask(deliver):
            return False
        self._withhold(text)
        if not self._waits:
            self._waits = True
            guard.when_certain(partial(self._certain, deliver))
        return True

    def _withhold(self, text: str) -> None:
        self._withheld, self._size = [text], len(text)

    def _pause_for_withheld(self) -> None:
        if not self._has_paused:
            self._has_paused = True
            self.pause()

    def _release(self, deliver: Callable[[str], None]) -> None:
        texts, self._withheld = self._withheld or (), None
        if self._has_paused:
            self._has_paused = False
            self.resume()
        for text in texts:
            deliver(text)

    # Signs of the peer

    def _is_signed(self, deliver: Callable[[str], None]) -> bool:
        """Return whether a sign counts still; ask for the next one before it does not."""
        now = self._loop.time()
        if now >= self._signed_until:
            return False
        if not self._renews and now >= self._signed_until - SIGN_FOR / 2:
            self._renews = self._ask(deliver)
        return True

    def _ask(self, deliver: Callable[[str], None], *, again: bool = False) -> bool:
        """Ask the peer; a question before that counts no more. Returns whether the transport can do that."""
        return self._connection.ask(partial(self._signed, deliver, self._loop.time(), again))

    def _signed(self, deliver: Callable[[str], None], asked_at: float, again: bool) -> None:
        self._renews = False
        self._signed_until = asked_at + SIGN_FOR
        if self._withheld is None:
            return
        if self._loop.time() >= self._signed_until and not again:
            self._ask(deliver, again=True)
            return
        self._passes = True
        try:
            self._release(deliver)
        finally:
            self._passes = False

    def _certain(self, deliver: Callable[[str], None]) -> None:
        self._waits = False
        if self._withheld is not None:
            self._release(deliver)

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
