"""A server behind load balancers: whose header it believes, and what counts as the client's address (SEC-03)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from s2connect.certs.tls import ServerContext
from s2connect.https import acceptor as acceptor_module
from s2connect.https.admission import Limits
from s2connect.https.proxy_protocol import Balancers
from s2connect.https.server import HttpsServer
from tests.https.test_acceptor import IDENTITY, context, settled
from tests.https.test_proxy_protocol import header
from tests.waits import within

__all__ = ["context"]

ASK = b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n"
LOCAL = header(0, 0, b"")


def named(client: str, port: int = 4711) -> bytes:
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    address = socket.inet_pton(family, client)
    return header(1, 0x21 if ":" in client else 0x11, address + address + port.to_bytes(2) + (443).to_bytes(2))


@contextlib.asynccontextmanager
async def serving(
    balancers: Balancers | None, *, tls: bool = True, limits: Limits | None = None
) -> AsyncIterator[HttpsServer]:
    server = HttpsServer(
        ServerContext(IDENTITY).context if tls else None, host="127.0.0.1", port=0, balancers=balancers
    )

    async def who(request: web.Request) -> web.Response:
        return web.Response(text=request.remote)

    server.add_get("/who", who)
    await server.start()
    if limits is not None:
        server._acceptor.admission.limits = limits
    try:
        yield server
    finally:
        await server.close()


async def ask(
    server: HttpsServer,
    first: bytes,
    context: ssl.SSLContext | None = None,
    *,
    pieces: int = 1,
    source: str = "127.0.0.1",
    request: bytes = ASK,
) -> tuple[int, str]:
    """Send a header, then a request over TLS or without; return status and body. ConnectionError if it is refused."""
    async with within(10):
        with socket.socket() as plain:
            return await _ask(server, plain, first, context, pieces, source, request)


async def _ask(
    server: HttpsServer,
    plain: socket.socket,
    first: bytes,
    context: ssl.SSLContext | None,
    pieces: int,
    source: str,
    request: bytes,
) -> tuple[int, str]:
    plain.setblocking(False)
    plain.bind((source, 0))
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, ("127.0.0.1", server.port))
    step = -(-len(first) // pieces) or 1
    for at in range(0, len(first), step):
        await loop.sock_sendall(plain, first[at : at + step])
        if pieces > 1:
            await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(
        sock=plain, ssl=context, server_hostname="127.0.0.1" if context else None
    )
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status, size = int(head.split()[1]), 0
        for line in head.splitlines():
            if line.lower().startswith(b"content-length:"):
                size = int(line.split()[1])
        return status, (await reader.readexactly(size)).decode()
    except asyncio.IncompleteReadError:
        raise ConnectionResetError from None
    finally:
        writer.transport.abort()


HERE = ["127.0.0.1"]


@pytest.mark.parametrize("client", ["192.0.2.7", "2001:db8::7"])
@pytest.mark.parametrize("tls", [True, False])
async def test_a_balancer_names_the_client(client: str, tls: bool, context: ssl.SSLContext) -> None:
    async with serving(Balancers(HERE), tls=tls) as server:
        assert await ask(server, named(client), context if tls else None) == (200, client)


async def test_a_header_may_come_in_pieces(context: ssl.SSLContext) -> None:
    async with serving(Balancers(HERE)) as server:
        assert await ask(server, named("192.0.2.7"), context, pieces=28) == (200, "192.0.2.7")


async def test_a_check_of_the_balancer_itself_has_its_own_address(context: ssl.SSLContext) -> None:
    async with serving(Balancers(HERE)) as server:
        assert await ask(server, LOCAL, context) == (200, "127.0.0.1")


@pytest.mark.parametrize("first", [b"", header(2, 0x11, b""), b"PROXY TCP4 192.0.2.7 127.0.0.1 1 443\r\n"])
async def test_a_balancer_without_a_right_header_is_refused(
    first: bytes, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Balancers(HERE)) as server:
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await ask(server, first, context)
        await settled(server)
    assert "without a right header of PROXY protocol 2; the last from 127.0.0.1" in caplog.text


async def test_nobody_else_is_believed(context: ssl.SSLContext) -> None:
    async with serving(Balancers(["192.0.2.0/28"])) as server:
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await ask(server, named("192.0.2.7"), context)
        assert await ask(server, b"", context) == (200, "127.0.0.1")


async def test_nobody_but_balancers_may_come_where_that_is_set(context: ssl.SSLContext) -> None:
    async with serving(Balancers(["127.0.0.2"], only=True)) as server:
        for first in (b"", named("192.0.2.7")):
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await ask(server, first, context)
        assert await ask(server, named("192.0.2.7"), context, source="127.0.0.2") == (200, "192.0.2.7")


async def test_connections_are_counted_by_client(context: ssl.SSLContext) -> None:
    """As without a balancer: a network at its bound makes room among its own, and others come in."""
    async with serving(Balancers(HERE), limits=Limits(per_network=2)) as server:
        waiting = []
        for client in ("192.0.2.7", "192.0.2.7", "198.51.100.1", "198.51.100.1"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(named(client))
            waiting.append((reader, writer))
            async with within(5):
                while len(server._acceptor.admission) < len(waiting):
                    await asyncio.sleep(0.01)
        assert await ask(server, named("192.0.2.7"), context) == (200, "192.0.2.7")
        async with within(5):
            with pytest.raises(ConnectionResetError):
                await waiting[0][0].readexactly(1)
        assert len(server._acceptor.admission) >= 3
        for _, writer in waiting:
            writer.transport.abort()
        await settled(server)


async def test_refused_requests_are_charged_to_the_client(context: ssl.SSLContext) -> None:
    missing = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    async with serving(Balancers(HERE), tls=False) as server:
        assert (await ask(server, named("192.0.2.7"), request=missing))[0] == 404
        now = asyncio.get_running_loop().time()
        assert server._limiter.points("192.0.2.7", now=now) < 997
        assert server._limiter.points("127.0.0.1", now=now) == 1000
        server._limiter.charge("192.0.2.7", 5000, now=now)
        assert (await ask(server, named("192.0.2.7")))[0] == 429
        assert (await ask(server, named("192.0.2.8")))[0] == 200


async def test_connections_without_a_header_are_bounded_in_time_and_number(
    monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext
) -> None:
    monkeypatch.setattr(acceptor_module, "HEADER_TIMEOUT", 0.5)
    async with serving(Balancers(HERE), limits=Limits(per_network=4)) as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(4)]
        silent[0][1].write(named("192.0.2.7")[:-1])
        async with within(5):
            while len(server._acceptor._headers) < 4:
                await asyncio.sleep(0.01)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await ask(server, named("192.0.2.7"), context)
        async with within(5):
            for reader, _ in silent:
                with pytest.raises(ConnectionResetError):
                    await reader.readexactly(1)
        assert await ask(server, named("192.0.2.7"), context) == (200, "192.0.2.7")
        await settled(server)
        assert not server._acceptor._headers


async def test_closing_ends_those_that_have_sent_no_header() -> None:
    async with serving(Balancers(HERE)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with within(5):
            while not server._acceptor._headers:
                await asyncio.sleep(0.01)
        await server.close()
        async with within(5):
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        writer.close()


async def test_answers_are_not_held_back(context: ssl.SSLContext) -> None:
    """Without TCP_NODELAY each would wait for a delayed acknowledgement, some 40 ms."""
    async with serving(Balancers(HERE), tls=False) as server, within(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(named("192.0.2.7"))
        took = []
        for _ in range(20):
            began = time.monotonic()
            writer.write(ASK)
            await reader.readuntil(b"192.0.2.7")
            took.append(time.monotonic() - began)
        assert sorted(took)[10] < 0.03
        connections = list(server._connections.values())
        assert connections[0].transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
