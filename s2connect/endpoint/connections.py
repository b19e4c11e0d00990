"""The live connections of one node, and the tasks of a communication client that bring them about (REC)."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from importlib import import_module
from typing import Any, Protocol, TypeVar

from s2connect.errors import (
    AccessRefused,
    NoLongerPaired,
    NotPaired,
    NotReachable,
    PeerBusy,
    PeerTimeout,
    S2ConnectError,
    StorageError,
    UsageError,
)
from s2connect.events import SessionFailed
from s2connect.messages.checks import Check
from s2connect.model.common import NodeId
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.text import for_display
from s2connect.session.answers import PermanentRefusals
from s2connect.session.http_client import SessionClient, with_descriptions
from s2connect.session.reconnect import BASE_DELAY, SHORT_SESSION, Backoff, after_refusal
from s2connect.session.session import Answerer, Observer, Session, SessionEnd
from s2connect.store.base import Pairing, PairKey, Store
from s2connect.supervisor import Supervisor
from s2connect.transports.base import GOING_AWAY, INTERNAL_ERROR, Connection

_log = logging.getLogger(__name__)

MAX_WAITING = 1000
"""Most connections queued for the application; beyond it a communication server answers 503."""

_CONVERSATION = "s2connect.messages.conversation"
"""Module loaded for sessions only, not by an endpoint that only pairs."""

AdmissionHook = Callable[[Pairing, str], Awaitable[str | None]]


T = TypeVar("T")


async def first_reachable(addresses: Sequence[str | None], attempt: Callable[[str | None], Awaitable[T]]) -> T:
    """Try one address after the other, at least one, until somebody is there.

    Raises:
        NotReachable, PeerTimeout: Nobody is, by the last of them.
    """
    for address in addresses[:-1]:
        try:
            return await attempt(address)
        except (NotReachable, PeerTimeout) as error:
            _log.info("%s", error)
    return await attempt(addresses[-1])


class Owner(Protocol):
    """Interface of a node's connections to its endpoint."""

    async def settle(self, pairing: Pairing) -> Pairing:
        """Confirm a pairing if it was unconfirmed; return it as stored.

        Raises:
            NotPaired: It was removed or replaced meanwhile.
        """

    def is_under_way(self, pairing: Pairing) -> bool:
        """Return whether the attempt that agreed on an unconfirmed pairing has not ended yet."""

    async def drop(self, pairing: Pairing) -> None:
        """An unconfirmed pairing proved not to stand."""

    async def ended_by_peer(self, pairing: Pairing) -> None:
        """The communication server has unpaired (UNP-02)."""

    def session_failed(self, event: SessionFailed) -> None:
        """Tell the user."""


class LiveConnection:
    """One live connection, taken by the application as a Session or as it is."""

    def __init__(self, connection: Connection, pairing: Pairing) -> None:
        self.connection = connection
        self.pairing = pairing
        self.session: Session | None = None
        self.since = asyncio.get_running_loop().time()

    async def ended(self) -> SessionEnd:
        """Wait for the end and say why it came."""
        await self.connection.wait_closed()
        if self.session is not None:
            await self.session.wait_closed()
            return self.session.end_reason
        return SessionEnd.LOST

    async def end(self, reason: str, *, ask_to_reconnect: bool = False) -> None:
        """Close it, after a ``SessionRequest RECONNECT`` where the peer shall learn that it is unpaired (UNP-02)."""
        try:
            if self.session is not None and ask_to_reconnect:
                await self.session.request_reconnect()
            if self.session is not None:
                await self.session.close(reason)
        finally:
            await self.connection.close(GOING_AWAY, reason)


def _delay(backoff: Backoff, error: S2ConnectError) -> float:
    """Return the seconds until the next attempt after a failed one (REC-02)."""
    chance = random.random()  # noqa: S311 - spreads load, guards nothing
    if isinstance(error, PeerBusy) and error.status in (429, 503):
        return backoff.busy(chance, retry_after=error.retry_after)
    if isinstance(error, NotReachable) and error.cut:
        return backoff.busy(chance)
    return backoff.failed(chance)


def _possible(check: Check, s2_version: str) -> Check:
    """How much can be judged: of a version that is only configured, not known here, the envelope."""
    from s2connect.messages.catalogue import data_model

    try:
        data_model(s2_version)
    except UsageError as error:
        if check is not Check.ENVELOPE:
            _log.warning("messages are not judged: %s", error)
        return Check.ENVELOPE
    return check


class Sessions:
    """Sessions of one node as they come up; an async iterator that ends when the endpoint closes."""

    def __init__(
        self, live: ConnectionManager, observer: Observer | None, check: Check, answer: Answerer | None = None
    ) -> None:
        self._live = live
        self._observer = observer
        self._check = check
        self._answer = answer

    def __aiter__(self) -> Sessions:
        return self

    async def __anext__(self) -> Session:
        if _CONVERSATION not in sys.modules:
            await asyncio.to_thread(import_module, _CONVERSATION)  # takes long the first time
        live = await self._live.next()
        live.session = Session(
            live.connection,
            peer=live.pairing.peer,
            role=self._live.node.description.role,
            check=_possible(self._check, live.connection.info.s2_version),
            on_message=self._observer,
            answer=self._answer,
            refusals=self._live.refusals(live.pairing),
        )
        return live.session


class Connections:
    """The connections underneath, for relays; an async iterator that ends when the endpoint closes."""

    def __init__(self, live: ConnectionManager, *, connect: bool) -> None:
        self._live = live
        self._connect = connect

    def __aiter__(self) -> Connections:
        return self

    async def __anext__(self) -> tuple[Connection, Pairing]:
        live = await self._live.next(connect=self._connect)
        return live.connection, live.pairing


class ConnectionManager:
    """Connections of one node. None is opened or accepted before the application takes connections."""

    def __init__(
        self,
        endpoint: Callable[[], LocalEndpoint],
        node: LocalNode,
        store: Store,
        client: SessionClient,
        owner: Owner,
        routes_of: Callable[[Pairing], Awaitable[list[str]]],
        *,
        supervisor: Supervisor,
    ) -> None:
        self.node = node
        self.admission_hook: AdmissionHook | None = None
        self._endpoint = endpoint
        self._store = store
        self._client = client
        self._owner = owner
        self._routes_of = routes_of
        self._supervisor = supervisor
        self.drops = 0  # number of sessions ended because of their pairing
        self._live: dict[NodeId, LiveConnection] = {}
        self._waiting: asyncio.Queue[LiveConnection | None] = asyncio.Queue()
        self._connectors: dict[NodeId, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._started = False
        self._connects = False
        self._closed = False
        self._news: dict[NodeId, asyncio.Event] = {}  # of connectors that wait
        self._hosts: dict[NodeId, str] = {}
        self._refusals: dict[NodeId, tuple[float, PermanentRefusals]] = {}

    # The application's side

    async def start(self, *, connect: bool = True) -> None:
        """Accept from now on, and connect by ourselves where we are the communication client."""
        if self._started or self._closed:
            return
        self._started, self._connects = True, connect
        for pairing in await self._store.pairings(self.node.id):
            self.connect(pairing)

    async def next(self, *, connect: bool = True) -> LiveConnection:
        """The next connection that came up."""
        await self.start(connect=connect)
        while True:
            live = await self._waiting.get()
            if live is None:
                self._waiting.put_nowait(None)  # for whoever else waits
                raise StopAsyncIteration
            if self._live.get(live.pairing.key.remote) is live:
                return live

    def peers(self) -> dict[NodeId, LiveConnection]:
        """What is connected now."""
        return dict(self._live)

    def refusals(self, pairing: Pairing) -> PermanentRefusals:
        """Return the permanent refusals of a pairing's peer; a new pairing starts without any (MSG-07)."""
        since, known = self._refusals.get(pairing.key.remote, (pairing.paired_at, PermanentRefusals()))
        if since != pairing.paired_at:
            known = PermanentRefusals()
        self._refusals[pairing.key.remote] = pairing.paired_at, known
        return known

    async def admit(self, pairing: Pairing, s2_version: str) -> str | None:
        """Return None if the application takes a connection now, otherwise a sentence for the peer's user (SES-01)."""
        if not self._started or self._closed:
            return "No application is connected to this node yet; try again later."
        return await self.admission_hook(pairing, s2_version) if self.admission_hook is not None else None

    def is_full(self) -> bool:
        """Return whether the queue of sessions for the application is full."""
        return self._waiting.qsize() >= MAX_WAITING

    # Connections

    def attach(self, connection: Connection, pairing: Pairing) -> LiveConnection:
        """A connection came up, for the application to take. It replaces one of the same pair (WS-06)."""
        live = self._keep(connection, pairing)
        if not self._closed:
            self._waiting.put_nowait(live)
        return live

    def _keep(self, connection: Connection, pairing: Pairing) -> LiveConnection:
        live = LiveConnection(connection, pairing)
        old = self._live.pop(pairing.key.remote, None)
        if old is not None:
            self._later(old.end("replaced by a new session"), "replace")
        if self._closed:
            self._later(live.end("this endpoint is stopping"), "refuse")
            return live
        self._live[pairing.key.remote] = live
        info = connection.info
        _log.info("%s is connected with %s over %s, S2 %s", info.local, info.remote, info.protocol, info.s2_version)
        self._later(self._watch(live), "watch")
        return live

    async def _watch(self, live: LiveConnection) -> None:
        remote = live.pairing.key.remote
        try:
            await live.connection.wait_closed()
            _log.info("%s is no longer connected with %s", self.node.id, remote)
        except Exception:
            await live.connection.close(INTERNAL_ERROR)  # its end would not be noticed
            raise
        finally:
            if self._live.get(remote) is live:
                del self._live[remote]

    def drop(
        self, remote: NodeId, reason: str, *, ask_to_reconnect: bool = False, keep_connecting: bool = False
    ) -> None:
        """End the session with a peer, if there is one, without waiting for its farewell."""
        self.drops += 1
        if not keep_connecting:
            self._refusals.pop(remote, None)
            if (connector := self._connectors.pop(remote, None)) is not None:
                connector.cancel()
        if (live := self._live.pop(remote, None)) is not None:
            self._later(live.end(reason, ask_to_reconnect=ask_to_reconnect), "end")

    async def end(self, remote: NodeId, reason: str) -> None:
        """End the session with a peer, if there is one, and stop connecting to it; returns when both is done."""
        self.drops += 1
        self._refusals.pop(remote, None)
        if (connector := self._connectors.pop(remote, None)) is not None:
            await self._supervisor.end([connector])
        if (live := self._live.pop(remote, None)) is not None:
            await asyncio.wait({self._later(live.end(reason), "end")})

    async def close(self) -> None:
        """End everything with a close frame; iterators end."""
        self._closed = True
        self._waiting.put_nowait(None)
        await self._supervisor.end(self._connectors.values())
        self._connectors.clear()
        live, self._live = list(self._live.values()), {}
        for one in live:
            self._later(one.end("this endpoint is stopping"), "end")
        if self._closing:
            await asyncio.wait(set(self._closing))

    def _later(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = self._supervisor.spawn(work, what, self.node.id, expected=logging.INFO)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def addresses_changed(self, own: Collection[str]) -> None:
        """This machine has these addresses now: end what hangs on one that is gone, instead of waiting for silence."""
        for live in list(self._live.values()):
            address = live.connection.local_address
            if address and address not in own:
                _log.info("our address %s is gone; the connection with %s ends", address, live.pairing.key.remote)
                self._later(live.end("address gone"), "address")

    def seen(self, host: str, addresses: Collection[str]) -> None:
        """A host was seen in the network at these addresses: connect to it soon, and not to where it was."""
        for live in list(self._live.values()):
            url, address = live.pairing.initiate_session_url, live.connection.remote_address
            if url is not None and url.host == host and address and addresses and address not in addresses:
                _log.info("%s has left %s; connecting anew", for_display(host), address)
                self._later(live.end("address gone"), "address")
        for remote, news in self._news.items():
            if remote not in self._live and self._hosts.get(remote) == host:
                news.set()

    # Communication client

    def connect(self, pairing: Pairing) -> None:
        """Keep connecting to the server of a pairing, if we are its client and the application has started (REC-01)."""
        if not self._connects or self._closed or pairing.initiate_session_url is None:
            return
        remote = pairing.key.remote
        running = self._connectors.get(remote)
        if running is not None and not running.done():
            return
        key = pairing.key
        self._connectors[remote] = self._supervisor.keep(lambda: self._keep_connected(key), "connector", remote)

    async def _keep_connected(self, key: PairKey) -> None:
        backoff = Backoff()
        while True:
            # An unconfirmed pairing is settled first; it stands or falls with the first answer (PAIRC-06).
            pairing = self._next_of(await self._store.pairings_of(key))
            if pairing is None:
                return
            try:
                connection, updated = await self._open(pairing)
            except NotPaired:
                continue  # removed or replaced meanwhile
            except (NoLongerPaired, AccessRefused) as error:
                if not pairing.confirmed:
                    await self._owner.drop(pairing)
                    continue
                if isinstance(error, NoLongerPaired):
                    self._tell(pairing, error, None)
                    await self._owner.ended_by_peer(pairing)
                    return
                delay = after_refusal(random.random())  # noqa: S311 - spreads load, guards nothing
                self._tell(pairing, error, delay)
                await asyncio.sleep(delay)
                continue
            except S2ConnectError as error:
                delay = _delay(backoff, error)
                self._tell(pairing, error, delay)
                if await self._pause(pairing, delay):
                    backoff.established()
                continue
            live = self.attach(connection, updated)
            chance = random.random()  # noqa: S311 - spreads load, guards nothing
            end = await live.ended()
            lasted = asyncio.get_running_loop().time() - live.since
            if end is not SessionEnd.RECONNECT_REQUESTED:
                if end is not SessionEnd.PERMANENT_ERROR or lasted >= SHORT_SESSION:
                    backoff.established()
                delay = backoff.failed(chance)
            else:
                if lasted >= SHORT_SESSION:
                    backoff.established()
                delay = backoff.restart(lasted=lasted, chance=chance)
            await asyncio.sleep(delay)

    async def open(self, remote: NodeId) -> Connection:
        """Connect to the server of a pairing once, now; see :meth:`Node.open <s2connect.endpoint.node.Node.open>`."""
        key = PairKey(self.node.id, remote)
        while True:
            pairing = self._next_of(await self._store.pairings_of(key))
            if pairing is None:
                raise NotPaired(f"There is no pairing with {remote} in which this node connects to it.")
            try:
                connection, updated = await self._open(pairing)
            except NotPaired:
                continue  # removed or replaced meanwhile
            except (NoLongerPaired, AccessRefused) as error:
                if not pairing.confirmed:
                    await self._owner.drop(pairing)
                    continue
                if isinstance(error, NoLongerPaired):
                    await self._owner.ended_by_peer(pairing)
                raise
            self._keep(connection, updated)
            return connection

    def _next_of(self, pairings: Sequence[Pairing]) -> Pairing | None:
        """Return the pairing of a pair to connect with next: an unconfirmed one first, once its attempt is over."""
        ours = [p for p in pairings if p.initiate_session_url is not None and not self._owner.is_under_way(p)]
        return ours[-1] if ours else None

    async def _pause(self, pairing: Pairing, delay: float) -> bool:
        """Wait, or until the server shows up in the network and some hundred milliseconds more. True if it did."""
        assert pairing.initiate_session_url is not None
        remote = pairing.key.remote
        self._hosts[remote] = pairing.initiate_session_url.host
        news = self._news[remote] = asyncio.Event()
        try:
            async with asyncio.timeout(delay):
                await news.wait()
        except TimeoutError:
            return False
        finally:
            del self._news[remote]
        await asyncio.sleep(random.random() * min(delay, BASE_DELAY))  # noqa: S311 - spreads load, guards nothing
        return True

    async def _open(self, pairing: Pairing) -> tuple[Connection, Pairing]:
        """Connect to the server of a pairing. Returns the pairing, confirmed, with the descriptions of the response.

        The pairing stands then; a change of it comes only when the caller awaits something.

        Raises:
            NotPaired: It was removed or replaced meanwhile.
            S2ConnectError: There is no session, or what it changes could not be stored.
        """
        routes: list[str | None] = [*await self._routes_of(pairing)] or [None]
        connection, answer = await first_reachable(
            routes, lambda address: self._client.open(self._endpoint(), self.node, pairing, address=address)
        )
        try:
            if (updated := with_descriptions(pairing, answer)) != pairing:
                await self._describe(updated)
            standing = await self._owner.settle(pairing)
        except BaseException:
            await connection.close(GOING_AWAY)
            raise
        return connection, with_descriptions(standing, answer)

    async def _describe(self, pairing: Pairing) -> None:
        try:
            await self._store.update_descriptions(pairing.key, node=pairing.peer, endpoint=pairing.peer_endpoint)
        except StorageError as error:
            _log.warning("the peer's new description could not be stored: %s", error.kind)

    def _tell(self, pairing: Pairing, error: S2ConnectError, retry_in: float | None) -> None:
        name = for_display(pairing.peer.title)
        _log.info("no session with %s: %s", name, error)
        self._owner.session_failed(
            SessionFailed(
                node=self.node.id, peer=pairing.peer, kind=error.kind, sentence=f"{name}: {error}", retry_in=retry_in
            )
        )
