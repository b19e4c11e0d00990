"""Inbox: messages that wait for the application, and those of them whose answer waits, too (MSG-03). Sans-I/O."""

from __future__ import annotations

from s2connect.messages.envelope import NIL_ID, Message
from s2connect.session.acknowledgements import Acknowledged, Acknowledgements

INBOX_LIMIT = 100
"""Messages that are acknowledged and wait for the application; those beyond it wait for their OK as well."""

OVERFLOW_LIMIT = 100
"""Messages beyond the inbox that are kept without an OK; what comes then is answered TEMPORARY_ERROR and not kept."""

WAITING_LIMIT = 8 * 1024 * 1024
"""Characters of all messages that wait for the application, unless it is one; a typed message takes a dozen times that
in memory. What comes then is answered TEMPORARY_ERROR and not kept."""


class Inbox:
    """Messages in the order in which they came, bounded in number and in characters.

    The first ``limit`` messages, at least 1, get their ``OK`` at once; ``overflow`` more are kept without one until
    there is room. ``answer_within`` is in seconds, for the messages that the application has kept.

    Attributes:
        withheld: Ids of messages that get their ``OK`` when there is room; see :meth:`due`.
    """

    __slots__ = ("_answer_within", "_characters", "_kept", "_limit", "_messages", "_overflow", "_waiting", "withheld")

    def __init__(self, limit: int, overflow: int, characters: int, answer_within: float) -> None:
        self._messages: list[Message] = []  # short, and a deque takes 600 bytes
        self._limit = limit
        self._overflow = overflow
        self._characters = characters
        self._waiting = 0
        self._answer_within = answer_within
        self._kept: Acknowledgements | None = None  # until something is
        self.withheld: list[str] = []

    def __len__(self) -> int:
        return len(self._messages)

    def has_room(self, message: Message) -> bool:
        """Return whether one more message fits in. Messages received and not answered yet count as well."""
        if self._kept is not None and len(self._kept) >= self._limit + self._overflow:
            return False
        if not self._messages:
            return True
        fits = self._waiting + len(message.text) <= self._characters
        return fits and len(self._messages) < self._limit + self._overflow

    def put(self, message: Message, *, kept: bool, now: float) -> None:
        """Add a message; where the application has not ``kept`` it, :meth:`due` returns when it gets its ``OK``."""
        if kept:
            if self._kept is None:
                self._kept = Acknowledgements(timeout=self._answer_within)
            self._kept.sent(message.id or NIL_ID, now=now)
        else:
            self.withheld.append(message.id or NIL_ID)
        self._messages.append(message)
        self._waiting += len(message.text)

    def take(self) -> Message:
        """Take the oldest message out."""
        message = self._messages.pop(0)
        self._waiting -= len(message.text)
        return message

    def due(self) -> list[str]:
        """Return the ids of the messages that get their ``OK`` now, each once."""
        beyond = len(self._messages) - self._limit
        if beyond <= 0:
            due, self.withheld = self.withheld, []
        else:
            due, self.withheld = self.withheld[:-beyond], self.withheld[-beyond:]
        return due

    # Messages that the application answers

    def keeps(self, message_id: str) -> bool:
        """Return whether the application has to answer this message."""
        return self._kept is not None and message_id in self._kept

    def answered(self, message_id: str) -> bool:
        """Note that the application answers a message; False if none is expected."""
        return self._kept is not None and self._kept.acknowledged(message_id) is Acknowledged.EXPECTED

    @property
    def deadline(self) -> float | None:
        """Return the time at which :meth:`overdue` has a result; None while nothing is kept."""
        return None if self._kept is None else self._kept.deadline

    def overdue(self, now: float) -> list[str]:
        """Return the ids of kept messages whose time is over; they are neither delivered nor answerable any more."""
        over = [] if self._kept is None else self._kept.expired(now)
        if gone := set(over):
            self._messages = [message for message in self._messages if message.id not in gone]
            self._waiting = sum(len(message.text) for message in self._messages)
        return over
