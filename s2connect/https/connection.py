"""One connection of an HTTPS server, between its transport and aiohttp's protocol (SEC-03)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from s2connect.https.admission import Admission, ConnectionEntry, Stage
from s2connect.https.overload import Overload
from s2connect.https.proxy_protocol import Source

_log = logging.getLogger(__name__)

FIRST_REQUEST_TIMEOUT = 10.0
"""Seconds a new connection may stay without the head of a request."""

IDLE_TIMEOUT = 30.0
"""Seconds a connection is kept between two requests."""

LINGER_TIMEOUT: Final = 2.0
"""Seconds in which the rest of a request that was answered already is read and dropped, so that the answer arrives."""

MAX_REQUEST_BYTES: Final = 1024 * 1024
"""Bytes received from one request to the next; more ends the connection. The bound of a body is far lower."""

MAX_REQUEST_LINES: Final = 2048
"""Line ends that may come from one request to the next: each header and each chunk costs the time of a few thousand
bytes. Bodies that are sent in chunks come in few of them, and JSON in as many lines is nobody's."""

PEER_FAULTS: Final = (OSError, HttpProcessingError, web.RequestPayloadError)
"""Exceptions of aiohttp for a peer that has disconnected or does not speak HTTP."""


class _RequestHandler(web.RequestHandler):
    """aiohttp's protocol, without its own error pages, and without log lines about faults of a peer."""

    malformed: Callable[[], None] | None = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer with a bare status, and end the connection. Raises ConnectionResetError, as aiohttp does itself."""
        if status >= 500 and not isinstance(exc, PEER_FAULTS):
            _log.error("a request failed", exc_info=exc)
        transport = self.transport
        if transport is not None and not transport.is_closing():
            if self.malformed is not None:
                self.malformed()
            if request.writer.output_size == 0:
                transport.write(_bare(status))
            transport.close()
        raise ConnectionResetError

    def log_exception(self, *arguments: Any, **keywords: Any) -> None:
        if not isinstance(keywords.get("exc_info"), PEER_FAULTS):
            super().log_exception(*arguments, **keywords)


def _bare(status: int) -> bytes:
    reason = HTTPStatus(status).phrase
    return f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode("ascii")


_NOBODY: Final = asyncio.Protocol()
"""Protocol of a connection whose bytes and end concern nobody any more."""


class HttpConnection(asyncio.Protocol):
    """Protocol in front of aiohttp's: bounds a peer's input and reports the connection's progress to the admission.

    ``malformed`` is called where the peer sends what is no HTTP, or too much. The connection is found by its transport
    in ``open_connections`` while it lasts.
    """

    __slots__ = (
        "_admission",
        "_begun_before",
        "_bytes",
        "_entry",
        "_handler",
        "_lines",
        "_loop",
        "_malformed",
        "_open_connections",
        "_slow",
        "transport",
    )

    def __init__(
        self,
        entry: ConnectionEntry,
        admission: Admission,
        server: web.Server,
        malformed: Callable[[ConnectionEntry], None],
        open_connections: dict[asyncio.BaseTransport, HttpConnection],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._entry = entry
        self._admission = admission
        self._malformed = malformed
        self._open_connections = open_connections
        self._slow: asyncio.TimerHandle | None = None
        self._bytes = self._lines = 0
        handler = _RequestHandler(
            server,
            loop=self._loop,
            keepalive_timeout=IDLE_TIMEOUT,
            lingering_time=LINGER_TIMEOUT,
            access_log=None,  # type: ignore[arg-type]  # as AppRunner documents it
            auto_decompress=False,
        )
        handler.malformed = partial(malformed, entry)
        self._handler: asyncio.Protocol = handler
        self._begun_before = False

    @property
    def source(self) -> Source | None:
        """Address of the client, where a balancer named it."""
        return self._entry.source

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        if self._entry.stage is Stage.GONE:  # it had to make room, or the server closes, in the last moment
            self._handler = _NOBODY
            self.transport.abort()
            return
        self._open_connections[transport] = self
        self._entry.evict = self.transport.abort
        self._admission.idle(self._entry, now=self._loop.time())
        self._slow = self._loop.call_later(FIRST_REQUEST_TIMEOUT, self.transport.abort)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._entry.stage is not Stage.GONE:
            self._bytes += len(data)
            self._lines += data.count(b"\n")
            if self._bytes > MAX_REQUEST_BYTES or self._lines > MAX_REQUEST_LINES:
                self._malformed(self._entry)
                self.transport.abort()
                return
        try:
            self._handler.data_received(data)
        except Exception:  # aiohttp 3.10 lets some of its parser's out
            _log.debug("the input was not HTTP", exc_info=True)
            self._malformed(self._entry)
            self.transport.abort()

    def eof_received(self) -> bool | None:
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self._admission.leave(self._entry)
        self._open_connections.pop(self.transport, None)
        self._handler.connection_lost(exc)

    def begun(self) -> None:
        """Note that the head of a request was received; its body may take a while."""
        self._in_time()
        self._bytes = self._lines = 0
        self._admission.idle(self._entry, now=self._loop.time())

    def complete(self) -> None:
        """Note that a request was received completely: the response is ours to give."""
        self._admission.busy(self._entry, now=self._loop.time())

    def answered(self) -> None:
        """Note that the response was sent: the next request is the peer's to send, unless it was an upgrade."""
        if self.transport.is_closing():  # closed twice, one of asyncio's with TLS does not know its protocol any more
            return
        if self.transport.get_protocol() is self:
            self._admission.idle(self._entry, now=self._loop.time())
        else:
            self._loop.call_soon(self._free_handler)  # which ends after this request

    def _free_handler(self) -> None:
        self._handler.connection_lost(None)
        self._handler = _NOBODY

    def begins_session(self, overload: Overload) -> bool:
        """Return whether a session may begin; a second one on a connection only while no other peer is queued."""
        first, self._begun_before = not self._begun_before, True
        return first or overload.begins_anew(self._entry, now=self._loop.time())

    def release(self) -> None:
        """Stop counting the connection against its network: the peer has proved to be paired."""
        self._admission.leave(self._entry)

    def _in_time(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
