"""Sessions over a real cluster of two brokers: wherever their ends are, and when a node is lost or comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import pytest

from s2connect.errors import ConnectionClosed, S2ConnectError
from s2connect.model.common import MQTT, NodeId, Role
from s2connect.transports import ListedDevice, StaticGateway, StaticSession
from s2connect.transports.base import Connection, ConnectionInfo
from s2connect.transports.mqtt import transport as transport_module
from s2connect.transports.mqtt.broker import BrokerConnection
from s2connect.transports.mqtt.parameters import ChannelLimits, MqttCommunicationDetails, SessionToken
from s2connect.transports.mqtt.rivals import SUSPICIOUS_LOSSES
from s2connect.transports.mqtt.transport import MqttTransport
from tests.artemis import ArtemisCluster, password
from tests.waits import slowed, until, within

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

SECRET = SessionToken.from_bytes(bytes(range(32)))
MESSAGES = 200
SUSPECT_AFTER = 1.0


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtemisCluster]:
    made = ArtemisCluster(tmp_path_factory.mktemp("artemis"), ["cloud", "house", "guest"])
    try:
        yield made
    finally:
        made.kill(0)
        made.kill(1)


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


def at(made: MqttTransport) -> str:
    """The node that a transport is connected to."""
    assert made.client is not None
    return str(made.client.nodes.current)


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
        for _ in range(5):
            came: asyncio.Queue[Connection] = asyncio.Queue()
            session = static_session()
            await cloud.listen_static(session, came.put_nowait)
            ours = await house.connect_static(session)
            theirs = await came.get()
            await asyncio.gather(pass_on(ours, theirs), pass_on(theirs, ours))
            await ours.close()
            await theirs.wait_closed()


@pytest.mark.rule("MQ-02")
async def test_the_url_of_an_offer_is_the_node_where_the_server_is_so_that_both_ends_meet(
    cluster: ArtemisCluster,
) -> None:
    """A client that has no broker of its own goes there; one that has the cluster stays where it is."""
    server, client = NodeId(uuid4()), NodeId(uuid4())
    info = ConnectionInfo(MQTT, server, client, "v1.0.0")
    guest_context = cluster.settings("guest").context
    async with (
        transport(cluster, "cloud", Role.CEM, 0, 1) as cloud,
        transport(cluster, "house", Role.RM, 1, 0) as house,
        within(60),
    ):
        guest = MqttTransport(None, role_of=lambda _: Role.RM, guest_context=guest_context)
        try:
            await cloud.serve(server)
            for number in (0, 1):
                offer = cloud.offer(info)
                details = offer.details
                assert isinstance(details, MqttCommunicationDetails)
                assert details.mqtt_url == cluster.url(number)
                opening = guest.connect(ConnectionInfo(MQTT, client, server, "v1.0.0"), details, None)
                ours, theirs = await asyncio.gather(opening, offer.connection)
                await asyncio.gather(pass_on(ours, theirs), pass_on(theirs, ours))
                if number == 0:
                    cluster.kill(0)
                    await asyncio.gather(ours.wait_closed(), theirs.wait_closed())
                    await until(cloud.can_offer)
        finally:
            await guest.close()
        cluster_client = house.client
        assert cluster_client is not None
        named = details.model_copy(update={"mqtt_url": cluster.url(0), "username": None})
        assert isinstance(named, MqttCommunicationDetails)
        assert house._clients.find(named) is cluster_client


async def patient(made: MqttTransport) -> BrokerConnection:
    """The connection to the broker, as soon as there is one."""
    while True:
        assert made.client is not None
        with contextlib.suppress(S2ConnectError):
            return await made.client.up()
        await asyncio.sleep(0.02)


@dataclass
class Talk:
    """A house that sends numbered messages to a cloud, over one session after the other, each until it is answered.

    Attributes:
        arrived: The numbers, as the cloud has them.
        outcomes: By number ``OK``, or ``lost``: the session ended before the answer.
    """

    house: MqttTransport
    cloud: MqttTransport
    session: StaticSession
    arrived: list[int] = field(default_factory=list)
    outcomes: dict[int, str] = field(default_factory=dict)
    sessions: int = 0
    both: set[Connection] = field(default_factory=set)

    def take(self, connection: Connection) -> None:
        self.answering = asyncio.create_task(self._answer(connection))

    async def _answer(self, connection: Connection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                number = int(json.loads(await connection.recv())["message_id"])
                self.arrived.append(number)
                answer = {"message_type": "ReceptionStatus", "subject_message_id": str(number), "status": "OK"}
                await connection.send(json.dumps(answer))

    async def run(self) -> None:
        while True:
            with contextlib.suppress(S2ConnectError):
                connection = await self.house.connect_static(self.session)
                self.sessions += 1
                reading = asyncio.create_task(self._read(connection))
                try:
                    while True:
                        number = len(self.outcomes)
                        self.outcomes[number] = "lost"
                        await connection.send(message(number))
                        await asyncio.sleep(0.005)
                finally:
                    reading.cancel()
            await asyncio.sleep(0.05)

    async def _read(self, connection: Connection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.outcomes[int(json.loads(await connection.recv())["subject_message_id"])] = "OK"

    async def goes_on(self, count: int = 50) -> None:
        """Wait for so many further answers."""
        before = sum(outcome == "OK" for outcome in self.outcomes.values())
        await until(lambda: sum(outcome == "OK" for outcome in self.outcomes.values()) >= before + count, 40)


@contextlib.asynccontextmanager
async def talking(house: MqttTransport, cloud: MqttTransport) -> AsyncIterator[Talk]:
    talk = Talk(house, cloud, static_session())
    await cloud.listen_static(talk.session, talk.take)
    running = asyncio.create_task(talk.run())
    try:
        yield talk
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    answered = [number for number, outcome in talk.outcomes.items() if outcome == "OK"]
    assert talk.arrived == sorted(set(talk.arrived)), "twice, or out of order"
    assert set(answered) <= set(talk.arrived)


@pytest.mark.parametrize(("cloud_at", "house_at"), [(0, 0), (0, 1), (1, 0)], ids=["both", "server", "client"])
@pytest.mark.rule("MQ-09", "MQ-10")
async def test_a_node_is_lost_and_comes_back_and_the_sessions_go_on_without_a_message_twice_or_out_of_order(
    cluster: ArtemisCluster, cloud_at: int, house_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.2)
    async with (
        transport(cluster, "cloud", Role.CEM, cloud_at, 1 - cloud_at) as cloud,
        transport(cluster, "house", Role.RM, house_at, 1 - house_at) as house,
        talking(house, cloud) as talk,
        within(100),
    ):
        await talk.goes_on()
        cluster.kill(0)
        await talk.goes_on()
        assert at(cloud) == at(house) == str(cluster.url(1))
        assert talk.sessions > 1
        await asyncio.to_thread(cluster.start)
        await cluster.formed()
        await talk.goes_on()


def _are_those(accepted: Mapping[tuple[NodeId, NodeId], object], expected: list[tuple[NodeId, NodeId]]) -> bool:
    return list(accepted) == expected


@pytest.mark.rule("MQ-19")
async def test_a_list_of_devices_is_learnt_at_another_node_than_the_gateway_s(
    cluster: ArtemisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is retained does not cross the nodes, and an older list may be retained at the other one."""
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
async def test_a_second_client_with_our_id_at_another_node_is_a_suspicion_and_a_killed_node_is_none(
    cluster: ArtemisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster ends the first connection, and not with 0x8E as one broker does."""
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.2)
    async with transport(cluster, "house", Role.RM, 0, 1) as house, within(60):
        client = house.client
        assert client is not None
        cluster.kill(0)
        assert client.connection is not None
        await client.connection.ended.wait()
        assert (await patient(house)).url == cluster.url(1)
        assert not client.rivals._losses, "its node is gone"
        await asyncio.to_thread(cluster.start)
        await cluster.formed()
        for _ in range(SUSPICIOUS_LOSSES):
            connection = await patient(house)
            async with cluster.connect("house", 1 - cluster.number(connection.url)):
                await connection.ended.wait()
            assert connection.lost is not None
            assert connection.lost.reason_code is None
        await until(lambda: "second client" in client.rivals.suspicion)
