"""Sessions over a real Mosquitto, an honest one and a hostile one."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.subscribeoptions import SubscribeOptions
from pydantic import ValidationError

from s2connect.errors import (
    ConfigurationError,
    ConnectionClosed,
    NotReachable,
    PeerTimeout,
    ProtocolViolation,
    SessionRefused,
    UsageError,
)
from s2connect.model.common import MQTT, NodeId, Role
from s2connect.model.session_init import CommunicationDetails
from s2connect.model.url import MqttUrl
from s2connect.transports.base import ABNORMAL_CLOSURE, Connection, ConnectionInfo, Transport, Trust
from s2connect.transports.mqtt import connection as connection_module
from s2connect.transports.mqtt.broker import BrokerConnection
from s2connect.transports.mqtt.client import OPEN_INTERVAL, Pace
from s2connect.transports.mqtt.frames import Packet
from s2connect.transports.mqtt.parameters import (
    PROTOCOL_ERROR,
    TRY_AGAIN_LATER,
    ChannelLimits,
    Protection,
    SessionToken,
    StaticSession,
)
from s2connect.transports.mqtt.receiver import TopicHandler
from s2connect.transports.mqtt.transport import MqttTransport
from tests.mosquitto import ADMIN, PREFIX, Mosquitto, access_list, password
from tests.mqtt_proxy import proxy, websocket_proxy
from tests.waits import slowed, within

CEM, RM, OTHER = NodeId(UUID(int=1)), NodeId(UUID(int=2)), NodeId(UUID(int=3))
NO_TRUST = Trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
FAST = ChannelLimits(open_timeout=slowed(0.5))
TEXTS = ['{"a": 1.50,\n\t"ä":"€ 😀 \\u00e4"}', "", " ", "\u2028\x00\x7f", "x" * 100_000, "ü" * 130_000]


def role_of(node: NodeId) -> Role:
    return Role.CEM if node == CEM else Role.RM


def _mosquitto(directory: Path, *options: str) -> Mosquitto:
    return Mosquitto(directory, ["cloud", "gateway"], access_list({"cloud": [str(CEM)]}), options=options)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    made = _mosquitto(tmp_path_factory.mktemp("broker")).start()
    yield made
    made.kill()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Start a broker for one test, with further lines of configuration."""
    made: list[Mosquitto] = []

    def start(*options: str) -> Mosquitto:
        made.append(_mosquitto(tmp_path, *options).start())
        return made[0]

    yield start
    for one in made:
        one.kill()


@dataclass
class Ends:
    """A communication server (a CEM in the cloud) and a client (an RM behind a gateway)."""

    server: MqttTransport
    client: MqttTransport
    mine = ConnectionInfo(MQTT, CEM, RM, "v1.0.0")
    theirs = ConnectionInfo(MQTT, RM, CEM, "v1.0.0")

    async def pair(self) -> tuple[Connection, Connection]:
        offer = self.server.offer(self.mine)
        client = await self.client.connect(self.theirs, offer.details, NO_TRUST)
        return await offer.connection, client


Make = Callable[..., Awaitable[Ends]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Make both ends; the keywords change the settings of both."""
    made: list[MqttTransport] = []

    async def both(
        broker: Mosquitto, *, limits: ChannelLimits | None = None, client_url: MqttUrl | None = None, **changes: Any
    ) -> Ends:
        server = MqttTransport(broker.settings("cloud", **changes), role_of=role_of, limits=limits)
        own = broker.settings("gateway", **changes)
        if client_url is not None:
            own = own.model_copy(update={"url": client_url})
        client = MqttTransport(own, role_of=role_of, limits=limits)
        made.extend((server, client))
        await server.serve(CEM)
        return Ends(server, client)

    yield both
    for one in made:
        await one.close()


Watch = Callable[..., Awaitable[tuple[BrokerConnection, list[Packet]]]]


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    """Become somebody who reads and may write everything on the broker."""
    async with AsyncExitStack() as stack:

        async def start(broker: Mosquitto) -> tuple[BrokerConnection, list[Packet]]:
            admin = await broker.connect(ADMIN)
            stack.push_async_callback(admin.close)
            seen: list[Packet] = []
            admin._receiver.handlers = _Everything(seen)
            admin._client.subscribe("#", options=SubscribeOptions(1, noLocal=True))  # with what is retained
            await admin.subscribe("nothing")
            return admin, seen

        yield start


class _Everything(dict[str, TopicHandler]):
    def __init__(self, seen: list[Packet]) -> None:
        self._seen = seen

    def get(self, topic: object, default: object = None) -> Any:
        return TopicHandler(self._seen.append)


# --- sessions


@pytest.mark.parametrize("protection", [Protection.SEALED, Protection.PLAIN])
@pytest.mark.rule("MQ-05", "MQ-06", "MQ-07", "MSG-06")
async def test_texts_arrive_unchanged_and_in_order_both_ways_at_once(
    broker: Mosquitto, make: Make, protection: Protection
) -> None:
    server, client = await (await make(broker, protection=protection)).pair()

    async def send(connection: Connection) -> None:
        for text in TEXTS * 3:
            await connection.send(text)

    async def receive(connection: Connection) -> None:
        for text in TEXTS * 3:
            assert await connection.recv() == text

    async with asyncio.TaskGroup() as group:
        for connection in (server, client):
            group.create_task(send(connection))
            group.create_task(receive(connection))
    assert server.info.s2_version == client.info.s2_version == "v1.0.0"
    assert client.info.peer_address


@pytest.mark.rule("MQ-02")
async def test_a_client_may_come_over_websocket(broker: Mosquitto, make: Make) -> None:
    async with websocket_proxy(broker) as front:
        ends = await make(broker, client_url=front.url)
        offer = ends.server.offer(ends.mine)
        details = offer.details.model_copy(update={"mqtt_url": front.url})
        client = await ends.client.connect(ends.theirs, details, NO_TRUST)
        server = await offer.connection
        await client.send("over websocket")
        assert await server.recv() == "over websocket"
        await client.close()
        await ends.client.close()


@pytest.mark.rule("MQ-02", "MQ-20")
async def test_a_client_without_a_broker_of_its_own_goes_to_the_one_it_is_told(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker)
    account = ("gateway", password("gateway"))
    ends.server._credentials = lambda info: account
    guest = MqttTransport(None, role_of=role_of, guest_context=broker.context)
    try:
        sessions = []
        for number in (2, 3, 4):
            node = NodeId(UUID(int=number))
            offer = ends.server.offer(replace(ends.mine, remote=node))
            assert account[1].reveal() not in repr(offer.details)
            client = await guest.connect(replace(ends.theirs, local=node), offer.details, NO_TRUST)
            sessions.append((await offer.connection, client))
        for number, (server, client) in enumerate(sessions):
            await server.send(str(number))
            assert await client.recv() == str(number)
        assert len(guest._clients._guests) == 1
    finally:
        await guest.close()


@pytest.mark.rule("SES-04", "MQ-11")
async def test_an_offer_serves_one_client_and_a_withdrawn_one_none(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker, limits=FAST)
    offer = ends.server.offer(ends.mine)
    client = await ends.client.connect(ends.theirs, offer.details, NO_TRUST)
    server = await offer.connection
    with pytest.raises(SessionRefused):
        await ends.client.connect(ends.theirs, offer.details, NO_TRUST)
    second = ends.server.offer(ends.mine)
    second.connection.cancel()
    await asyncio.sleep(0)
    with pytest.raises(PeerTimeout):
        await ends.client.connect(ends.theirs, second.details, NO_TRUST)
    await client.send("still there")
    assert await server.recv() == "still there"


@pytest.mark.rule("MQ-16")
async def test_a_newer_session_of_the_same_two_nodes_supersedes_the_older(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker)
    _, old = await ends.pair()
    server, client = await ends.pair()
    with pytest.raises(ConnectionClosed, match="superseded"):
        await old.recv()
    await server.send("new")
    assert await client.recv() == "new"


@pytest.mark.rule("MQ-16")
async def test_what_was_sent_before_the_end_is_received_and_then_the_reason(broker: Mosquitto, make: Make) -> None:
    for closing in (0, 1):
        pair = await (await make(broker)).pair()
        sender, receiver = pair[closing], pair[1 - closing]
        for number in range(5):
            await sender.send(str(number))
        await sender.close()
        await sender.close()
        assert [await receiver.recv() for _ in range(5)] == list("01234")
        for end in (sender, receiver):
            with pytest.raises(ConnectionClosed) as caught:
                await end.recv()
            assert caught.value.code == 1000
            with pytest.raises(ConnectionClosed):
                await end.send("too late")
            await end.wait_closed()


async def test_a_cancelled_recv_loses_nothing(broker: Mosquitto, make: Make) -> None:
    sender, receiver = await (await make(broker)).pair()
    got: list[str] = []
    for number in range(50):
        waiting = asyncio.create_task(receiver.recv())
        await asyncio.sleep(0)
        await sender.send(str(number))
        if number % 3 == 0:
            await asyncio.sleep(0.001)
        waiting.cancel()
        done = (await asyncio.gather(waiting, return_exceptions=True))[0]
        if isinstance(done, str):
            got.append(done)
    while len(got) < 50:
        got.append(await receiver.recv())
    assert got == [str(number) for number in range(50)]


async def test_details_of_another_transport_are_refused(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker)
    with pytest.raises(ProtocolViolation):
        await ends.client.connect(ends.theirs, CommunicationDetails(communication_protocol="Pigeon"), NO_TRUST)


async def test_details_survive_their_way_as_json(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker)
    offer = ends.server.offer(ends.mine)
    details = CommunicationDetails.from_value(json.loads(json.dumps(offer.details.to_value())))
    client = await ends.client.connect(ends.theirs, details, NO_TRUST)
    assert (await offer.connection).info.remote == client.info.local


def test_it_runs_on_uvloop_as_well(broker: Mosquitto) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

    async def exchange() -> None:
        ends = Ends(*(MqttTransport(broker.settings(user), role_of=role_of) for user in ("cloud", "gateway")))
        await ends.server.serve(CEM)
        server, client = await ends.pair()
        for text in TEXTS:
            await server.send(text)
            assert await client.recv() == text
        await ends.client.close()
        await ends.server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(exchange())


# --- flow


@pytest.mark.rule("MQ-15")
async def test_a_message_that_is_too_long_for_the_broker_is_answered_to_its_sender(
    own_broker: Callable[..., Mosquitto], make: Make
) -> None:
    server, client = await (await make(own_broker("max_packet_size 3000"))).pair()
    message_id = str(UUID(int=7))
    await client.send(json.dumps({"message_type": "Handshake", "message_id": message_id, "role": "RM" + "x" * 4000}))
    answer = json.loads(await client.recv())
    assert (answer["subject_message_id"], answer["status"]) == (message_id, "INVALID_CONTENT")
    assert "bytes" in answer["diagnostic_label"]
    await client.send("next")
    assert await server.recv() == "next"


@pytest.mark.rule("MQ-15")
async def test_a_reader_that_does_not_read_ends_its_own_session_and_no_other(
    broker: Mosquitto, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_INBOX_MESSAGES", 20)
    ends = await make(broker)
    server, client = await ends.pair()
    ends.mine, ends.theirs = replace(ends.mine, remote=OTHER), replace(ends.theirs, local=OTHER)
    other_server, other_client = await ends.pair()

    async def overrun() -> None:
        for number in range(1000):
            await server.send(str(number))
            await other_server.send(str(number))
            assert await other_client.recv() == str(number)

    with pytest.raises(ConnectionClosed) as caught:
        await overrun()
    assert caught.value.code == TRY_AGAIN_LATER
    assert [await client.recv() for _ in range(20)] == [str(number) for number in range(20)]
    with pytest.raises(ConnectionClosed, match="overflow"):
        await client.recv()
    await other_client.send("alive")
    assert await other_server.recv() == "alive"


@pytest.mark.rule("MQ-17")
@given(
    st.floats(0.001, 1.0),
    st.lists(st.floats(0.0, 2.0) | st.just(0.0), min_size=1, max_size=50),
)
def test_opens_have_their_distance_and_wait_no_longer_than_that_takes(interval: float, pauses: list[float]) -> None:
    pace, now, turns = Pace(interval), 1000.0, [-1e9]
    for pause in pauses:
        now += pause
        wait = pace.wait(now)
        assert wait >= 0.0
        assert now + wait == pytest.approx(max(now, turns[-1] + interval))
        turns.append(now + wait)


@pytest.mark.rule("MQ-17")
async def test_the_opens_behind_one_connection_are_spread(broker: Mosquitto, make: Make, watch: Watch) -> None:
    """Each arrives after its turn, and the turns have their distance, however fast the machine is."""
    ends = await make(broker)
    admin, _ = await watch(broker)
    loop = asyncio.get_running_loop()
    arrived: list[float] = []
    turns: list[float] = []

    class Watched(Pace):
        def wait(self, now: float) -> float:
            turns.append(now + super().wait(now))
            return turns[-1] - now

    assert ends.client._home is not None
    ends.client._home.pace = Watched(0.1)
    admin._receiver.handlers = _Times(arrived, loop.time)
    nodes = [NodeId(UUID(int=number)) for number in range(100, 106)]
    offers = [ends.server.offer(replace(ends.mine, remote=node)) for node in nodes]
    await asyncio.gather(
        *(
            ends.client.connect(replace(ends.theirs, local=node), offer.details, NO_TRUST)
            for node, offer in zip(nodes, offers, strict=True)
        )
    )
    await asyncio.gather(*(offer.connection for offer in offers))
    while len(arrived) < len(nodes):
        await asyncio.sleep(0.01)
    assert turns[-1] - turns[0] == pytest.approx(0.5)
    assert all(at > turn - 0.002 for at, turn in zip(arrived, turns, strict=True))
    assert OPEN_INTERVAL > 0.0


class _Times(dict[str, TopicHandler]):
    def __init__(self, at: list[float], clock: Callable[[], float]) -> None:
        self._at, self._clock = at, clock

    def get(self, topic: object, default: object = None) -> Any:
        return TopicHandler(lambda packet: self._at.append(self._clock()) if packet.topic.endswith("/open") else None)


# --- losses


@pytest.mark.rule("MQ-10", "MQ-20")
async def test_a_killed_broker_ends_every_session_and_new_ones_come_when_it_is_back(
    own_broker: Callable[..., Mosquitto], make: Make
) -> None:
    broker = own_broker()
    ends = await make(broker, limits=FAST)
    pair = await ends.pair()
    waiting = [asyncio.create_task(connection.recv()) for connection in pair]
    broker.kill()
    async with within(2):
        over = await asyncio.gather(*waiting, return_exceptions=True)
    assert [(type(end), getattr(end, "code", 0)) for end in over] == [(ConnectionClosed, ABNORMAL_CLOSURE)] * 2
    with pytest.raises(SessionRefused):
        ends.server.offer(ends.mine)
    broker.start()
    async with within(20):
        while True:
            try:
                server, client = await ends.pair()
            except (SessionRefused, NotReachable, PeerTimeout):
                await asyncio.sleep(0.02)
            else:
                break
    await client.send("again")
    assert await server.recv() == "again"


@pytest.mark.rule("MQ-10", "MQ-13")
async def test_a_peer_that_is_gone_is_noticed_by_the_next_frame(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker)
    server, client = await ends.pair()
    connection = ends.client.client.connection if ends.client.client else None
    assert connection is not None
    connection.abort("pulled the plug")
    with pytest.raises(ConnectionClosed):
        await client.recv()

    async def keep_sending() -> None:
        while True:  # the broker has to notice first
            await server.send("x")
            await asyncio.sleep(0.01)

    async with within(2):
        with pytest.raises(ConnectionClosed, match="no longer there"):
            await keep_sending()


@pytest.mark.rule("MQ-13")
async def test_silence_on_the_way_ends_the_session_on_both_sides(broker: Mosquitto, make: Make) -> None:
    async with proxy(broker) as front:
        ends = await make(
            broker, client_url=front.url, limits=replace(FAST, ping_after=slowed(0.1), dead_after=slowed(0.4))
        )
        offer = ends.server.offer(ends.mine)
        details = offer.details.model_copy(update={"mqtt_url": front.url})
        client = await ends.client.connect(ends.theirs, details, NO_TRUST)
        server = await offer.connection
        await asyncio.sleep(slowed(0.8))  # pings keep it alive
        await client.send("alive")
        assert await server.recv() == "alive"
        front.passing.clear()
        async with within(1):
            ends_ = await asyncio.gather(server.recv(), client.recv(), return_exceptions=True)
        assert [(type(end), getattr(end, "code", 0)) for end in ends_] == [(ConnectionClosed, ABNORMAL_CLOSURE)] * 2
        await ends.client.close()


@pytest.mark.rule("MQ-11")
async def test_opening_where_nobody_listens_is_tried_until_it_is_too_late(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker)
    offer = ends.server.offer(ends.mine)
    await ends.server.close()
    client = MqttTransport(broker.settings("gateway"), role_of=role_of, limits=FAST)
    try:
        with pytest.raises(PeerTimeout):
            await client.connect(ends.theirs, offer.details, NO_TRUST)
    finally:
        await client.close()


@pytest.mark.rule("MQ-11")
@pytest.mark.parametrize("settle", [0, 0.01], ids=["broker", "cluster"])
async def test_an_open_that_came_before_its_server_is_heard_when_that_is_there(
    broker: Mosquitto, make: Make, watch: Watch, settle: float
) -> None:
    """A broker says that nobody listens; a cluster need not, here because of somebody else who does."""
    ends = await make(broker, settle=settle)
    if settle:
        await watch(broker)
    offer = ends.server.offer(ends.mine)
    link = ends.server.client
    assert link is not None
    assert link.connection is not None
    await link.connection.subscribe("nothing")
    link.connection.unsubscribe(f"{PREFIX}/s2/0/{CEM}/open")
    opening = asyncio.create_task(ends.client.connect(ends.theirs, offer.details, NO_TRUST))
    await asyncio.sleep(0.1)
    assert not opening.done()
    await link.connection.subscribe(f"{PREFIX}/s2/0/{CEM}/open")
    async with within(3):
        await opening
        await offer.connection


async def test_connecting_can_be_cancelled_at_any_moment(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker)
    for turns in range(0, 12, 2):
        offer = ends.server.offer(ends.mine)
        task = asyncio.create_task(ends.client.connect(ends.theirs, offer.details, NO_TRUST))
        for _ in range(turns):
            await asyncio.sleep(0.0003)
        task.cancel()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(done, Connection | asyncio.CancelledError)
    server, client = await ends.pair()
    await client.send("well")
    assert await server.recv() == "well"


# --- a hostile broker


@pytest.mark.rule("MQ-07", "MQ-11", "SEC-01")
async def test_who_reads_everything_learns_no_message_and_no_token(broker: Mosquitto, make: Make, watch: Watch) -> None:
    ends = await make(broker)
    admin, seen = await watch(broker)
    offer = ends.server.offer(ends.mine)
    token = offer.details.session_token  # type: ignore[attr-defined]
    client = await ends.client.connect(ends.theirs, offer.details, NO_TRUST)
    server = await offer.connection
    await client.send("a secret of the house")
    assert await server.recv() == "a secret of the house"
    await server.close()
    with pytest.raises(ConnectionClosed):
        await client.recv()
    await admin.publish(Packet("end", b""))
    assert {dict(packet.user_properties).get("s2-frame") for packet in seen} >= {"open", "accept", "data", "close"}
    for packet in seen:
        assert b"secret" not in packet.payload
        for form in (token.raw, token.reveal().encode(), base64.b64encode(token.raw)):
            assert form not in packet.payload
        assert not packet.correlation
        assert not packet.retain or packet.topic.startswith(f"{PREFIX}/s2/0/presence/")


def _publishes(first: int, packet: bytes) -> bool:
    return first & 0xF0 == 0x30 and b"s2-seq" in packet


def _changed(first: int, packet: bytes) -> Iterable[bytes]:
    return [packet[:-1] + bytes((packet[-1] ^ 1,))] if _publishes(first, packet) else [packet]


class _Dropped:
    """Lets the first frame of a session not through."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, first: int, packet: bytes) -> Iterable[bytes]:
        if _publishes(first, packet):
            self.count += 1
            if self.count == 1:
                return []
        return [packet]


class _Swapped:
    """Exchanges two frames."""

    def __init__(self) -> None:
        self.held = b""

    def __call__(self, first: int, packet: bytes) -> Iterable[bytes]:
        if not _publishes(first, packet):
            return [packet]
        if not self.held:
            self.held = packet
            return []
        return [packet, self.held]


@pytest.mark.parametrize("change", [lambda: _changed, _Dropped, _Swapped])
@pytest.mark.rule("MQ-07", "MQ-09")
async def test_a_frame_that_is_changed_dropped_or_moved_ends_the_session(
    broker: Mosquitto, make: Make, change: Callable[[], Any]
) -> None:
    async with proxy(broker) as front:
        ends = await make(broker, client_url=front.url)
        offer = ends.server.offer(ends.mine)
        client = await ends.client.connect(
            ends.theirs, offer.details.model_copy(update={"mqtt_url": front.url}), NO_TRUST
        )
        server = await offer.connection
        front.change = change()
        await server.send("one")
        await server.send("two")
        for end in (client, server):
            with pytest.raises(ConnectionClosed) as caught:
                await end.recv()
            assert caught.value.code == PROTOCOL_ERROR
        await ends.client.close()


@pytest.mark.rule("MQ-09")
async def test_a_frame_that_is_repeated_is_taken_once(broker: Mosquitto, make: Make) -> None:
    async with proxy(broker) as front:
        ends = await make(broker, client_url=front.url)
        offer = ends.server.offer(ends.mine)
        client = await ends.client.connect(
            ends.theirs, offer.details.model_copy(update={"mqtt_url": front.url}), NO_TRUST
        )
        server = await offer.connection
        front.change = lambda first, packet: [packet, packet] if _publishes(first, packet) else [packet]
        for number in range(5):
            await server.send(str(number))
        assert [await client.recv() for _ in range(5)] == list("01234")
        await ends.client.close()


@pytest.mark.rule("MQ-07", "MQ-10")
async def test_what_somebody_else_writes_into_a_session_ends_it(broker: Mosquitto, make: Make, watch: Watch) -> None:
    ends = await make(broker)
    admin, seen = await watch(broker)
    server, client = await ends.pair()
    await client.send("one")
    assert await server.recv() == "one"
    while not (data := [packet for packet in seen if packet.user_properties[:1] == (("s2-frame", "data"),)]):
        await asyncio.sleep(0.01)
    forged = [("s2-frame", "data"), ("s2-seq", "2"), ("s2-ver", "v1.0.0")]
    await admin.publish(Packet(data[0].topic, data[0].payload, data[0].content_type, tuple(forged)))
    with pytest.raises(ConnectionClosed) as caught:
        await server.recv()
    assert caught.value.code == PROTOCOL_ERROR


@pytest.mark.rule("MQ-15")
async def test_a_broker_that_refuses_our_frames_ends_the_session(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker, limits=FAST)
    stranger = MqttTransport(
        broker.settings("gateway", client_id="cloud2", username="gateway"), role_of=role_of, limits=FAST
    )
    try:
        offer = ends.server.offer(ends.mine)
        with pytest.raises((SessionRefused, PeerTimeout)):
            await stranger.connect(ends.theirs, offer.details, NO_TRUST)
    finally:
        await stranger.close()


# --- presence


@pytest.mark.rule("MQ-12")
async def test_presence_is_kept_while_there_and_cleared_by_a_clean_end_and_lost_by_another(
    broker: Mosquitto, make: Make, watch: Watch
) -> None:
    ends = await make(broker)
    ends.client.start()
    assert ends.client.client is not None
    await ends.client.client.up()

    async def kept() -> dict[str, Any]:
        admin, seen = await watch(broker)
        await admin.publish(Packet("end", b""))
        return {packet.topic.rpartition("/")[2]: json.loads(packet.payload) for packet in seen if packet.retain}

    before = await kept()
    assert {name: value["state"] for name, value in before.items()} == {"cloud": "online", "gateway": "online"}
    assert before["cloud"]["boot"] != before["gateway"]["boot"]
    await ends.client.close()
    assert ends.server.client is not None
    assert ends.server.client.connection is not None
    ends.server.client.connection.abort("power cut")
    await asyncio.sleep(0.01)
    states = await kept()
    assert "gateway" not in states
    assert states["cloud"]["boot"] == before["cloud"]["boot"]
    assert states["cloud"]["state"] in ("lost", "online")


# --- static mode


def static(**changes: Any) -> StaticSession:
    made = StaticSession(
        topic_prefix=PREFIX,
        server=CEM,
        client=RM,
        mc="gateway",
        client_role=Role.RM,
        versions=("v1.0.0", "v0.0.2-beta"),
        secret=SessionToken.from_bytes(bytes(range(32))),
    )
    return replace(made, **changes)


@pytest.mark.parametrize("protection", [Protection.SEALED, Protection.PLAIN])
@pytest.mark.rule("MQ-19")
async def test_a_configured_session_opens_again_and_again(
    broker: Mosquitto, make: Make, protection: Protection
) -> None:
    ends = await make(broker)
    taken: asyncio.Queue[Connection] = asyncio.Queue()
    secret = None if protection is Protection.PLAIN else static().secret
    await ends.server.listen_static(
        static(versions=("v0.0.2-beta",), protection=protection, secret=secret), taken.put_nowait
    )
    client = await ends.client.connect_static(static(protection=protection, secret=secret))
    server = await taken.get()
    assert client.info.s2_version == server.info.s2_version == "v0.0.2-beta"
    await client.send("there")
    await server.send("and back")
    assert (await server.recv(), await client.recv()) == ("there", "and back")
    await client.close()
    await asyncio.sleep(1)  # STATIC_INTERVAL
    again = await ends.client.connect_static(static(protection=protection, secret=secret))
    await again.send("again")
    assert await (await taken.get()).recv() == "again"


@pytest.mark.rule("MQ-19")
async def test_a_configured_session_with_another_secret_is_not_answered(broker: Mosquitto, make: Make) -> None:
    ends = await make(broker, limits=FAST)
    await ends.server.listen_static(static(), lambda connection: pytest.fail("let in"))
    with pytest.raises(PeerTimeout):
        await ends.client.connect_static(static(secret=SessionToken.from_bytes(bytes(32))))
    ends.server.unlisten_static(static())
    with pytest.raises(UsageError):
        await ends.client.connect_static(static(mc="another"))


@pytest.mark.parametrize("mode", ["S2 Connect", "static"])
@pytest.mark.rule("MQ-10")
async def test_a_broker_that_is_lost_while_an_open_waits_for_its_turn_is_said_to_be(
    broker: Mosquitto, make: Make, mode: str
) -> None:
    ends = await make(broker)
    client = ends.client.client
    assert client is not None
    waits = asyncio.Event()

    class Slow(Pace):
        def wait(self, now: float) -> float:
            waits.set()
            return 0.1

    client.pace = Slow(0.1)
    details = ends.server.offer(ends.mine).details
    static_mode = mode == "static"
    connecting = asyncio.ensure_future(
        ends.client.connect_static(static()) if static_mode else ends.client.connect(ends.theirs, details, NO_TRUST)
    )
    async with within(10):
        await waits.wait()
        assert client.connection is not None
        client.connection.abort("pulled the plug")
        with pytest.raises(NotReachable, match="connection to the broker was lost"):
            await connecting


# --- settings


@pytest.mark.rule("MQ-18")
async def test_tls_is_1_3_unless_it_is_said_and_logged(broker: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    assert broker.settings("a").context().minimum_version is ssl.TLSVersion.TLSv1_3
    assert not caplog.records
    assert broker.settings("a", minimum_tls="1.2").context().minimum_version is ssl.TLSVersion.TLSv1_2
    assert "TLS 1.2" in caplog.text


@pytest.mark.rule("SEC-01")
async def test_settings_do_not_show_the_password(broker: Mosquitto) -> None:
    assert password("a").reveal() not in repr(broker.settings("a"))


@pytest.mark.parametrize("changes", [{"client_id": "open"}, {"client_id": "a/b"}, {"prefix": "#"}, {"prefix": ""}])
async def test_settings_that_cannot_work_are_refused(broker: Mosquitto, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        broker.settings("a", **changes)
    assert caught.value.errors()[0]["loc"] == tuple(changes)


async def test_files_that_cannot_be_used_are_named(broker: Mosquitto, tmp_path: Path) -> None:
    for content in (None, "no PEM", broker.ca_file.read_text() * 2):
        file = tmp_path / "ca.pem"
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigurationError, match=r"ca\.pem"):
            broker.settings("a", ca_file=file).context()
    with pytest.raises(ConfigurationError, match=r"ca\.pem"):
        broker.settings("a", certificate_file=file).context()


def test_it_is_a_transport(broker: Mosquitto) -> None:
    made: Transport = MqttTransport(None, role_of=role_of)
    assert made.name == MQTT
