"""Bounded send queue of one side of a link: a slow side slows the other, and memory does not grow (WS-07)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from s2connect import Connection
from s2connect.errors import ConnectionClosed
from s2connect.transports import ABNORMAL_CLOSURE

MAX_QUEUED: Final = 100
"""Queued texts of one side from which on the other is slowed down."""

MAX_QUEUED_CHARACTERS: Final = 1024 * 1024
"""The same in characters."""


def _nothing(*_: object) -> None:
    pass


class Outbox:
    """Send queue of one side.

    A text goes out at once where nothing waits and the connection has room, which is the usual case. Otherwise a task
    sends, as long as something waits.

    Args:
        connection: The connection.
        on_room: Called whenever fewer texts wait than before.
        on_error: Called once with the error that ended the sending: the connection is gone, or an error of ours.

    Attributes:
        queue: What waits, each text with the key under which it may be withdrawn.
    """

    def __init__(
        self, connection: Connection, on_room: Callable[[], None], on_error: Callable[[Exception], None]
    ) -> None:
        self._connection = connection
        self._try_send = connection.try_send
        self._on_room = on_room
        self._on_error = on_error
        self.queue: deque[tuple[str, str | None]] = deque()
        self._characters = 0
        self._writer: asyncio.Task[None] | None = None
        self._has_ended = False

    def __len__(self) -> int:
        return len(self.queue)

    def put(self, text: str, key: str | None = None) -> None:
        """Send a text in its turn; the caller bounds their number (:meth:`is_full`). After an error it does nothing."""
        if self._writer is None:
            if self._has_ended:
                return
            try:
                if self._try_send(text):
                    return
            except Exception as error:
                self._failed(error)
                return
            name = f"s2connect-bridge-outbox-{self._connection.info.remote}"
            self._writer = asyncio.create_task(self._write(), name=name)
        self.queue.append((text, key))
        self._characters += len(text)

    def is_full(self, limit: int = MAX_QUEUED) -> bool:
        """Return whether at least ``limit`` texts wait, or too many characters."""
        return len(self.queue) >= limit or self._characters >= MAX_QUEUED_CHARACTERS

    def withdraw(self, key: str) -> bool:
        """Take back a message that has not left yet; False if it has."""
        for entry in self.queue:
            if entry[1] == key:
                self.queue.remove(entry)
                self._taken(entry[0])
                return True
        return False

    async def flush(self) -> None:
        """Wait until everything is sent. Cancel-safe.

        Raises:
            ConnectionClosed: The connection is gone.
        """
        while self._writer is not None:
            await asyncio.wait({self._writer})
        if self._has_ended:
            raise ConnectionClosed(ABNORMAL_CLOSURE)

    async def close(self) -> None:
        """Stop sending, and call nothing any more. What is being sent may be sent."""
        self._on_room = self._on_error = _nothing  # the owner, which refers to this, is freed without the collector
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait({self._writer})

    async def _write(self) -> None:
        try:
            while self.queue:
                text, _ = self.queue.popleft()
                self._taken(text)
                await self._connection.send(text)
        except Exception as error:
            self._failed(error)
        finally:
            self._writer = None

    def _failed(self, error: Exception) -> None:
        self._has_ended = True
        self._on_error(error)

    def _taken(self, text: str) -> None:
        self._characters -= len(text)
        self._on_room()
