"""WebSocket client: a connection for S2 messages, on the websockets library."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.uri import parse_uri

from s2connect.certs.connect import connect_tls
from s2connect.certs.tls import describe_tls_error
from s2connect.errors import NotReachable, PeerBusy, PeerTimeout, ProtocolViolation, SessionRefused
from s2connect.model.reply import retry_after_of
from s2connect.model.secret import Secret
from s2connect.model.url import UnencryptedWebSocketUrl, WebSocketUrl
from s2connect.transports.base import MAX_MESSAGE_BYTES, ConnectionInfo, Trust
from s2connect.transports.websocket_connection import DiscreetLogger, WebSocketConnection
from s2connect.transports.websocket_deflate import ClientDeflate

_BUSY_STATUS: Final = 429

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
    protocol = ClientProtocol(
        parse_uri(url), extensions=[_deflate] if compression else None, max_size=MAX_MESSAGE_BYTES, logger=_logger
    )
    request = protocol.connect()
    request.headers["User-Agent"] = "s2connect"
    if token is not None:
        request.headers["Authorization"] = f"{scheme} {token.reveal()}"
    protocol.send_request(request)
    connection = WebSocketConnection(info, protocol)
    assert connection.opening is not None
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            await _connect(connection, url, trust)
            await connection.opening
    except BaseException as error:
        connection.abort()
        mapped = _connect_error(error, url.host, url.port) if isinstance(error, Exception) else None
        if mapped is None:
            raise
        raise mapped from error
    return connection


async def _connect(
    connection: WebSocketConnection, url: WebSocketUrl | UnencryptedWebSocketUrl, trust: Trust | None
) -> None:
    """Connect to the server, with TLS where there is trust."""
    if trust is None:
        await asyncio.get_running_loop().create_connection(lambda: connection, url.host, url.port)
        return
    await connect_tls(
        lambda: connection,
        url.host,
        url.port,
        trust.context,
        address=trust.address,
        proxy=trust.proxy,
        kept=trust.kept,
    )


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
