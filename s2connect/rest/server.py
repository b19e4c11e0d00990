"""The HTTPS server of an endpoint: one port for pairing, session initiation and WebSockets (WS-01)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from aiohttp import hdrs, web

from s2connect.errors import ConfigurationError
from s2connect.model.common import Wire
from s2connect.rest import API_VERSIONS
from s2connect.rest.rate import READ_COST, REFUSED_COST, STRANGER_COST, AddressLimiter, network_of

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
"""PAIR-12: longest request body; beyond it 413."""

BODY_TIMEOUT = 10.0
"""Seconds a request body may take to arrive."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds a TLS handshake may take."""

FIRST_REQUEST_TIMEOUT = 10.0
"""Seconds a new connection may stay without a whole request."""

IDLE_TIMEOUT = 30.0
"""Seconds a connection is kept between two requests."""

MAX_CONNECTIONS = 8192
"""Connections without a session, of one server."""

MAX_CONNECTIONS_PER_ADDRESS = 1024
"""Connections without a session, of one address; a gateway may pair hundreds of nodes at once."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Door(asyncio.Protocol):
    """Lets a new connection in and hands it to aiohttp, or closes it."""

    def __init__(self, server: HttpsServer) -> None:
        self._server = server

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, made)  # uvloop's is one by its methods only
        handler = self._server.new_handler()
        if handler is None or not self._server.admit(transport):
            transport.abort()
            return
        transport.set_protocol(handler)
        handler.connection_made(transport)


class HttpsServer:
    """TLS 1.3 only (VER-05). Add routes, then :meth:`start`; :meth:`close` is idempotent.

    Without a context it listens without TLS, which nothing of S2 Connect does: it is for old software on this machine.

    Attributes:
        port: The port it listens on, once started.
    """

    def __init__(self, context: ssl.SSLContext | None, *, host: str | Sequence[str] | None, port: int) -> None:
        """Prepare a server.

        Args:
            context: TLS server context; None for no TLS.
            host: Address or addresses to listen on; None for all.
            port: TCP port, 0 for any.
        """
        self._context = context
        self._host = host
        self.port = port
        self._limiter = AddressLimiter()
        self._app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        self._app.on_response_prepare.append(_headers)
        self._runner = web.AppRunner(
            self._app, access_log=None, handle_signals=False, shutdown_timeout=2.0, keepalive_timeout=IDLE_TIMEOUT
        )
        self._server: asyncio.Server | None = None
        self._fresh: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        self._by_address: dict[str, set[asyncio.Transport]] = {}
        self._open = 0

    def add_index(self, path: str) -> None:
        """Serve the version index of an API at its base path (VER-01)."""

        async def index(_: web.Request) -> web.Response:
            return web.json_response(list(API_VERSIONS))

        self._app.router.add_get(path, index)

    def add_post(self, path: str, handler: Handler) -> None:
        """Serve an operation."""
        self._app.router.add_post(path, handler)

    def add_get(self, path: str, handler: Handler) -> None:
        """Serve a resource."""
        self._app.router.add_get(path, handler)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: The address or port cannot be used.
        """
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Door(self),
                self._host,
                self.port,
                ssl=self._context,
                backlog=1024,
                reuse_address=True,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT if self._context else None,
                ssl_shutdown_timeout=2.0 if self._context else None,
            )
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"Cannot listen on port {self.port}: {error.strerror or 'address not available'}.",
                hint="Is the service already running? Otherwise choose another port.",
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop accepting, end what is open within a few seconds, release everything."""
        if self._server is not None:
            self._server.close()
        for timer in self._fresh.values():
            timer.cancel()
        self._fresh.clear()
        await self._runner.cleanup()
        for transports in self._by_address.values():
            for transport in transports:
                if not transport.is_closing():
                    transport.abort()
        self._by_address.clear()

    # Connections

    def new_handler(self) -> asyncio.Protocol | None:
        """Make aiohttp's protocol for one connection; None where the server is closing."""
        server = self._runner.server
        return server() if server is not None else None

    def admit(self, transport: asyncio.Transport) -> bool:
        """Count a new connection; False where there are too many (SEC-03)."""
        key = network_of(_address_of(transport))
        mine = self._by_address.setdefault(key, set())
        if len(mine) >= 16 or self._open >= MAX_CONNECTIONS:
            self._prune()
            mine = self._by_address.setdefault(key, set())
        if len(mine) >= MAX_CONNECTIONS_PER_ADDRESS or self._open >= MAX_CONNECTIONS:
            _log.warning("too many connections, one from %s refused", key)
            return False
        mine.add(transport)
        self._open += 1
        timer = asyncio.get_running_loop().call_later(FIRST_REQUEST_TIMEOUT, self._too_slow, transport)
        self._fresh[transport] = timer
        return True

    def _prune(self) -> None:
        for key, transports in list(self._by_address.items()):
            transports -= {t for t in transports if t.is_closing()}
            if not transports:
                del self._by_address[key]
        self._open = sum(map(len, self._by_address.values()))

    def _too_slow(self, transport: asyncio.Transport) -> None:
        self._fresh.pop(transport, None)
        transport.abort()

    def release(self, request: web.Request) -> None:
        """The connection of this request became a session: it no longer counts against its address."""
        transport = request.transport
        key = network_of(request.remote or "")
        if transport is not None and transport in self._by_address.get(key, ()):
            self._by_address[key].discard(transport)
            self._open -= 1

    # Requests

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bound what strangers cost, and let no exception's text out (SEC-03, SEC-04)."""
        timer = self._fresh.pop(request.transport, None) if request.transport is not None else None
        if timer is not None:
            timer.cancel()
        now = asyncio.get_running_loop().time()
        address = request.remote or ""
        if not self._limiter.allows(address, now=now):
            return web.Response(status=429, headers={hdrs.RETRY_AFTER: "1"})
        if hdrs.AUTHORIZATION not in request.headers:
            self._limiter.charge(address, READ_COST if request.method == hdrs.METH_GET else STRANGER_COST, now=now)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            self._limiter.charge(address, REFUSED_COST, now=now)
            # aiohttp's own answers (404, 405, 413, 400) carry no text of ours or the peer's.
            return web.Response(status=error.status)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("%s failed", request.path)
            return web.Response(status=500)
        if 400 <= response.status < 500:
            self._limiter.charge(address, REFUSED_COST, now=now)
        return response


async def _headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = "s2connect"
    response.headers[hdrs.CACHE_CONTROL] = "no-store"


def _address_of(transport: asyncio.BaseTransport) -> str:
    peer: Any = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


async def read_body(request: web.Request) -> bytes:
    """Read a request body, bounded in size (413) and time (408)."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


def bearer(request: web.Request) -> str | None:
    """The bearer token of a request, or None. It is a secret."""
    scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" and value.strip() else None


def answer(status: int, body: Wire | None = None) -> web.Response:
    """Make an HTTP answer."""
    if body is None:
        return web.Response(status=status)
    return web.Response(status=status, body=body.to_json(), content_type="application/json")


def tls_object(request: web.Request) -> ssl.SSLObject:
    """The TLS connection on which a request arrived."""
    transport = request.transport
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    if tls is None:
        raise web.HTTPServiceUnavailable  # the client has gone
    assert isinstance(tls, ssl.SSLObject)
    return tls


def free_port(host: str | None) -> int:
    """Find a TCP port that is free now."""
    family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.bind((host or ("::" if family == socket.AF_INET6 else ""), 0))
        port: int = probe.getsockname()[1]
        return port
