"""Common part of WebSocket client and server: liveness, a single end, a bounded close handshake."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from websockets.exceptions import WebSocketException

from s2connect.errors import ConnectionClosed
from s2connect.messages.envelope import BINARY_FRAME
from s2connect.model.log_limiter import process_lines
from s2connect.supervisor import process_failures
from s2connect.transports.base import (
    ABNORMAL_CLOSURE,
    MAX_MESSAGE_BYTES,
    MESSAGE_TOO_BIG,
    NORMAL_CLOSURE,
    PING_INTERVAL,
    POLICY_VIOLATION,
    UNSUPPORTED_DATA,
    Connection,
    ConnectionInfo,
)
from s2connect.transports.frame_budget import FrameBudget
from s2connect.transports.tls_buffer import set_tls_buffer

_log = logging.getLogger(__name__)

PEER_TIMEOUT = 75.0
"""WS-04: seconds without a sign of life after which a peer counts as gone: two and a half ping intervals."""

CLOSE_TIMEOUT = 3.0
"""Seconds for the close handshake of both sides; then the connection is cut."""

WRITE_BUFFER_BYTES = 64 * 1024
"""WS-07: bytes buffered for a slow peer before ``send`` waits, at the server."""

MAX_REASON_BYTES = 123
"""Longest reason that fits into a close frame (RFC 6455, section 5.5)."""

MAX_BINARY_FRAMES = 10
"""WS-05: binary frames of one connection that are answered; one more ends it."""

_HELD_UP = 0.05
"""Seconds after which a ``send`` counts as having waited for the peer."""


class PeerWatch:
    """Adds up the seconds of reading without a sign of life of the peer. Sans-I/O.

    Time in which nobody listens does not count: then the signs of life of the peer stand in a queue of ours, and a slow
    reader here must not cost a living peer its connection.
    """

    def __init__(self) -> None:
        self._silence = 0.0
        self._since: float | None = None

    def listen(self, now: float) -> None:
        """Note that reading begins."""
        self._since = now

    def stop(self, now: float) -> None:
        """Note that reading stops."""
        if self._since is not None:
            self._silence += now - self._since
            self._since = None

    def heard(self, now: float) -> None:
        """Note a sign of life of the peer."""
        self._silence = 0.0
        if self._since is not None:
            self._since = now

    def served(self) -> None:
        """Note that the awaited input was received: reading stops."""
        self._silence = 0.0
        self._since = None

    def silence(self, now: float) -> float:
        """Return the seconds of reading without a sign of life."""
        return self._silence + (0.0 if self._since is None else now - self._since)


class WebSocketConnection(Connection):
    """Base of both sides: liveness, a single end, a bounded close handshake. Subclasses adapt a library."""

    ping_interval = PING_INTERVAL
    peer_timeout = PEER_TIMEOUT
    close_timeout = CLOSE_TIMEOUT

    def __init__(self, info: ConnectionInfo, transport: asyncio.Transport, frames: FrameBudget) -> None:
        peer: Any = transport.get_extra_info("peername")
        address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        self.info = info if info.peer_address else replace(info, peer_address=address, since=datetime.now(UTC))
        self._frames = frames
        self._binary_frames = 0
        self._expelling: asyncio.Task[None] | None = None
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._watch = PeerWatch()
        self._ended: ConnectionClosed | None = None
        self._goodbye: ConnectionClosed | None = None
        self.closed = asyncio.Event()
        self.local_address = _ip_of(transport.get_extra_info("sockname"))
        self.remote_address = _ip_of(peer)
        set_tls_buffer(transport)
        frames.on_exceeded = self._expel
        self._heart = asyncio.create_task(self._watch_peer(), name=f"s2connect-websocket-heartbeat-{info.remote}")
        if frames.exceeded:
            self._expel()

    @abstractmethod
    async def _receive(self) -> str | None:
        """Next text, or None for what is none. Raises ConnectionClosed at the end; cancel-safe."""

    @abstractmethod
    async def _transmit(self, text: str) -> None:
        """Write a text and wait for room. Raises ConnectionClosed."""

    @abstractmethod
    async def _ping(self) -> None:
        """Write a ping. Raises anything when the connection is gone."""

    @abstractmethod
    async def _farewell(self, code: int, reason: str) -> None:
        """Close handshake. Raises anything."""

    async def recv(self) -> str:
        if self._ended is not None:
            raise ConnectionClosed(self._ended.code, self._ended.reason)
        watch, time = self._watch, self._loop.time
        watch.listen(time())
        try:
            while (text := await self._receive()) is None:
                watch.heard(time())
        except ConnectionClosed as error:
            watch.stop(time())
            if self._goodbye is not None:
                await self.closed.wait()  # bounded: our own close is at work
            self._end(error)
            assert self._ended is not None
            raise ConnectionClosed(self._ended.code, self._ended.reason) from None
        except BaseException:
            watch.stop(time())
            raise
        watch.served()
        self._frames.delivered(len(text))
        return text

    async def send(self, text: str) -> None:
        ended = self._ended or self._goodbye
        if ended is not None:
            raise ConnectionClosed(ended.code, ended.reason)
        await self._transmit(text)

    async def _binary(self) -> str:
        """Return the stand-in for a binary frame, an invalid message; too many end the connection (WS-05)."""
        self._binary_frames += 1
        if self._binary_frames <= MAX_BINARY_FRAMES:
            return BINARY_FRAME
        self._warn("binary", "%s sends binary frames; S2 messages are text", self.info.remote)
        await self.close(UNSUPPORTED_DATA, "text frames only")
        raise ConnectionClosed(UNSUPPORTED_DATA, "text frames only")

    def _expel(self) -> None:
        """End the connection of a peer that sends frames without messages."""
        if self._expelling is None and self._ended is None:
            self._warn("frames", "%s sends too many frames that carry no message", self.info.remote)
            name = f"s2connect-websocket-close-{self.info.remote}"
            self._expelling = asyncio.create_task(self.close(POLICY_VIOLATION, "too many frames"), name=name)

    def _warn(self, kind: str, what: str, *arguments: object) -> None:
        """Log a line that the peer causes, once a minute for each kind, across connections."""
        more = process_lines.due((self.info.local, self.info.remote, kind), self._loop.time())
        if more is not None:
            _log.warning(f"{what}%s", *arguments, more)

    async def _wait(self, room: Coroutine[Any, Any, None]) -> None:
        """Wait for room in a write buffer that is full."""
        started = self._loop.time()
        await room
        now = self._loop.time()
        if now - started > _HELD_UP:
            self._watch.heard(now)  # room came after waiting: the peer takes in what we send

    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        if self._goodbye is not None or self._ended is not None:
            await self.closed.wait()
            return
        self._goodbye = ConnectionClosed(code, reason)
        try:
            async with asyncio.timeout(self.close_timeout):
                await self._farewell(code, _fitting(reason))
        except (TimeoutError, OSError, RuntimeError, WebSocketException) as error:
            _log.debug("The connection with %s was not closed in order: %s", self.info.remote, type(error).__name__)
            self._transport.abort()
        except BaseException:
            self._transport.abort()
            raise
        finally:
            self._end(self._goodbye)

    def has_room(self) -> bool:
        return not self._transport.is_closing() and self._transport.get_write_buffer_size() == 0

    def _is_full(self) -> bool:
        """Return whether the write buffer is above its limit; a closed transport has none."""
        return not self._transport.is_closing() and self._transport.get_write_buffer_size() > WRITE_BUFFER_BYTES

    async def wait_closed(self) -> None:
        await self.closed.wait()

    def _end(self, error: ConnectionClosed) -> None:
        if self._ended is None:
            self._ended = error
            self._heart.cancel()
            self.closed.set()

    async def _watch_peer(self) -> None:
        """Run the heartbeat. If it fails, end the connection: a vanished peer would not be noticed any more."""
        try:
            await self._beat()
        except Exception as error:
            process_failures.failed("websocket-heartbeat", error, name=f"the heartbeat of {self.info.remote}")
            self._end(ConnectionClosed(ABNORMAL_CLOSURE, "an error in this program"))
            self._transport.abort()

    def _too_big(self) -> ConnectionClosed:
        """Return the error for a message of the peer that is too long (WS-05)."""
        what = "%s sent a message that is longer than %d bytes; the session ends with %d"
        self._warn("too big", what, self.info.remote, MAX_MESSAGE_BYTES, MESSAGE_TOO_BIG)
        return ConnectionClosed(MESSAGE_TOO_BIG, "message too long")

    async def _beat(self) -> None:
        loop = self._loop
        next_ping = loop.time() + self.ping_interval
        while True:
            now = loop.time()
            left = self.peer_timeout - self._watch.silence(now)
            if left <= 0:
                # After this process itself was suspended, read the peer's pending input first.
                await asyncio.sleep(self.peer_timeout / 10)
                if self._watch.silence(loop.time()) < self.peer_timeout:
                    continue
                _log.warning("No sign of life from %s for %g s", self.info.remote, self.peer_timeout)
                self._end(ConnectionClosed(ABNORMAL_CLOSURE, "the peer does not answer"))
                self._transport.abort()
                return
            if now >= next_ping:
                next_ping = now + self.ping_interval
                try:
                    async with asyncio.timeout(min(left, self.ping_interval)):
                        await self._ping()
                except (TimeoutError, OSError, RuntimeError, WebSocketException):
                    pass  # a receiver gets the error from its own call; a blocked writer may still drain
            await asyncio.sleep(min(left, max(next_ping - loop.time(), 0.0)))


def _ip_of(address: object) -> str:
    return str(address[0]).partition("%")[0] if isinstance(address, tuple) and address else ""


def _fitting(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")
