"""Sessions over a real cluster of two brokers: wherever their ends are, and when a node is lost or comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from s2connect.bridge.config import MqttManager, PlainClientDevice
from s2connect.bridge.mqtt import MqttManagerSide
from s2connect.bridge.nodes import representative_id
from s2connect.bridge.plain import PlainClientDevicesSide
from s2connect.bridge.relay import Policy
from s2connect.bridge.route import Route
from s2connect.endpoint.plain_server import PlainServer
from s2connect.errors import ConnectionClosed, S2ConnectError
from s2connect.messages.envelope import SESSION_REQUEST, read_message
from s2connect.model.common import MQTT, NodeId, Role
from s2connect.model.proxy import Proxies
from s2connect.transports import ListedDevice, StaticGateway, StaticSession
from s2connect.transports.base import Connection, ConnectionInfo
from s2connect.transports.mqtt import transport as transport_module
from s2connect.transports.mqtt.broker import BrokerConnection
from s2connect.transports.mqtt.parameters import ChannelLimits, MqttCommunicationDetails, SessionToken
from s2connect.transports.mqtt.rivals import SUSPICIOUS_LOSSES
from s2connect.transports.mqtt.transport import MqttTransport
from s2connect.transports.plain import PlainAcceptor
from tests.artemis import ArtemisCluster, password
from tests.bridge.route_fixtures import POWER, client_devices, converse, part, private_file
from tests.waits import slowed, until, within

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

SECRET = SessionToken.from_bytes(bytes(range(32)))
MESSAGES = 150
SUSPECT_AFTER = 1.0
USERS = ["cloud", "house", "guest", *(f"{name}-{number}" for name in ("cloud", "house") for number in range(4))]


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtemisCluster]:
    made = ArtemisCluster(tmp_path_factory.mktemp("artemis"), USERS)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def cluster(whole_cluster: ArtemisCluster) -> ArtemisCluster:
    """Both nodes, which reach each other."""
    await asyncio.to_thread(whole_cluster.start)
    await whole_cluster.formed()
    return whole_cluster


@contextlib.asynccontextmanager
async def transport(cluster: ArtemisCluster, user: str, role: Role, *order: int) -> AsyncIterator[MqttTransport]:
    """The transport of a user, at the first of these nodes while it is there; a further one is tried after it."""
    places = {str(cluster.url(number)): place for place, number in enumerate(order)}
    settings = cluster.settings(user, *order, settle=0.5)
    made = MqttTransport(
        settings,
        role_of=lambda _: role,
        limits=ChannelLimits(suspect_after=slowed(SUSPECT_AFTER)),
        credentials=lambda _: ("guest", password("guest")),
    )
    assert made.client is not None
    made.client.nodes._order.sort(key=lambda url: places[str(url)])
    made.start()
    try:
        await made.client.up()
        yield made
    finally:
        await made.close()


def static_session(server: NodeId | None = None, client: NodeId | None = None) -> StaticSession:
    return StaticSession(
        topic_prefix="s2",
        server=server or NodeId(uuid4()),
        client=client or NodeId(uuid4()),
        mc="house",
        client_role=Role.RM,
        versions=("v1.0.0",),
        secret=SECRET,
    )


def message(number: int) -> str:
    return json.dumps({"message_type": "PowerMeasurement", "message_id": str(number), "values": []})


async def pass_on(sender: Connection, receiver: Connection, count: int = MESSAGES) -> None:
    """Send and receive so many messages, each once and in order."""
    texts = [message(number) for number in range(count)]

    async def send() -> None:
        for text in texts:
            await sender.send(text)

    async def receive() -> list[str]:
        return [await receiver.recv() for _ in texts]

    _, received = await asyncio.gather(send(), receive())
    assert received == texts


@pytest.mark.parametrize(("server_at", "client_at"), [(0, 0), (0, 1), (1, 0)])
@pytest.mark.rule("MQ-09")
async def test_a_session_opens_at_the_first_attempt_and_keeps_order_wherever_its_ends_are(
    cluster: ArtemisCluster, server_at: int, client_at: int
) -> None:
    async with (
        transport(cluster, "cloud", Role.CEM, server_at) as cloud,
        transport(cluster, "house", Role.RM, client_at) as house,
        within(40),
    ):
        for _ in range(3):
            came: asyncio.Queue[Connection] = asyncio.Queue()
            session = static_session()
            await cloud.listen_static(session, came.put_nowait)
            ours = await house.connect_static(session)
            theirs = await came.get()
            await asyncio.gather(pass_on(ours, theirs), pass_on(theirs, ours))
            await ours.close()
            await theirs.wait_closed()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.rule("MQ-02")
async def test_the_url_of_an_offer_is_the_node_where_the_server_is_so_that_both_ends_meet(
    cluster: ArtemisCluster, number: int
) -> None:
    """A client that has no broker of its own goes there; one that has the cluster stays where it is."""
    server, client = NodeId(uuid4()), NodeId(uuid4())
    guest_context = cluster.settings("guest").context
    guest = MqttTransport(None, role_of=lambda _: Role.RM, guest_context=guest_context)
    async with (
        transport(cluster, "cloud", Role.CEM, number, 1 - number) as cloud,
        transport(cluster, "house", Role.RM, 1 - number, number) as house,
        contextlib.AsyncExitStack() as stack,
        within(30),
    ):
        stack.push_async_callback(guest.close)
        await cloud.serve(server)
        offer = cloud.offer(ConnectionInfo(MQTT, server, client, "v1.0.0"))
        details = offer.details
        assert isinstance(details, MqttCommunicationDetails)
        assert details.mqtt_url == cluster.url(number)
        opening = guest.connect(ConnectionInfo(MQTT, client, server, "v1.0.0"), details, None)
        ours, theirs = await asyncio.gather(opening, offer.connection)
        await asyncio.gather(pass_on(ours, theirs), pass_on(theirs, ours))
        without_account = details.model_copy(update={"username": None})
        assert isinstance(without_account, MqttCommunicationDetails)
        assert house._clients.find(without_account) is house.client


@dataclass
class Way:
    """Numbered messages in one direction, over one session after the other.

    Attributes:
        arrived: The numbers, as they came.
        outcomes: By number ``OK``, or ``lost``: the session ended before the answer.
    """

    arrived: list[int] = field(default_factory=list)
    outcomes: dict[int, str] = field(default_factory=dict)

    def answered(self) -> int:
        return sum(outcome == "OK" for outcome in self.outcomes.values())

    def check(self) -> None:
        assert self.arrived == sorted(set(self.arrived)), "twice, or out of order"
        assert {number for number, outcome in self.outcomes.items() if outcome == "OK"} <= set(self.arrived)


async def carry(connection: Connection, sent: Way, heard: Way) -> None:
    """Send numbered messages and answer those of the other end, until the session is over."""

    async def send() -> None:
        while True:
            number = len(sent.outcomes)
            sent.outcomes[number] = "lost"
            await connection.send(message(number))
            await asyncio.sleep(0.02)

    sending = asyncio.create_task(send())
    try:
        while True:
            received = json.loads(await connection.recv())
            if received["message_type"] == "ReceptionStatus":
                sent.outcomes[int(received["subject_message_id"])] = "OK"
                continue
            heard.arrived.append(int(received["message_id"]))
            answer = {"message_type": "ReceptionStatus", "subject_message_id": received["message_id"], "status": "OK"}
            await connection.send(json.dumps(answer))
    except ConnectionClosed:
        pass
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


class Pair:
    """A house and a cloud that exchange messages in both directions, whatever becomes of their sessions.

    Attributes:
        sessions: How many sessions there were.
    """

    def __init__(self, house: MqttTransport, cloud: MqttTransport, number: int) -> None:
        self.house, self.cloud = house, cloud
        self.session = replace(static_session(), mc=f"house-{number}")
        self.up, self.down = Way(), Way()
        self.sessions = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.cloud.listen_static(self.session, self._take)
        self._tasks.add(asyncio.create_task(self._connect()))

    def _take(self, connection: Connection) -> None:
        self._tasks.add(asyncio.create_task(carry(connection, self.down, self.up)))

    async def _connect(self) -> None:
        while True:
            with contextlib.suppress(S2ConnectError):
                connection = await self.house.connect_static(self.session)
                self.sessions += 1
                await carry(connection, self.up, self.down)
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def goes_on(self, count: int = 25) -> None:
        """Wait for so many further answers at each end."""
        before = [way.answered() + count for way in (self.up, self.down)]
        await until(
            lambda: [w.answered() >= b for w, b in zip((self.up, self.down), before, strict=True)] == [True] * 2, 60
        )


WHERE = [(0, 0), (0, 1), (1, 0), (1, 1)]
"""Node of the cloud and of the house of each pair."""


@pytest.mark.rule("MQ-09", "MQ-10")
async def test_a_node_is_lost_and_comes_back_and_all_sessions_go_on_without_a_message_twice_or_out_of_order(
    cluster: ArtemisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.2)
    async with contextlib.AsyncExitStack() as stack:
        pairs = []
        for number, (cloud_at, house_at) in enumerate(WHERE):
            made = [
                await stack.enter_async_context(transport(cluster, f"{name}-{number}", role, node, 1 - node))
                for name, role, node in (("cloud", Role.CEM, cloud_at), ("house", Role.RM, house_at))
            ]
            pairs.append(Pair(made[1], made[0], number))
            stack.push_async_callback(pairs[-1].close)
            await pairs[-1].start()
        await stack.enter_async_context(within(120))
        await asyncio.gather(*(pair.goes_on() for pair in pairs))
        assert [(cluster.at(pair.cloud), cluster.at(pair.house)) for pair in pairs] == WHERE
        await asyncio.to_thread(cluster.kill, 0)
        await asyncio.gather(*(pair.goes_on() for pair in pairs))
        assert {node for pair in pairs for node in (cluster.at(pair.cloud), cluster.at(pair.house))} == {1}
        assert [pair.sessions > 1 for pair in pairs] == [True, True, True, False]
        for pair in pairs:
            assert pair.house.client is not None
            assert not pair.house.client.rivals._losses, "the node is gone: no sign of a second client"
        await asyncio.to_thread(cluster.start)
        await cluster.formed()
        await asyncio.gather(*(pair.goes_on() for pair in pairs))
        for pair in pairs:
            pair.up.check()
            pair.down.check()


def _are_those(accepted: Mapping[tuple[NodeId, NodeId], object], expected: list[tuple[NodeId, NodeId]]) -> bool:
    return list(accepted) == expected


@pytest.mark.rule("MQ-19")
async def test_a_list_of_devices_is_learnt_at_another_node_than_the_gateway_s(
    cluster: ArtemisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retained lists do not cross the nodes, and the other one may still have an older list."""
    monkeypatch.setattr(transport_module, "LIST_AGAIN", slowed(0.5))
    server, old, new = NodeId(uuid4()), NodeId(uuid4()), NodeId(uuid4())
    session = static_session(server)
    gateway = StaticGateway.of(session)
    async with transport(cluster, "house", Role.RM, 0) as house, within(20):
        await house.list_devices(gateway, "route", [ListedDevice(id=old)])
    newest = 0

    def keep(at: int) -> None:
        nonlocal newest
        newest = at

    async with transport(cluster, "house", Role.RM, 1) as house, within(20):
        await house.list_devices(gateway, "route", [ListedDevice(id=new)])
        for number in (0, 1):
            async with transport(cluster, "cloud", Role.CEM, number) as cloud:
                await cloud.listen_gateway(gateway, lambda *_: None, newest=newest, on_newest=keep)
                accepted = cloud._static
                await until(partial(_are_those, accepted, [(server, new)]))


@pytest.mark.rule("MQ-16")
async def test_a_second_client_with_our_id_at_another_node_becomes_a_suspicion(
    cluster: ArtemisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster ends the first connection, and not with 0x8E as one broker does."""
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.2)
    async with transport(cluster, "house", Role.RM, 0, 1) as house, within(60):
        client = house.client
        assert client is not None
        for _ in range(SUSPICIOUS_LOSSES):
            connection = await patient(house)
            async with cluster.connect("house", 1 - cluster.number(connection.url)):
                await connection.ended.wait()
            assert connection.lost is not None
            assert connection.lost.reason_code is None
        await until(lambda: "second client" in client.rivals.suspicion)


async def patient(made: MqttTransport) -> BrokerConnection:
    """The connection to the broker, as soon as there is one."""
    while True:
        assert made.client is not None
        with contextlib.suppress(S2ConnectError):
            return await made.client.up()
        await asyncio.sleep(0.02)


async def test_a_bridge_tells_a_device_which_message_was_lost_with_the_node_of_the_energy_manager(
    cluster: ArtemisCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has acknowledged it; nothing hangs, and the link comes up again."""
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.2)
    session = static_session()
    bridge, device_id = NodeId(uuid4()), NodeId(uuid4())
    session = replace(session, client=representative_id(bridge, "battery"))
    secret = private_file(tmp_path / "secret", SECRET.reveal() + "\n")
    came: asyncio.Queue[Connection] = asyncio.Queue()
    async with (
        PlainServer(PlainAcceptor(role=Role.RM, local=device_id, tokens=None)) as device_server,
        transport(cluster, "cloud", Role.CEM, 0, 1) as cloud,
        transport(cluster, "house", Role.RM, 1, 0) as mqtt,
        within(60),
    ):
        await cloud.listen_static(session, came.put_nowait)
        battery = PlainClientDevice(id="battery", name="Battery", url=f"ws://127.0.0.1:{device_server.port}/")
        manager = MqttManagerSide(mqtt, bridge, MqttManager(type="mqtt", id=session.server, secret_file=secret))
        devices = PlainClientDevicesSide(bridge, client_devices(battery), Proxies())
        route = Route("house", devices, manager, Policy(patience=slowed(0.9)))
        await route.start()
        device, cem = await asyncio.gather(anext(device_server), came.get())
        await converse(device, cem)
        await asyncio.to_thread(cluster.kill, 0)
        await device.send(POWER % "on-its-way")
        told = [read_message(text) async for text in _until_restart(device)]
        answers = [(one.subject_id, one.status) for one in told if one.type == "ReceptionStatus"]
        assert answers == [("on-its-way", "TEMPORARY_ERROR")]
        await device.close()
        device, cem = await asyncio.gather(anext(device_server), came.get())
        await converse(device, cem)
        await part(route, device, cem)


async def _until_restart(device: Connection) -> AsyncIterator[str]:
    async for text in device:
        if read_message(text).type == SESSION_REQUEST:
            return
        yield text
