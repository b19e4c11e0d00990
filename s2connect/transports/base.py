"""Interfaces of connections and transports."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import entry_points
from ssl import SSLContext
from typing import Any, Final, Protocol

from s2connect.certs.connect import KeptConnection
from s2connect.errors import ConfigurationError, ConnectionClosed
from s2connect.model.common import NodeId
from s2connect.model.proxy import Proxy
from s2connect.model.session_init import CommunicationDetails
from s2connect.supervisor import process_failures

NORMAL_CLOSURE = 1000
"""Close code: the session has done what it was for."""

GOING_AWAY = 1001
"""Close code: this side stops, or has a newer connection."""

UNSUPPORTED_DATA = 1003

ABNORMAL_CLOSURE = 1006
"""Close code of a connection that ended without a close frame."""

POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011

MAX_MESSAGE_BYTES = 256 * 1024
"""WS-05: longest S2 message by default. The longest that make sense have some 240 KiB: a PowerForecast of a day in
steps of five minutes with all bounds of three phases, a storage with 500 elements of operation modes on three phases.
Usual ones have 1 to 60 KiB."""

MAX_REASON_BYTES: Final = 123
"""Longest reason that fits into a close frame (RFC 6455, section 5.5)."""

PING_INTERVAL = 30.0
"""WS-04: seconds between pings; the standard allows 60 at most."""


def fitting_reason(reason: str) -> str:
    """Return a reason as far as it fits into a close frame."""
    return reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """Facts of one connection.

    Attributes:
        protocol: Name as in ``supportedCommunicationProtocols``.
        local: Our node.
        remote: The peer's node.
        s2_version: S2 JSON version, in the spelling both agreed on.
        peer_address: Address for status and log, empty where there is none.
        since: When it came up, wall clock.
    """

    protocol: str
    local: NodeId
    remote: NodeId
    s2_version: str
    peer_address: str = ""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


class Receiver(Protocol):
    """Receiver of what comes over a connection. It is called by the event loop, does not wait and does not raise."""

    def text_received(self, text: str) -> None:
        """Take the next text."""

    def connection_ended(self, error: ConnectionClosed) -> None:
        """Take note of the end, with the peer's code and reason where it gave one; called once, after all texts.

        The connection refers to the receiver no longer.
        """


class Connection(ABC):
    """One duplex, ordered stream of S2 JSON texts between two nodes.

    At most one task sends and one receives at a time; they may be different tasks. Nothing is lost or reordered while
    it stands, and a slow reader slows the writer (WS-07). Keep a ``recv`` waiting whenever there is room for its
    result: a transport can tell a silent peer from a living one only while somebody listens (WS-04).

    Where each text counts, :meth:`receive_into` and :meth:`try_send` do without a task for each direction. A transport
    need not write them: by default a task calls ``recv``, and ``try_send`` never has room.
    """

    info: ConnectionInfo
    local_address: str = ""
    """Our address on this connection; empty where there is none."""
    remote_address: str = ""
    """The peer's address on this connection; empty where there is none."""
    heartbeat: float | None = None
    """Seconds of silence after which the peer counts as gone; None where nothing watches over it."""
    _pump: _Pump | None = None

    @abstractmethod
    async def send(self, text: str) -> None:
        """Send one text; returns when there is room for more.

        Cancelled while waiting for room, the text is sent or not sent, never in part.

        Raises:
            ConnectionClosed: The connection is gone.
        """

    @abstractmethod
    async def recv(self) -> str:
        """Receive the next text. Cancel-safe: nothing is lost.

        Raises:
            ConnectionClosed: The connection has ended; with the peer's code and reason where it gave one.
        """

    @abstractmethod
    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        """Close in order and release everything; idempotent, bounded to a few seconds, never raises for the network."""

    def try_send(self, text: str) -> bool:
        """Send one text if nothing waits to be sent and there is room. Returns whether it did; else call ``send``.

        Raises:
            ConnectionClosed: The connection is gone.
        """
        return False

    def receive_into(self, receiver: Receiver) -> None:
        """Hand every text to ``receiver`` as soon as it has come, instead of ``recv``; once, until the end.

        What has come already is handed over after this call has returned. If the receiver raises, which is an error of
        ours, the connection ends with :data:`INTERNAL_ERROR`.
        """
        self._pump = _Pump(self, receiver)

    def pause_reading(self) -> None:
        """Hand nothing over until :meth:`resume_reading`; the peer is slowed down (WS-07). Idempotent.

        When the connection has ended, what came before is handed over all the same.
        """
        assert self._pump is not None
        self._pump.may_read.clear()

    def resume_reading(self) -> None:
        """Hand texts over again, after this call has returned. Idempotent."""
        assert self._pump is not None
        self._pump.may_read.set()

    def silence(self) -> float | None:
        """Return the seconds of reading since the last frame of the peer; None where the transport cannot tell."""
        return None

    def ask(self, call: Callable[[], None]) -> bool:
        """Ask the peer for a sign of life on this connection, and call ``call`` once it has come in answer to that.

        What the peer sent before its answer has come before, and is handed over before unless reading is paused. Asked
        again meanwhile, only the new ``call`` is called; none is after the end. Returns False where the transport
        cannot ask.
        """
        return False

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until the connection has ended, by whomever. The end is noticed by whoever receives, or by liveness."""

    def at_close(self, call: Callable[[], object]) -> None:
        """Call ``call``, which does not raise, once the connection has ended; soon, if it has ended already.

        By default a task waits for that.
        """
        self._end_watch = asyncio.create_task(self._call_at_close(call), name=f"s2connect-watch-{self.info.remote}")

    async def _call_at_close(self, call: Callable[[], object]) -> None:
        try:
            await self.wait_closed()
        except Exception as error:  # its end would not be noticed
            process_failures.failed("watch", error, name=f"the watch of {self.info.remote}")
            await self.close(INTERNAL_ERROR)
        finally:
            call()

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> str:
        try:
            return await self.recv()
        except ConnectionClosed:
            raise StopAsyncIteration from None


class _Pump:
    """Task that hands the texts of a connection to a receiver, for connections that do not do so by themselves."""

    def __init__(self, connection: Connection, receiver: Receiver) -> None:
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._connection = connection
        self._receiver = receiver
        self._task = asyncio.create_task(self._run(), name=f"s2connect-receiver-{connection.info.remote}")

    async def _run(self) -> None:
        ended = ConnectionClosed(INTERNAL_ERROR)
        try:
            while True:
                text = await self._connection.recv()
                if not self.may_read.is_set():
                    await self._resumed_or_closed()
                self._receiver.text_received(text)
        except ConnectionClosed as error:
            ended = ConnectionClosed(error.code, error.reason)  # without the frames, which refer to this object
        except Exception as error:
            process_failures.failed("receiver", error, name=f"the receiver of {self._connection.info.remote}")
            await self._connection.close(INTERNAL_ERROR)
        finally:
            receiver = self._receiver
            del self._receiver, self._connection  # each refers to the other
            receiver.connection_ended(ended)

    async def _resumed_or_closed(self) -> None:
        waiting = {
            asyncio.ensure_future(self.may_read.wait()),
            asyncio.ensure_future(self._connection.wait_closed()),
        }
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.wait(waiting)


@dataclass(frozen=True, slots=True)
class Trust:
    """Trust of a communication client: TLS context and, optionally, the address to connect to.

    Attributes:
        context: TLS context, pinned to the peer's CA or validating by PKI.
        address: Host or address to connect to instead of the URL's host, whose name is still the one that is verified.
        proxy: Connect through this HTTP proxy, which looks the host up.
        kept: Connection of the session initiation, which a transport over HTTP may go on with instead of making another
            one to the same server.
    """

    context: SSLContext
    address: str | None = None
    proxy: Proxy | None = None
    kept: KeptConnection | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """Offer of a communication server for one session.

    Attributes:
        details: The answer to ``confirmAccessToken`` (SES-04).
        connection: Resolves with the connection once the client has come; cancelled when the offer expires unused.
    """

    details: CommunicationDetails
    connection: asyncio.Future[Connection]


class Transport(Protocol):
    """A transport: makes connections, as server by offers and as client.

    Attributes:
        name: The name used in ``supportedCommunicationProtocols``.
    """

    name: str

    def can_offer(self) -> bool:
        """Return whether :meth:`offer` can be called now; another protocol is chosen otherwise."""

    def offer(self, info: ConnectionInfo) -> Offer:
        """Communication server: offer one client a connection, once, for a bounded time (SES-04).

        Raises:
            SessionRefused: Too many offers are open.
        """

    def connect(self, info: ConnectionInfo, details: CommunicationDetails, trust: Trust) -> Awaitable[Connection]:
        """Communication client: connect as the answer to ``confirmAccessToken`` says.

        Raises:
            NetworkError: Not reachable, timed out, busy.
            TrustError: The certificate is not the pinned one.
            SessionRefused: The server refused the token: it is spent or late; start again from session initiation.
            ProtocolViolation: ``details`` are not this transport's, or the server does not speak it.
        """

    async def close(self) -> None:
        """Withdraw offers and release everything; connections that stand are their owners' to close."""


ENTRY_POINTS = "s2connect.transports"
"""Group of the entry points by which an installed package adds transports."""


def installed_transport(name: str, config: Any) -> Transport | None:
    """Make the transport that an installed package has for a protocol; None if there is no such package.

    Its entry point has the name of the protocol and leads to a function that makes the transport, called with the
    endpoint's :class:`~s2connect.EndpointConfig`.

    Raises:
        ConfigurationError: The package fails, or its transport has another name.
    """
    for found in entry_points(group=ENTRY_POINTS, name=name):
        package = found.dist.name if found.dist is not None else found.value
        try:
            transport: Transport = found.load()(config)
        except Exception as error:
            raise ConfigurationError(f"The transport {name} of the package {package} cannot be used.") from error
        if transport.name != name:
            raise ConfigurationError(f"The transport {name} of the package {package} calls itself otherwise.")
        return transport
    return None
