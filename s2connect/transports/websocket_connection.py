"""WebSocket connection of both ends: a protocol of asyncio around the sans-I/O protocol of websockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed as WebSocketClosed
from websockets.exceptions import InvalidState, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol

from s2connect.errors import ConnectionClosed
from s2connect.messages.envelope import BINARY_FRAME
from s2connect.model.log_limiter import process_lines
from s2connect.supervisor import process_failures
from s2connect.transports.base import (
    ABNORMAL_CLOSURE,
    INTERNAL_ERROR,
    MAX_MESSAGE_BYTES,
    MESSAGE_TOO_BIG,
    NORMAL_CLOSURE,
    PING_INTERVAL,
    POLICY_VIOLATION,
    UNSUPPORTED_DATA,
    Connection,
    ConnectionInfo,
    Receiver,
    fitting_reason,
)
from s2connect.transports.frame_budget import FrameBudget
from s2connect.transports.peer_watch import PeerWatch
from s2connect.transports.slices import in_slices
from s2connect.transports.tls_buffer import set_tls_buffer

_log = logging.getLogger(__name__)

PEER_TIMEOUT = 75.0
"""WS-04: seconds without a sign of life after which a peer counts as gone: two and a half ping intervals."""

CLOSE_TIMEOUT = 3.0
"""Seconds for the close handshake of both sides; then the connection is cut."""

LINGER: Final = 0.25
"""Seconds without input after which a server ends a connection that it fails; ended while input is on its way, the
peer would lose the close frame, and with it the reason."""

WRITE_BUFFER_BYTES = 64 * 1024
"""WS-07: bytes buffered for a slow peer before ``send`` waits."""

MAX_WAITING_TEXTS: Final = 64
"""WS-07: texts that wait here for a receiver before the peer is slowed down, ..."""

MAX_WAITING_CHARACTERS: Final = 64 * 1024
"""... and their characters. One text more may be on its way through."""

PIECE: Final = 4096
"""Bytes given to the library at a time: what it makes of them, at most some 2,000 frames, is counted afterwards."""

FRAMES_PER_TURN: Final = 256
"""Frames handled in one turn of the event loop; the rest of what was read waits for the next."""

MAX_BINARY_FRAMES = 10
"""WS-05: binary frames of one connection that are answered; one more ends it."""

_NO_STATUS: Final = 1005
_NOT_UTF_8: Final = 1007
_TEXT, _CONT, _BINARY, _PING, _CLOSE = Opcode.TEXT, Opcode.CONT, Opcode.BINARY, Opcode.PING, Opcode.CLOSE


class DiscreetLogger(logging.LoggerAdapter[logging.Logger]):
    """Logger for websockets without its debug and info lines: they have headers and frames, with secrets (SEC-01)."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name of the standard library
        return level > logging.INFO and super().isEnabledFor(level)


_logger = DiscreetLogger(logging.getLogger("websockets.protocol"))


class WebSocketConnection(Connection, asyncio.Protocol):
    """Connection over a WebSocket, of the communication server (``accept``) or client (``open_client``).

    Args:
        info: Facts of it; the peer's address is added where it is missing.
        handshake: The library's part of the upgrade, done.
        before: The protocol that the transport had until then; it gets the connection's end, too.
    """

    ping_interval = PING_INTERVAL
    peer_timeout = PEER_TIMEOUT
    close_timeout = CLOSE_TIMEOUT

    _transport: asyncio.Transport

    # Defaults of attributes that most connections never set stand in the class: the dictionary of one with thirty
    # attributes takes 1.5 KB more than that of one with fewer.
    _before: asyncio.BaseProtocol | None = None
    _doubted = False
    _fragments: list[Any] | None = None  # of the message that comes
    _binary_frames = 0
    _arrival: asyncio.Future[None] | None = None  # recv waits
    _pongs_wait = False
    _full: asyncio.Event | None = None  # set when there is room again
    _senders = 0  # that wait for room before they write
    _goodbye: ConnectionClosed | None = None
    _ended: ConnectionClosed | None = None
    _linger: asyncio.TimerHandle | None = None
    _cut: asyncio.TimerHandle | None = None
    _lost = False
    _gone: asyncio.Event | None = None

    def __init__(
        self,
        info: ConnectionInfo,
        handshake: ServerProtocol | ClientProtocol,
        before: asyncio.BaseProtocol | None = None,
    ) -> None:
        self.info = info
        self._loop = asyncio.get_running_loop()
        # Not the one of the handshake, which keeps its request and response.
        self._protocol = Protocol(handshake.side, state=State.OPEN, max_size=MAX_MESSAGE_BYTES, logger=_logger)
        self._protocol.extensions = handshake.extensions
        if before is not None:
            self._before = before
        self._heart: asyncio.TimerHandle | None = None
        self._next_ping = 0.0
        # Receiving
        now = self._loop.time()
        self._watch = PeerWatch(now)
        self._frames = FrameBudget(now)
        self._receiver: Receiver | None = None
        self._paused = False  # by the receiver
        self._inbox: list[str] = []  # of few texts, and in most connections none
        self._characters = 0  # of the inbox
        self._unread = bytearray()  # not given to the library
        self._reading = True
        self._scheduled = False
        # Sending
        self._turn = asyncio.Lock()
        # The end
        self._may_write = True
        self._at_close: list[Callable[[], object]] = []

    @property
    def heartbeat(self) -> float:  # type: ignore[override]  # a test may change the time-out of the class
        """Seconds of silence after which the peer counts as gone (WS-04)."""
        return self.peer_timeout

    def silence(self) -> float:
        return self._watch.silence(self._loop.time())

    def ask(self, call: Callable[[], None]) -> bool:
        question = self._watch.ask(call)
        if self._may_write and self._protocol.state is State.OPEN:  # else the end is to come
            self._ping(question)
        return True

    # Sending

    async def send(self, text: str) -> None:
        if self._full is None and not self._senders:
            self._write(text)
        else:
            self._check_open()
            self._senders += 1
            try:
                async with self._turn:
                    while self._full is not None:
                        await self._full.wait()
                    self._write(text)
            finally:
                self._senders -= 1
        if self._full is not None:
            await self._full.wait()
            if self._ended is not None:
                raise ConnectionClosed(self._ended.code, self._ended.reason)

    def try_send(self, text: str) -> bool:
        if self._full is not None or self._senders:
            self._check_open()
            return False
        self._write(text)
        return True

    def _write(self, text: str) -> None:
        self._check_open()
        try:
            self._protocol.send_text(text.encode())
        except InvalidState:  # what has come with the text that is being answered ends the connection
            raise ConnectionClosed(ABNORMAL_CLOSURE) from None
        for data in self._protocol.data_to_send():
            self._transport.write(data)

    def _check_open(self) -> None:
        if not self._may_write:
            ended = self._ended or self._goodbye or ConnectionClosed(ABNORMAL_CLOSURE)
            raise ConnectionClosed(ended.code, ended.reason)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            # An empty one asks for the end of the stream, which is ours to bring about. Once the connection is lost,
            # uvloop takes nothing more.
            if data and not self._transport.is_closing():
                self._transport.write(data)

    def pause_writing(self) -> None:
        self._full = asyncio.Event()

    def resume_writing(self) -> None:
        if self._full is not None:
            self._watch.heard(self._loop.time())  # the peer takes in what we send
            self._full.set()
            self._full = None
        if self._pongs_wait:
            self._pongs_wait = False
            self._schedule()

    # Receiving

    async def recv(self) -> str:
        while not self._inbox:
            if self._ended is not None:
                raise ConnectionClosed(self._ended.code, self._ended.reason)
            self._arrival = self._loop.create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        text = self._inbox.pop(0)
        self._characters -= len(text)
        if not self._reading and not self._inbox:
            self._schedule()
        return text

    def put_back(self, texts: Sequence[str]) -> None:
        """Let texts that were received be received again, before all others."""
        self._inbox[:0] = texts
        self._characters += sum(map(len, texts))

    def receive_into(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._schedule()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self._inbox or not self._reading:
                self._schedule()

    def data_received(self, data: bytes) -> None:
        if self._ended is not None:
            self._linger_on()
            return
        self._watch.heard(self._loop.time())
        if len(data) > PIECE or self._unread or not self._reading:
            self._unread += data
            if not self._scheduled:
                self._go_on()
        else:
            self._feed(data)
            if self._inbox and self._has_enough():
                self._set_reading(False)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Hand over what waits here, and read on while there is room."""
        self._scheduled = False
        self._hand_over()
        frames = 0
        while self._unread and not self._has_enough():
            if frames > FRAMES_PER_TURN:
                self._set_reading(False)
                self._schedule()
                return
            piece = bytes(self._unread[:PIECE])
            del self._unread[:PIECE]
            frames += self._feed(piece)
        if self._lost:
            self._finish()
        else:
            self._set_reading(not self._unread and not self._has_enough())

    def _hand_over(self) -> None:
        while self._receiver is not None and self._inbox and (not self._paused or self._ended is not None):
            text = self._inbox.pop(0)
            self._characters -= len(text)
            self._give(self._receiver, text)
        if self._receiver is not None and self._ended is not None:
            receiver, self._receiver = self._receiver, None
            receiver.connection_ended(ConnectionClosed(self._ended.code, self._ended.reason))

    def _give(self, receiver: Receiver, text: str) -> None:
        try:
            receiver.text_received(text)
        except Exception as error:
            process_failures.failed("receiver", error, name=f"the receiver of {self.info.remote}")
            self._inbox.clear()
            self._fail(INTERNAL_ERROR, "")

    def _has_enough(self) -> bool:
        """Return whether nothing is to be read now."""
        return self._may_write and (
            self._pongs_wait or len(self._inbox) >= MAX_WAITING_TEXTS or self._characters >= MAX_WAITING_CHARACTERS
        )

    def _set_reading(self, on: bool) -> None:
        if on is not self._reading and not self._transport.is_closing():
            self._reading = on
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
        # A peer that takes no pongs in is the reason why it is not read from, and not our receiver.
        if self._reading or self._pongs_wait:
            self._watch.listen(self._loop.time())
        else:
            self._watch.stop(self._loop.time())

    def _feed(self, data: bytes) -> int:
        """Give the library what has come, and act on it. Returns the number of frames."""
        protocol = self._protocol
        protocol.receive_data(data)
        events = cast(list[Frame], protocol.events_received())
        count = len(events)
        level = self._frames.level
        if count == 1 and not level and (frame := events[0]).opcode is _TEXT and frame.fin and frame.data:
            self._text(frame.data)  # the usual case, which needs no account
            if protocol.state is not State.OPEN and self._may_write:
                self._over(False)
            return count
        if (count or level) and not self._frames.came(count, now=self._loop.time()):
            self._warn("frames", "%s sends too many frames that carry no message", self.info.remote)
            self._fail(POLICY_VIOLATION, "too many frames")
            return count
        closed = pinged = False
        for frame in events:
            opcode = frame.opcode
            if opcode is _TEXT and frame.fin:
                self._text(frame.data)
            elif opcode is _CLOSE:
                closed = True
            elif opcode is _PING:
                pinged = True
            elif opcode is Opcode.PONG:
                self._watch.answered(bytes(frame.data))
            elif opcode is _TEXT or opcode is _CONT or opcode is _BINARY:
                self._fragment(frame)
            if self._ended is not None:
                return count
        if closed or (protocol.state is not State.OPEN and self._goodbye is None):
            self._over(closed)
            return count
        self._flush()
        if pinged and self._full is not None and self._may_write:
            self._pongs_wait = True  # a peer that takes none in gets no more
            self._set_reading(False)
        return count

    def _text(self, data: Any) -> None:
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self._fail(_NOT_UTF_8, "not UTF-8")
            return
        if self._frames.level or not text:
            self._frames.delivered(len(text))
        self._arrived(text)

    def _arrived(self, text: str) -> None:
        if self._receiver is not None and not self._paused and not self._inbox:
            self._give(self._receiver, text)
        elif self._goodbye is None or self._arrival is not None:
            self._inbox.append(text)
            self._characters += len(text)
            if self._arrival is not None and not self._arrival.done():
                self._arrival.set_result(None)

    def _fragment(self, frame: Frame) -> None:
        """Take a frame of a message in several, or of a binary one."""
        if frame.opcode is not _CONT:
            self._fragments = [frame] if frame.opcode is _TEXT else []
        elif self._fragments:
            self._fragments.append(frame)
        if not frame.fin:
            return
        parts, self._fragments = self._fragments, None
        if parts:
            self._text(b"".join(part.data for part in parts))
            return
        self._binary_frames += 1
        if self._binary_frames <= MAX_BINARY_FRAMES:
            self._frames.delivered(len(BINARY_FRAME))
            self._arrived(BINARY_FRAME)
        else:
            self._warn("binary", "%s sends binary frames; S2 messages are text", self.info.remote)
            self._fail(UNSUPPORTED_DATA, "text frames only")

    def _warn(self, kind: str, what: str, *arguments: object) -> None:
        """Log a line that the peer causes, once a minute for each kind, across connections."""
        more = process_lines.due((self.info.local, self.info.remote, kind), self._loop.time())
        if more is not None:
            _log.warning(f"{what}%s", *arguments, more)

    # Beginning and end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        set_tls_buffer(transport)
        peer: Any = transport.get_extra_info("peername")
        if not self.info.peer_address:
            address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
            self.info = replace(self.info, peer_address=address, since=datetime.now(UTC))
        self.local_address = _ip_of(transport.get_extra_info("sockname"))
        self.remote_address = _ip_of(peer)
        now = self._loop.time()
        self._watch.heard(now)
        self._next_ping = now + self.ping_interval
        self._heart = self._loop.call_later(self.ping_interval, self._beat)

    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        if self._goodbye is not None or self._ended is not None:
            await self.wait_closed()
            return
        self._goodbye = ConnectionClosed(code, reason)
        self._may_write = False
        if self._receiver is None:
            self._inbox.clear()
            self._characters = 0
        try:
            self._protocol.send_close(code, fitting_reason(reason))
            self._flush()
            self._cut_later()
            self._schedule()  # the peer's close frame may stand behind what waits
        except WebSocketException as error:
            _log.debug("The connection with %s was not closed in order: %s", self.info.remote, type(error).__name__)
            self._transport.abort()
        try:
            await self.wait_closed()
        except BaseException:
            self._transport.abort()
            raise

    async def wait_closed(self) -> None:
        if not self._lost:
            if self._gone is None:
                self._gone = asyncio.Event()
            await self._gone.wait()

    def at_close(self, call: Callable[[], object]) -> None:
        if self._lost:
            self._loop.call_soon(call)
        else:
            self._at_close.append(call)

    def _fail(self, code: int, reason: str) -> None:
        """End the connection for an error, the peer's or ours."""
        if self._ended is None:
            self._protocol.fail(code, reason)
            self._over(False)

    def _over(self, closed: bool) -> None:
        """End as the library has it: the peer's close frame came, or its input is an error."""
        self._flush()
        self._protocol.receive_eof()  # nothing more is read, which completes the library's account of the end
        error = self._protocol.close_exc
        self._end(self._goodbye or self._described(error))
        if self._protocol.side is Side.SERVER and not self._lost:
            if closed:
                self._transport.close()
            else:
                self._linger = self._loop.call_later(LINGER, self._transport.close)

    def _described(self, error: WebSocketClosed) -> ConnectionClosed:
        received = error.rcvd_then_sent or error.sent is None
        frame = error.rcvd if received else error.sent
        if frame is None:
            return ConnectionClosed(ABNORMAL_CLOSURE)
        if frame.code == MESSAGE_TOO_BIG and not received:
            what = "%s sent a message that is longer than %d bytes; the session ends with %d"
            self._warn("too big", what, self.info.remote, MAX_MESSAGE_BYTES, MESSAGE_TOO_BIG)
            return ConnectionClosed(MESSAGE_TOO_BIG, "message too long")
        return ConnectionClosed(NORMAL_CLOSURE if frame.code == _NO_STATUS else int(frame.code), frame.reason)

    def _end(self, error: ConnectionClosed) -> None:
        """Note the end, once; what is still open of the connection is bounded from now on."""
        if self._ended is not None:
            return
        self._ended = error
        self._may_write = False
        self._unread.clear()
        self._fragments = None
        if self._heart is not None:
            self._heart.cancel()
        if self._full is not None:
            self._full.set()
            self._full = None
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        self._cut_later()
        self._schedule()

    def _cut_later(self) -> None:
        if self._cut is None and not self._lost:
            self._cut = self._loop.call_later(self.close_timeout, self._transport.abort)

    def _linger_on(self) -> None:
        """Wait anew for a peer that is still sending."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = self._loop.call_later(LINGER, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._may_write = False
        in_slices(self._loop, partial(self._release, exc))

    def _release(self, exc: Exception | None) -> None:
        self._lost = True
        for timer in (self._heart, self._cut, self._linger):
            if timer is not None:
                timer.cancel()
        before, self._before = self._before, None
        if before is not None:
            before.connection_lost(exc)
        if self._unread:
            self._schedule()
        else:
            self._finish()

    def _finish(self) -> None:
        """Release everything; what has come before has been read."""
        self._end(self._goodbye or ConnectionClosed(ABNORMAL_CLOSURE))
        if self._gone is not None:
            self._gone.set()
        while self._at_close:
            self._at_close.pop(0)()
        vars(self._protocol).clear()  # it and its parser refer to each other

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    # Liveness

    def _beat(self) -> None:
        """Run the heartbeat. If it fails, end the connection: a vanished peer would not be noticed any more."""
        try:
            delay = self._watch_peer(self._loop.time())
        except Exception as error:
            process_failures.failed("websocket-heartbeat", error, name=f"the heartbeat of {self.info.remote}")
            self._end(ConnectionClosed(ABNORMAL_CLOSURE, "an error in this program"))
            self._transport.abort()
        else:
            if self._ended is None and not self._lost:
                self._heart = self._loop.call_later(delay, self._beat)

    def _watch_peer(self, now: float) -> float:
        """Send a ping when it is due, give up a silent peer; return the seconds until the next look."""
        left = self.peer_timeout - self._watch.silence(now)
        if left <= 0 and not self._doubted:
            # After this process itself was suspended, read the peer's pending input first.
            self._doubted = True
            return self.peer_timeout / 10
        if left <= 0:
            _log.warning("No sign of life from %s for %g s", self.info.remote, self.peer_timeout)
            self._end(ConnectionClosed(ABNORMAL_CLOSURE, "the peer does not answer"))
            self._transport.abort()
            return 0.0
        self._doubted = False
        if now >= self._next_ping:
            self._next_ping = now + self.ping_interval
            if self._full is None and self._goodbye is None:
                self._ping()
        return min(left, max(self._next_ping - now, 0.0))

    def _ping(self, data: bytes = b"") -> None:
        self._protocol.send_ping(data)
        self._flush()


def _ip_of(address: object) -> str:
    return str(address[0]).partition("%")[0] if isinstance(address, tuple) and address else ""
