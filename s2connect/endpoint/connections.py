"""Live connections of one node, and their hand-over to the application."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from s2connect._lazy import load_in_thread
from s2connect.endpoint.state import EndpointState
from s2connect.errors import AccessRefused, UsageError
from s2connect.events import TokenUnknown
from s2connect.messages.enums import Check
from s2connect.model.common import NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.model.text import for_display
from s2connect.session.answers import PermanentRefusals
from s2connect.session.observers import Observer
from s2connect.session.ownership import Claim
from s2connect.session.server_core import UNKNOWN_TOKEN_GRACE, UNKNOWN_TOKEN_INTERVAL, LedTo, unknown_token_sentence
from s2connect.session.session import Answerer, Session, SessionEnd
from s2connect.session.withholding import DeliveryGuard
from s2connect.store.base import Pairing, PairKey
from s2connect.transports.backoff import BASE_DELAY
from s2connect.transports.base import GOING_AWAY, Connection

_log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAITING = 1000
"""Most connections queued for the application; beyond it a communication server answers 503."""

_CONVERSATION = "s2connect.messages.conversation"
"""Module loaded for sessions only, not by an endpoint that only pairs."""

AdmissionHook = Callable[[Pairing, str], Awaitable[str | None]]

PreparingHook = Callable[[Pairing, str, bool], Awaitable[str | LedTo | None]]


@dataclass(slots=True)
class PeerHistory:
    """Connections with a peer so far, and our attempts to connect where we are the communication client.

    Attributes:
        times_connected: Number of connections.
        ended: When the last one ended; None where one stands, or none has been.
        end_reason: Its reason.
        tried: When the last attempt ended.
        error: Kind of its error; empty if it succeeded.
        sentence: Its error, for a person.
        unknown_token: When the peer last came with a token that is not known here; None where it has connected since.
        unknown_token_sentence: The sentence about it.
        next_try: When the next one begins, in seconds of the event loop; None while one is under way, or none will be.
    """

    times_connected: int = 0
    ended: datetime | None = None
    end_reason: SessionEnd | None = None
    tried: datetime | None = None
    error: str = ""
    sentence: str = ""
    unknown_token: datetime | None = None
    unknown_token_sentence: str = ""
    next_try: float | None = None

    @property
    def trouble(self) -> tuple[str, datetime, str] | None:
        """Trouble with the access of the pairing: ``token_unknown`` or ``access_refused``, last when, and a sentence.

        None where there is none. Only a person can end it, with the newest state or by pairing again.
        """
        if self.unknown_token is not None:
            return "token_unknown", self.unknown_token, self.unknown_token_sentence
        if self.error == AccessRefused.kind and self.tried is not None:
            return self.error, self.tried, self.sentence
        return None


@dataclass(slots=True)
class _Pause:
    """Pause of a connector, with the host of the server, if being seen by mDNS ends it."""

    host: str | None
    over: asyncio.Event
    seen: bool = False


class LiveConnection:
    """Open connection with a peer, and the session on it if the application has one."""

    __slots__ = ("claim", "connection", "pairing", "session", "since")

    def __init__(self, connection: Connection, pairing: Pairing, claim: Claim | None = None) -> None:
        self.connection = connection
        self.pairing = pairing
        self.claim = claim  # of this instance, where there are several
        self.session: Session | None = None
        self.since = asyncio.get_running_loop().time()

    async def ended(self) -> SessionEnd:
        """Wait for the end; return its reason."""
        await self.connection.wait_closed()
        if self.session is not None:
            await self.session.wait_closed()
            return self.session.end_reason
        return SessionEnd.LOST

    async def end(self, reason: str, *, ask_to_reconnect: bool = False) -> None:
        """Close it, after a ``SessionRequest RECONNECT`` where the peer shall learn that it is unpaired (UNP-02)."""
        try:
            if self.session is not None:
                if ask_to_reconnect:
                    await self.session.request_reconnect()
                await self.session.close(reason)
        finally:
            await self.connection.close(GOING_AWAY, reason)


def _check_for(check: Check, s2_version: str) -> Check:
    """Return the validation level for a version: the envelope only, where its data model is unknown here."""
    from s2connect.messages.catalogue import data_model

    try:
        data_model(s2_version)
    except UsageError as error:
        if check is not Check.ENVELOPE:
            _log.warning("messages are not validated: %s", error)
        return Check.ENVELOPE
    return check


class Links(Protocol):
    """Pairs to whose servers this instance connects, where there are several, and the guards of its sessions."""

    def holds(self, key: PairKey) -> bool:
        """Return whether this instance may connect."""

    def want(self, key: PairKey) -> None:
        """Take the link of a pair soon, unless another instance holds it, and call ``connect_pair`` then."""

    def look(self) -> None:
        """Take links soon that nobody holds, likewise."""

    def guard(self, claim: Claim | None) -> DeliveryGuard:
        """Return the guard of a session with this claim."""


class Arrivals(Generic[T]):
    """Sessions or connections of one node as they come up; an async iterator that ends when the endpoint closes."""

    def __init__(self, arrive: Callable[[], Awaitable[T]]) -> None:
        self._arrive = arrive

    def __aiter__(self) -> Arrivals[T]:
        return self

    async def __anext__(self) -> T:
        return await self._arrive()


class ConnectionManager:
    """Connections of one node. None is opened or accepted before the application takes connections."""

    def __init__(self, state: EndpointState, node: NodeId) -> None:
        self.node = node
        self.admission_hook: AdmissionHook | None = None
        self.preparing_hook: PreparingHook | None = None  # makes sessions ready here, and at no other instance
        self.drops = 0  # number of sessions ended because of their pairing
        self.reconnects = 0  # number of connections with a peer after the first one
        self.history: dict[NodeId, PeerHistory] = {}
        self._reported: dict[NodeId, float] = {}  # unknown tokens, in seconds of the event loop
        self._suspected: dict[NodeId, asyncio.Task[None]] = {}  # those that are reported soon
        self.on_session: Callable[[Session], None] | None = None
        self.keep_connected: Callable[[PairKey], Coroutine[Any, Any, None]]  # set by the connector
        self._state = state
        self._live: dict[NodeId, LiveConnection] = {}
        self._waiting: asyncio.Queue[LiveConnection | None] = asyncio.Queue()
        self._connectors: dict[NodeId, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.started = asyncio.Event()  # set when the application takes connections, or all has closed
        self._connects = False
        self._closed = False
        self.links: Links | None = None  # None: no other instance connects
        self._pauses: dict[NodeId, _Pause] = {}
        self._refusals: dict[NodeId, tuple[float, PermanentRefusals]] = {}

    # For the application

    async def start(self, *, connect: bool = True) -> None:
        """Accept connections from now on; with ``connect`` also open those of which we are the communication client."""
        if self.started.is_set():
            return
        self.started.set()
        self._connects = connect
        if self.links is not None and connect:
            self.links.look()
        if self.links is not None:
            return
        for pairing in await self._state.store.pairings(self.node, role=CommunicationRole.CLIENT):
            self.connect(pairing)

    async def next(self, *, connect: bool = True) -> LiveConnection:
        """Wait for the next new connection."""
        await self.start(connect=connect)
        while True:
            live = await self._waiting.get()
            if live is None:
                self._waiting.put_nowait(None)  # for other iterators
                raise StopAsyncIteration
            if self._live.get(live.pairing.key.remote) is live:
                return live

    async def next_session(self, observer: Observer | None, check: Check, answer: Answerer | None) -> Session:
        """Wait for the next connection, and begin a session on it."""
        await load_in_thread(_CONVERSATION)
        live = await self.next()
        live.session = Session(
            live.connection,
            peer=live.pairing.peer,
            role=self._state.local.nodes[self.node].description.role,
            check=_check_for(check, live.connection.info.s2_version),
            on_message=observer,
            answer=answer,
            refusals=self.refusals(live.pairing),
        )
        if self.links is not None:
            live.session.guard_with(self.links.guard(live.claim))
        if self.on_session is not None:
            self.on_session(live.session)
        return live.session

    async def next_connection(self, *, connect: bool) -> tuple[Connection, Pairing]:
        """Wait for the next connection, for a relay."""
        live = await self.next(connect=connect)
        return live.connection, live.pairing

    @property
    def is_started(self) -> bool:
        """Return whether an application takes connections."""
        return self.started.is_set()

    def history_of(self, remote: NodeId) -> PeerHistory:
        """Return the history of a paired peer."""
        return self.history.setdefault(remote, PeerHistory())

    def peers(self) -> dict[NodeId, LiveConnection]:
        """Return the open connections by peer."""
        return dict(self._live)

    def refusals(self, pairing: Pairing) -> PermanentRefusals:
        """Return the permanent refusals of a pairing's peer; a new pairing starts without any (MSG-07)."""
        since, known = self._refusals.get(pairing.key.remote, (pairing.paired_at, PermanentRefusals()))
        if since != pairing.paired_at:
            known = PermanentRefusals()
        self._refusals[pairing.key.remote] = pairing.paired_at, known
        return known

    async def admit(self, pairing: Pairing, s2_version: str, *, may_lead: bool = False) -> str | LedTo | None:
        """Return None if the application takes a connection now, otherwise a sentence for the peer's user (SES-01).

        Where it ``may_lead`` the peer to another instance, its answer may be that instead.
        """
        if not self.started.is_set() or self._closed:
            return "No application is connected to this node yet; try again later."
        if self.preparing_hook is not None:
            return await self.preparing_hook(pairing, s2_version, may_lead)
        return await self.admission_hook(pairing, s2_version) if self.admission_hook is not None else None

    @property
    def closed(self) -> bool:
        """True once :meth:`close` was called."""
        return self._closed

    def is_full(self) -> bool:
        """Return whether the queue of sessions for the application is full."""
        return self._waiting.qsize() >= MAX_WAITING

    # Connections

    def attach(
        self, connection: Connection, pairing: Pairing, *, queue: bool = True, claim: Claim | None = None
    ) -> LiveConnection:
        """Queue a new connection for the application; watch it until its end. It replaces one of the pair (WS-06).

        Among several instances the one that was claimed last stays, also where it was opened first.
        """
        live = LiveConnection(connection, pairing, claim)
        old = self._live.get(pairing.key.remote)
        if old is not None and claim is not None and old.claim is not None and old.claim.is_newer(claim):
            self._later(live.end("replaced by a new session"), "replace")
            return live
        if old is not None:
            del self._live[pairing.key.remote]
            self._later(old.end("replaced by a new session"), "replace")
        if self._closed:
            self._later(live.end("this endpoint is stopping"), "refuse")
            return live
        self._live[pairing.key.remote] = live
        history = self.history_of(pairing.key.remote)
        self.reconnects += history.times_connected > 0
        history.times_connected += 1
        history.ended = history.unknown_token = None
        info = connection.info
        _log.info("%s is connected with %s over %s, S2 %s", info.local, info.remote, info.protocol, info.s2_version)
        connection.at_close(partial(self._ended, live))
        if queue:
            self._waiting.put_nowait(live)
        return live

    def _ended(self, live: LiveConnection) -> None:
        remote = live.pairing.key.remote
        _log.info("%s is no longer connected with %s", self.node, remote, extra={"peer": remote})
        if self._live.get(remote) is live:
            del self._live[remote]
            history = self.history_of(remote)
            history.ended = datetime.now(UTC)
            history.end_reason = live.session.end_reason if live.session is not None else None

    def token_unknown(self, pairing: Pairing, digest: bytes | None) -> None:
        """Note that a paired peer came with a token that is not known here; that of its pairing has this digest.

        It is reported unless the peer comes with the right one at once: where an answer was lost it has two, and tries
        the older one first.
        """
        remote = pairing.key.remote
        if remote not in self._suspected:
            work = self._suspect(pairing, digest)
            task = self._state.supervisor.spawn(work, "unknown-token", remote, expected=logging.DEBUG)
            self._suspected[remote] = task
            task.add_done_callback(lambda task: self._no_longer_suspected(remote, task))

    def token_known(self, remote: NodeId) -> None:
        """Note that a peer came with the token of its pairing."""
        if (task := self._suspected.pop(remote, None)) is not None:
            task.cancel()

    def _no_longer_suspected(self, remote: NodeId, task: asyncio.Task[None]) -> None:
        if self._suspected.get(remote) is task:
            del self._suspected[remote]

    async def _suspect(self, pairing: Pairing, digest: bytes | None) -> None:
        await asyncio.sleep(UNKNOWN_TOKEN_GRACE)
        confirmed = (await self._state.store.record(pairing.key)).confirmed
        # It may have come with another one to another instance.
        if confirmed is not None and confirmed[0].is_same(pairing) and confirmed[1] == digest:
            self._report_unknown(pairing)

    def _report_unknown(self, pairing: Pairing) -> None:
        """Report an unknown token, once in a while."""
        remote, now = pairing.key.remote, asyncio.get_running_loop().time()
        history = self.history_of(remote)
        sentence = unknown_token_sentence(for_display(pairing.peer.title), connected_before=history.times_connected > 0)
        history.unknown_token, history.unknown_token_sentence = datetime.now(UTC), sentence
        if now - self._reported.get(remote, -UNKNOWN_TOKEN_INTERVAL) >= UNKNOWN_TOKEN_INTERVAL:
            self._reported[remote] = now
            self._state.events.publish(TokenUnknown(node=self.node, peer=pairing.peer, sentence=sentence))

    def _pairing_ended(self, remote: NodeId) -> None:
        """Forget what was noted of a pairing."""
        self._refusals.pop(remote, None)
        self._reported.pop(remote, None)
        self.token_known(remote)
        history = self.history_of(remote)
        history.unknown_token, history.error, history.sentence = None, "", ""

    def drop(
        self, remote: NodeId, reason: str, *, ask_to_reconnect: bool = False, keep_connecting: bool = False
    ) -> None:
        """End the session with a peer, if there is one, in the background."""
        self.drops += 1
        if not keep_connecting:
            self._refusals.pop(remote, None)
            self.history.pop(remote, None)
            if (connector := self._connectors.pop(remote, None)) is not None:
                connector.cancel()
        if (live := self._live.pop(remote, None)) is not None:
            self._later(live.end(reason, ask_to_reconnect=ask_to_reconnect), "end")

    def live(self, remote: NodeId) -> LiveConnection | None:
        """Return the open connection with a peer, if there is one."""
        return self._live.get(remote)

    def give_up(self, live: LiveConnection, reason: str, *, ask_to_reconnect: bool = False) -> None:
        """End a connection in the background that another instance has now, or may have; its pairing stands."""
        if self._live.get(live.pairing.key.remote) is live:
            del self._live[live.pairing.key.remote]
            self._later(live.end(reason, ask_to_reconnect=ask_to_reconnect), "end")

    def lose_link(self, remote: NodeId, reason: str) -> None:
        """Stop connecting to a peer and end the connection with it: another instance does that now."""
        if (connector := self._connectors.pop(remote, None)) is not None:
            connector.cancel()
        live = self._live.get(remote)
        if live is not None and live.pairing.communication_role is CommunicationRole.CLIENT:
            self.give_up(live, reason)

    async def end_link(self, remote: NodeId, reason: str) -> None:
        """As communication client: stop connecting to a peer, and end the session with it in order."""
        if (connector := self._connectors.pop(remote, None)) is not None:
            await self._state.supervisor.end([connector])
        live = self._live.get(remote)
        if live is not None and live.pairing.communication_role is CommunicationRole.CLIENT:
            del self._live[remote]
            await asyncio.wait({self._later(live.end(reason, ask_to_reconnect=True), "end")})

    def uses_link(self, remote: NodeId) -> bool:
        """Return whether this instance connects to a peer, or is connected with it."""
        connector = self._connectors.get(remote)
        return remote in self._live or (connector is not None and not connector.done())

    async def end(self, remote: NodeId, reason: str) -> None:
        """End the session with a peer, if there is one, and stop connecting to it; returns when both is done."""
        self.drops += 1
        self._pairing_ended(remote)
        if (connector := self._connectors.pop(remote, None)) is not None:
            await self._state.supervisor.end([connector])
        if (live := self._live.pop(remote, None)) is not None:
            await asyncio.wait({self._later(live.end(reason), "end")})
        self.history.pop(remote, None)

    async def stop_connecting(self) -> None:
        """As communication client: connect to nobody any more. Sessions stay."""
        self._connects = False
        await self._state.supervisor.end(self._connectors.values())
        self._connectors.clear()

    async def close(self) -> None:
        """End everything with a close frame; iterators end."""
        self._closed = True
        self.started.set()
        self._waiting.put_nowait(None)
        await self._state.supervisor.end(self._connectors.values())
        self._connectors.clear()
        live, self._live = list(self._live.values()), {}
        for one in live:
            self._later(one.end("this endpoint is stopping"), "end")
        if self._closing:
            await asyncio.wait(set(self._closing))

    def _later(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = self._state.supervisor.spawn(work, what, self.node, expected=logging.INFO)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def addresses_changed(self, own: Collection[str]) -> None:
        """End the connections over addresses that this machine no longer has, instead of waiting for their time-out."""
        for live in list(self._live.values()):
            address = live.connection.local_address
            if address and address not in own:
                _log.info("our address %s is gone; the connection with %s ends", address, live.pairing.key.remote)
                self._later(live.end("address gone"), "address")

    def seen(self, host: str, addresses: Collection[str]) -> None:
        """Connect to a host that mDNS has seen at these addresses soon, and end its connections at others."""
        for live in list(self._live.values()):
            url, address = live.pairing.initiate_session_url, live.connection.remote_address
            if url is not None and url.host == host and address and addresses and address not in addresses:
                _log.info("%s has left %s; connecting anew", for_display(host), address)
                self._later(live.end("address gone"), "address")
        for remote, pause in self._pauses.items():
            if remote not in self._live and pause.host == host:
                pause.seen = True
                pause.over.set()

    # Communication client

    def connect(self, pairing: Pairing) -> None:
        """Keep connecting to the server of a pairing, if we are its client and sessions have started (REC-01)."""
        if not self._connects or self._closed or pairing.initiate_session_url is None:
            return
        if self.links is not None and not self.links.holds(pairing.key):
            self.links.want(pairing.key)
            return
        self.connect_pair(pairing.key)

    @property
    def connects(self) -> bool:
        """True if this node connects to the servers of its pairings by itself."""
        return self._connects and not self._closed

    def may_connect(self, key: PairKey) -> bool:
        """Return whether it is this instance that connects to the server of a pair."""
        return self.links is None or self.links.holds(key)

    def connect_pair(self, key: PairKey) -> None:
        """Keep connecting as :meth:`connect` does, to the server of a pairing that is read anew."""
        remote = key.remote
        running = self._connectors.get(remote)
        if not self.connects or (running is not None and not running.done()):
            return
        self._connectors[remote] = self._state.supervisor.keep(lambda: self.keep_connected(key), "connector", remote)

    async def pause(self, pairing: Pairing, delay: float, *, ends_when_seen: bool = True) -> bool:
        """Sleep for the delay before the next attempt, or less once the server is seen by mDNS or :meth:`try_now`.

        Return whether it was seen.
        """
        assert pairing.initiate_session_url is not None
        remote, host = pairing.key.remote, pairing.initiate_session_url.host if ends_when_seen else None
        pause = self._pauses[remote] = _Pause(host, asyncio.Event())
        history = self.history_of(remote)
        history.next_try = asyncio.get_running_loop().time() + delay
        try:
            async with asyncio.timeout(delay):
                await pause.over.wait()
        except TimeoutError:
            return False
        finally:
            history.next_try = None
            del self._pauses[remote]
        if pause.seen:
            await asyncio.sleep(random.random() * min(delay, BASE_DELAY))  # noqa: S311 - spreads load, guards nothing
        return pause.seen

    def try_now(self, remote: NodeId) -> bool:
        """End the pause before the next attempt to connect. False if there is none."""
        pause = self._pauses.get(remote)
        if pause is not None:
            pause.over.set()
        return pause is not None
