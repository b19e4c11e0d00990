"""The last messages that passed, bounded in number and in characters. Sans-I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from s2connect.messages.envelope import InvalidMessage, read_message

MAX_MESSAGES: Final = 1000
"""Messages that are kept."""

MAX_TEXT: Final = 2000
"""Characters of a message that are kept: some 2 MB in all."""

SEARCHED: Final = 100
"""Messages among which the subject of a refusal is looked for."""

Direction = Literal["received", "sent"]

Entry = tuple[float, str, str, Direction, str, str, int, str]
"""Time, key and title of the peer, direction, message type (empty: not read yet), status, characters, text."""


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
        count: Number of the last one.
    """

    __slots__ = ("_entries", "count")

    def __init__(self, size: int = MAX_MESSAGES) -> None:
        self._entries: deque[Entry] = deque(maxlen=size)
        self.count = 0

    def add(
        self, now: float, key: str, title: str, direction: Direction, kind: str, status: str | None, text: str
    ) -> None:
        """Add a message. Where its type is not known (``kind`` empty), it is read when somebody looks."""
        self.count += 1
        self._entries.append((now, key, title, direction, kind, status or "", len(text), text[:MAX_TEXT]))

    def newest_first(self, after: int = 0) -> Iterator[Kept]:
        """Iterate over the messages with a greater number than ``after``, from the last one on."""
        number = self.count
        for entry in reversed(self._entries):
            if number <= after:
                return
            now, key, title, direction, kind, status, size, text = entry
            if not kind:
                kind, status = _kind(text)
            yield Kept(number, now, key, title, direction, kind, status, size, text)
            number -= 1

    def find(self, key: str, direction: Direction, message_id: str) -> str:
        """Return the type of one of the last messages, by its id; empty where it is not found."""
        for left, entry in enumerate(reversed(self._entries)):
            if left >= SEARCHED:
                break
            if entry[1] == key and entry[3] == direction and message_id in entry[7]:
                return entry[4] or _kind(entry[7])[0]
        return ""


def _kind(text: str) -> tuple[str, str]:
    """Return message type and status of a text, empty where it has none."""
    try:
        message = read_message(text)
    except InvalidMessage:
        return "", ""
    return message.type, message.status or ""
