"""Texts of a session that another process may have by now: withheld, or delivered behind a sign of the peer (WS-06)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from s2connect.session.inbox import WAITING_LIMIT
from s2connect.transports.base import Connection

SIGN_FOR: Final = 0.8
"""Seconds for which a sign of the peer counts, from the question on: shorter than another process that gets the session
waits before it delivers."""

MAX_WITHHELD: Final = 1000
"""Texts, at most, that are withheld until a sign of the peer comes behind them."""


class DeliveryGuard(Protocol):
    """Guard of a session, or of a link, that another process may have taken over."""

    def may_deliver(self) -> bool:
        """Return whether the session is known to be this process's."""

    def when_it_may(self, call: Callable[[], None]) -> None:
        """Call ``call``, once, when that is known, or is not to be found out; the session may be closing by then."""

    def is_certain(self) -> bool:
        """Return whether this process would know if another had the session; if not, only the peer can tell."""

    def when_certain(self, call: Callable[[], None]) -> None:
        """Call ``call``, once, when it would know again; the session may be closing by then."""


class Withholding:
    """Withholding of what comes on a connection, while its guard has doubts.

    While the guard is not certain, nothing is delivered without a sign of the peer, which it gives on this connection
    to a question that was asked after the text had come: a peer that has gone on elsewhere gives none. A sign counts
    for :data:`SIGN_FOR` seconds. One that takes longer may have been held up itself, so the peer is asked once more.

    Args:
        guard: The guard.
        connection: Connection whose peer is asked.
        pause: Pauses reading, because enough is withheld.
        resume: Resumes it.
        now: Clock, in seconds.

    Attributes:
        has_paused: Whether reading is paused because of what is withheld.
    """

    __slots__ = (
        "_connection",
        "_guard",
        "_now",
        "_passes",
        "_pause",
        "_renews",
        "_resume",
        "_signed_until",
        "_size",
        "_waits",
        "_withheld",
        "has_paused",
    )

    def __init__(
        self,
        guard: DeliveryGuard,
        connection: Connection,
        pause: Callable[[], None],
        resume: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._guard = guard
        self._connection = connection
        self._pause, self._resume = pause, resume
        self._now = now
        self._withheld: list[str] | None = None
        self._size = 0  # of what is withheld
        self.has_paused = False
        self._waits = False  # the guard calls when it is certain
        self._renews = False  # the peer is asked again in time
        self._passes = False  # what was withheld is delivered by a sign
        self._signed_until = float("-inf")

    def withholds(self, text: str, deliver: Callable[[str], None]) -> bool:
        """Return whether a text must not be delivered now: ``deliver`` is called with it later, or never."""
        if self._withheld is not None:
            self._withheld.append(text)
            self._size += len(text)
            if len(self._withheld) >= MAX_WITHHELD or self._size >= WAITING_LIMIT:
                self._pause_reading()
            return True
        guard = self._guard
        if not guard.may_deliver():
            self._withhold(text)
            self._pause_reading()
            guard.when_it_may(partial(self._release, deliver))
            return True
        if guard.is_certain() or self._passes or self._is_signed(deliver) or not self._ask(deliver):
            return False
        self._withhold(text)
        if not self._waits:
            self._waits = True
            guard.when_certain(partial(self._certain, deliver))
        return True

    def end(self) -> list[str]:
        """Deliver nothing more; return what was withheld. Idempotent."""
        texts = self._withheld or []
        if self._withheld is not None:
            self._withheld = []
        return texts

    def _withhold(self, text: str) -> None:
        self._withheld, self._size = [text], len(text)

    def _pause_reading(self) -> None:
        if not self.has_paused:
            self.has_paused = True
            self._pause()

    def _release(self, deliver: Callable[[str], None]) -> None:
        texts, self._withheld = self._withheld or (), None
        if self.has_paused:
            self.has_paused = False
            self._resume()
        for text in texts:
            deliver(text)

    # Signs of the peer

    def _is_signed(self, deliver: Callable[[str], None]) -> bool:
        """Return whether a sign counts still; ask for the next one before it does not."""
        now = self._now()
        if now >= self._signed_until:
            return False
        if not self._renews and now >= self._signed_until - SIGN_FOR / 2:
            self._renews = self._ask(deliver)
        return True

    def _ask(self, deliver: Callable[[str], None], *, again: bool = False) -> bool:
        """Ask the peer; a question before that counts no more. Returns whether the transport can do that."""
        return self._connection.ask(partial(self._signed, deliver, self._now(), again))

    def _signed(self, deliver: Callable[[str], None], asked_at: float, again: bool) -> None:
        self._renews = False
        self._signed_until = asked_at + SIGN_FOR
        if self._withheld is None:
            return
        if self._now() >= self._signed_until and not again:
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
