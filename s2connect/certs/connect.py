"""Connect to a server with TLS: by name or address, directly or through an HTTP proxy."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, TypeVar

from s2connect.errors import NotReachable
from s2connect.model.proxy import Proxy
from s2connect.model.text import for_display
from s2connect.model.url import address_of

P = TypeVar("P", bound=asyncio.Protocol)

HANDSHAKE_TIMEOUT: Final = 60.0
"""Seconds for the TLS handshake; the callers have shorter times for the whole."""

SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds for the end of TLS on both sides."""

LOOK_UP_TIMEOUT: Final = 4.0
"""Seconds for the name of a server: shorter than what the callers have, so that they do not blame the server."""

NEXT_ADDRESS_AFTER: Final = 0.25
"""Seconds after which the next address of a name is tried as well, while the one before does not answer (RFC 8305)."""

MAX_HEAD_BYTES: Final = 16 * 1024
"""Longest head of a response, of a server's or of a proxy's."""


class KeptConnection:
    """TLS connection to a server on which HTTP requests were answered; a WebSocket may go on with it, once."""

    def __init__(self, host: str, port: int, transport: asyncio.Transport) -> None:
        self._where = host, port
        self._transport: asyncio.Transport | None = transport

    def take(self, host: str, port: int) -> asyncio.Transport | None:
        """Return the connection if it is one to this server and still there; its protocol is the caller's to set."""
        transport = self._transport
        if transport is None or self._where != (host, port) or transport.is_closing():
            return None
        self._transport = None
        return transport

    @property
    def taken(self) -> bool:
        """True once it was taken, or closed."""
        return self._transport is None

    def close(self) -> None:
        """End the connection unless it was taken. Idempotent."""
        if self._transport is not None:
            farewell(self._transport)
            self._transport = None


async def connect_tls(
    make_protocol: Callable[[], P],
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    address: str | None = None,
    proxy: Proxy | None = None,
    kept: KeptConnection | None = None,
) -> tuple[asyncio.Transport, P]:
    """Open a TLS connection to a server, or go on with one. Cancel-safe; set a time for it.

    Args:
        make_protocol: Makes the protocol of the connection.
        host: Name or address in the URL, which the certificate is verified for.
        port: TCP port.
        context: How the server is verified.
        address: Where to connect to instead of looking ``host`` up.
        proxy: Connect through it; it looks ``host`` up.
        kept: Used instead, if it is a connection to this server and still there. It has to have been made with the
            same context.

    Raises:
        NotReachable: The proxy cannot be reached, or does not connect.
        OSError, ValueError: No connection, or the handshake failed; ``describe_tls_error`` knows the latter.
    """
    if kept is not None and (taken := kept.take(host, port)) is not None:
        protocol = make_protocol()
        taken.set_protocol(protocol)
        protocol.connection_made(taken)
        return taken, protocol
    loop, name = asyncio.get_running_loop(), str(address_of(host) or host)
    if proxy is not None:
        tunnel = await _tunnel(proxy, name, port)
        try:
            protocol = make_protocol()
            transport = await loop.start_tls(
                tunnel,
                protocol,
                context,
                server_hostname=name,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
            )
        except BaseException:
            tunnel.abort()
            raise
        if transport is None:  # lost right after the handshake
            raise NotReachable(f"The proxy {for_display(proxy.address)} closed the connection.")
        protocol.connection_made(transport)
        return transport, protocol
    to, sock = address or host, None
    where: dict[str, Any] = {"host": to, "port": port}
    if address_of(to) is None:
        sock = await _connected_socket(to, port)
        where = {"sock": sock}
    try:
        transport, protocol = await loop.create_connection(
            make_protocol,
            ssl=context,
            server_hostname=name,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
            **where,
        )
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    return transport, protocol


async def _connected_socket(host: str, port: int) -> socket.socket:
    """Connect to one of the addresses of a name, the next one while one does not answer."""
    from aiohappyeyeballs import start_connection  # asyncio's own way is missing in uvloop

    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOK_UP_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:  # not that of the server, which has not been asked yet
        raise NotReachable.not_looked_up(for_display(host, 100), error) from error
    return await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS_AFTER, interleave=1, loop=loop)


_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
"""End of a head, also of one whose lines end without a carriage return (RFC 9112, section 2.2)."""


class _Tunnel(asyncio.Protocol):
    """Connection with a proxy until the head of its response has come."""

    def __init__(self) -> None:
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        whole = _END_OF_HEAD.search(self._read)
        if (whole or len(self._read) > MAX_HEAD_BYTES) and not self.head.done():
            self.head.set_result(self._read if whole else b"")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.head.done():
            self.head.set_result(b"")


async def _tunnel(proxy: Proxy, host: str, port: int) -> asyncio.Transport:
    """Let a proxy connect to a server."""
    place, target = for_display(proxy.address), Proxy(host, port).address
    try:
        connection, tunnel = await asyncio.get_running_loop().create_connection(_Tunnel, proxy.host, proxy.port)
    except OSError as error:
        raise NotReachable(f"The proxy {place} cannot be reached.") from error
    try:
        authorization = proxy.reveal_authorization()
        authorized = f"Proxy-Authorization: {authorization}\r\n" if authorization is not None else ""
        connection.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorized}\r\n".encode("ascii"))
        status = re.match(rb"HTTP/1\.[01] (\d{3})\b", await tunnel.head)
        if status is None or not status[1].startswith(b"2"):
            said = f"HTTP {status[1].decode('ascii')}" if status is not None else "no HTTP"
            raise NotReachable(f"The proxy {place} does not connect to {target} ({said}).")
    except BaseException:
        connection.abort()
        raise
    return connection


def farewell(transport: asyncio.Transport) -> None:
    """End a connection in the order of TLS, without waiting for the other side's part of it."""
    transport.close()
    transport.abort()
