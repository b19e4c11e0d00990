"""Plain S2 over WebSocket, for software with S2 JSON and without S2 Connect.

There is no pairing, no pinned certificate and no rotating token: whoever knows the URL, and the bearer token where one
is demanded, is the peer. The versions are agreed in a handshake on the open WebSocket
(:mod:`s2connect.messages.handshake`); after it the connection is like any other.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self
from uuid import NAMESPACE_URL, uuid5

from s2connect.certs.tls import wan_client_context
from s2connect.errors import ConfigurationError, ConnectionClosed, InvalidUrl, PeerTimeout, S2ConnectError
from s2connect.messages.base import new_id
from s2connect.messages.handshake import HANDSHAKE_TIMEOUT, PlainHandshake
from s2connect.model.common import NodeId, Role
from s2connect.model.secret import Secret
from s2connect.model.text import for_display
from s2connect.model.url import UnencryptedWebSocketUrl, WebSocketUrl, address_of
from s2connect.transports.base import (
    GOING_AWAY,
    NORMAL_CLOSURE,
    POLICY_VIOLATION,
    Connection,
    ConnectionInfo,
    Receiver,
    Trust,
)
from s2connect.transports.offers import digest
from s2connect.transports.websocket_client import open_client
from s2connect.transports.websocket_connection import WebSocketConnection
from s2connect.transports.websocket_server import accept, bearer_of, upgraded, wants_upgrade

if TYPE_CHECKING:
    from aiohttp import web

_log = logging.getLogger(__name__)

PLAIN_S2 = "S2-WebSocket"
"""``info.protocol`` of these connections. S2 Connect never negotiates it."""

MAX_PENDING = 100
"""Connections of one acceptor that shake hands or wait for the application."""

MAX_PENDING_PER_PEER = 4
"""Those of them that may come with the same token."""

MAX_CONNECTIONS = 1000
"""Connections of one acceptor altogether."""

CLAIM_TIMEOUT = 30.0
"""Seconds that a connection waits for the application."""

_REFUSALS = {401: "it has no valid token or login", 404: "the path has no id that can be taken"}
"""Reasons of refusals in the log, at INFO because strangers control their number."""

_LATER = {"Retry-After": "5"}

_is_path_id = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9._~-]{1,64}").fullmatch
"""Ids that clients may have in a path: they become keys, names in logs and parts of URLs."""

EAVESDROPPING = (
    "Plain S2 without TLS: anybody on the way can read along, take over the token, and give commands to the device."
)


def plain_node_id(name: str) -> NodeId:
    """Return the id for a peer of plain S2, which has none of its own: always the same for the same name."""
    return NodeId(uuid5(NAMESPACE_URL, name))


class PlainConnection(Connection):
    """A WebSocket after the handshake. Made by :func:`connect_plain` and :class:`PlainAcceptor`.

    Attributes:
        name: What the node id of the peer is made of; of a client of an acceptor the name of its token or login, the
            id from its path, or its address.
    """

    def __init__(
        self,
        websocket: WebSocketConnection,
        handshake: PlainHandshake,
        received: Sequence[str],
        name: str,
    ) -> None:
        self.name = name
        self.info = replace(websocket.info, s2_version=handshake.version)
        self.local_address = websocket.local_address
        self.remote_address = websocket.remote_address
        self._websocket = websocket
        self._handshake: PlainHandshake | None = handshake
        self._answers: deque[str] = deque()
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        websocket.put_back(received)
        self._put_back = len(received)

    @property
    def heartbeat(self) -> float:  # type: ignore[override]
        """Seconds of silence after which the peer counts as gone (WS-04)."""
        return self._websocket.heartbeat

    def silence(self) -> float:
        return self._websocket.silence()

    def ask(self, call: Callable[[], None]) -> bool:
        return self._websocket.ask(call)

    async def send(self, text: str) -> None:
        await self._websocket.send(text)

    def try_send(self, text: str) -> bool:
        return self._websocket.try_send(text)

    async def recv(self) -> str:
        while True:
            while self._answers:
                with contextlib.suppress(ConnectionClosed):  # what came before the end is still to be received
                    await self._websocket.send(self._answers.popleft())
            text = await self._websocket.recv()
            if self._handshake is None or self._is_for_the_session(self._handshake, text):
                return text

    def receive_into(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._websocket.receive_into(self)

    def pause_reading(self) -> None:
        self._websocket.pause_reading()

    def resume_reading(self) -> None:
        self._websocket.resume_reading()

    def text_received(self, text: str) -> None:
        """Take the next text of the WebSocket."""
        assert self._receiver is not None
        if self._handshake is None or self._is_for_the_session(self._handshake, text):
            self._receiver.text_received(text)
        with contextlib.suppress(ConnectionClosed):
            while self._answers and self._websocket.try_send(self._answers[0]):
                self._answers.popleft()

    def connection_ended(self, error: ConnectionClosed) -> None:
        """Take note of the end of the WebSocket."""
        receiver, self._receiver = self._receiver, None
        assert receiver is not None
        receiver.connection_ended(error)

    def _is_for_the_session(self, handshake: PlainHandshake, text: str) -> bool:
        """Return whether a text does not belong to the handshake, which may answer it."""
        if self._put_back:
            self._put_back -= 1  # the handshake has let it through
            return True
        if handshake.settled(self._loop.time()):
            self._handshake = None
            return True
        step = handshake.received(text)
        self._answers.extend(step.send)
        return step.deliver is not None

    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        await self._websocket.close(code, reason)

    async def wait_closed(self) -> None:
        await self._websocket.wait_closed()

    def at_close(self, call: Callable[[], object]) -> None:
        self._websocket.at_close(call)


async def connect_plain(
    url: str,
    *,
    role: Role,
    local: NodeId,
    token: Secret | None = None,
    login: Secret | None = None,
    name: str | None = None,
    versions: Iterable[str] | None = None,
    trust: Trust | None = None,
    allow_unencrypted: bool = False,
    compression: bool = True,
) -> Connection:
    """Open a WebSocket and shake hands. Cancel-safe; nothing is left open on an error.

    Args:
        url: ``wss://…``, or ``ws://…`` to this machine.
        role: Our role; the peer has to have the other one.
        local: Our node.
        token: Bearer token, where the server demands one.
        login: ``user:password`` for Basic authentication, where the server demands that; not together with a token.
        name: What the peer's node id is made of (:func:`plain_node_id`), for a server whose URL may change; else the
            URL.
        versions: S2 JSON versions, best first; None for :data:`~s2connect.messages.handshake.VERSIONS`.
        trust: How the server of a ``wss://`` URL is authenticated; None for the trust store of the system.
        allow_unencrypted: Let ``ws://`` lead to another machine, with a warning in the log.
        compression: Whether permessage-deflate is offered.

    Raises:
        InvalidUrl: ``url`` is neither ``wss://`` nor ``ws://``.
        ConfigurationError: ``ws://`` to another machine without ``allow_unencrypted``; ``versions`` is empty; there are
            a token and a login, or the login has no colon.
        NetworkError: Not reachable, busy, or the WebSocket or the handshake was not finished in time.
        TrustError: The certificate is not what it has to be.
        SessionRefused: The server refused the token or the handshake, or there is no common version (then ``reason``
            is ``IncompatibleS2MessageVersions``).
        ProtocolViolation: The other side has our role, or sends messages but no handshake, or opens no WebSocket.
        ConnectionClosed: The other side ended the connection during the handshake.
    """
    spoken = _checked(versions)
    if login is not None:
        if token is not None:
            raise ConfigurationError("A client of plain S2 has a token or a login, not both.")
        token = Secret(base64.b64encode(_login(login).encode()).decode())
    target: WebSocketUrl | UnencryptedWebSocketUrl
    if url.lower().startswith("ws://"):
        target = UnencryptedWebSocketUrl(url)
        if not is_this_machine(target.host):
            if not allow_unencrypted:
                raise ConfigurationError(
                    f"{for_display(target.host)} is another machine, and the URL asks for no encryption.",
                    hint=f"Use wss://, or allow_unencrypted in a network that nobody else can enter. {EAVESDROPPING}",
                )
            _log.warning("Connecting to %s without TLS. %s", for_display(target.host), EAVESDROPPING)
        trust = None
    else:
        try:
            target = WebSocketUrl(url)
        except InvalidUrl as error:
            raise InvalidUrl(error.what, hint="A URL of plain S2 looks like wss://name.local:8443/s2.") from None
        trust = trust or Trust(await asyncio.to_thread(wan_client_context))
    websocket = await open_client(
        target,
        ConnectionInfo(PLAIN_S2, local, plain_node_id(name or target), ""),
        compression=compression,
        token=token,
        scheme="Bearer" if login is None else "Basic",
        trust=trust,
    )
    return await _shake_hands(websocket, role, spoken, name or str(target))


@dataclass(eq=False)
class _Visitor:
    """A client between the upgrade and the application."""

    name: str
    address: str
    claimed: asyncio.Event = field(default_factory=asyncio.Event)


class PlainAcceptor:
    """Acceptor of plain S2 clients: :meth:`handler` for an aiohttp route, and the connections by iteration.

    ::

        acceptor = PlainAcceptor(role=Role.CEM, local=node_id, tokens={"battery": Secret("its token")})
        app.router.add_get("/s2", acceptor.handler)
        async for connection in acceptor:
            ...

    A connection is handed out after its handshake. One that nobody takes within :data:`CLAIM_TIMEOUT` is closed, and
    while :data:`MAX_PENDING` of them shake hands or wait, further clients get 503.

    A client gets 401 without a valid token or login, 403 without TLS from another machine, and also from a web page
    that asks for a connection without a token: browsers let every page reach this machine.

    With ``by_path`` one acceptor is for many clients, whose names are the ids in their paths: 1 to 64 letters, digits
    and ``._~-``, otherwise the client gets 404. A token or login lets in whoever has it, under any id. The second
    connection of an id replaces the first; without tokens and logins, where anybody can take any id, only if it comes
    from the same address, and otherwise gets 409.

    Args:
        role: Our role; clients have to have the other one.
        local: Our node.
        tokens: The bearer token of each client, by a name that its node id is made of (:func:`plain_node_id`). None
            lets everybody in that reaches the port, unless there are logins, and makes the node id of the address.
        logins: Likewise ``user:password`` of each client, for Basic authentication.
        by_path: The name of a client is the id in its path, which whoever calls :meth:`handler` hands over.
        versions: S2 JSON versions, best first; None for :data:`~s2connect.messages.handshake.VERSIONS`.
        admission: Awaited with the client's name before the upgrade. It returns None, or a sentence for the client's
            user: the client gets 503 then, and is expected to come again.
        allow_unencrypted: Accept clients from other machines without TLS, with a warning in the log.
        compression: Whether permessage-deflate is accepted.

    Raises:
        ConfigurationError: ``versions`` is empty, two clients have the same token or login, or a login has no colon.
    """

    def __init__(
        self,
        *,
        role: Role,
        local: NodeId,
        tokens: Mapping[str, Secret] | None,
        logins: Mapping[str, Secret] | None = None,
        by_path: bool = False,
        versions: Iterable[str] | None = None,
        admission: Callable[[str], Awaitable[str | None]] | None = None,
        allow_unencrypted: bool = False,
        compression: bool = True,
    ) -> None:
        self.allow_unencrypted = allow_unencrypted
        self._role = role
        self._local = local
        self._versions = _checked(versions)
        self._admission = admission
        self._compression = compression
        known = [(digest(f"Bearer {token.reveal()}"), name) for name, token in (tokens or {}).items()]
        known += [(digest(f"Basic {_login(login)}"), name) for name, login in (logins or {}).items()]
        self._names = None if tokens is None and logins is None else dict(known)
        if self._names is not None and len(self._names) < len(known):
            raise ConfigurationError("Two clients have the same token or login, so that they cannot be told apart.")
        schemes = [("Bearer", tokens), ('Basic realm="S2", charset="UTF-8"', logins)]
        self._challenge = ", ".join(scheme for scheme, given in schemes if given is not None)
        self.by_path = by_path
        self._connected: dict[WebSocketConnection, _Visitor] = {}
        self._pending: set[_Visitor] = set()
        self._ready: deque[tuple[_Visitor, PlainConnection]] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def open_to_all(self) -> bool:
        """True if neither a token nor a login is required."""
        return self._names is None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PlainConnection:
        """Wait for the next connection. Cancel-safe."""
        while not self._ready:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        visitor, connection = self._ready.popleft()
        visitor.claimed.set()
        self._pending.discard(visitor)
        return connection

    async def close(self) -> None:
        """Refuse further clients, end the iteration and every connection. Idempotent, bounded to a few seconds."""
        self._closed = True
        while self._ready:
            self._ready.popleft()[0].claimed.set()
        self._changed.set()
        await asyncio.gather(*(websocket.close(GOING_AWAY) for websocket in tuple(self._connected)))

    async def handler(
        self, request: web.Request, *, accepted: Callable[[], None] | None = None, name: str | None = None
    ) -> web.StreamResponse:
        """Serve a GET route of aiohttp: check the client before the upgrade, then stay until the connection ends.

        Args:
            request: The request.
            accepted: Called once the client may come in: with its token right, where one is demanded.
            name: The id in the path of the request, for an acceptor with ``by_path``.
        """
        from aiohttp import web  # a device that only connects does without aiohttp's server

        visitor = self._visitor(request, name)
        if isinstance(visitor, int):
            if (why := _REFUSALS.get(visitor)) is not None:
                _log.info("A client at %s was refused: %s (%d)", request.remote or "this machine", why, visitor)
            headers = {401: {"WWW-Authenticate": self._challenge}, 503: _LATER}
            return web.Response(status=visitor, headers=headers.get(visitor))
        if not wants_upgrade(request):
            return web.Response(status=400, text="a WebSocket upgrade is expected here")
        name = visitor.name
        self._pending.add(visitor)
        try:
            if self._admission is not None and (refusal := await self._admission(name)) is not None:
                return web.Response(status=503, headers=_LATER, text=refusal)
            info = ConnectionInfo(PLAIN_S2, self._local, plain_node_id(name), "")
            websocket = accept(request, info, compression=self._compression)
            replaced = [old for old, known in self._connected.items() if self.by_path and known.name == name]
            self._connected[websocket] = visitor
            try:
                await asyncio.gather(*(old.close(GOING_AWAY, "replaced by a new connection") for old in replaced))
                if accepted is not None:
                    accepted()
                await self._receive(visitor, websocket)
            except S2ConnectError as error:
                _log.warning("%s was not admitted: %s", for_display(name), error.what)
            finally:
                await websocket.close(GOING_AWAY)
                self._connected.pop(websocket, None)
        finally:
            self._pending.discard(visitor)
        return upgraded()

    async def _receive(self, visitor: _Visitor, websocket: WebSocketConnection) -> None:
        connection = await _shake_hands(websocket, self._role, self._versions, visitor.name)
        if self._closed:
            return
        entry = visitor, connection
        try:
            async with asyncio.timeout(CLAIM_TIMEOUT):
                self._ready.append(entry)
                self._changed.set()
                await visitor.claimed.wait()  # also of a client that has gone: what it sent is still to be received
        except TimeoutError:
            if not visitor.claimed.is_set():
                _log.warning("No application takes the connection of %s", for_display(visitor.name))
                return
        finally:
            if entry in self._ready:
                self._ready.remove(entry)
        await websocket.wait_closed()

    def _visitor(self, request: web.Request, path_id: str | None) -> _Visitor | int:
        """Return the client of a request, or the HTTP status that refuses it."""
        transport = request.transport
        if self._closed or transport is None or len(self._connected) >= MAX_CONNECTIONS:
            return 503
        peer: Any = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) and peer else ""  # none on a Unix socket
        if transport.get_extra_info("ssl_object") is None and address and not is_this_machine(address):
            if not self.allow_unencrypted:
                _log.info("A client at %s without TLS was refused", address)
                return 403
            _log.warning("A client at %s comes without TLS. %s", address, EAVESDROPPING)
        name, presented = address or "this machine", _presented(request)
        if "Origin" in request.headers and bearer_of(request) is None:
            return 401 if self._names is not None and presented is None else 403
        if self._names is not None:
            known = self._names.get(digest(presented)) if presented is not None else None
            if known is None:
                return 401
            name = known
        if self.by_path:
            if path_id is None or not _is_path_id(path_id):
                return 404
            name = path_id
        here = (visitor for visitor in (*self._pending, *self._connected.values()) if visitor.name == name)
        if self.by_path and self._names is None and any(other.address != address for other in here):
            _log.warning("%s is connected from another address than %s, which was refused", name, address)
            return 409
        told_apart = self.by_path or self._names is not None
        if told_apart and sum(visitor.name == name for visitor in self._pending) >= MAX_PENDING_PER_PEER:
            return 503
        return _Visitor(name, address) if len(self._pending) < MAX_PENDING else 503


async def _shake_hands(
    websocket: WebSocketConnection,
    role: Role,
    versions: tuple[str, ...] | None,
    name: str,
) -> PlainConnection:
    """Lead a WebSocket through the handshake; on any error it is closed."""
    loop = asyncio.get_running_loop()
    handshake = PlainHandshake(
        role, message_ids=(new_id(), new_id()), now=loop.time(), versions=versions, timeout=HANDSHAKE_TIMEOUT
    )
    received: list[str] = []
    goodbye = GOING_AWAY, ""
    try:
        async with asyncio.timeout_at(handshake.deadline):
            await websocket.send(handshake.begin())
            while not handshake.done:
                step = handshake.received(await websocket.recv())
                for text in step.send:
                    await websocket.send(text)
                if step.error is not None:
                    goodbye = POLICY_VIOLATION, step.farewell
                    raise step.error
                if step.deliver is not None:
                    received.append(step.deliver)
    except TimeoutError:
        await websocket.close(POLICY_VIOLATION, "no handshake in time")
        raise PeerTimeout(
            f"The other side did not finish the handshake within {HANDSHAKE_TIMEOUT:g} seconds.",
            hint="Check that the address is that of an S2 WebSocket, and that one side is a CEM and the other an RM.",
        ) from None
    except BaseException:
        await websocket.close(*goodbye)
        raise
    return PlainConnection(websocket, handshake, received, name)


def _checked(versions: Iterable[str] | None) -> tuple[str, ...] | None:
    checked = None if versions is None else tuple(versions)
    if checked == ():
        raise ConfigurationError("Plain S2 needs at least one version of S2 JSON.")
    return checked


def _login(login: Secret) -> str:
    """Return a login as text. Raises ConfigurationError where it has no colon between user and password."""
    text = login.reveal()
    if ":" not in text:
        raise ConfigurationError("A login for Basic authentication is user:password.")
    return text


def _presented(request: web.Request) -> str | None:
    """Return a client's credentials, as ``Bearer token`` or ``Basic user:password``; None without. They are secret."""
    if (token := bearer_of(request)) is not None:
        return f"Bearer {token}"
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return f"Basic {base64.b64decode(encoded.strip(), validate=True).decode()}"
    except (binascii.Error, ValueError):
        return None


def is_this_machine(host: str) -> bool:
    """Return whether a host or address is of this machine only, so that nothing between could read along."""
    if host == "localhost":
        return True
    address = address_of(host)
    return address is not None and (getattr(address, "ipv4_mapped", None) or address).is_loopback
