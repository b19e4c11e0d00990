"""WebSocket client: a connection for S2 messages, on the websockets library."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from typing import Any, Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.uri import parse_uri

from s2connect.certs.tls import describe_tls_error
from s2connect.errors import NotReachable, PeerBusy, PeerTimeout, ProtocolViolation, SessionRefused
from s2connect.model.proxy import Proxy
from s2connect.model.reply import retry_after_of
from s2connect.model.secret import Secret
from s2connect.model.url import UnencryptedWebSocketUrl, WebSocketUrl
from s2connect.transports.base import MAX_MESSAGE_BYTES, ConnectionInfo, Trust
from s2connect.transports.websocket_connection import DiscreetLogger, WebSocketConnection
from s2connect.transports.websocket_deflate import ClientDeflate

_is_success = re.compile(rb"HTTP/1\.[01] 2\d\d[ \r]")

_BUSY_STATUS: Final = 429

OPEN_TIMEOUT = 20.0
"""Seconds for name, TCP, TLS and upgrade; less than a token lives (SES-04)."""

MAX_HEAD_BYTES: Final = 16 * 1024
"""Longest head of a proxy's response."""


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
    loop = asyncio.get_running_loop()
    if trust is None:
        await loop.create_connection(lambda: connection, url.host, url.port)
        return
    tls: dict[str, Any] = {
        "server_hostname": url.host,
        "ssl_shutdown_timeout": connection.close_timeout,
    }
    proxy = trust.proxy
    if proxy is None:
        await loop.create_connection(lambda: connection, trust.address or url.host, url.port, ssl=trust.context, **tls)
        return
    transport, tunnel = await loop.create_connection(lambda: _Tunnel(proxy, url), proxy.host, proxy.port)
    try:
        await tunnel.opened
        secured = await loop.start_tls(transport, connection, trust.context, **tls)
    except BaseException:
        transport.abort()
        raise
    if secured is None:
        raise ConnectionResetError
    connection.connection_made(secured)


class _Tunnel(asyncio.Protocol):
    """Protocol that asks a proxy for the way to a server; ``opened`` is done once there is one."""

    def __init__(self, proxy: Proxy, url: WebSocketUrl | UnencryptedWebSocketUrl) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        target = f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: s2connect"]
        if (authorization := proxy.reveal_authorization()) is not None:
            lines.append(f"Proxy-Authorization: {authorization}")
        self._request = "\r\n".join([*lines, "", ""]).encode("ascii")
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self.opened.done():
            return
        if not _is_success.match(self._head[: len(b"HTTP/1.1 200 ")]) and len(self._head) >= len(b"HTTP/1.1 200 "):
            self.opened.set_exception(InvalidHandshake("the proxy refuses"))
        elif b"\r\n\r\n" in self._head:
            self.opened.set_result(None)
        elif len(self._head) > MAX_HEAD_BYTES:
            self.opened.set_exception(InvalidHandshake("the proxy did not answer in HTTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError())


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
