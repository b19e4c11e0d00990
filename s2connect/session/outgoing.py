"""Queue of ReceptionStatuses that wait to be written, and the form in which a message of ours leaves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from s2connect.errors import ConnectionClosed, UsageError
from s2connect.messages.base import S2Message
from s2connect.messages.envelope import (
    InvalidMessage,
    Message,
    check_sendable,
    is_identifier,
    read_message,
    write_message,
)
from s2connect.messages.labels import ID_WORDS

STATUS_LIMIT = 2000
"""ReceptionStatuses that wait to be written; beyond it nothing more is read. More than a peer may leave unanswered."""


class StatusQueue:
    """Queue of ReceptionStatuses and the task that writes them: reading goes on while there is no room to write.

    ``transmit`` writes a text, or raises ConnectionClosed; ``failed`` ends the session because of another error.
    """

    def __init__(
        self, transmit: Callable[[str], Awaitable[None]], failed: Callable[[Exception], Awaitable[None]], name: str
    ) -> None:
        self._transmit = transmit
        self._failed = failed
        self._texts: deque[str] = deque()
        self._added = self._written = 0
        self._to_write = asyncio.Event()
        self._progress = asyncio.Event()
        self._writer = asyncio.create_task(self._write(), name=name)

    def __len__(self) -> int:
        return len(self._texts)

    def put(self, text: str) -> None:
        """Add a text, to be written after :meth:`wake` or by :meth:`write_first`."""
        self._texts.append(text)
        self._added += 1

    def wake(self) -> None:
        """Let the task write what was added."""
        self._to_write.set()

    async def write_first(self) -> None:
        """Write the oldest text here, without waking the task: the usual case where there is one, and room for it."""
        await self._transmit(self._texts.popleft())
        self._note_written()

    async def flush(self) -> None:
        """Wait until what was added before is written: a message never overtakes the one it follows from."""
        due = self._added
        await self._until(lambda: self._written >= due)

    async def room(self) -> None:
        """Wait until fewer than :data:`STATUS_LIMIT` texts wait."""
        await self._until(lambda: len(self._texts) < STATUS_LIMIT)

    async def drained(self) -> None:
        """Wait until nothing waits."""
        await self._until(lambda: not self._texts)

    async def close(self) -> None:
        """End the task, and everything that waits for it."""
        self._writer.cancel()
        await asyncio.wait({self._writer})

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached() and not self._writer.done():
            self._progress.clear()
            await self._progress.wait()

    def _note_written(self) -> None:
        self._written += 1
        self._progress.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._to_write.wait()
                while self._texts:
                    await self._transmit(self._texts[0])
                    self._texts.popleft()
                    self._note_written()
                self._to_write.clear()
        except ConnectionClosed:
            self._texts.clear()
        except Exception as error:
            await self._failed(error)  # otherwise the session would stay open without answering any more
        finally:
            self._progress.set()


def sendable(message: S2Message | Mapping[str, Any] | str) -> Message:
    """Return a message as it is written; UsageError if it is none that an application sends.

    An object without ``message_id`` gets a new one.
    """
    if isinstance(message, S2Message):
        from s2connect.messages.catalogue import written

        read = written(message)
    else:
        text = message if isinstance(message, str) else write_message(message)[0]
        try:
            read = read_message(text)
        except InvalidMessage as error:
            raise UsageError(f"The text is no S2 message: {error.label}.") from None
    check_sendable(read.type)
    if read.id is not None and not is_identifier(read.id):
        raise UsageError(f"A message_id has {ID_WORDS}.")
    return read
