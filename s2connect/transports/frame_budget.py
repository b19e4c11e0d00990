"""Frame budget of a WebSocket: frames that carry no message are bounded.

A frame without content costs its receiver as much as a full one, and its sender two bytes. Continuation frames without
end, pings, or a message cut into single bytes keep a core busy, and other bounds count messages only.
"""

from __future__ import annotations

from typing import Final

MAX_FRAMES = 8192
"""Frames that may have come beyond those of the messages."""

FRAMES_PER_SECOND = 200.0
"""Frames added to the budget each second, for pings and fragmented messages."""

BYTES_PER_FRAME: Final = 256
"""A message may have one frame for each so many of its characters, and one more."""


class FrameBudget:
    """Budget of the frames received on one connection. Sans-I/O.

    Attributes:
        level: Frames that count against it.
    """

    def __init__(self, now: float) -> None:
        self.level = 0.0
        self._then = now

    def came(self, frames: int, *, now: float) -> bool:
        """Count received frames. Returns whether they are within the budget."""
        self.level = max(self.level - (now - self._then) * FRAMES_PER_SECOND, 0.0) + frames
        self._then = now
        return self.level <= MAX_FRAMES

    def delivered(self, length: int) -> None:
        """Credit the frames of a message with so many characters. An empty one earns nothing."""
        if length:
            self.level = max(self.level - 1 - length // BYTES_PER_FRAME, 0.0)
