"""First message of a session that its receiver has acknowledged: the proof that two applications exchange something."""

from __future__ import annotations

from typing import Final

from s2connect.messages.envelope import Message
from s2connect.service.objects import ExchangedMessage
from s2connect.session.observers import Direction, Observer

MAX_PENDING: Final = 64  # messages whose acknowledgement is awaited; the first few decide

_OTHER: Final[dict[Direction, Direction]] = {"sent": "received", "received": "sent"}


class FirstMessage:
    """Observer of a session; ``found`` is the first message that was acknowledged with ``OK``, None before.

    ``then`` is another observer that sees everything, too.
    """

    def __init__(self, then: Observer | None = None) -> None:
        self.found: ExchangedMessage | None = None
        self._then = then
        self._pending: dict[tuple[Direction, str], str] = {}

    def __call__(self, direction: Direction, message: Message) -> None:
        if self._then is not None:
            self._then(direction, message)
        if self.found is not None:
            return
        if message.subject_id is not None:  # an acknowledgement
            key = (_OTHER[direction], message.subject_id)
            if (kind := self._pending.pop(key, None)) is not None and message.status == "OK":
                self.found = ExchangedMessage(direction=key[0], type=kind)
                self._pending.clear()
        elif message.id is not None and len(self._pending) < MAX_PENDING:
            self._pending[direction, message.id] = message.type
