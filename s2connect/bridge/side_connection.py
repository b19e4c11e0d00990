"""Connection of one side of a link: its texts are taken as they come, unless something holds them up (WS-07)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from s2connect import Connection
from s2connect.bridge.outbox import Outbox
from s2connect.errors import ConnectionClosed
from s2connect.session import DeliveryGuard, Withholding
from s2connect.transports import NORMAL_CLOSURE

MAX_KEPT: Final = 16
"""Texts of a side that are read and kept while nobody takes them."""

MAX_UNREAD: Final = 1000
"""Texts queued for one side before the bridge stops reading from it: it sends, and does not read the answers."""

LONG: Final = 4096
"""Characters of a text after which, when it is kept, reading pauses at once."""

Take = Callable[[str], float | None]
"""Function that takes the next text of a side. It returns the seconds until it takes one more; 0.0 for a turn of others
first; None for at once."""

OnEnd = Callable[[Exception], None]


class SideConnection:
    """Connection of one side of a link: hands every text to :data:`Take`, in order, and sends.

    Nothing is handed over before :meth:`hand_to`, after :meth:`hold`, during the pauses of ``Take``, while the other
    side has too much to send, or this side does not read. Then reading pauses, and what comes nevertheless is kept.
    While a guard has doubts whether another process has the link, texts are withheld from ``Take``.

    Args:
        connection: The connection.
        on_end: Called with the end of the connection, once all its texts were handed over, or at once if nobody takes
            them; and with an error of ours that ended it.

    Attributes:
        outbox: Send queue.
    """

    def __init__(self, connection: Connection, on_end: OnEnd) -> None:
        self.connection = connection
        self.outbox = Outbox(connection, self._on_room, self._on_error)
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._take: Take | None = None
        self._far: SideConnection | None = None  # itself, where there is none
        self._withholding: Withholding | None = None
        self._kept: deque[str] = deque()
        self._is_open = False  # whether a text that comes is taken at once
        self._is_reading = True
        self._pause: asyncio.Handle | None = None
        self._ended: ConnectionClosed | None = None
        connection.receive_into(self)

    def hand_to(
        self, take: Take, on_end: OnEnd, far: SideConnection | None = None, guard: DeliveryGuard | None = None
    ) -> None:
        """Hand all texts to ``take`` from now on, as fast as ``far`` takes what follows; ``guard`` may object."""
        self._take, self._on_end, self._far = take, on_end, far
        if guard is not None:
            self._withholding = Withholding(guard, self.connection, self._stop_reading, self._read_on, self._loop.time)
        self._go_on()

    def hold(self) -> None:
        """Hand nothing over until :meth:`hand_to`."""
        self._take, self._far, self._is_open = None, None, False
        if self._withholding is not None:
            self._kept.extendleft(reversed(self._withholding.end()))
            self._withholding = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._stop_reading()

    async def close(self) -> None:
        """Hand nothing over, send nothing more, and close the connection. Idempotent, bounded to a few seconds."""
        self.hold()
        try:
            await self.outbox.close()
        finally:
            await self.connection.close(NORMAL_CLOSURE, "the other side is gone")

    # Receiver

    def text_received(self, text: str) -> None:
        if not self._is_open:
            self._kept.append(text)
            if len(self._kept) >= MAX_KEPT or len(text) >= LONG:
                self._stop_reading()
            return
        if self._withholding is not None and self._withholding.withholds(text, self.text_received):
            return
        assert self._take is not None
        try:
            pause = self._take(text)
        except Exception as error:
            self.hold()
            self._on_end(error)
            return
        if pause is not None or self.outbox.queue or (self._far or self).outbox.queue:
            self._taken(pause)

    def connection_ended(self, error: ConnectionClosed) -> None:
        self._ended = error
        if self._take is None or not self._kept:
            self._on_end(error)

    def _taken(self, pause: float | None) -> None:
        """Take the next text after a pause, if any, and when there is room for what follows from it."""
        if pause is not None:
            self._is_open = False
            if pause > 0.0:
                self._stop_reading()
                self._pause = self._loop.call_later(pause, self._resume)
            else:
                self._pause = self._loop.call_soon(self._resume)
        elif self._is_held_up():
            self._is_open = False
            self._stop_reading()

    def _is_held_up(self) -> bool:
        return self.outbox.is_full(MAX_UNREAD) or (self._far or self).outbox.is_full()

    def _resume(self) -> None:
        self._pause = None
        self._go_on()

    def _go_on(self) -> None:
        """Hand over what was kept, and read again, unless something holds it up."""
        if self._is_open or self._pause is not None or self._take is None or self._is_held_up():
            return
        self._is_open = True
        while self._is_open and self._kept:
            self.text_received(self._kept.popleft())
        if not self._is_open:
            return
        if self._ended is not None:
            self._on_end(self._ended)
        else:
            self._read_on()

    def _read_on(self) -> None:
        has_paused = self._withholding is not None and self._withholding.has_paused
        if self._is_open and not self._is_reading and not has_paused and self._ended is None:
            self._is_reading = True
            self.connection.resume_reading()

    def _stop_reading(self) -> None:
        if self._is_reading and self._ended is None:
            self._is_reading = False
            self.connection.pause_reading()

    def _on_room(self) -> None:
        """Note that less waits to be sent to this side: both sides may be read again, soon."""
        for held_up in {self, self._far or self}:
            if not held_up._is_open:
                self._loop.call_soon(held_up._go_on)

    def _on_error(self, error: Exception) -> None:
        self._on_end(error)
