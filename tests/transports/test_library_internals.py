"""Undocumented parts of libraries that we use. Each name is tested here, so that a release that moves it shows.

Where one of them has gone, connections still work: they take more memory or time.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import ssl
import subprocess
import sys
from typing import Any

import pytest
from aiohttp import web

from s2connect.https import connection as connection_module
from s2connect.transports import websocket_connection


async def exchange(server: Any, client: Any) -> None:
    for sender, receiver in ((server, client), (client, server)):
        for text in ("{}", "x" * 100_000):
            await sender.send(text)
            assert await receiver.recv() == text
    await asyncio.gather(server.close(), client.close())


@pytest.mark.asyncio_only
async def test_asyncio_has_the_buffers_that_are_made_smaller(rig: Any) -> None:
    assert isinstance(asyncio.sslproto.SSLProtocol.max_size, int), "SSLProtocol.max_size"
    async with rig() as made:
        server, client = await made.pair()
        for end in (server, client):
            protocol: Any = end._transport._ssl_protocol
            assert issubclass(type(protocol), asyncio.BufferedProtocol), "transport._ssl_protocol"
            assert isinstance(protocol._ssl_buffer, bytearray), "SSLProtocol._ssl_buffer"
            assert isinstance(protocol._ssl_buffer_view, memoryview), "SSLProtocol._ssl_buffer_view"
        await exchange(server, client)


def test_asyncio_has_the_circle_that_is_broken_at_the_end_of_a_connection() -> None:
    """In a process of its own, because the mend is one for the whole process."""
    program = """
import asyncio, gc, socket, sys
from asyncio import selector_events
from s2connect.transports.tls_buffer import free_transports_at_once

async def garbage():
    here, there = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=here)
    assert isinstance(transport, selector_events._SelectorSocketTransport)
    there.close()
    del transport
    while here.fileno() >= 0:
        await asyncio.sleep(0)
    del here
    return gc.collect()

gc.disable()
gc.collect()
assert (asyncio.run(garbage()) > 0) == (sys.version_info < (3, 12)), "the mend is for Python 3.11 only"
gc.collect()
free_transports_at_once()
free_transports_at_once()
assert asyncio.run(garbage()) == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_aiohttp_asks_its_protocol_how_errors_are_answered_and_logged() -> None:
    for name in ("handle_error", "log_exception"):
        assert callable(getattr(web.RequestHandler, name, None)), f"RequestHandler.{name}"
        assert name in vars(connection_module._RequestHandler)
    assert hasattr(web.RequestHandler, "transport"), "BaseProtocol.transport"


async def test_without_them_connections_work_all_the_same(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_connection, "set_tls_buffer", lambda _: False)
    async with rig() as made:
        await exchange(*await made.pair())


def test_ssl_can_choose_groups_as_soon_as_python_can() -> None:
    """Python 3.15 has ``SSLContext.set_groups``; what it is called with has to be what OpenSSL understands."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not hasattr(context, "set_groups"):
        pytest.skip("this Python cannot choose several groups: https/client_hello.py does it for servers")
    context.set_groups("X25519:P-256:P-384")
