"""Lag of the event loop: seconds between the moment a socket is ready and the loop's handling of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final, Protocol

LOOK_EVERY: Final = 0.05
"""Seconds between two measurements while the loop is not late."""


class Look(Protocol):
    """Callback for a measurement."""

    def __call__(self, lag: float, *, now: float) -> None:
        """Record that a ready socket waited for ``lag`` seconds."""


class LagProbe:
    """Measures several times a second, within a running event loop, until it is closed.

    A timer would measure less: a loop that handles a few sockets a turn has its timers in time, and sockets wait.

    Args:
        look: Called with every measurement.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        self._sent = 0.0
        self._loop.add_reader(self._here.fileno(), self._arrived)
        self._timer = self._loop.call_later(LOOK_EVERY, self._send)

    def close(self) -> None:
        """Measure no more. Idempotent."""
        self._timer.cancel()
        if self._here.fileno() >= 0:
            self._loop.remove_reader(self._here.fileno())
            self._here.close()
            self._there.close()

    def _send(self) -> None:
        # A turn of the loop begins with its sockets: what is sent now waits for a whole turn.
        self._sent = self._loop.time()
        self._there.send(b"x")

    def _arrived(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._here.recv(16)
        now = self._loop.time()
        self._timer = self._loop.call_later(LOOK_EVERY, self._send)
        self._look(now - self._sent, now=now)
