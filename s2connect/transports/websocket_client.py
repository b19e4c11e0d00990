"""WebSocket client: a connection for S2 messages, on the websockets library."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.protocol import State
from websockets.uri import parse_uri

from s2connect.certs.connect import MAX_HEAD_BYTES, connect_tls
from s2connect.certs.tls import describe_tls_error
from s2connect.errors import NotReachable, PeerBusy, PeerTimeout, ProtocolViolation, SessionRefused
from s2connect.model.reply import retry_after_of
from s2connect.model.secret import Secret
from s2connect.model.url import UnencryptedWebSocketUrl, WebSocketUrl
from s2connect.transports.base import ConnectionInfo, Trust
from s2connect.transports.websocket_connection import DiscreetLogger, WebSocketConnection
from s2connect.transports.websocket_deflate import ClientDeflate

_BUSY_STATUS: Final = 429

_END_OF_HEAD: Final = b"\r\n\r\n"

OPEN_TIMEOUT = 20.0
"""Seconds for name, TCP, TLS and upgrade; less than a token lives (SES-04)."""


_logger = DiscreetLogger(logging.getLogger("websockets.client"))
_deflate = ClientDeflate()


async def open_client(
    url: WebSocketUrl | UnencryptedWebSocketUrl,
    info: ConnectionInfo,
    *,
    compression: bool,
    token: Secret | None,
    scheme: str = "Bearer",
    trust: Trust | None,
) -> WebSocketConnection:
    """Connect; redirects are not followed. Cancel-safe.

    The token goes into the header ``Authorization``, which no proxy sees. ``trust`` says how the server is
    authenticated and reached; it is None for a ``ws://`` URL.

    Raises:
        NetworkError: Not reachable, timed out, busy.
        TrustError: The certificate is not what it has to be.
        SessionRefused: The server refused the token.
        ProtocolViolation: The server does not open a WebSocket.
    """
    handshake = ClientProtocol(parse_uri(url), extensions=[_deflate] if compression else None, logger=_logger)
    request = handshake.connect()
    request.headers["User-Agent"] = "s2connect"
    if token is not None:
        request.headers["Authorization"] = f"{scheme} {token.reveal()}"
    handshake.send_request(request)
    opening = _Opening(handshake, info)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            if trust is None:
                await asyncio.get_running_loop().create_connection(lambda: opening, url.host, url.port)
            else:
                await connect_tls(
                    lambda: opening,
                    url.host,
                    url.port,
                    trust.context,
                    address=trust.address,
                    proxy=trust.proxy,
                    kept=trust.kept,
                )
            return await opening.opened
    except BaseException as error:
        opening.abort()
        mapped = _connect_error(error, url.host, url.port) if isinstance(error, Exception) else None
        if mapped is None:
            raise
        raise mapped from error


class _Opening(asyncio.Protocol):
    """Opening of a WebSocket at a server; ``opened`` is the connection, or fails with the reason."""

    def __init__(self, handshake: ClientProtocol, info: ConnectionInfo) -> None:
        self.opened: asyncio.Future[WebSocketConnection] = asyncio.get_running_loop().create_future()
        self._handshake = handshake
        self._info = info
        self._head = b""
        self._has_head = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._transport.write(b"".join(self._handshake.data_to_send()))

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            return
        if not self._has_head:
            known = len(self._head)
            self._head, end, data = (self._head + data).partition(_END_OF_HEAD)
            self._has_head = bool(end)
            # Each line as it comes: what is no HTTP shows in the first, and may have no other.
            self._handshake.receive_data((self._head + end)[known:])
            if not end and len(self._head) > MAX_HEAD_BYTES:
                self.opened.set_exception(InvalidHandshake("the head of the response is too long"))
                return
        if self._handshake.state is State.OPEN:
            self.opened.set_result(self._connection(data))
            return
        self._handshake.receive_data(data)  # the body of a refusal
        if self._handshake.handshake_exc is not None:
            self.opened.set_exception(self._handshake.handshake_exc)

    def _connection(self, data: bytes) -> WebSocketConnection:
        """Hand the transport over, with what the server has sent already."""
        assert self._transport is not None
        connection = WebSocketConnection(self._info, self._handshake)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        if data:
            connection.data_received(data)
        return connection

    def eof_received(self) -> None:
        if not self.opened.done():
            self._handshake.receive_eof()
            self.opened.set_exception(self._handshake.handshake_exc or EOFError())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError())

    def abort(self) -> None:
        """Leave nothing open."""
        if not self.opened.cancel() and not self.opened.cancelled():
            self.opened.exception()  # nobody else asks for it, if the wait for it ended otherwise
        if self._transport is not None:
            self._transport.abort()


def _connect_error(error: Exception, host: str, port: int) -> Exception | None:
    """Translate an exception of ``connect``; None for a bug of ours."""
    where = f"{host}:{port}"
    if isinstance(error, ssl.SSLError):
        return describe_tls_error(error, host)
    if isinstance(error, TimeoutError):
        return PeerTimeout(f"{where} did not open the WebSocket in time.")
    if isinstance(error, OSError):
        return NotReachable.because(host, port, error)
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status == 401:
            return SessionRefused(f"{where} did not accept the token of the session.", reason="Other")
        if status >= 500 or status == _BUSY_STATUS:
            wait = retry_after_of(error.response.headers.get("Retry-After"))
            return PeerBusy(f"{where} is busy or has a problem of its own ({status}).", status=status, retry_after=wait)
        return ProtocolViolation(f"{where} answered {status} instead of opening the WebSocket.")
    if isinstance(error, InvalidHandshake):
        if isinstance(error.__cause__, (EOFError, OSError)):
            return NotReachable(f"{where} ended the connection while the WebSocket was being opened.")
        return ProtocolViolation(f"{where} did not open the WebSocket as its protocol demands.")
    return None
