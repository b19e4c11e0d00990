"""A co-tenant of the broker: whoever may publish where we listen, with every packet that a real Mosquitto takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from s2connect.errors import ConnectionClosed
from s2connect.model.common import MQTT, NodeId, Role
from s2connect.transports.base import Connection, ConnectionInfo
from s2connect.transports.mqtt.admission import CONFIRM_SECONDS, MAX_UNCONFIRMED
from s2connect.transports.mqtt.broker import BrokerConnection
from s2connect.transports.mqtt.frames import MAX_OPEN_PACKET_BYTES, PLAIN_CONTROL, PLAIN_DATA, Packet
from s2connect.transports.mqtt.parameters import ChannelLimits, SessionToken, StaticSession
from s2connect.transports.mqtt.publish import MAX_USER_PROPERTIES
from s2connect.transports.mqtt.receiver import TopicHandler
from s2connect.transports.mqtt.transport import MqttTransport
from tests.mosquitto import ADMIN, PREFIX, Mosquitto, access_list
from tests.waits import within

CEM, RM, OTHER = NodeId(UUID(int=1)), NodeId(UUID(int=2)), NodeId(UUID(int=3))
OPEN = f"{PREFIX}/s2/0/{CEM}/open"
LIMIT = 40_000
LIMITS = ChannelLimits(receive_bytes=LIMIT)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    users = ["cloud", "gateway", "neighbour"]
    made = Mosquitto(tmp_path_factory.mktemp("broker"), users, access_list({"cloud": [str(CEM)]})).start()
    yield made
    made.kill()


def _transport(broker: Mosquitto, user: str) -> MqttTransport:
    return MqttTransport(
        broker.settings(user), role_of=lambda node: Role.CEM if node == CEM else Role.RM, limits=LIMITS
    )


class Site:
    """A server and a client with one session, and a neighbour that publishes through paho's own writer."""

    def __init__(self, broker: Mosquitto) -> None:
        self.broker = broker
        self.server, self.client = _transport(broker, "cloud"), _transport(broker, "gateway")

    async def __aenter__(self) -> Site:
        await self.server.serve(CEM)
        self.ends = await self.open(RM)
        self.neighbour, self.admin = await self.broker.connect("neighbour"), await self.broker.connect(ADMIN)
        assert self.server.client is not None
        self.broker_client = self.server.client
        self.first = self.broker_client.connection
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.neighbour.close()
        await self.admin.close()
        await self.client.close()
        await self.server.close()

    async def open(self, node: NodeId) -> tuple[Connection, Connection]:
        offer = self.server.offer(ConnectionInfo(MQTT, CEM, node, "v1.0.0"))
        info = ConnectionInfo(MQTT, node, CEM, "v1.0.0")
        client = await self.client.connect(info, offer.details, None)
        return await offer.connection, client

    async def publish(
        self, who: BrokerConnection, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties
    ) -> None:
        """Publish as paho does it, so that nothing of ours stands between the hypothesis and the broker."""
        who._client.publish(topic, payload, qos, retain, properties)
        who._write()

    async def assert_stands(self, pair: tuple[Connection, Connection] | None = None) -> None:
        """The connection is the first one, and an honest pair goes on, in both directions."""
        server, client = pair or self.ends
        async with within(10):
            for sender, receiver in ((client, server), (server, client)):
                await sender.send("honest")
                assert await receiver.recv() == "honest"
        assert self.broker_client.connection is self.first


class Listening:
    """A connection whose texts go straight to a receiver."""

    def __init__(self, connection: Any) -> None:
        self.channel = connection.channel
        self.send = connection.send
        self._texts: asyncio.Queue[str] = asyncio.Queue()
        self.recv = self._texts.get
        connection.receive_into(self)

    def text_received(self, text: str) -> None:
        self._texts.put_nowait(text)

    def connection_ended(self, error: ConnectionClosed) -> None:
        self._texts.put_nowait(f"ended: {error}")


@pytest.fixture
async def site(broker: Mosquitto) -> AsyncIterator[Site]:
    async with Site(broker) as made:
        yield made


# What MQTT 5 lets a publisher say; Mosquitto refuses control characters and non-characters in texts.
words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co"), exclude_characters="\x00"), max_size=60
)
ours = st.sampled_from(["s2-frame", "s2-seq", "s2-ver", "s2-salt", "s2-x", ""])
values = st.sampled_from(["open", "data", "close", "accept", "1", "2", "0", "v1.0.0"]) | words
user_properties: st.SearchStrategy[list[tuple[str, str]]] = st.lists(
    st.tuples(ours | words, values), max_size=40
) | st.integers(1, 400).map(lambda count: [("s2-frame", "open")] * count)
payloads = (
    st.binary(max_size=300)
    | st.sampled_from(
        [
            b"",
            b"{}",
            b"\xff\xfe",
            b"[" * 4000,
            b'{"sid":' * 500,
            json.dumps({"sid": "a" * 20, "client": str(RM), "server": str(CEM), "mc": "x", "boot": "y" * 9}).encode(),
        ]
    )
    | st.integers(0, 3 * LIMIT).map(lambda size: b"x" * size)
)


@st.composite
def properties(draw: st.DrawFn) -> Properties:
    made: Any = Properties(PacketTypes.PUBLISH)
    if draw(st.booleans()) and (user := draw(user_properties)):
        made.UserProperty = user
    if (indicator := draw(st.none() | st.integers(0, 1))) is not None:
        made.PayloadFormatIndicator = indicator
    if (expiry := draw(st.none() | st.sampled_from([0, 1, 15, 2**32 - 1]))) is not None:
        made.MessageExpiryInterval = expiry
    if (content := draw(st.none() | st.sampled_from([PLAIN_CONTROL, PLAIN_DATA, ""]) | words)) is not None:
        made.ContentType = content
    if (response := draw(st.none() | st.sampled_from(["a/b", OPEN]))) is not None:
        made.ResponseTopic = response
    if (correlation := draw(st.none() | st.binary(max_size=200))) is not None:
        made.CorrelationData = correlation
    typed: Properties = made
    return typed


packets = st.tuples(st.integers(0, 2), st.booleans(), payloads, properties())


@pytest.mark.parametrize("received_by", ["recv", "a receiver"])
def test_no_packet_of_a_co_tenant_ends_more_than_the_session_it_belongs_to(broker: Mosquitto, received_by: str) -> None:
    """One loop, one connection and one honest session for all examples."""
    with asyncio.Runner() as runner:
        site = runner.run(Site(broker).__aenter__())
        server, client = site.ends
        if received_by == "a receiver":

            async def listen() -> Any:
                return Listening(server), Listening(client)

            site.ends = runner.run(listen())
        inbound = server.channel.inbound_topic  # type: ignore[attr-defined]
        target, _ = runner.run(site.open(OTHER))
        attacked = [target.channel.inbound_topic]  # type: ignore[attr-defined]
        topics = st.sampled_from(["open", "attacked", "old", "deep"])

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.tuples(topics, packets), min_size=1, max_size=8))
        def attack(sent: list[tuple[str, tuple[int, bool, bytes, Properties]]]) -> None:
            async def run() -> None:
                for where, (qos, retain, payload, made) in sent:
                    topic = {
                        "open": OPEN,
                        "attacked": attacked[0],
                        "old": inbound.replace("rm2cem", "cem2rm"),
                        "deep": f"{PREFIX}/s2/0//gateway///cem2rm",  # empty levels, under the client's subscription
                    }[where]
                    who = site.neighbour if where == "open" else site.admin
                    if where == "old":
                        topic = topic.replace(str(RM), str(UUID(int=99)))
                    await site.publish(who, topic, payload, qos, retain, made)
                await site.neighbour.publish(Packet(OPEN, b"last"))
                await site.admin.publish(Packet(attacked[0], b"last"))
                await site.assert_stands()
                assert site.client.client is not None
                assert site.client.client.connection is not None

            runner.run(run())

        attack()
        assert site.client.client is not None
        assert site.client.client.attempts == site.broker_client.attempts == 1
        runner.run(site.assert_stands(runner.run(site.open(NodeId(UUID(int=4))))))
        assert site.server.drops.total() > 100
        runner.run(site.__aexit__())


@pytest.mark.parametrize("count", [MAX_USER_PROPERTIES + 1, 1000])
async def test_many_user_properties_cost_their_message_alone(site: Site, count: int) -> None:
    packet = Packet(OPEN, b"{}", PLAIN_CONTROL, (("s2-frame", "open"),) * count)
    assert await site.neighbour.publish(packet) == 0
    await site.assert_stands()
    assert site.server.drops["too_many_properties" if count < 100 else "too_long"] == 1


@pytest.mark.rule("MQ-15")
async def test_long_opens_fill_no_window_and_end_nothing(site: Site) -> None:
    """Mosquitto 2.0.11 counts what it holds back for a Maximum Packet Size against the window for ever."""
    for size in (MAX_OPEN_PACKET_BYTES, LIMIT, 1_200_000):
        for _ in range(25):
            await site.neighbour.publish(Packet(OPEN, b"x" * size, PLAIN_CONTROL))
    await site.assert_stands()
    assert site.server.drops == {"too_long": 75}
    await site.assert_stands(await site.open(OTHER))


async def test_an_error_of_ours_ends_the_session_whose_message_set_it_off_and_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server, client = await site.open(OTHER)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server.channel, "receive", fail)  # type: ignore[attr-defined]
    await client.send("set it off")
    with pytest.raises(ConnectionClosed):
        await server.recv()
    assert caplog.text.count("Traceback") == 1
    await site.assert_stands()


# --- static mode, and who publishes old opens again


def _static(client: NodeId = RM) -> StaticSession:
    return StaticSession(
        topic_prefix=PREFIX,
        server=CEM,
        client=client,
        mc="gateway",
        client_role=Role.RM,
        versions=("v1.0.0",),
        secret=SessionToken.from_bytes(bytes(range(32))),
    )


class Archive:
    """Opens of the past, as somebody who reads everything keeps them."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.kept: list[Packet] = []

    async def record(self, count: int) -> None:
        """Let an honest client try so often while no server listens."""
        await self.site.server.close()
        self.site.admin.set_handler(OPEN, TopicHandler(self.kept.append))
        await self.site.admin.subscribe(OPEN)
        while len(self.kept) < count:
            trying = asyncio.create_task(self.site.client.connect_static(_static()))
            before = len(self.kept)
            while len(self.kept) == before:
                await asyncio.sleep(0.005)
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
        self.site.admin.set_handler(OPEN, None)

    async def replay(self) -> None:
        for packet in self.kept:
            await self.site.neighbour.publish(packet)


async def _restart(site: Site) -> MqttTransport:
    """A server that knows nothing of what was before."""
    site.server = _transport(site.broker, "cloud")
    assert site.server.client is not None
    site.broker_client = site.server.client
    await site.server.serve(CEM)
    site.first = site.broker_client.connection
    return site.server


@pytest.mark.rule("MQ-19")
async def test_old_opens_after_a_restart_let_an_honest_client_wait_no_longer_than_one_second(site: Site) -> None:
    archive = Archive(site)
    await archive.record(MAX_UNCONFIRMED + 2)
    server = await _restart(site)
    taken: asyncio.Queue[Connection] = asyncio.Queue()
    await server.listen_static(_static(), taken.put_nowait)
    await archive.replay()
    assert server.drops["too_many"] == 2
    await asyncio.sleep(CONFIRM_SECONDS)
    async with within(5):
        client = await site.client.connect_static(_static())
        await site.assert_stands((await taken.get(), client))
    assert taken.empty()
    assert site.first is not None
    assert len(site.first._receiver.handlers) == 1 + MAX_UNCONFIRMED  # open; the displaced session has left nothing
    assert len(server._accepting) == MAX_UNCONFIRMED - 1


@pytest.mark.rule("MQ-19")
async def test_an_old_open_asks_for_nothing_while_a_session_stands(site: Site) -> None:
    """A bridge begins a link anew whose peer asks to come in: only the peer itself may bring that about."""
    archive = Archive(site)
    await archive.record(6)
    server = await _restart(site)
    asked: list[str] = []
    taken: asyncio.Queue[Connection] = asyncio.Queue()

    async def admit(version: str) -> bool:
        asked.append(version)
        return True

    await server.listen_static(_static(), taken.put_nowait, admit=admit)
    client = await site.client.connect_static(_static())
    pair = await taken.get(), client
    assert len(asked) == 1
    await archive.replay()
    while len(server._accepting) < 6:
        await asyncio.sleep(0.01)
    await site.assert_stands(pair)
    assert len(asked) == 1
    newer = await site.client.connect_static(_static())  # the peer itself
    await site.assert_stands((await taken.get(), newer))
    assert len(asked) == 2


@pytest.mark.rule("MQ-19")
async def test_old_opens_take_no_answer_of_the_admission_hook_from_an_honest_client(site: Site) -> None:
    archive = Archive(site)
    await archive.record(3)
    server = await _restart(site)
    asked = 0
    answer = asyncio.Event()
    taken: asyncio.Queue[Connection] = asyncio.Queue()

    async def admit(version: str) -> bool:
        nonlocal asked
        asked += 1
        await answer.wait()
        return True

    await server.listen_static(_static(), taken.put_nowait, admit=admit)
    opening = asyncio.create_task(site.client.connect_static(_static()))
    while not asked:
        await asyncio.sleep(0.01)
    await archive.replay()
    while len(server._accepting) < 4:
        await asyncio.sleep(0.01)
    answer.set()
    await site.assert_stands((await taken.get(), await opening))
    assert asked == 1
