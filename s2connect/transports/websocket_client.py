"""WebSocket client: a connection for S2 messages, on the websockets library."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed as WebSocketClosed
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import State

from s2connect.certs.tls import describe_tls_error
from s2connect.errors import (
    ConnectionClosed,
    NotReachable,
    PeerBusy,
    PeerTimeout,
    ProtocolViolation,
    SessionRefused,
)
from s2connect.model.reply import retry_after_of
from s2connect.model.secret import Secret
from s2connect.model.url import UnencryptedWebSocketUrl, WebSocketUrl
from s2connect.transports.base import (
    ABNORMAL_CLOSURE,
    MAX_MESSAGE_BYTES,
    MESSAGE_TOO_BIG,
    NORMAL_CLOSURE,
    ConnectionInfo,
    Trust,
)
from s2connect.transports.frame_budget import FrameBudget
from s2connect.transports.websocket_connection import WebSocketConnection

_DEFLATE = ClientPerMessageDeflateFactory(
    server_max_window_bits=11, client_max_window_bits=11, compress_settings={"memLevel": 3}
)
"""WS-03: compression with a window of 2 KiB takes 25 KB of memory per connection and costs short messages little."""

_BUSY_STATUS: Final = 429

OPEN_TIMEOUT = 20.0
"""Seconds for name, TCP, TLS and upgrade; less than a token lives (SES-04)."""


class WebSocketClientConnection(WebSocketConnection):
    """Connection of the communication client, on websockets. Made by :func:`open_client`."""

    def __init__(self, info: ConnectionInfo, socket: ClientConnection) -> None:
        self._socket = socket
        assert isinstance(socket, _BoundedClient)
        self._short_cut = _has_short_cut(socket)
        super().__init__(info, socket.transport, socket.frames)

    async def _receive(self) -> str | None:
        try:
            data = await self._socket.recv()
        except WebSocketClosed as error:
            ours = error.sent is not None and not error.rcvd_then_sent and error.sent.code == MESSAGE_TOO_BIG
            raise self._too_big() if ours else _closed(error) from None
        if isinstance(data, str):
            return data
        return await self._binary()

    async def _transmit(self, text: str) -> None:
        socket = self._socket
        try:
            if self._short_cut and socket.protocol.state is State.OPEN and not socket.paused:
                # The usual case goes past the contexts of the library's send, which cost more than the frame.
                socket.protocol.send_text(text.encode())
                socket.send_data()
                if socket.paused:
                    await self._wait(socket.drain())
            else:
                await self._wait(socket.send(text))
        except WebSocketClosed as error:
            raise _closed(error) from None
        except OSError:
            raise ConnectionClosed(ABNORMAL_CLOSURE) from None

    async def _ping(self) -> None:
        asyncio.ensure_future(await self._socket.ping()).add_done_callback(self._ponged)

    def _ponged(self, pong: asyncio.Future[float]) -> None:
        if not pong.cancelled() and pong.exception() is None:
            self._watch.heard(self._loop.time())

    async def _farewell(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason)


def _has_short_cut(socket: ClientConnection) -> bool:
    """Return whether the library has the undocumented parts by which ``_transmit`` bypasses ``send``."""
    return all(hasattr(socket, name) for name in ("send_data", "paused", "drain"))


def _closed(error: WebSocketClosed) -> ConnectionClosed:
    frame = error.rcvd if error.rcvd_then_sent or error.sent is None else error.sent
    if frame is None:
        return ConnectionClosed(ABNORMAL_CLOSURE)
    return ConnectionClosed(NORMAL_CLOSURE if frame.code == 1005 else frame.code, frame.reason)


class _DiscreetLogger(logging.LoggerAdapter[logging.Logger]):
    """Keeps websockets from logging headers, among them the token, whatever level is set (SEC-01)."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name of the standard library
        return level > logging.DEBUG and super().isEnabledFor(level)


class _BoundedClient(ClientConnection):
    """Counts frames, and cuts the connection when the other side does not finish a close handshake of the library."""

    _cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.frames = FrameBudget(self.loop.time(), after_head=True)
        super().connection_made(transport)
        self.frames.on_exceeded = self.transport.abort

    def data_received(self, data: bytes) -> None:
        if not self.frames.feed(data, now=self.loop.time()):
            return
        super().data_received(data)
        if self.protocol.state is not State.OPEN and self._cut is None and self.protocol.close_expected():
            self._cut = self.loop.call_later(self.close_timeout or 0.0, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._cut is not None:
            self._cut.cancel()


class _Connect(connect):
    """``connect`` that follows no redirect: the URL is that of the pairing's server."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_client(
    url: WebSocketUrl | UnencryptedWebSocketUrl,
    info: ConnectionInfo,
    *,
    compression: bool,
    token: Secret | None,
    scheme: str = "Bearer",
    trust: Trust | None,
) -> WebSocketClientConnection:
    """Connect; redirects are not followed. Cancel-safe.

    The token goes into the header ``Authorization``, which no proxy sees. ``trust`` says how the server is
    authenticated and reached; it is None for a ``ws://`` URL.

    Raises:
        NetworkError: Not reachable, timed out, busy.
        TrustError: The certificate is not what it has to be.
        SessionRefused: The server refused the token.
        ProtocolViolation: The server does not open a WebSocket.
    """
    headers = {} if token is None else {"Authorization": f"{scheme} {token.reveal()}"}
    proxy = trust.proxy if trust is not None else None
    end = WebSocketClientConnection.close_timeout
    options: dict[str, Any] = {}
    if proxy is None:
        options = {"host": (trust.address if trust is not None else None) or url.host, "port": url.port}
    if trust is not None:
        options |= {"ssl": trust.context, "server_hostname": url.host, "ssl_shutdown_timeout": end}
    try:
        socket = await _Connect(
            url,
            additional_headers=headers,
            user_agent_header="s2connect",
            create_connection=_BoundedClient,
            compression=None,
            extensions=[_DEFLATE] if compression else None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=OPEN_TIMEOUT,
            close_timeout=end,
            ping_interval=None,
            proxy=proxy.reveal_url() if proxy is not None else None,
            logger=_DiscreetLogger(logging.getLogger("websockets.client")),
            **options,
        )
    except Exception as error:
        mapped = _connect_error(error, url.host, url.port)
        if mapped is None:
            raise
        raise mapped from error
    return WebSocketClientConnection(info, socket)


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
