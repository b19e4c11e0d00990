"""Instances of one endpoint without sockets: the product's services, pairings and stores, asked as HTTPS asks them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.connections import ConnectionManager
from s2connect.endpoint.connector import Connector
from s2connect.endpoint.pairing import PairingManager
from s2connect.endpoint.pairings import Pairings
from s2connect.endpoint.resolver import Resolver
from s2connect.endpoint.server import OffersOfInstances
from s2connect.endpoint.state import EndpointState
from s2connect.events import Event, EventHub
from s2connect.model.common import WEBSOCKET, Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.local import LocalEndpoint, LocalNode
from s2connect.model.proxy import Proxies
from s2connect.pairing.http_server import PairingService
from s2connect.session.http_client import SessionClient
from s2connect.session.http_server import SessionService
from s2connect.shared.state import PostgresqlShared
from s2connect.store.base import Store
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.store.postgresql.sealing import Sealer
from s2connect.store.postgresql.store import PostgresqlStore
from s2connect.transports.base import Transport
from s2connect.transports.websocket import WebSocketTransport

PKI = ssl.create_default_context()
BINDING = b"cloud.example"
KEY = hashlib.sha256(b"the key of the store").digest()
NODES = [NodeId(UUID(int=0x6D2C0000000040008000000000000000 + number)) for number in range(2)]
TOKEN = "5hK7Zz5hK7Zz5hK7Zz"
"""So strong that failures do not withdraw it."""


def local_endpoint(nodes: int = 1, protocols: Sequence[str] = (WEBSOCKET,)) -> LocalEndpoint:
    """A cloud with energy managers, each with an alias."""
    own = {
        one: LocalNode(
            NodeDescription(id=one, brand="Grid", type="HEMS", model_name=f"G{number}", role=Role.CEM),
            alias=f"N{number}",
            communication_protocols=tuple(protocols),
        )
        for number, one in enumerate(NODES[:nodes])
    }
    description = EndpointDescription(name="cloud", deployment=Deployment.WAN)
    return LocalEndpoint(description, Deployment.WAN, own)


class _Recorder(EventHub):
    def __init__(self, happened: list[Event]) -> None:
        super().__init__()
        self._happened = happened

    def publish(self, event: Event) -> None:
        self._happened.append(event)
        super().publish(event)


class _NoProtocol:
    _reading_paused = False

    def resume_reading(self, **_: object) -> None:
        pass


@dataclass(frozen=True)
class Answered:
    """Status and body of an answer."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)

    def shape(self) -> tuple[int, Any]:
        """The answer without what is drawn at random."""
        members = {
            name: value if name in ("errorMessage", "selectedCommunicationProtocol") else None
            for name, value in self.body.items()
        }
        return self.status, members


class Instance:
    """One instance of an endpoint.

    Attributes:
        happened: Events that it has published.
        transports: Transports by name; a test may add to them.
    """

    def __init__(self, own: LocalEndpoint, store: Store, shared: PostgresqlShared | None) -> None:
        self.happened: list[Event] = []
        config = EndpointConfig(deployment=Deployment.WAN, host="cloud.example", port=443)
        self.store = store
        self.state = EndpointState(
            config=config,
            local=own,
            store=store,
            vault=MemoryVault(),
            pki=PKI,
            proxies=Proxies(),
            resolver=Resolver({}, None),
            events=_Recorder(self.happened),
            port=443,
            shared=shared,
        )
        websocket = WebSocketTransport(self.state.websocket_url)
        self.transports: dict[str, Transport] = {WEBSOCKET: websocket}
        client = SessionClient(store, self.transports, PKI)
        live: dict[NodeId, ConnectionManager] = {}
        self.pairings = Pairings(self.state, live, client)
        for node in own.nodes:
            live[node] = ConnectionManager(self.state, node)
            Connector(self.state, live[node], self.pairings, client)
            live[node].links = self.pairings.ownership
        self.connections = live
        self.pairing = PairingManager(self.state, self.pairings, None)  # type: ignore[arg-type]  # no certificates
        self.pairing.server.delay = 0.0 if shared is None else 0.02
        self.service = PairingService(
            self.pairing.shared,
            self.pairings,
            self.state.supervisor,
            binding=lambda _: BINDING,
            ready=lambda: True,
            on_failed=self.pairing.attempt_failed,
            wall_time=self.state.wall_time,
        )
        session = SessionService(
            self.pairings.shared,
            lambda: own,
            store,
            self.pairings,
            self.transports,
            self.state.supervisor,
            self.state.wall_time,
        )
        self.websocket = websocket
        if self.pairings.offers is not None:
            websocket.shared = OffersOfInstances(self.pairings.offers, session)
        self._handlers: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {}
        for service, path in ((self.service, "pairing"), (session, "session")):
            service.mount(self, f"/{path}/")  # type: ignore[arg-type]  # stands in for the HTTPS server

    # Mounting of the services

    def add_index(self, path: str) -> None:
        pass

    def add_operation(self, base_path: str, name: str, handler: Any) -> None:
        self._handlers[f"{base_path}{name}"] = handler

    def begins_session(self, request: web.Request) -> None:
        """It is never too busy for one."""

    def too_busy(self) -> web.Response:
        return web.Response(status=503)

    def expect(self, request: web.Request) -> Callable[[], None]:
        return lambda: None

    async def ask(self, path: str, body: bytes = b"", bearer: str | None = None) -> Answered:
        """Send one request, e.g. to ``pairing/requestPairing``."""
        stream = StreamReader(_NoProtocol(), 2**16, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        stream.feed_data(body)
        stream.feed_eof()
        headers = CIMultiDict({"Authorization": f"Bearer {bearer}"} if bearer is not None else {})
        request = make_mocked_request("POST", f"/{path}", headers, payload=stream)
        response = await self._handlers[f"/{path}"](request)
        assert isinstance(response, web.Response)
        raw = response.body
        return Answered(response.status, json.loads(bytes(raw)) if isinstance(raw, bytes) and raw else {})

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Take WebSocket connections on a port of this machine."""
        app = web.Application()
        app.router.add_get("/", self.websocket.handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    async def start(self) -> None:
        for connections in self.connections.values():
            await connections.start(connect=False)

    async def close(self) -> None:
        self.service.close()
        for connections in self.connections.values():
            await connections.close()
        await self.pairings.close()
        await self.state.supervisor.close()
        await self.websocket.close()
        await self.store.close()


@contextlib.asynccontextmanager
async def instances(
    url: str | None,
    count: int = 1,
    nodes: int = 1,
    keys: Sequence[Sequence[bytes]] = (),
    first: int = 0,
    protocols: Sequence[str] = (WEBSOCKET,),
) -> AsyncIterator[list[Instance]]:
    """So many instances on a database, with the ``keys`` of each; without one, a single one in memory.

    ``first`` is the number in the name of the first one.
    """
    made: list[Instance] = []
    own = local_endpoint(nodes, protocols)
    try:
        for number in range(count):
            if url is None:
                made.append(Instance(own, MemoryStore(), None))
            else:
                its = keys[number] if keys else [KEY]
                store = await PostgresqlStore.open(url, its, instance=f"i{first + number}")
                made.append(Instance(own, store, PostgresqlShared(store.database, Sealer(its))))
            await made[-1].start()
        yield made
    finally:
        for instance in made:
            await instance.close()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def proof_of(challenge: str, token: str = TOKEN) -> str:
    """The HMAC of HMAC-02, computed here."""
    import hmac

    return b64(hmac.digest(base64.b64decode(challenge), token.encode() + BINDING, "sha256"))


def client_id(number: int) -> UUID:
    return UUID(int=0x3E9A5C0F9D0E4F3C8A440D2F6A3B1C77 + number)


def pairing_request(client: int, challenge: str, node: int = 0) -> bytes:
    """A requestPairing of a device in the WAN."""
    return json.dumps(
        {
            "clientNodeDescription": {
                "id": str(client_id(client)),
                "brand": "Brand",
                "type": "Heat pump",
                "modelName": "HP",
                "role": "RM",
            },
            "clientEndpointDescription": {"name": "client", "deployment": "WAN"},
            "nodeId": str(NODES[node]),
            "supportedCommunicationProtocols": ["WebSocket"],
            "supportedS2MessageVersions": ["v1.0.0"],
            "supportedHmacHashingAlgorithms": ["SHA256"],
            "clientHmacChallenge": challenge,
        }
    ).encode()


def session_request(client: int, node: int = 0, protocol: str = WEBSOCKET) -> bytes:
    """An initiateSession."""
    return json.dumps(
        {
            "clientNodeId": str(client_id(client)),
            "serverNodeId": str(NODES[node]),
            "supportedS2MessageVersions": ["v1.0.0"],
            "supportedCommunicationProtocols": [protocol],
        }
    ).encode()
