"""Order in which ReceptionStatuses and messages of ours are written, and the form in which a message leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from s2connect.errors import UsageError
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


Leaving = Callable[[Message], None]
"""Callback of a sender, called with its message just before it goes out."""

Preparation = Callable[[Message, Leaving | None], None]
"""Function that validates a message of ours, and notes that it leaves."""


@dataclass(slots=True, eq=False)
class Departure:
    """A message of ours that waits to be written.

    Attributes:
        message: The message.
        leaving: See :data:`Leaving`.
        answer: What its sender waits for; if that is done before, the message does not leave.
        prepared: It was validated, and found no room; it is the next.
    """

    message: Message
    leaving: Leaving | None
    answer: asyncio.Future[Message]
    prepared: bool = False

    def is_ready(self, prepare: Preparation) -> bool:
        """Prepare the message for its turn; False if it does not leave, for the reason that its ``send`` raises."""
        if not self.prepared:
            if self.answer.done():
                return False
            try:
                prepare(self.message, self.leaving)
            except Exception as error:
                self.answer.set_exception(error)
                del self.answer  # the error refers to this frame
                return False
        return True


class Outgoing:
    """Queue of what waits to be written. Sans-I/O.

    Messages leave in the order in which they came, and each after the statuses that waited then: a message never
    overtakes the answer to the one it follows from. Where messages wait, statuses pass all but the first of them.
    """

    __slots__ = ("_before", "_messages", "_statuses")

    def __init__(self) -> None:
        self._statuses: list[Message] = []
        self._messages: list[Departure] = []
        self._before = 0  # statuses that go before the first message

    @property
    def statuses(self) -> int:
        """Number of statuses that wait."""
        return len(self._statuses)

    def put(self, what: Departure | Message) -> int:
        """Add a message of ours, or a status. Returns the number of statuses after adding one, otherwise 0."""
        if isinstance(what, Message):
            self._statuses.append(what)
            return len(self._statuses)
        if not self._messages:
            self._before = len(self._statuses)
        self._messages.append(what)
        return 0

    def take(self, prepare: Preparation) -> Message | None:
        """Take out what is written next, a message prepared by ``prepare``; None if nothing waits."""
        while self._statuses or self._messages:
            if self._statuses and (self._before or not self._messages):
                self._before = max(0, self._before - 1)
                return self._statuses.pop(0)
            self._before = len(self._statuses)
            departure = self._messages.pop(0)
            if departure.is_ready(prepare):
                return departure.message
        return None

    def clear(self) -> None:
        """Forget everything."""
        self._statuses.clear()
        self._messages.clear()


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
