"""Frame budget of a WebSocket: frames that carry no message are bounded, before a library parses them.

A frame without content costs its receiver as much as a full one, and its sender two bytes. Continuation frames without
end, pings, or a message cut into single bytes keep a core busy, and other bounds count messages only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

MAX_FRAMES = 8192
"""Frames that may have come beyond those of the messages taken in. It has to hold what waits for a slow reader here."""

FRAMES_PER_SECOND = 200.0
"""Frames added to the budget each second, for pings and fragmented messages."""

BYTES_PER_FRAME: Final = 256
"""A message may have one frame for each so many of its characters, and one more."""

_END_OF_HEAD: Final = b"\r\n\r\n"


class FrameCounter:
    """Counts the frames of one direction of a WebSocket, also after the head of an HTTP response. Sans-I/O."""

    def __init__(self, *, after_head: bool = False) -> None:
        self._in_head = after_head
        self._head = b""
        self._skip = 0

    def feed(self, data: bytes, most: int = MAX_FRAMES + 1) -> int:
        """Return the number of frames that begin in these next bytes of the stream; counts up to ``most``."""
        if self._head:
            data, self._head = self._head + data, b""
        if self._in_head:
            end = data.find(_END_OF_HEAD)
            if end < 0:
                self._head = data[-len(_END_OF_HEAD) + 1 :]
                return 0
            data, self._in_head = data[end + len(_END_OF_HEAD) :], False
        at, size, count = self._skip, len(data), 0
        self._skip = 0
        while at < size and count < most:
            if size - at < 2:
                self._head = data[at:]
                return count
            second = data[at + 1]
            length = second & 0x7F
            begin = at + 2
            if length >= 126:
                begin += 2 if length == 126 else 8
                if size < begin:
                    self._head = data[at:]
                    return count
                length = int.from_bytes(data[at + 2 : begin])
            at = begin + (4 if second & 0x80 else 0) + length
            count += 1
        self._skip = max(at - size, 0)
        return count


class FrameBudget:
    """Budget of the frames received on one connection. Sans-I/O.

    Attributes:
        exceeded: Whether :meth:`feed` has found too many.
        on_exceeded: Called then.
    """

    def __init__(self, now: float, *, after_head: bool = False) -> None:
        self.exceeded = False
        self.on_exceeded: Callable[[], None] | None = None
        self._counter = FrameCounter(after_head=after_head)
        self._level = 0.0
        self._then = now

    def feed(self, data: bytes, *, now: float) -> bool:
        """Count the frames in the next bytes of the stream. Returns whether a library may have them."""
        if not self.exceeded and not self.came(self._counter.feed(data), now=now):
            self.exceeded = True
            if self.on_exceeded is not None:
                self.on_exceeded()
        return not self.exceeded

    def came(self, frames: int, *, now: float) -> bool:
        """Count received frames. Returns whether they are within the budget."""
        self._level = max(self._level - (now - self._then) * FRAMES_PER_SECOND, 0.0) + frames
        self._then = now
        return self._level <= MAX_FRAMES

    def delivered(self, length: int) -> None:
        """Credit the frames of a message with so many characters. An empty one earns nothing."""
        if length:
            self._level = max(self._level - 1 - length // BYTES_PER_FRAME, 0.0)


class FrameGuard(asyncio.Protocol):
    """Protocol in front of that of an open WebSocket: passes nothing on once the frame budget is exceeded.

    ``tail`` is what has come of the stream already.
    """

    def __init__(self, protocol: asyncio.Protocol, tail: bytes = b"") -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self.budget = FrameBudget(self._loop.time())
        self.budget.feed(tail, now=self._loop.time())

    def data_received(self, data: bytes) -> None:
        """Pass on what the budget allows."""
        if self.budget.feed(data, now=self._loop.time()):
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
