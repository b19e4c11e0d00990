"""A device, a bridge and an energy manager, real endpoints over real transports, paired through their stores."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives.serialization import Encoding

from s2connect import CommunicationRole, Endpoint, EndpointConfig, NodeConfig, Pairing, PairKey, Pin, Role, Session
from s2connect.bridge.config import VERSIONS, PlainClientManager, PlainServerDevice, PlainServerDevices
from s2connect.bridge.link import Link
from s2connect.bridge.nodes import NodeDevicesSide, NodeManagerSide, representative_id
from s2connect.bridge.plain import PlainClientManagerSide, PlainServerDevicesSide
from s2connect.bridge.relay import Policy
from s2connect.bridge.route import Route
from s2connect.endpoint.plain_server import PlainServer
from s2connect.errors import S2ConnectError
from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message
from s2connect.model.common import MQTT, WEBSOCKET, NodeDescription, NodeId
from s2connect.model.proxy import Proxies
from s2connect.model.secret import AccessToken
from s2connect.session.budget import DEFAULT_LIMITS, PeerLimits
from s2connect.transports.base import Connection
from s2connect.transports.plain import PlainAcceptor, connect_plain
from tests.mosquitto import Mosquitto, access_list, password
from tests.waits import within

WSS, MQ, PLAIN = "wss", "mqtt", "plain"
PROTOCOLS = {WSS: (WEBSOCKET,), MQ: (MQTT,)}


def description(node: NodeId, role: Role) -> NodeDescription:
    return NodeDescription(id=node, brand="s2connect", type="Generic", model_name="s2connect", role=role)


async def introduce(client: Endpoint, client_node: NodeId, server: Endpoint, server_node: NodeId, rm: NodeId) -> None:
    """Pair two nodes without the seconds that it takes; they need not exist yet."""
    assert server._certificates._ca is not None
    pin = Pin(server.ca_fingerprint or b"", server._certificates._ca.certificate.public_bytes(Encoding.DER))
    roles = {node: Role.RM if node == rm else Role.CEM for node in (client_node, server_node)}
    token = AccessToken.from_bytes(os.urandom(32))
    here = PairKey(client_node, server_node)
    ours = Pairing(
        here,
        CommunicationRole.CLIENT,
        description(server_node, roles[server_node]),
        server._state.local.description,
        server.session_url,
        pin,
    )
    theirs = Pairing(
        PairKey(server_node, client_node),
        CommunicationRole.SERVER,
        description(client_node, roles[client_node]),
        client._state.local.description,
    )
    await client._state.store.save_pairing(ours, token)
    await server._state.store.save_pairing(theirs, token)


@dataclass
class Heard:
    """Texts that one side sent and received, as on the wire."""

    sent: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)

    def note(self, direction: str, message: Message) -> None:
        (self.sent if direction == "sent" else self.received).append(message.text)


class BridgeSetup:
    """A device, a bridge, an energy manager.

    Attributes:
        route: The bridge's route.
        heard: What each side sent and received.
    """

    def __init__(
        self,
        directory: Path,
        devices: str,
        manager: str,
        *,
        check: Check = Check.RULES,
        patience: float = 4.0,
        device_is_server: bool = False,
        manager_is_client: bool = False,
        limits: PeerLimits = DEFAULT_LIMITS,
    ) -> None:
        self.directory = directory
        self.kinds = {Role.RM: devices, Role.CEM: manager}
        self.device_is_server = device_is_server
        self.manager_is_client = manager_is_client
        self.policy = Policy(check=check, patience=patience, limits=limits)
        self.ids = {"device": NodeId(uuid4()), "bridge": NodeId(uuid4()), "manager": NodeId(uuid4())}
        self.key = "battery" if devices == PLAIN else str(self.ids["device"])
        self.ids["representative"] = representative_id(self.ids["bridge"], self.key)
        self.heard = {Role.RM: Heard(), Role.CEM: Heard()}
        self.stack = contextlib.AsyncExitStack()
        self.broker: Mosquitto | None = None
        if MQ in self.kinds.values():
            place = directory / "broker"
            place.mkdir()
            users = {
                "manager": [str(self.ids["manager"])],
                "bridge": [str(self.ids["bridge"]), str(self.ids["representative"])],
                "device": [str(self.ids["device"])],
            }
            self.broker = Mosquitto(place, [*users, "stranger"], access_list(users))

    async def __aenter__(self) -> BridgeSetup:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_exit(self.stack)
            if self.broker is not None:
                self.broker.start()
                stack.callback(self.broker.kill)
            await self._open(stack)
            self.stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stack.aclose()

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        if self.kinds[Role.RM] != PLAIN:
            self.device = await stack.enter_async_context(self.endpoint("device", Role.RM))
        if self.kinds[Role.CEM] != PLAIN:
            self.manager = await stack.enter_async_context(self.endpoint("manager", Role.CEM))
        else:
            acceptor = PlainAcceptor(role=Role.CEM, local=self.ids["manager"], tokens=None)
            self.manager_server = await stack.enter_async_context(PlainServer(acceptor))
        self.bridge = await stack.enter_async_context(self.endpoint("bridge", Role.CEM))
        await self.pair()
        await self.start_route(stack)

    def endpoint(self, name: str, role: Role, port: int = 0) -> contextlib.AbstractAsyncContextManager[Endpoint]:
        kind = self.kinds[role]
        mqtt = None
        if MQ in ([kind] if name != "bridge" else self.kinds.values()):
            assert self.broker is not None
            file = self.directory / f"{name}.password"
            file.touch(0o600)
            file.write_text(password(name).reveal())
            mqtt = self.broker.settings(name, password_file=file)
        protocols = (WEBSOCKET, MQTT) if name == "bridge" and mqtt else PROTOCOLS.get(kind, (WEBSOCKET,))
        node = NodeConfig(
            id=self.ids[name],
            role=role,
            alias=name,
            communication_protocols=protocols,
            s2_versions=VERSIONS if name == "bridge" else VERSIONS[:1],
        )
        return Endpoint.open(
            config=EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=port, nodes=(node,), mqtt=mqtt)
        )

    async def pair(self) -> None:
        ids = self.ids
        if self.kinds[Role.RM] != PLAIN:
            ends = [(self.device, ids["device"]), (self.bridge, ids["bridge"])]
            (client, c), (server, s) = reversed(ends) if self.device_is_server else ends
            await introduce(client, c, server, s, ids["device"])
        if self.kinds[Role.CEM] != PLAIN:
            ends = [(self.bridge, ids["representative"]), (self.manager, ids["manager"])]
            (client, c), (server, s) = reversed(ends) if self.manager_is_client else ends
            await introduce(client, c, server, s, ids["representative"])

    async def start_route(self, stack: contextlib.AsyncExitStack) -> None:
        devices: NodeDevicesSide | PlainServerDevicesSide
        if self.kinds[Role.RM] == PLAIN:
            battery = PlainServerDevice(id=self.key, name="Battery", path="/battery")
            devices = PlainServerDevicesSide(
                self.ids["bridge"], PlainServerDevices.model_construct(type="plain-server", port=0, device=(battery,))
            )
        else:
            devices = NodeDevicesSide(self.bridge, self.bridge.node(role=Role.CEM))
        manager: NodeManagerSide | PlainClientManagerSide
        if self.kinds[Role.CEM] == PLAIN:
            target = PlainClientManager(type="plain-client", url=f"ws://127.0.0.1:{self.manager_server.port}/")
            manager = PlainClientManagerSide(self.ids["bridge"], target, Proxies())
        else:
            manager = NodeManagerSide(self.bridge, self.ids["bridge"], PROTOCOLS[self.kinds[Role.CEM]])
        self.devices = devices
        self.route = Route("house", devices, manager, self.policy)
        await self.route.start()
        stack.push_async_callback(self.route.close)

    @property
    def link(self) -> Link:
        return self.route.links[self.key]

    async def sessions(self, role: Role) -> AsyncIterator[Session]:
        """Sessions of one side as they come up; a plain device tries again by itself."""
        note = self.heard[role].note
        if self.kinds[role] != PLAIN:
            endpoint = self.device if role is Role.RM else self.manager
            async for session in endpoint.node().sessions(on_message=note):
                yield session
            return
        peer = description(self.ids["bridge"], role.other)
        while True:
            if role is Role.CEM:
                connection: Connection = await anext(self.manager_server)
            else:
                assert isinstance(self.devices, PlainServerDevicesSide)
                try:
                    connection = await connect_plain(
                        f"ws://127.0.0.1:{self.devices.port}/battery",
                        role=Role.RM,
                        local=self.ids["device"],
                    )
                except S2ConnectError:
                    await asyncio.sleep(0.1)
                    continue
            session = Session(connection, peer=peer, role=role, on_message=note)
            self.stack.push_async_callback(session.close)
            yield session


async def both(
    setup: BridgeSetup, iterators: dict[Role, AsyncIterator[Session]], seconds: float = 20
) -> dict[Role, Session]:
    """The next session of each side."""
    async with within(seconds):
        rm, cem = await asyncio.gather(anext(iterators[Role.RM]), anext(iterators[Role.CEM]))
    return {Role.RM: rm, Role.CEM: cem}
