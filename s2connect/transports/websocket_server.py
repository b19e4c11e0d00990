"""WebSocket server: a connection for S2 messages, on aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any, cast

from aiohttp import WSCloseCode, WSMsgType
from aiohttp.abc import AbstractStreamWriter

from s2connect.errors import ConnectionClosed
from s2connect.transports.base import (
    ABNORMAL_CLOSURE,
    MAX_MESSAGE_BYTES,
    MESSAGE_TOO_BIG,
    NORMAL_CLOSURE,
    ConnectionInfo,
)
from s2connect.transports.frame_budget import FrameBudget, FrameGuard
from s2connect.transports.websocket_connection import WRITE_BUFFER_BYTES, WebSocketConnection

if TYPE_CHECKING:
    from aiohttp import web

COMPRESS_FROM_BYTES = 512
"""WS-03: shorter texts of the server go uncompressed, as the extension allows: they gain little, and a compressor costs
more time than the rest of the way."""


class WebSocketServerConnection(WebSocketConnection):
    """Connection of the communication server, on aiohttp. Made by :func:`accept`.

    aiohttp's own heartbeat is not used: it drops a living peer as soon as our application reads slowly, because the
    pong then stands behind unread messages.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        socket: web.WebSocketResponse,
        writer: AbstractStreamWriter,
        transport: asyncio.Transport,
        frames: FrameBudget,
    ) -> None:
        self.response = self._socket = socket
        self._writer = writer
        self._draining: asyncio.Task[None] | None = None
        self._window_bits = int(socket.compress)
        wire: Any = getattr(socket, "_writer", None)
        if getattr(wire, "compress", 0):
            # A compressor of its own for each long message: one that is kept would hold 140 KB of memory.
            wire.compress = 0
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        super().__init__(info, transport, frames)

    async def _receive(self) -> str | None:
        message = await self._socket.receive()
        kind = message.type
        if kind is WSMsgType.TEXT:
            text: str = message.data
            # An inflated text may be one byte longer than aiohttp lets pass otherwise.
            if 4 * len(text) > MAX_MESSAGE_BYTES and len(text.encode("utf-8")) > MAX_MESSAGE_BYTES:
                await self.close(MESSAGE_TOO_BIG, "message too long")
                raise self._too_big()
            return text
        if kind is WSMsgType.PING:
            with contextlib.suppress(OSError):
                await self._socket.pong(message.data)
                if self._is_full():
                    await self._room()
            return None
        if kind is WSMsgType.PONG:
            return None
        if kind is WSMsgType.BINARY:
            return await self._binary()
        if kind is WSMsgType.CLOSE:
            code, reason = message.data or NORMAL_CLOSURE, message.extra or ""
            with contextlib.suppress(TimeoutError, OSError, RuntimeError):
                async with asyncio.timeout(self.close_timeout):
                    await self._socket.close(code=NORMAL_CLOSURE if code == WSCloseCode.OK else code, drain=False)
            raise ConnectionClosed(code, reason)
        if kind is WSMsgType.ERROR:
            # aiohttp has told the peer already: too long (1009), not UTF-8 (1007), not WebSocket (1002).
            code = getattr(message.data, "code", ABNORMAL_CLOSURE)
            raise self._too_big() if code == MESSAGE_TOO_BIG else ConnectionClosed(code)
        raise ConnectionClosed(ABNORMAL_CLOSURE)

    async def _transmit(self, text: str) -> None:
        try:
            compress = self._window_bits if len(text) >= COMPRESS_FROM_BYTES else 0
            await self._socket.send_str(text, compress=compress or None)
        except (OSError, RuntimeError):
            raise ConnectionClosed(ABNORMAL_CLOSURE) from None
        if self._is_full():
            await self._wait(self._room())

    async def _room(self) -> None:
        """Wait until the write buffer has drained.

        In a task, because aiohttp's writers share one future: to cancel one of them would be to cancel the others.
        """
        if self._draining is None:
            name = f"s2connect-websocket-drain-{self.info.remote}"
            self._draining = asyncio.create_task(self._writer.drain(), name=name)
            self._draining.add_done_callback(self._drained)
        draining = self._draining
        await asyncio.wait({draining})
        if draining.cancelled() or draining.exception() is not None:
            raise ConnectionClosed(ABNORMAL_CLOSURE)

    def _drained(self, draining: asyncio.Task[None]) -> None:
        self._draining = None
        if not draining.cancelled():
            draining.exception()  # releases a writer that still waits

    async def _ping(self) -> None:
        await self._socket.ping()

    async def _farewell(self, code: int, reason: str) -> None:
        await self._socket.close(code=code, message=reason.encode("utf-8"), drain=False)


def wants_upgrade(request: web.Request) -> bool:
    """Return whether a request asks for a WebSocket, so that :func:`accept` can upgrade it."""
    from aiohttp import web  # a device that only connects does without aiohttp's server

    return web.WebSocketResponse().can_prepare(request).ok


async def accept(request: web.Request, info: ConnectionInfo, *, compression: bool) -> WebSocketServerConnection:
    """Upgrade a request that :func:`wants_upgrade`. Raises ``HTTPBadRequest`` where the client has gone."""
    from aiohttp import web

    socket = web.WebSocketResponse(
        timeout=2 * WebSocketServerConnection.close_timeout,  # ours ends first, and cuts
        autoclose=False,
        autoping=False,
        compress=compression,
        writer_limit=sys.maxsize,  # see WebSocketServerConnection._room
        max_msg_size=MAX_MESSAGE_BYTES + 1,  # aiohttp refuses what is as long as this
    )
    transport = request.transport
    if transport is None:
        raise web.HTTPBadRequest
    # Bytes that a client sent before it got the response are in aiohttp's protocol, in a private attribute.
    protocol = cast(asyncio.Protocol, transport.get_protocol())
    guard = FrameGuard(protocol, getattr(request.protocol, "_message_tail", b""))
    transport.set_protocol(guard)
    try:
        writer = await socket.prepare(request)
    except ConnectionError:
        raise web.HTTPBadRequest from None
    except AssertionError:
        if request.transport is not None:
            raise
        raise web.HTTPBadRequest from None  # aiohttp before 3.14, where the client has gone
    assert writer is not None
    return WebSocketServerConnection(info, socket, writer, transport, guard.budget)


def bearer_of(request: web.Request) -> str | None:
    """Return the bearer token of a request, or None. It is a secret."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None
