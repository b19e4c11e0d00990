"""WebSocket server: a connection for S2 messages, from a request that came over aiohttp."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from s2connect.transports.base import ConnectionInfo
from s2connect.transports.websocket_connection import DiscreetLogger, WebSocketConnection
from s2connect.transports.websocket_deflate import ServerDeflate

if TYPE_CHECKING:
    from aiohttp import web

_HANDSHAKE = (
    "Upgrade",
    "Connection",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Extensions",
)
"""Headers of a request that the library has to see."""

_logger = DiscreetLogger(logging.getLogger("websockets.server"))
_deflate = ServerDeflate()


def wants_upgrade(request: web.Request) -> bool:
    """Return whether a request asks for a WebSocket, so that :func:`accept` can upgrade it, compressed or not."""
    return _answered(request, compression=True).state is State.OPEN


def accept(request: web.Request, info: ConnectionInfo, *, compression: bool) -> WebSocketConnection:
    """Upgrade a request that :func:`wants_upgrade`. Raises ``HTTPBadRequest`` where the client has gone.

    The connection does not depend on the handler, which may end at once, with :func:`upgraded`. Bytes that a client
    sends before it has the response, which RFC 6455 (section 4.1) forbids, are lost.
    """
    from aiohttp import web  # a device that only connects does without aiohttp's server

    transport = request.transport
    if transport is None or transport.is_closing():
        raise web.HTTPBadRequest
    handshake = _answered(request, compression=compression)
    connection = WebSocketConnection(info, handshake, transport.get_protocol())
    transport.set_protocol(connection)
    request.protocol.transport = None  # so aiohttp neither writes to it nor closes it any more
    transport.writelines(handshake.data_to_send())
    connection.connection_made(transport)
    if request.remote:  # where a balancer is between, it is not the transport's
        connection.remote_address = request.remote.partition("%")[0]
    return connection


def upgraded() -> web.StreamResponse:
    """Return what a handler returns to aiohttp after :func:`accept`. It is not written: the client has its response."""
    from aiohttp import web

    return web.Response(status=101)


def _answered(request: web.Request, *, compression: bool) -> ServerProtocol:
    """Let the library answer a request. Its state says whether it opens the WebSocket."""
    headers = Headers(
        (name, value) for name in _HANDSHAKE for value in request.headers.getall(name, ()) if value.isascii()
    )
    protocol = ServerProtocol(extensions=[_deflate] if compression else None, logger=_logger)
    protocol.send_response(protocol.accept(Request("/", headers)))
    return protocol


def bearer_of(request: web.Request) -> str | None:
    """Return the bearer token of a request, or None. It is a secret."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None
