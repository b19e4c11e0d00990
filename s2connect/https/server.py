"""The HTTPS server of an endpoint: one port for pairing, session initiation and WebSockets (WS-01)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import random
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, TypeVar

from aiohttp import hdrs, web

from s2connect.errors import ConfigurationError, NotReachable, S2ConnectError, StorageError
from s2connect.https import API_VERSIONS
from s2connect.https.acceptor import Acceptor
from s2connect.https.admission import ConnectionEntry
from s2connect.https.connection import PEER_FAULTS, HttpConnection
from s2connect.https.proxy_protocol import Balancers
from s2connect.https.rate import (
    BEARER_BURST,
    BEARER_COST,
    BEARER_REFILL,
    MAX_BEARER_DELAY,
    READ_COST,
    REFUSED_COST,
    STRANGER_COST,
    AddressLimiter,
    network_of,
)
from s2connect.model.common import Wire
from s2connect.model.secret import BearerToken
from s2connect.model.text import for_display

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
"""PAIR-12: longest request body; beyond it 413."""

BODY_TIMEOUT = 10.0
"""Seconds a request body may take to arrive."""

FREE_PORTS = range(20_000, 32_768)
"""Ports above those of well-known services and below those that systems give to outgoing connections."""

MAX_WARNED = 100
"""Networks for which a fault is logged, once each; later ones are not logged."""

_Token = TypeVar("_Token", bound=BearerToken)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class _Current:
    """The request that a task serves; ``refund`` gives back once what its bearer was charged."""

    connection: HttpConnection | None
    refund: Callable[[], None] | None = None


_current: ContextVar[_Current | None] = ContextVar("s2connect_request", default=None)  # aiohttp: a task per request


class HttpsServer:
    """TLS 1.3 only (VER-05). Add routes, then :meth:`start`; :meth:`close` is idempotent.

    Without a context it listens without TLS, which nothing of S2 Connect does: it is for old software on this machine,
    and for balancers that end TLS. The other arguments are as of :class:`~s2connect.https.acceptor.Acceptor`. Requests
    that come over a balancer have the client's address as ``remote``.
    """

    def __init__(
        self,
        context: ssl.SSLContext | None,
        *,
        host: str | Sequence[str] | None,
        port: int,
        balancers: Balancers | None = None,
        shared: bool = False,
    ) -> None:
        self._host = host
        self._shared = shared
        self.port = port
        self.shares_store = False  # with other servers: where it fails, a 503 says to come again
        self._limiter = AddressLimiter()
        self._bearers = AddressLimiter(burst=BEARER_BURST, refill=BEARER_REFILL)
        self._app = web.Application(client_max_size=MAX_BODY_BYTES + 1, middlewares=[self._guard])
        self._app.on_response_prepare.append(self._prepare)
        self._runner = web.AppRunner(self._app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        self._acceptor = Acceptor(self._new_connection, context, balancers)
        self._connections: dict[asyncio.BaseTransport, HttpConnection] = {}
        self._without_version: set[str] = set()
        self._is_last = False

    def add_index(self, path: str) -> None:
        """Serve the version index of an API at its base path (VER-01)."""

        async def index(_: web.Request) -> web.Response:
            return web.json_response(list(API_VERSIONS))

        self._app.router.add_get(path, index)

    def add_operation(self, base_path: str, name: str, handler: Handler, *, method: str = hdrs.METH_POST) -> None:
        """Serve an operation of an API, with a warning also where a client leaves the version out (S2C-40)."""

        async def warned(request: web.Request) -> web.StreamResponse:
            network = network_of(request.remote or "")
            if network not in self._without_version and len(self._without_version) < MAX_WARNED:
                self._without_version.add(network)
                what = "%s asks for %s without the version of the API; its URLs have to have %s/ before the operation"
                _log.warning(what, request.remote, request.path, API_VERSIONS[0])
            return await handler(request)

        self._app.router.add_route(method, f"{base_path}{API_VERSIONS[0]}/{name}", handler)
        self._app.router.add_route(method, f"{base_path}{name}", warned)

    def add_get(self, path: str, handler: Handler) -> None:
        self._app.router.add_get(path, handler)

    async def start(self) -> None:
        """Listen. While no name server answers it tries again, for a minute.

        Raises:
            ConfigurationError: The address or port cannot be used.
            NotReachable: No name server has answered, so that the name to listen at is not known now.
        """
        await self._runner.setup()
        try:
            await self._acceptor.start(self._host, self.port, shared=self._shared)
        except OSError as error:
            await self._runner.cleanup()
            raise _cannot_listen(self._host, self.port, error) from error
        self.port = self._acceptor.port

    def stop_accepting(self) -> None:
        """Close the port. Connections go on, each until the answer to its request, or as a session."""
        self._is_last = True
        self._acceptor.stop_listening()

    async def close(self) -> None:
        """Stop accepting, end what is open within a few seconds, release everything."""
        await self._acceptor.close()
        await self._runner.cleanup()
        for connection in list(self._connections.values()):
            connection.transport.abort()

    # Connections

    def _new_connection(self, entry: ConnectionEntry) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None, "the acceptor closes before the runner"
        return HttpConnection(
            entry,
            self._acceptor.admission,
            server,
            self._charge_malformed,
            self._connections,
        )

    def _charge_malformed(self, entry: ConnectionEntry) -> None:
        self._limiter.charge(entry.network, REFUSED_COST, now=asyncio.get_running_loop().time())

    def release(self, request: web.Request) -> None:
        """Note that the bearer of a request was right, and its connection becomes a session, which bounds it now."""
        bearer_proved()
        connection = self._connection_of(request)
        if connection is not None:
            connection.release()

    def begins_session(self, request: web.Request) -> web.Response | None:
        """Return None if a session may begin on this connection, as the first may; else a 503."""
        connection, overload = self._connection_of(request), self._acceptor.admission.overload
        if connection is None or connection.begins_session(overload):
            return None
        return self.too_busy()

    def too_busy(self) -> web.Response:
        """Return a 503 with ``Retry-After``."""
        wait = self._acceptor.admission.overload.retry_after()
        return web.Response(status=503, headers={hdrs.RETRY_AFTER: str(wait)})

    def expect(self, request: web.Request) -> Callable[[], None]:
        """Give priority to the connection offered to the peer of this request; call the result when it was used."""
        overload, network = self._acceptor.admission.overload, network_of(request.remote or "")
        overload.expect(network)
        return lambda: overload.expect_no_more(network)

    def _connection_of(self, request: web.Request) -> HttpConnection | None:
        return self._connections.get(request.transport) if request.transport is not None else None

    # Requests

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bound what strangers cost, and let no exception's text out (SEC-03, SEC-04)."""
        connection = self._connection_of(request)
        if connection is not None and connection.source is not None:
            request = request.clone(remote=connection.source[0])
        current = _Current(connection)
        _current.set(current)
        if connection is not None:
            connection.begun()
        try:
            if not await self._in_turn(request, current):
                return web.Response(status=429, headers={hdrs.RETRY_AFTER: "1"})
            if _is_encoded(request):
                return web.Response(status=415)
            return await handler(request)
        except web.HTTPException as error:
            # aiohttp's own answers (404, 405, 413, 400) carry no text of ours or the peer's.
            return web.Response(status=error.status)
        except ConnectionError:
            return web.Response(status=400)  # the client has disconnected
        except StorageError as error:
            if self.shares_store:  # the loss is reported once, and other instances or a later attempt may have it
                _log.debug("%s failed: %s", request.path, error)
                return self.too_busy()
            _log.error("%s failed: %s", request.path, error)  # the reason is enough for a full disk
            return web.Response(status=500)
        except Exception:
            _log.exception("%s failed", request.path)
            return web.Response(status=500)
        finally:
            # Tasks that were begun meanwhile keep their context, for as long as a session.
            current.connection = current.refund = None
            if connection is not None:
                connection.answered()

    async def _in_turn(self, request: web.Request, current: _Current) -> bool:
        """Charge a request to its address, and wait until it may be served; False if that takes too long."""
        loop = asyncio.get_running_loop()
        now, address = loop.time(), request.remote or ""
        if hdrs.AUTHORIZATION not in request.headers:
            if not self._is_charged(request):
                return True
            if not self._limiter.allows(address, now=now):
                return False
            self._limiter.charge(address, READ_COST if request.method == hdrs.METH_GET else STRANGER_COST, now=now)
            return True
        # A paired client, as its bearer will show, does not pay for strangers behind the same address.
        delay = self._bearers.delay(address, now=now)
        if delay > MAX_BEARER_DELAY:
            return False
        self._bearers.charge(address, BEARER_COST, now=now)
        current.refund = lambda: self._bearers.charge(address, -BEARER_COST, now=loop.time())
        if delay and current.connection is not None:
            current.connection.complete()  # it waits for us
            await asyncio.sleep(delay)
            current.connection.begun()
        return True

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Set the headers of every response; charge a refusal to the address of a stranger."""
        response.headers.popall(hdrs.SERVER, None)
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        if self._is_last and response.status != 101:
            response.force_close()
        refused = 400 <= response.status < 500 and response.status != 429
        if refused and hdrs.AUTHORIZATION not in request.headers and self._is_charged(request):
            # aiohttp has its own request here, and not the one that the middleware made for a balancer's client.
            connection = self._connection_of(request)
            source = connection.source if connection is not None else None
            address = source[0] if source is not None else request.remote or ""
            self._limiter.charge(address, REFUSED_COST, now=asyncio.get_running_loop().time())

    def _is_charged(self, request: web.Request) -> bool:
        """Return whether a request without a bearer is charged to its address."""
        return True


def _is_encoded(request: web.Request) -> bool:
    """Return whether a body is compressed. S2 Connect compresses nothing, and a short body may inflate hugely."""
    transfer = ",".join(request.headers.getall(hdrs.TRANSFER_ENCODING, ())).strip().lower()
    return hdrs.CONTENT_ENCODING in request.headers or transfer not in {"", "chunked"}


def _cannot_listen(host: str | Sequence[str] | None, port: int, error: OSError) -> S2ConnectError:
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        where = host if isinstance(host, str) else ", ".join(host or ())
        return NotReachable(
            f"Cannot listen at {for_display(where, 200)} now: no name server answers.",
            hint="Check the network and the DNS of this machine, or name an address: s2connect config set bind ADDRESS",
        )
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        where = host if isinstance(host, str) else ", ".join(host or ("any address",))
        what = f"Cannot listen at {for_display(where, 200)}: that is no address of this machine."
        hint = (
            "Listen on another: s2connect config set bind ADDRESS (or --bind), or on all: s2connect config unset bind"
        )
        return ConfigurationError(what, hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        what = f"Cannot listen on port {port}: this user may not."
        return ConfigurationError(what, hint="Take one from 1024 on: s2connect config set port 8443 (or --port).")
    what = f"Cannot listen on port {port}: {error.strerror or 'address not available'}."
    another = f"s2connect config set port {another_port(port)} (or --port)"
    return ConfigurationError(what, hint=f"Does it run already? Otherwise take another one: {another}.")


def another_port(port: int) -> int:
    """Return the port to advise where one is taken: another one, which no user is refused."""
    return port + 1000 if 24 <= port < 64_536 else 9443


async def read_body(request: web.Request) -> bytes:
    """Read a request body, bounded in size (413) and time (408); 400 where it does not come wholly."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except PEER_FAULTS:
        raise web.HTTPBadRequest from None
    if len(body) > MAX_BODY_BYTES:  # the versions of aiohttp do not agree about its bound by a byte
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, len(body))
    current = _current.get()
    if current is not None and current.connection is not None:
        current.connection.complete()
    return body


def bearer_proved() -> None:
    """Note that the bearer of this task's request was right: the request costs its address nothing."""
    current = _current.get()
    if current is not None and current.refund is not None:
        current.refund()
        current.refund = None


def bearer(request: web.Request, kind: type[_Token]) -> _Token | None:
    """Return the bearer token of a request, if it is a valid one of its kind."""
    scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    try:
        return kind(value.strip()) if scheme.lower() == "bearer" else None
    except ValueError:
        return None


def answer(status: int, body: Wire | None = None) -> web.Response:
    """Make an HTTP answer."""
    if body is None:
        return web.Response(status=status)
    return web.Response(status=status, body=body.to_json(), content_type="application/json")


def tls_object(request: web.Request) -> ssl.SSLObject:
    """Return the TLS connection on which a request arrived."""
    transport = request.transport
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    if tls is None:
        raise web.HTTPServiceUnavailable  # the client has gone
    assert isinstance(tls, ssl.SSLObject)
    return tls


def is_loopback(bind: str) -> bool:
    """Return whether only this machine reaches an address."""
    if bind == "localhost":
        return True
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False


_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


def check_bind(address: str) -> None:
    """Check an address to listen on, which this machine may get later. Blocks.

    A name passes while no name server answers, as before the network of a machine is up.

    Raises:
        ConfigurationError: It is no IP address, and no name of one.
    """
    try:
        ipaddress.ip_address(address)
    except ValueError:
        try:
            socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN and _HOST_NAME.fullmatch(address):
                return
            what = f"Cannot listen at {for_display(address, 200) or 'an empty address'}: that is no address."
            hint = (
                "An address of this machine is needed, e.g. 192.168.1.20 or 127.0.0.1; without one it listens on all."
            )
            raise ConfigurationError(what, hint=hint) from None


def free_port(host: str | None = "127.0.0.1") -> int:
    """Find a TCP port that is free now, and that systems do not give to outgoing connections later.

    Raises:
        ConfigurationError: The host is no address of this machine.
    """
    family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            try:
                probe.bind((host or ("::" if family == socket.AF_INET6 else ""), port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise _cannot_listen(host, port, error) from None
            else:
                return port
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
