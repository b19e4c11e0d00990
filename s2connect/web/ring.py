"""The last messages that passed, bounded in number and in characters. Sans-I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from s2connect.messages.envelope import InvalidMessage, read_message

MAX_MESSAGES: Final = 1000
"""Messages that are kept."""

MAX_TEXT: Final = 2000
"""Characters of a message that are kept: some 2 MB in all."""

MAX_PER_SECOND: Final = 200
"""Messages that are kept a second in the long run. Nobody can follow more, and what is kept costs more than all else:
memory that the processor has to fetch anew, message by message."""

REFILL: Final = 0.25
"""Seconds from one time to the next at which :attr:`MessageRing.left` grows."""

SEARCHED: Final = 100
"""Messages among which the subject of a refusal is looked for."""

Direction = Literal["received", "sent"]


class Source(Protocol):
    """Peer of a message: its key, and its title when somebody looks."""

    @property
    def key(self) -> str:
        """Stable name of the peer."""

    @property
    def title(self) -> str:
        """Name of the peer, raw."""


Entry = tuple[float, Source, Direction, str, str | None, str | tuple[int, str]]
"""Time, peer, direction, message type (empty: not read yet), status, and text; a long one is cut, with its length."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A message of the ring; see :class:`s2connect.web.facts.Seen`. ``at`` is in seconds of the clock of the ring."""

    number: int
    at: float
    key: str
    title: str
    direction: Direction
    type: str
    status: str
    size: int
    text: str


class MessageRing:
    """The last messages.

    Attributes:
        entries: The messages, oldest first. Where each call counts, one is added by ``append``, ``count += 1`` and
            ``left -= 1``, if there is any left, after :meth:`refill` if that is due.
        count: Number of the last one.
        left: Messages that may be kept now.
        due: Time of the next :meth:`refill`.
    """

    __slots__ = ("_filled", "_left_out", "_size", "count", "due", "entries", "left")

    def __init__(self, size: int = MAX_MESSAGES) -> None:
        self.entries: deque[Entry] = deque(maxlen=size)
        self.count = 0
        self.left = self._size = size
        self.due = self._filled = 0.0
        self._left_out = False

    def refill(self, now: float) -> None:
        """Let as many messages be kept as time has passed for."""
        self._left_out = self.left <= 0
        self.left = min(self._size, max(0, self.left) + round((now - self._filled) * MAX_PER_SECOND))
        self._filled, self.due = now, now + REFILL

    def leaves_out(self, now: float) -> bool:
        """Return whether messages are left out: there was none left in the last quarter of a second."""
        return (self.left <= 0 or self._left_out) and now < self.due + REFILL

    def add(self, now: float, source: Source, direction: Direction, kind: str, status: str | None, text: str) -> None:
        """Add a message, whatever is left. If ``kind`` is empty, its type is read when somebody looks."""
        self.count += 1
        self.left -= 1
        self.entries.append((now, source, direction, kind, status, text if len(text) <= MAX_TEXT else cut(text)))

    def newest_first(self, after: int = 0) -> Iterator[Kept]:
        """Iterate over the messages with a greater number than ``after``, from the last one on."""
        number = self.count
        for now, source, direction, kind, status, kept in reversed(self.entries):
            if number <= after:
                return
            size, text = (len(kept), kept) if isinstance(kept, str) else kept
            if not kind:
                kind, status = _kind(text)
            yield Kept(number, now, source.key, source.title, direction, kind, status or "", size, text)
            number -= 1

    def find(self, source: Source, direction: Direction, message_id: str) -> str:
        """Return the type of one of the last messages, by its id; empty where it is not found."""
        for left, (_, of, passed, kind, _, kept) in enumerate(reversed(self.entries)):
            if left >= SEARCHED:
                break
            text = kept if isinstance(kept, str) else kept[1]
            if of is source and passed == direction and message_id in text:
                return kind or _kind(text)[0]
        return ""


def cut(text: str) -> tuple[int, str]:
    """Return a text that is too long as it is kept."""
    return len(text), text[:MAX_TEXT]


def _kind(text: str) -> tuple[str, str]:
    """Return message type and status of a text, empty where it has none."""
    try:
        message = read_message(text)
    except InvalidMessage:
        return "", ""
    return message.type, message.status or ""
