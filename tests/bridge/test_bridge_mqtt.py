"""Static MQTT as sides of the bridge, over a real Mosquitto with its access list, in either communication role."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from s2connect import supervisor
from s2connect.bridge.config import ConfiguredDevice, MqttDevice, MqttDevices, MqttManager, PlainClientDevice
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.mqtt import MqttDevicesSide, MqttManagerSide
from s2connect.bridge.nodes import representative_id
from s2connect.bridge.plain import PlainClientDevicesSide, PlainClientManagerSide
from s2connect.bridge.relay import Policy
from s2connect.bridge.route import Route
from s2connect.endpoint.plain_server import PlainServer
from s2connect.errors import ConfigurationError, NetworkError, S2ConnectError
from s2connect.https.server import free_port
from s2connect.model.common import NodeId, Role
from s2connect.model.proxy import Proxies
from s2connect.supervisor import TaskFailure
from s2connect.transports import ListedDevice, StaticGateway
from s2connect.transports.base import Connection
from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.gateways import Gateways
from s2connect.transports.mqtt.parameters import ChannelLimits, SessionToken, StaticSession
from s2connect.transports.mqtt.receiver import TopicHandler
from s2connect.transports.mqtt.transport import MqttTransport
from s2connect.transports.plain import PlainAcceptor
from tests.bridge.route_fixtures import client_devices, client_manager, converse, part, private_file
from tests.endpoint.test_endpoint_supervision import Fault
from tests.mosquitto import ADMIN, Mosquitto, access_list
from tests.waits import slowed, until, within

BRIDGE, CLOUD, DEVICE = NodeId(uuid4()), NodeId(uuid4()), NodeId(uuid4())
SECRET = SessionToken(base64.b64encode(bytes(range(32))).decode())
SHORT = ChannelLimits(open_timeout=slowed(1.0))


@pytest.fixture
def broker(tmp_path: Path) -> Mosquitto:
    servers = {"cloud": [CLOUD], "bridge": [representative_id(BRIDGE, "battery"), BRIDGE], "device": [DEVICE]}
    return Mosquitto(tmp_path, list(servers), access_list({k: [str(n) for n in v] for k, v in servers.items()}))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return private_file(tmp_path / "secret", SECRET.reveal() + "\n")


def battery_at(url: str) -> PlainClientDevicesSide:
    return PlainClientDevicesSide(
        BRIDGE, client_devices(PlainClientDevice(id="battery", name="Battery", url=url)), Proxies()
    )


@contextlib.asynccontextmanager
async def transport(broker: Mosquitto, user: str, role: Role, **changes: Any) -> AsyncIterator[MqttTransport]:
    made = MqttTransport(broker.settings(user, **changes), role_of=lambda _: role, limits=SHORT)
    made.start()
    try:
        yield made
    finally:
        await made.close()


def session(server: NodeId, client: NodeId, mc: str, client_role: Role) -> StaticSession:
    return StaticSession(
        topic_prefix="s2",
        server=server,
        client=client,
        mc=mc,
        client_role=client_role,
        versions=("v1.0.0", "0.0.2-beta"),
        secret=SECRET,
    )


async def test_a_cloud_program_waits_at_its_broker_for_the_devices_of_a_building(
    broker: Mosquitto, secret: Path
) -> None:
    broker.start()
    acceptor = PlainAcceptor(role=Role.RM, local=DEVICE, tokens=None)
    try:
        async with (
            PlainServer(acceptor) as device_server,
            transport(broker, "cloud", Role.CEM) as cloud,
            transport(broker, "bridge", Role.RM) as mqtt,
        ):
            came: asyncio.Queue[Connection] = asyncio.Queue()
            known = session(CLOUD, representative_id(BRIDGE, "battery"), "bridge", Role.RM)
            await cloud.listen_static(known, came.put_nowait)
            devices = battery_at(f"ws://127.0.0.1:{device_server.port}/")
            peer = MqttManager(type="mqtt", id=CLOUD, secret_file=secret)
            manager = MqttManagerSide(mqtt, BRIDGE, peer)
            route = Route("house", devices, manager, Policy())
            await route.start()
            async with within(10):
                device, cem = await asyncio.gather(anext(device_server), came.get())
                await converse(device, cem)
                assert route.status()[0].sides[Role.CEM].protocol == "X-MQTT5-0"
                await part(route, device, cem)
    finally:
        broker.stop()


async def test_a_device_that_opens_its_session_has_to_come_again_while_the_energy_manager_is_away(
    broker: Mosquitto, secret: Path
) -> None:
    broker.start()
    gone = free_port()
    try:
        async with (
            transport(broker, "device", Role.RM) as rm,
            transport(broker, "bridge", Role.CEM) as mqtt,
        ):
            peer = MqttDevice(name="Battery", id=DEVICE, client_id="device", secret_file=secret)
            devices = MqttDevicesSide(mqtt, BRIDGE, MqttDevices(type="mqtt", device=(peer,)))
            manager = PlainClientManagerSide(BRIDGE, client_manager(f"ws://127.0.0.1:{gone}/"), Proxies())
            route = Route("house", devices, manager, Policy())
            await route.start()
            known = session(BRIDGE, DEVICE, "device", Role.RM)
            async with within(20):
                with pytest.raises(NetworkError):
                    await rm.connect_static(known)
                await until(lambda: route.status()[0].state is LinkState.FAILED)
                async with PlainServer(PlainAcceptor(role=Role.CEM, local=CLOUD, tokens=None), port=gone) as cem_server:
                    device = await patient(rm, known)
                    cem = await anext(cem_server)
                    await converse(device, cem)
                    await part(route, device, cem)
    finally:
        broker.stop()


async def patient(transport: MqttTransport, known: StaticSession) -> Connection:
    while True:
        with contextlib.suppress(S2ConnectError):
            return await transport.connect_static(known)


async def test_a_cloud_program_may_be_the_one_that_opens(broker: Mosquitto, secret: Path) -> None:
    broker.start()
    try:
        async with (
            PlainServer(PlainAcceptor(role=Role.RM, local=DEVICE, tokens=None)) as device_server,
            transport(broker, "cloud", Role.CEM) as cloud,
            transport(broker, "bridge", Role.RM) as mqtt,
        ):
            url = f"ws://127.0.0.1:{device_server.port}/"
            devices = battery_at(url)
            peer = MqttManager(type="mqtt", id=CLOUD, client_id="cloud", secret_file=secret)
            route = Route("house", devices, MqttManagerSide(mqtt, BRIDGE, peer), Policy())
            await route.start()
            known = session(representative_id(BRIDGE, "battery"), CLOUD, "cloud", Role.CEM)
            async with within(20):
                cem = await patient(cloud, known)
                device = await anext(device_server)
                await converse(device, cem)
                await part(route, device, cem)
    finally:
        broker.stop()


async def test_a_device_may_be_the_one_that_waits(broker: Mosquitto, secret: Path) -> None:
    broker.start()
    try:
        async with (
            PlainServer(PlainAcceptor(role=Role.CEM, local=CLOUD, tokens=None)) as cem_server,
            transport(broker, "device", Role.RM) as rm,
            transport(broker, "bridge", Role.CEM) as mqtt,
        ):
            came: asyncio.Queue[Connection] = asyncio.Queue()
            await rm.listen_static(session(DEVICE, BRIDGE, "bridge", Role.CEM), came.put_nowait)
            peer = MqttDevice(name="Battery", id=DEVICE, secret_file=secret)
            devices = MqttDevicesSide(mqtt, BRIDGE, MqttDevices(type="mqtt", device=(peer,)))
            manager = PlainClientManagerSide(BRIDGE, client_manager(f"ws://127.0.0.1:{cem_server.port}/"), Proxies())
            route = Route("house", devices, manager, Policy())
            await route.start()
            async with within(10):
                device, cem = await asyncio.gather(came.get(), anext(cem_server))
                await converse(device, cem)
                await part(route, device, cem)
    finally:
        broker.stop()


async def test_a_peer_at_the_broker_that_does_not_answer_is_said_with_all_that_keeps_it_from_doing_so(
    broker: Mosquitto, secret: Path
) -> None:
    """A missing line of the access list looks like a program that is off: Mosquitto says nothing."""
    broker.start()
    try:
        async with transport(broker, "bridge", Role.RM) as mqtt, within(10):
            assert mqtt.client is not None
            await mqtt.client.up()
            for client, reader in ((None, "let it read"), ("cloud", "let this bridge read")):
                peer = MqttManager(type="mqtt", id=CLOUD, client_id=client, secret_file=secret)
                local = representative_id(BRIDGE, "battery")
                side = await MqttManagerSide(mqtt, BRIDGE, peer)._side(local, peer, "the energy manager")
                server = CLOUD if client is None else local
                assert f"{reader} s2/s2/0/{server}/open" in side.hint
            broker.stop()
            await mqtt.client.connection.ended.wait() if mqtt.client.connection is not None else None
            assert "no connection to the broker" in side.hint
    finally:
        broker.stop()


async def test_a_secret_that_is_none_is_named(broker: Mosquitto, tmp_path: Path) -> None:
    wrong = private_file(tmp_path / "wrong", "short")
    mqtt = MqttTransport(broker.settings("bridge"), role_of=lambda _: Role.RM)
    manager = MqttManagerSide(mqtt, BRIDGE, MqttManager(type="mqtt", id=CLOUD, secret_file=wrong))
    with pytest.raises(ConfigurationError, match="32 random bytes"):
        await manager.represent(ConfiguredDevice(name="battery").device())
    await mqtt.close()


def gateway_of_bridge() -> StaticGateway:
    return StaticGateway(
        topic_prefix="s2", server=CLOUD, mc="bridge", client_role=Role.RM, versions=("v1.0.0",), secret=SECRET
    )


async def test_a_cloud_program_learns_of_the_devices_of_a_route_as_they_come_and_go(
    broker: Mosquitto, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a list in its settings, whoever of them is there first, and after the broker was away."""
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.05)
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.05)
    Fault(monkeypatch, MqttTransport, "list_devices")  # the task "device-list" begins anew
    broker.start()
    try:
        async with transport(broker, "bridge", Role.RM) as mqtt:
            manager = MqttManagerSide(mqtt, BRIDGE, MqttManager(type="mqtt", id=CLOUD, secret_file=secret))
            devices = battery_at("ws://127.0.0.1:9/")
            route = Route("house", devices, manager, Policy())
            failures: list[TaskFailure] = []
            route.supervisor.failures._publish = failures.append
            await route.start()
            told: asyncio.Queue[tuple[list[str], list[str]]] = asyncio.Queue()
            async with transport(broker, "cloud", Role.CEM) as cloud, within(30):

                def changed(added: list[ListedDevice], removed: list[ListedDevice]) -> None:
                    told.put_nowait(([each.name for each in added], [each.name for each in removed]))

                await cloud.listen_gateway(gateway_of_bridge(), lambda *_: None, changed=changed)
                assert await told.get() == (["Battery"], [])
                assert [failure.task for failure in failures] == ["device-list"]
                boiler = PlainClientDevice(id="boiler", name="Boiler", url="ws://127.0.0.1:9/boiler")
                battery = PlainClientDevice(id="battery", name="Battery", url="ws://127.0.0.1:9/")
                await devices.update([battery, boiler])
                assert await told.get() == (["Boiler"], [])
                await asyncio.to_thread(broker.stop)
                await asyncio.to_thread(broker.start)
                await devices.update([boiler])
                assert await told.get() == ([], ["Battery"])
                assert list(cloud._static) == [(CLOUD, representative_id(BRIDGE, "boiler"))]
            async with transport(broker, "cloud", Role.CEM) as later, within(30):
                await later.listen_gateway(gateway_of_bridge(), lambda *_: None, changed=changed)
                assert await told.get() == (["Boiler"], []), "it is retained"
            await route.close()
    finally:
        broker.stop()


async def test_in_a_cluster_a_list_is_published_again_and_again_as_it_is(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that one node retains is published again; also after a fault of the task ``"mqtt-lists"``."""
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.05)
    monkeypatch.setattr("s2connect.transports.mqtt.transport.LIST_AGAIN", 0.05)
    Fault(monkeypatch, Gateways, "repeat")
    broker.start()
    try:
        lists: asyncio.Queue[Packet] = asyncio.Queue()
        reader = await broker.connect(ADMIN)
        reader.set_handler(gateway_of_bridge().list_topic, TopicHandler(lists.put_nowait, 8192))
        await reader.subscribe(gateway_of_bridge().list_topic)
        async with transport(broker, "bridge", Role.RM, settle=0.01) as mqtt, within(10):
            assert mqtt.client is not None
            await mqtt.client.up()
            await mqtt.list_devices(gateway_of_bridge(), "route", [ListedDevice(id=DEVICE)])
            first = await lists.get()
            assert [(await lists.get()).payload for _ in range(2)] == [first.payload] * 2
            assert dict(mqtt._failures.counts) == {"mqtt-lists": 1}
        await reader.close()
    finally:
        broker.stop()
