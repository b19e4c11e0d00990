"""Two ends of a transport, over memory and over real TLS on loopback."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import trustme
from aiohttp import web

from s2connect.model.common import NodeId
from s2connect.model.url import WebSocketUrl
from s2connect.transports import websocket_client, websocket_server
from s2connect.transports.base import Connection, ConnectionInfo, Trust
from s2connect.transports.websocket import WebSocketTransport
from s2connect.transports.websocket_connection import WebSocketConnection

CEM = NodeId(UUID(int=1))
RM = NodeId(UUID(int=2))
PATH = "/session/v1/websocket"


def info(protocol: str, local: NodeId, remote: NodeId) -> ConnectionInfo:
    return ConnectionInfo(protocol, local, remote, "v1.0.0")


@dataclass
class Rig:
    """A communication server with real TLS, and what a client needs to reach it."""

    server: WebSocketTransport
    client: WebSocketTransport
    trust: Trust
    url: WebSocketUrl
    port: int
    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    forget: Callable[[], None]
    """Stop keeping the connections, which are ended with the rig otherwise."""

    async def pair(self) -> tuple[Connection, Connection]:
        """Return the server's and the client's end of one connection."""
        offer = self.server.offer(info("WebSocket", CEM, RM))
        client = await self.client.connect(info("WebSocket", RM, CEM), offer.details, self.trust)
        return await offer.connection, client


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


def contexts(authority: trustme.CA, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.issue_cert(*names).configure_cert(server)
    authority.configure_trust(client)
    return server, client


@pytest.fixture
def rig(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Make a :class:`Rig`; an async context manager. The timings are attributes of both sides, or of the client."""

    @asynccontextmanager
    async def make(
        *,
        timings: dict[str, float] | None = None,
        client_timings: dict[str, float] | None = None,
        compression: bool = True,
        **options: Any,
    ) -> AsyncIterator[Rig]:
        server_context, client_context = contexts(authority, "device.local")
        standing: list[WebSocketConnection] = []

        class Kept(WebSocketConnection):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                standing.append(self)

        for module, own in (
            (websocket_server, timings),
            (websocket_client, timings if client_timings is None else client_timings),
        ):
            monkeypatch.setattr(module, "WebSocketConnection", type("Timed", (Kept,), own or {}))
        server = WebSocketTransport(lambda: url, compression=compression, **options)
        client = WebSocketTransport(compression=compression, **options)
        app = web.Application()
        app.router.add_get(PATH, server.handler)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context)
        await site.start()
        port = runner.addresses[0][1]
        url = WebSocketUrl(f"wss://device.local:{port}{PATH}")
        try:
            yield Rig(
                server,
                client,
                Trust(client_context, "127.0.0.1"),
                url,
                port,
                server_context,
                client_context,
                standing.clear,
            )
        finally:
            await server.close()
            await runner.cleanup()
            for connection in standing:
                connection._transport.abort()
                await connection.wait_closed()

    return make
