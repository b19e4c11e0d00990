"""Recording of links: a connection that passes received and sent messages to an observer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from s2connect import Connection, InvalidMessage, Role, SessionEnd
from s2connect.errors import ConnectionClosed
from s2connect.messages import read_message
from s2connect.session import Direction, Observer
from s2connect.transports import ABNORMAL_CLOSURE, NORMAL_CLOSURE, Receiver

Record = Callable[[str, str, Role, Connection], Connection]
"""Given the names of a link and of its side, the role of the peer there and its connection, returns the connection to
use: the same, or one that is observed."""


class ObservedConnection(Connection):
    """Wrapper of a connection that passes every message to an observer, in the order on the wire.

    What is no message is not shown.

    Args:
        inner: The connection; owned by this one.
        observer: Sees every message.
        ended: Called once, when the connection has ended, with why.
    """

    def __init__(self, inner: Connection, observer: Observer, ended: Callable[[SessionEnd], None]) -> None:
        self.info = inner.info
        self.local_address = inner.local_address
        self.remote_address = inner.remote_address
        self.heartbeat = inner.heartbeat
        self._inner = inner
        self._observer = observer
        self._ended = ended
        self._over = False
        self._receiver: Receiver | None = None

    def silence(self) -> float | None:
        return self._inner.silence()

    def ask(self, call: Callable[[], None]) -> bool:
        return self._inner.ask(call)

    async def send(self, text: str) -> None:
        self._show("sent", text)
        await self._inner.send(text)

    async def recv(self) -> str:
        try:
            text = await self._inner.recv()
        except ConnectionClosed as error:
            self._closed(error)
            raise
        self._show("received", text)
        return text

    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        try:
            await self._inner.close(code, reason)
        finally:
            self._end(SessionEnd.CLOSED_BY_US)

    def try_send(self, text: str) -> bool:
        sent = self._inner.try_send(text)
        if sent:
            self._show("sent", text)
        return sent

    def receive_into(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._inner.receive_into(self)

    def pause_reading(self) -> None:
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()

    def text_received(self, text: str) -> None:
        self._show("received", text)
        assert self._receiver is not None
        self._receiver.text_received(text)

    def connection_ended(self, error: ConnectionClosed) -> None:
        self._closed(error)
        receiver, self._receiver = self._receiver, None  # which refers to this one
        assert receiver is not None
        receiver.connection_ended(error)

    async def wait_closed(self) -> None:
        await self._inner.wait_closed()

    def at_close(self, call: Callable[[], object]) -> None:
        self._inner.at_close(call)

    def _show(self, direction: Direction, text: str) -> None:
        if not self._over:
            with contextlib.suppress(InvalidMessage):
                self._observer(direction, read_message(text))

    def _closed(self, error: ConnectionClosed) -> None:
        self._end(SessionEnd.LOST if error.code == ABNORMAL_CLOSURE else SessionEnd.CLOSED_BY_PEER)

    def _end(self, why: SessionEnd) -> None:
        if not self._over:
            self._over = True
            self._ended(why)
