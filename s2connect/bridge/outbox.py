"""Bounded send queue of one side of a link: a slow side slows the other, and memory does not grow (WS-07)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from s2connect import Connection
from s2connect.errors import ConnectionClosed

MAX_QUEUED: Final = 100
"""Queued texts of one side from which on the other is slowed down."""

MAX_QUEUED_CHARACTERS: Final = 1024 * 1024
"""The same in characters."""


class Outbox:
    """Send queue of one side. One task calls :meth:`run`; any may put. Only :meth:`run` raises at the connection's end.

    A text goes out at once where nothing waits and the connection has room, which is the usual case.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._queue: deque[tuple[str, str | None]] = deque()
        self._characters = 0
        self._sending = False
        self._ended: ConnectionClosed | None = None
        self._work = asyncio.Event()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    async def put(self, text: str, key: str | None = None) -> None:
        """Send a text in its turn; returns when there is room for more. Cancelled while it waits, the text is sent."""
        if not self._queue and not self._sending and self._connection.has_room():
            await self._send(text)
            return
        self.put_nowait(text, key)
        await self.room()

    def put_nowait(self, text: str, key: str | None = None) -> None:
        """Send a text in its turn, without waiting for room: the caller bounds their number."""
        self._queue.append((text, key))
        self._characters += len(text)
        self._work.set()

    async def room(self, limit: int = MAX_QUEUED) -> None:
        """Wait until fewer than ``limit`` texts wait, and not too many characters."""
        while len(self._queue) >= limit or self._characters >= MAX_QUEUED_CHARACTERS:
            self._room.clear()
            await self._room.wait()

    def withdraw(self, key: str) -> bool:
        """Take back a message that has not left yet; False if it has."""
        for entry in self._queue:
            if entry[1] == key:
                self._queue.remove(entry)
                self._taken(entry[0])
                return True
        return False

    async def run(self) -> None:
        """Send what was put, until the connection is gone, which raises. Cancelled, what is being sent may be sent."""
        while self._ended is None:
            await self._work.wait()
            self._work.clear()
            while self._queue and not self._sending and self._ended is None:
                text, _ = self._queue.popleft()
                self._taken(text)
                await self._send(text)
        raise self._ended

    async def flush(self) -> None:
        """Wait until :meth:`run` has sent everything. Raises ConnectionClosed, where the connection is gone."""
        while self._queue or self._sending:
            if self._ended is not None:
                raise self._ended
            self._room.clear()
            await self._room.wait()

    async def _send(self, text: str) -> None:
        self._sending = True
        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            self._ended = error
        finally:
            self._sending = False
            self._room.set()
            if self._queue or self._ended is not None:
                self._work.set()

    def _taken(self, text: str) -> None:
        self._characters -= len(text)
        self._room.set()
