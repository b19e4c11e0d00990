"""Observers of a session: callbacks that see every message, in the order on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from s2connect.messages.envelope import Message
from s2connect.supervisor import process_failures

Direction = Literal["received", "sent"]
"""Direction of a message, as this side sees it."""

Observer = Callable[[Direction, Message], None]
"""Callback for every message of a session, in the order on the wire."""


class Observers:
    """Observers of one session with a peer; what one raises is logged, and the others still see the message.

    Attributes:
        callbacks: None of them is the usual case, which costs least where the caller looks first.
    """

    __slots__ = ("_peer", "callbacks")

    def __init__(self, peer: object, on_message: Observer | None) -> None:
        self._peer = peer
        self.callbacks: tuple[Observer, ...] = () if on_message is None else (on_message,)

    def add(self, on_message: Observer) -> None:
        """Show every message from now on to ``on_message``, too."""
        self.callbacks = (*self.callbacks, on_message)

    def show(self, direction: Direction, message: Message) -> None:
        """Show a message to all."""
        for on_message in self.callbacks:
            try:
                on_message(direction, message)
            except Exception as error:
                process_failures.failed("observer", error, name=f"the observer of the session with {self._peer}")
