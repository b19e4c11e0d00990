"""Nodes of several endpoints in one process, whose steps are taken in an order that a test chooses.

Everything that decides and everything that stores is the product's own: pairing client and server, session client and
server, pairings, connections, stores. Between them are no sockets: a request waits for its turn on the way there and on
the way back, and so does every operation of a store. In virtual time a turn is given only when nothing else can go on.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.connections import Arrivals, ConnectionManager
from s2connect.endpoint.connector import Connector
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.resolver import Resolver
from s2connect.endpoint.state import EndpointState
from s2connect.errors import PeerBusy, PeerTimeout, S2ConnectError
from s2connect.events import Event, EventHub, Paired, Unpaired
from s2connect.https.client import Destination, HttpReply
from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.proxy import Proxies
from s2connect.model.url import BaseUrl
from s2connect.pairing import http_client as pairing_client
from s2connect.pairing.client_core import CLIENT_ENTROPY, PairingClientAttempt, ServerProof
from s2connect.pairing.code import PairingCode, PairingToken
from s2connect.pairing.http_server import PairingService
from s2connect.pairing.server_core import PairingServer
from s2connect.pairing.shared import MemoryPairing
from s2connect.session import http_client as session_client
from s2connect.session.http_server import SessionService
from s2connect.store.base import Pairing, Store
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.transports.base import Connection
from s2connect.transports.memory import MEMORY, MemoryHub, MemoryTransport

TICK = 1e-6
"""Virtual seconds between two turns: they come when nothing else is left to do."""

AFTERWARDS = 60.0
"""Virtual seconds after the last call until everything has to be settled: more than an unconfirmed pairing lives."""

PKI = ssl.create_default_context()
BINDING = hashlib.sha256(b"the leaf of everybody").digest()
CA = hashlib.sha256(b"the root of everybody").digest()

Choose = Callable[[int], int]
OpenStore = Callable[[], Awaitable[Store]]


class Schedule:
    """Gives turns: of those that wait the newest is number 0, so that zeros let one call go on to its end.

    Args:
        choose: Says which of so many goes on.

    Attributes:
        degrees: How many there were to choose from at each turn.
        labels: What went on.
    """

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._news = asyncio.Event()
        self.degrees: list[int] = []
        self.labels: list[str] = []
        self.free = False

    async def turn(self, label: str) -> None:
        if self.free:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((label, future))
        self._news.set()
        try:
            await future
        finally:
            self._waiting = [one for one in self._waiting if one[1] is not future]

    async def give_turns(self) -> None:
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            await asyncio.sleep(TICK)
            if not self._waiting:
                continue
            chosen = self._choose(len(self._waiting)) if len(self._waiting) > 1 else 0
            if len(self._waiting) > 1:
                self.degrees.append(len(self._waiting))
            label, future = self._waiting.pop(-1 - chosen)
            self.labels.append(label)
            if not future.done():
                future.set_result(None)


class TurnedStore:
    """A store each of whose operations waits for its turn before and after."""

    def __init__(self, store: Store, schedule: Schedule, name: str) -> None:
        self._store = store
        self._schedule = schedule
        self._name = name

    def __getattr__(self, operation: str) -> Any:
        work = getattr(self._store, operation)
        if operation == "close":
            return work

        async def turned(*arguments: Any, **more: Any) -> Any:
            await self._schedule.turn(f"{self._name} {operation}")
            try:
                return await work(*arguments, **more)
            finally:
                await self._schedule.turn(f"{self._name} {operation} done")

        return turned


class _SessionClient(session_client.SessionClient):
    async def destination(self, pairing: Pairing, url: BaseUrl, address: str | None) -> Destination:
        return Destination(PKI)  # there is nothing to authenticate within a process


class _Recorder(EventHub):
    def __init__(self, happened: list[Event]) -> None:
        super().__init__()
        self._happened = happened

    def publish(self, event: Event) -> None:
        self._happened.append(event)
        super().publish(event)


class Side:
    """An endpoint with one node."""

    def __init__(self, world: World, name: str, role: Role, deployment: Deployment, store: Store, number: int) -> None:
        description = NodeDescription(
            id=NodeId(UUID(int=0x6D2C0000000040008000000000000000 + number)),
            brand="Acme",
            type="t",
            model_name=name,
            role=role,
        )
        self.world = world
        self.name = name
        self.node = LocalNode(description, communication_protocols=(MEMORY,))
        own = EndpointDescription(name=name, deployment=deployment)
        self.local = LocalEndpoint(own, deployment, {self.node.id: self.node})
        self.happened: list[Event] = []
        self.plain_store = store
        self.store: Any = TurnedStore(store, world.schedule, name)
        config = EndpointConfig(deployment=deployment, host=f"{name}.example", port=443)
        self.state = EndpointState(
            config=config,
            local=self.local,
            store=self.store,
            vault=MemoryVault(),
            pki=PKI,
            proxies=Proxies(),
            resolver=Resolver({}, None),
            events=_Recorder(self.happened),
            port=config.port,
        )
        self.supervisor = self.state.supervisor
        live: dict[NodeId, ConnectionManager] = {}
        transport = MemoryTransport(world.hub)
        self.client = _SessionClient(self.store, {MEMORY: transport}, PKI)
        self.pairings = Pairings(self.state, live, self.client)
        self.connections = live[self.node.id] = ConnectionManager(self.state, self.node.id)
        Connector(self.state, self.connections, self.pairings, self.client)
        self.core = PairingServer(lambda: self.local, session_url=lambda: self.session_url, response_delay=0.0)
        pairing = PairingService(
            MemoryPairing(self.core),
            self.pairings,
            self.supervisor,
            binding=lambda _: BINDING,
            ready=lambda: True,
            on_failed=lambda _: None,
        )
        session = SessionService(
            self.pairings.shared,
            lambda: self.local,
            self.store,
            self.pairings,
            {MEMORY: transport},
            self.supervisor,
        )
        self.handlers: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {}
        for service, path in ((pairing, "pairing"), (session, "session")):
            service.mount(self, f"/{path}/")  # type: ignore[arg-type]  # stands in for the HTTPS server
        self.pairing = pairing
        self.taken: list[Connection] = []

    # Mounting of the services

    def add_index(self, path: str) -> None:
        pass

    def add_operation(self, base_path: str, name: str, handler: Any) -> None:
        self.handlers[name] = handler

    def begins_session(self, request: web.Request) -> None:
        """It is never too busy for one."""

    @property
    def pairing_url(self) -> BaseUrl:
        return BaseUrl(f"https://{self.name}.example/pairing/")

    @property
    def session_url(self) -> BaseUrl:
        return BaseUrl(f"https://{self.name}.example/session/")

    async def take_sessions(self) -> None:
        async for connection, _ in Arrivals(lambda: self.connections.next_connection(connect=True)):
            self.taken.append(connection)

    # Actions of users

    async def pair(self, other: Side) -> Pairing:
        """Pair with another side, as pairing client."""
        token = PairingToken.generate()
        other.core.tokens(other.node.id).issue(token, now=asyncio.get_running_loop().time())
        attempt = PairingClientAttempt(
            self.local,
            self.node,
            PairingCode(token),
            ServerProof(BINDING, None),
            entropy=random.randbytes(CLIENT_ENTROPY),
            session_url=self.session_url,
            ca_fingerprint=CA,
        )
        return await pairing_client._pair(
            attempt, other.pairing_url, Destination(PKI), self.pairings, pairing_client.DEFAULT_TIMINGS, time.time
        )

    async def unpair(self, other: Side) -> Pairing:
        return await self.pairings.unpair(self.node.id, other.node.id)

    async def peers(self) -> set[str]:
        """Names of those with whom there is a confirmed pairing."""
        return {p.peer.model_name for p in await self.plain_store.pairings() if p.confirmed}

    def told(self) -> set[str]:
        """Names of those with whom it is paired by what was published."""
        paired: set[str] = set()
        for event in self.happened:
            match event:
                case Paired():
                    paired.add(event.peer.model_name)
                case Unpaired():
                    paired.discard(event.peer.model_name)
        return paired

    def connected_with(self) -> set[NodeId]:
        return set(self.connections.peers())

    async def close(self) -> None:
        self.pairing.close()
        await self.connections.close()
        await self.pairings.close()
        await self.supervisor.close()
        await self.plain_store.close()


class World:
    """A device and two energy managers."""

    def __init__(self, choose: Choose) -> None:
        self.schedule = Schedule(choose)
        self.hub = MemoryHub()
        self.sides: dict[str, Side] = {}

    async def build(self, device: Deployment, open_store: OpenStore) -> None:
        for number, (name, role) in enumerate((("rm", Role.RM), ("c1", Role.CEM), ("c2", Role.CEM))):
            deployment = device if role is Role.RM else Deployment.LAN
            self.sides[name] = Side(self, name, role, deployment, await open_store(), number)

    def http(self, destination: Destination) -> _Http:
        return _Http(self)

    async def do(self, call: str) -> str:
        """Do what a user does, e.g. ``rm+c1`` (pair) or ``c1-rm`` (unpair), and return what came of it."""
        who, whom = (self.sides[name] for name in call.replace("-", "+").split("+"))
        await self.schedule.turn(call)
        try:
            await (who.pair(whom) if "+" in call else who.unpair(whom))
        except S2ConnectError as error:
            return error.kind
        return "done"


class _Http:
    """Requests that wait for their turn on the way there and back. What is under way there goes on without us."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def __aenter__(self) -> _Http:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    without_index = False

    def release(self) -> None:
        return None

    async def api_version(self, base: BaseUrl) -> str:
        return "v1"

    async def post(
        self,
        base: BaseUrl,
        version: str,
        operation: str,
        body: Any = None,
        *,
        bearer: Any = None,
        timeout: float = 10.0,
    ) -> HttpReply:
        side = self._world.sides[base.host.partition(".")[0]]
        data = body.to_json() if body is not None else b""
        task = asyncio.create_task(self._there_and_back(side, operation, data, bearer), name=f"request {operation}")
        try:
            async with asyncio.timeout(timeout):
                reply = await asyncio.shield(task)
        except TimeoutError:
            raise PeerTimeout("too late") from None
        if reply.status == 429 or reply.status >= 500:
            raise PeerBusy("busy", status=reply.status)
        return reply

    async def _there_and_back(self, side: Side, operation: str, data: bytes, bearer: Any) -> HttpReply:
        await self._world.schedule.turn(f"to {side.name} {operation}")
        stream = StreamReader(_NoProtocol(), 2**16, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        stream.feed_data(data)
        stream.feed_eof()
        headers = CIMultiDict({"Authorization": f"Bearer {bearer.reveal()}"} if bearer is not None else {})
        request = make_mocked_request("POST", f"/{operation}", headers, payload=stream)
        response = await side.handlers[operation](request)
        assert isinstance(response, web.Response)
        raw = response.body
        await self._world.schedule.turn(f"from {side.name} {operation} {response.status}")
        return HttpReply(response.status, bytes(raw) if isinstance(raw, bytes | bytearray) else b"")


class _NoProtocol:
    _reading_paused = False

    def resume_reading(self, **_: object) -> None:
        pass


async def memory_store() -> Store:
    return MemoryStore()


async def play(
    world: World,
    before: Sequence[str],
    calls: Sequence[str],
    *,
    device: Deployment,
    open_store: OpenStore = memory_store,
) -> list[str]:
    """Do ``before`` one after the other, then ``calls`` at once, and check what came of it.

    Returns:
        What each of the calls returned.
    """
    await world.build(device, open_store)
    schedule = world.schedule
    schedule.free = True
    try:
        for side in world.sides.values():
            side.supervisor.spawn(side.take_sessions(), "sessions")
        for call in before:
            assert await world.do(call) == "done", call
            await asyncio.sleep(1.0)
        schedule.free = False
        turns = asyncio.create_task(schedule.give_turns(), name="turns")
        results = await asyncio.gather(*(world.do(call) for call in calls))
        # The steps that follow run to their end in one fixed order.
        schedule._choose = lambda _: 0
        await asyncio.sleep(AFTERWARDS)
        turns.cancel()
        schedule.free = True
        try:
            await check(world)
        except AssertionError as error:
            error.add_note(f"{results}, {schedule.labels}")
            for side in world.sides.values():
                error.add_note(f"{side.name}: {[_short(event) for event in side.happened]}")
            raise
        return results
    finally:
        schedule.free = True
        for _, future in schedule._waiting:
            if not future.done():
                future.set_result(None)
        for side in world.sides.values():
            await side.close()


def _short(event: Event) -> str:
    about = getattr(event, "peer", None)
    more = [str(getattr(event, name)) for name in ("by", "reason", "kind") if hasattr(event, name)]
    return " ".join([type(event).__name__, about.model_name if about else "", *more])


async def check(world: World) -> None:
    """Check that events match the stores, both sides of each pair agree, and paired nodes have a session."""
    rm, managers = world.sides["rm"], [world.sides["c1"], world.sides["c2"]]
    for side in world.sides.values():
        held = await side.peers()
        assert side.told() == held, f"{side.name} told {side.told()}, and holds {held}"
        assert all(p.confirmed for p in await side.plain_store.pairings()), f"{side.name} holds something unsettled"
        assert not side.pairings._under_way
    mine = await rm.peers()
    assert len(mine) <= 1, f"a device with several energy managers: {mine}"
    for manager in managers:
        theirs = await manager.peers()
        assert theirs == ({"rm"} if manager.name in mine else set()), f"rm: {mine}, {manager.name}: {theirs}"
        connected = (manager.node.id in rm.connected_with(), rm.node.id in manager.connected_with())
        assert connected == (bool(theirs), bool(theirs)), (
            f"{manager.name} is paired: {bool(theirs)}, connected: {connected}"
        )


def explore(run: Callable[[Choose], list[int]], *, deviations: int) -> Iterator[tuple[int, ...]]:
    """Every order with at most so many moments in which another call goes on than the one that went on last.

    Args:
        run: Plays once, and returns between how many there was a choice each time.
        deviations: See above.
    """
    stack: list[tuple[int, ...]] = [()]
    while stack:
        prefix = stack.pop()
        rest = iter(prefix)
        degrees = run(lambda _: next(rest, 0))  # noqa: B023 - used before the next round
        yield prefix
        if sum(choice > 0 for choice in prefix) < deviations:
            for place in range(len(prefix), len(degrees)):
                idle = (0,) * (place - len(prefix))
                stack.extend((*prefix, *idle, other) for other in range(1, degrees[place]))
