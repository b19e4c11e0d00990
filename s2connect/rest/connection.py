"""One connection of an HTTPS server, between its transport and aiohttp's protocol (SEC-03)."""

from __future__ import annotations

import asyncio
from typing import cast

from s2connect.rest.admission import Admission, Place, Stage

FIRST_REQUEST_TIMEOUT = 10.0
"""Seconds a new connection may stay without the head of a request."""


class HttpConnection(asyncio.Protocol):
    """Says to the admission how the connection comes on, and passes everything to aiohttp.

    Args:
        place: Its place.
        admission: Where that counts.
        handler: aiohttp's protocol.
        open_connections: Where the connection is found by its transport while it lasts.
    """

    def __init__(
        self,
        place: Place,
        admission: Admission,
        handler: asyncio.Protocol,
        open_connections: dict[asyncio.BaseTransport, HttpConnection],
    ) -> None:
        self._place = place
        self._admission = admission
        self._handler = handler
        self._open_connections = open_connections
        self._slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._loop = asyncio.get_running_loop()
        if self._place.stage is Stage.GONE:  # it had to make room, or the server closes, in the last moment
            self._handler = asyncio.Protocol()
            self.transport.abort()
            return
        self._open_connections[transport] = self
        self._place.evict = self.transport.abort
        self._admission.idle(self._place, now=self._loop.time())
        self._slow = self._loop.call_later(FIRST_REQUEST_TIMEOUT, self.transport.abort)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See :meth:`asyncio.Protocol.data_received`."""
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        """See :meth:`asyncio.Protocol.eof_received`."""
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        """See :meth:`asyncio.BaseProtocol.pause_writing`."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """See :meth:`asyncio.BaseProtocol.resume_writing`."""
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place free."""
        self._in_time()
        self._admission.leave(self._place)
        self._open_connections.pop(self.transport, None)
        self._handler.connection_lost(exc)

    def begun(self) -> None:
        """The head of a request has come: its body may take a while."""
        self._in_time()
        self._admission.idle(self._place, now=self._loop.time())

    def complete(self) -> None:
        """A request has come wholly: from now on the peer waits for us."""
        self._admission.busy(self._place, now=self._loop.time())

    def answered(self) -> None:
        """The response is given: from now on we wait for the peer."""
        self._admission.idle(self._place, now=self._loop.time())

    def release(self) -> None:
        """The peer has proved to be paired: the connection counts no more against its network."""
        self._admission.leave(self._place)

    def _in_time(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
