"""The two ends of a WebSocket that carries S2 messages: aiohttp where it is accepted, websockets where it is opened."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import sys
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import WSCloseCode, WSMsgType
from aiohttp.abc import AbstractStreamWriter
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed as WebSocketClosed
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
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
from s2connect.messages.envelope import BINARY_FRAME
from s2connect.model.proxy import Proxy
from s2connect.model.reply import retry_after_of
from s2connect.model.secret import Secret
from s2connect.model.seldom import process_lines
from s2connect.supervisor import process_failures
from s2connect.transports.base import (
    ABNORMAL_CLOSURE,
    MESSAGE_TOO_BIG,
    NORMAL_CLOSURE,
    PING_INTERVAL,
    POLICY_VIOLATION,
    UNSUPPORTED_DATA,
    Connection,
    ConnectionInfo,
)
from s2connect.transports.frame_budget import FrameBudget, FrameCounter, FrameGuard
from s2connect.transports.offers import OFFER_LIFETIME
from s2connect.transports.tls_buffer import shrink_tls_buffer

if TYPE_CHECKING:
    from aiohttp import web

_log = logging.getLogger(__name__)

PEER_TIMEOUT = 75.0
"""WS-04: seconds of listening in vain after which a peer is taken for gone: two pings and a half."""

OPEN_TIMEOUT = 20.0
"""Seconds for name, TCP, TLS and upgrade at the client; less than a token lives (SES-04)."""

CLOSE_TIMEOUT = 3.0
"""Seconds for the farewell of both sides; then the connection is cut."""

WRITE_BUFFER_BYTES = 64 * 1024
"""WS-07: what waits in this process for a slow peer before ``send`` waits, at the server."""

MAX_REASON_BYTES = 123
"""Longest reason that fits into a close frame (RFC 6455, section 5.5)."""

MAX_BINARY_FRAMES = 10
"""WS-05: binary frames of one connection that are answered; one more ends it."""

_DEFLATE = ClientPerMessageDeflateFactory(
    server_max_window_bits=11, client_max_window_bits=11, compress_settings={"memLevel": 3}
)
"""WS-03 at 25 KB of memory per connection: S2 messages are short, and a window of 2 KiB loses them little."""

COMPRESS_FROM_BYTES = 512
"""WS-03: shorter texts of the server go uncompressed, as the extension allows: they gain little, and a compressor costs
more time than the rest of the way."""

_HELD_UP = 0.05
"""Seconds after which a ``send`` counts as having waited for the peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketTimings:
    """Seconds that decide about a WebSocket.

    Attributes:
        ping_interval: Between two pings.
        peer_timeout: Of listening in vain until the peer counts as gone.
        open_timeout: For opening, at the client.
        close_timeout: For closing.
        offer_lifetime: Until an offer expires.
    """

    ping_interval: float = PING_INTERVAL
    peer_timeout: float = PEER_TIMEOUT
    open_timeout: float = OPEN_TIMEOUT
    close_timeout: float = CLOSE_TIMEOUT
    offer_lifetime: float = OFFER_LIFETIME


class PeerWatch:
    """Adds up how long the peer has been listened to without a sign of life. Sans-I/O.

    Time in which nobody listens does not count: then the signs of life of the peer stand in a queue of ours, and a slow
    reader here must not cost a living peer its connection.
    """

    def __init__(self) -> None:
        self._silence = 0.0
        self._since: float | None = None

    def listen(self, now: float) -> None:
        """Somebody begins to wait for the peer."""
        self._since = now

    def stop(self, now: float) -> None:
        """Nobody waits any more."""
        if self._since is not None:
            self._silence += now - self._since
            self._since = None

    def heard(self, now: float) -> None:
        """The peer gave a sign of life."""
        self._silence = 0.0
        if self._since is not None:
            self._since = now

    def served(self) -> None:
        """The peer gave what was waited for, and nobody waits any more."""
        self._silence = 0.0
        self._since = None

    def silence(self, now: float) -> float:
        """Seconds of listening in vain."""
        return self._silence + (0.0 if self._since is None else now - self._since)


class _End(Connection):
    """What both sides share: liveness, one end, a bounded farewell. Subclasses speak to their library."""

    def __init__(
        self,
        info: ConnectionInfo,
        transport: asyncio.Transport,
        timings: WebSocketTimings,
        frames: FrameBudget,
        max_bytes: int,
    ) -> None:
        self.info = info
        self._frames = frames
        self._max_bytes = max_bytes
        self._binary_frames = 0
        self._expelling: asyncio.Task[None] | None = None
        self._transport = transport
        self._timings = timings
        self._loop = asyncio.get_running_loop()
        self._watch = PeerWatch()
        self._ended: ConnectionClosed | None = None
        self._goodbye: ConnectionClosed | None = None
        self.closed = asyncio.Event()
        self.local_address = _ip_of(transport.get_extra_info("sockname"))
        self.remote_address = _ip_of(transport.get_extra_info("peername"))
        shrink_tls_buffer(transport)
        self._heart = asyncio.create_task(self._watch_peer(), name=f"s2connect-websocket-heartbeat-{info.remote}")

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
        """See :meth:`Connection.recv`."""
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
        """See :meth:`Connection.send`."""
        ended = self._ended or self._goodbye
        if ended is not None:
            raise ConnectionClosed(ended.code, ended.reason)
        await self._transmit(text)

    async def _binary(self) -> str:
        """Return what stands for a binary frame, which is answered as no message; too many end the connection (WS-05).

        Raises:
            ConnectionClosed: It was one too many.
        """
        self._binary_frames += 1
        if self._binary_frames <= MAX_BINARY_FRAMES:
            return BINARY_FRAME
        self._warn("binary", "%s sends binary frames; S2 messages are text", self.info.remote)
        await self.close(UNSUPPORTED_DATA, "text frames only")
        raise ConnectionClosed(UNSUPPORTED_DATA, "text frames only")

    def _expel(self) -> None:
        """End the connection of a peer that sends frames and no messages."""
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
        """See :meth:`Connection.close`."""
        if self._goodbye is not None or self._ended is not None:
            await self.closed.wait()
            return
        self._goodbye = ConnectionClosed(code, reason)
        try:
            async with asyncio.timeout(self._timings.close_timeout):
                await self._farewell(code, _fitting(reason))
        except (TimeoutError, OSError, RuntimeError, WebSocketException) as error:
            _log.debug("No farewell with %s: %s", self.info.remote, type(error).__name__)
            self._transport.abort()
        except BaseException:
            self._transport.abort()
            raise
        finally:
            self._end(self._goodbye)

    def has_room(self) -> bool:
        """See :meth:`Connection.has_room`."""
        return not self._transport.is_closing() and self._transport.get_write_buffer_size() == 0

    def _is_full(self) -> bool:
        """Whether more waits to be written than shall; a transport that is gone cannot be asked."""
        return not self._transport.is_closing() and self._transport.get_write_buffer_size() > WRITE_BUFFER_BYTES

    async def wait_closed(self) -> None:
        """See :meth:`Connection.wait_closed`."""
        await self.closed.wait()

    def _end(self, error: ConnectionClosed) -> None:
        if self._ended is None:
            self._ended = error
            self._heart.cancel()
            self.closed.set()

    async def _watch_peer(self) -> None:
        """Beat; a connection whose heart fails ends, because nobody would notice that its peer is gone."""
        try:
            await self._beat()
        except Exception as error:
            process_failures.failed("websocket-heartbeat", error, name=f"the heartbeat of {self.info.remote}")
            self._end(ConnectionClosed(ABNORMAL_CLOSURE, "an error in this program"))
            self._transport.abort()

    def _too_big(self) -> ConnectionClosed:
        """The end that a message of the peer makes that is too long (WS-05)."""
        what = "%s sent a message that is longer than %d bytes; the session ends with %d"
        self._warn("too big", what, self.info.remote, self._max_bytes, MESSAGE_TOO_BIG)
        return ConnectionClosed(MESSAGE_TOO_BIG, "message too long")

    async def _beat(self) -> None:
        loop, timings = self._loop, self._timings
        next_ping = loop.time() + timings.ping_interval
        while True:
            now = loop.time()
            left = timings.peer_timeout - self._watch.silence(now)
            if left <= 0:
                # Where this process itself stood still, what has come from the peer meanwhile is read first.
                await asyncio.sleep(timings.peer_timeout / 10)
                if self._watch.silence(loop.time()) < timings.peer_timeout:
                    continue
                _log.warning("No sign of life from %s for %g s", self.info.remote, timings.peer_timeout)
                self._end(ConnectionClosed(ABNORMAL_CLOSURE, "the peer does not answer"))
                self._transport.abort()
                return
            if now >= next_ping:
                next_ping = now + timings.ping_interval
                try:
                    async with asyncio.timeout(min(left, timings.ping_interval)):
                        await self._ping()
                except (TimeoutError, OSError, RuntimeError, WebSocketException):
                    pass  # a receiver is told by its own call; a writer that is held up may come free
            await asyncio.sleep(min(left, max(next_ping - loop.time(), 0.0)))


def _ip_of(address: object) -> str:
    return str(address[0]).partition("%")[0] if isinstance(address, tuple) and address else ""


def _fitting(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")


class ServerEnd(_End):
    """The communication server's end, on aiohttp. Made by :func:`accept`.

    aiohttp's own heartbeat is not used: it drops a living peer as soon as our application reads slowly, because the
    pong then stands behind unread messages.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        socket: web.WebSocketResponse,
        writer: AbstractStreamWriter,
        transport: asyncio.Transport,
        timings: WebSocketTimings,
        max_bytes: int,
        guard: FrameGuard,
    ) -> None:
        self._socket = socket
        self._writer = writer
        self._draining: asyncio.Task[None] | None = None
        self._window_bits = int(socket.compress)
        frames: Any = getattr(socket, "_writer", None)
        if getattr(frames, "compress", 0):
            # A compressor of its own for each long message: one that is kept would hold 140 KB of memory.
            frames.compress = 0
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        super().__init__(info, transport, timings, guard.budget, max_bytes)
        guard.on_exceeded = self._expel
        if guard.exceeded:
            self._expel()

    async def _receive(self) -> str | None:
        message = await self._socket.receive()
        kind = message.type
        if kind is WSMsgType.TEXT:
            text: str = message.data
            # An inflated text may be one byte longer than aiohttp lets pass otherwise.
            if 4 * len(text) > self._max_bytes and len(text.encode("utf-8")) > self._max_bytes:
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
                async with asyncio.timeout(self._timings.close_timeout):
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
        """Wait until the peer has taken in what was written.

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
            draining.exception()  # a writer that still waits is told by it; nobody else needs to know

    async def _ping(self) -> None:
        await self._socket.ping()

    async def _farewell(self, code: int, reason: str) -> None:
        await self._socket.close(code=code, message=reason.encode("utf-8"), drain=False)


class ClientEnd(_End):
    """The communication client's end, on websockets. Made by :func:`open_client`."""

    def __init__(
        self, info: ConnectionInfo, socket: ClientConnection, timings: WebSocketTimings, max_bytes: int
    ) -> None:
        self._socket = socket
        assert isinstance(socket, _BoundedClient)
        self._short_cut = _has_short_cut(socket)
        super().__init__(info, socket.transport, timings, socket.frames, max_bytes)
        socket.on_exceeded = self._expel

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
    """Whether the library has, undocumented, what :meth:`ClientEnd._transmit` goes past its ``send`` with."""
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
    exceeded = False
    on_exceeded: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.frames = FrameBudget(self.loop.time())
        self._counter = FrameCounter(after_head=True)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.exceeded:
            return
        if not self.frames.came(self._counter.feed(data), now=self.loop.time()):
            self.exceeded = True
            (self.on_exceeded or self.transport.abort)()
            return
        super().data_received(data)
        if self.protocol.state is not State.OPEN and self._cut is None and self.protocol.close_expected():
            self._cut = self.loop.call_later(self.close_timeout or 0.0, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._cut is not None:
            self._cut.cancel()


class _Connect(connect):
    """``connect`` that follows no redirect: the URL is what the server of the pairing said."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def server_socket(timings: WebSocketTimings, *, compression: bool, max_message_bytes: int) -> web.WebSocketResponse:
    """Make the answer to a request for an upgrade, for :func:`accept`."""
    from aiohttp import web  # a device that only connects does without aiohttp's server

    return web.WebSocketResponse(
        timeout=2 * timings.close_timeout,  # ours ends first, and cuts
        autoclose=False,
        autoping=False,
        compress=compression,
        writer_limit=sys.maxsize,  # see ServerEnd._room
        max_msg_size=max_message_bytes + 1,  # aiohttp refuses what is as long as this
    )


async def accept(
    request: web.Request,
    socket: web.WebSocketResponse,
    info: ConnectionInfo,
    timings: WebSocketTimings,
    *,
    max_message_bytes: int,
) -> ServerEnd:
    """Upgrade a request for which ``can_prepare`` is true.

    Raises:
        ConnectionClosed: The client has gone.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionClosed
    # What a client has sent before it got the answer lies in aiohttp's protocol, whose attribute is private.
    guard = FrameGuard(_protocol_of(transport), getattr(request.protocol, "_message_tail", b""))
    transport.set_protocol(guard)
    try:
        writer = await socket.prepare(request)
    except ConnectionError:
        raise ConnectionClosed from None
    assert writer is not None
    return ServerEnd(_with_address(info, transport), socket, writer, transport, timings, max_message_bytes, guard)


def _protocol_of(transport: asyncio.Transport) -> asyncio.Protocol:
    return cast(asyncio.Protocol, transport.get_protocol())


async def open_client(
    url: str,
    info: ConnectionInfo,
    timings: WebSocketTimings,
    *,
    host: str,
    port: int,
    token: Secret | None,
    scheme: str = "Bearer",
    context: ssl.SSLContext | None,
    address: str | None,
    proxy: Proxy | None = None,
    compression: bool,
    max_message_bytes: int,
) -> ClientEnd:
    """Connect; redirects are not followed. Cancel-safe.

    Args:
        url: Where to.
        info: Facts of the connection to be.
        timings: Seconds.
        host: Host of the URL, whose name is verified.
        port: Port of the URL.
        token: Sent as bearer token, or as what another scheme takes.
        scheme: Of the header ``Authorization``.
        context: TLS context; None for a ``ws://`` URL.
        address: Where to connect instead of the host.
        proxy: Connect through it instead; what goes through it is encrypted, and the proxy sees no token.
        compression: Whether permessage-deflate is offered.
        max_message_bytes: Longest message that is received.

    Raises:
        NetworkError: Not reachable, timed out, busy.
        TrustError: The certificate is not what it has to be.
        SessionRefused: The server refused the token.
        ProtocolViolation: The server does not open a WebSocket.
    """
    headers = {} if token is None else {"Authorization": f"{scheme} {token.reveal()}"}
    options: dict[str, Any] = {}
    if proxy is None:
        options = {"host": address or host, "port": port}
    if context is not None:
        options |= {"ssl": context, "server_hostname": host, "ssl_shutdown_timeout": timings.close_timeout}
    try:
        socket = await _Connect(
            url,
            additional_headers=headers,
            user_agent_header="s2connect",
            create_connection=_BoundedClient,
            compression=None,
            extensions=[_DEFLATE] if compression else None,
            max_size=max_message_bytes,
            open_timeout=timings.open_timeout,
            close_timeout=timings.close_timeout,
            ping_interval=None,
            proxy=proxy.reveal_url() if proxy is not None and context is not None else None,
            logger=_DiscreetLogger(logging.getLogger("websockets.client")),
            **options,
        )
    except Exception as error:
        mapped = _connect_error(error, host, port)
        if mapped is None:
            raise
        raise mapped from error
    return ClientEnd(_with_address(info, socket.transport), socket, timings, max_message_bytes)


def bearer_of(request: web.Request) -> str | None:
    """The bearer token of a request, or None. It is a secret."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None


def _with_address(info: ConnectionInfo, transport: asyncio.BaseTransport) -> ConnectionInfo:
    if info.peer_address:
        return info
    name: Any = transport.get_extra_info("peername")
    address = f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else ""
    return ConnectionInfo(info.protocol, info.local, info.remote, info.s2_version, address)


_BUSY_STATUS: Final = 429


def _connect_error(error: Exception, host: str, port: int) -> Exception | None:
    """Translate what ``connect`` raised; None for what is a bug of ours."""
    where = f"{host}:{port}"
    if isinstance(error, ssl.SSLError):
        return describe_tls_error(error, host)
    if isinstance(error, TimeoutError):
        return PeerTimeout(f"{where} did not open the WebSocket in time.")
    if isinstance(error, OSError):
        refused = NotReachable(f"{where} cannot be reached.")
        refused.cut = isinstance(error, ConnectionResetError)
        return refused
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
