"""Sessions over MQTT whose texts go straight to a receiver, over a real Mosquitto."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2connect.errors import ConnectionClosed
from s2connect.model.common import MQTT, NodeId, Role
from s2connect.supervisor import FailureLog, process_failures
from s2connect.transports.base import ABNORMAL_CLOSURE, INTERNAL_ERROR, Connection, ConnectionInfo
from s2connect.transports.mqtt import connection as connection_module
from s2connect.transports.mqtt.broker import RECEIVE_MAXIMUM, BrokerConnection
from s2connect.transports.mqtt.frames import SEALED, Packet
from s2connect.transports.mqtt.parameters import PROTOCOL_ERROR, TRY_AGAIN_LATER
from s2connect.transports.mqtt.transport import MqttTransport
from tests.mosquitto import ADMIN, Mosquitto, access_list
from tests.transports.asking import check_asking
from tests.waits import until, within

CEM, RM, OTHER = NodeId(UUID(int=1)), NodeId(UUID(int=2)), NodeId(UUID(int=3))
TEXTS = ['{"a": 1.50,\n\t"ä":"€ 😀 \\u00e4"}', "", " ", "\u2028\x00\x7f", "x" * 100_000, "ü" * 130_000]


def _mosquitto(directory: Path, *options: str) -> Mosquitto:
    return Mosquitto(directory, ["cloud", "gateway"], access_list({"cloud": [str(CEM)]}), options=options).start()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    made = _mosquitto(tmp_path_factory.mktemp("broker"))
    yield made
    made.kill()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    made: list[Mosquitto] = []

    def start(*options: str) -> Mosquitto:
        made.append(_mosquitto(tmp_path, *options))
        return made[0]

    yield start
    for one in made:
        one.kill()


class Site:
    """A communication server and a client, with two sessions over one connection of each."""

    def __init__(self, broker: Mosquitto) -> None:
        self.broker = broker
        self.server, self.client = (
            MqttTransport(broker.settings(user), role_of=lambda node: Role.CEM if node == CEM else Role.RM)
            for user in ("cloud", "gateway")
        )

    async def __aenter__(self) -> Site:
        await self.server.serve(CEM)
        self.ends = await self.open(RM)
        self.others = await self.open(OTHER)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.close()
        await self.server.close()

    async def open(self, node: NodeId) -> tuple[Connection, Connection]:
        offer = self.server.offer(ConnectionInfo(MQTT, CEM, node, "v1.0.0"))
        client = await self.client.connect(ConnectionInfo(MQTT, node, CEM, "v1.0.0"), offer.details, None)
        return await offer.connection, client

    async def assert_the_others_stand(self) -> None:
        for sender, receiver in (self.others, self.others[::-1]):
            await sender.send("honest")
            assert await receiver.recv() == "honest"

    @property
    def links(self) -> tuple[BrokerConnection, BrokerConnection]:
        """The connections of server and client to the broker."""
        assert self.server.client is not None
        assert self.client.client is not None
        server, client = self.server.client.connection, self.client.client.connection
        assert server is not None
        assert client is not None
        return server, client


@pytest.fixture
async def site(broker: Mosquitto) -> AsyncIterator[Site]:
    async with Site(broker) as made:
        yield made


@pytest.fixture(params=["server sends", "client sends"])
def pair(request: pytest.FixtureRequest, site: Site) -> tuple[Connection, Connection]:
    return site.ends if request.param == "server sends" else site.ends[::-1]


Pair = tuple[Connection, Connection]


class Collector:
    """Receiver that keeps what comes, and acts on the way."""

    def __init__(self, connection: Connection, on_text: Callable[[str], None] = lambda text: None) -> None:
        self.texts: list[str] = []
        self.ends: list[ConnectionClosed] = []
        self._on_text = on_text
        connection.receive_into(self)

    def text_received(self, text: str) -> None:
        assert not self.ends, "a text came after the end"
        self.texts.append(text)
        self._on_text(text)

    def connection_ended(self, error: ConnectionClosed) -> None:
        self.ends.append(error)

    async def end(self) -> ConnectionClosed:
        async with within(5):
            await until(lambda: self.ends)
        return self.ends[0]


# --- the contract of connections


@pytest.mark.rule("MSG-06", "MQ-04")
async def test_a_receiver_gets_every_text_in_order_and_then_the_end_once(pair: Pair) -> None:
    sender, receiver = pair
    await sender.send("before")
    collector = Collector(receiver)
    assert not collector.texts, "a text was handed over within the call"
    for text in TEXTS:
        await sender.send(text)
    await sender.close()
    assert (await collector.end()).code == 1000
    assert collector.texts == ["before", *TEXTS]
    await receiver.close()
    await asyncio.sleep(0)
    assert len(collector.ends) == 1


@pytest.mark.rule("MQ-09", "MQ-13")
async def test_a_peer_that_is_asked_answers_behind_what_it_has_sent(pair: Pair) -> None:
    await check_asking(*pair)


@pytest.mark.rule("MSG-06")
async def test_what_came_before_the_receiver_is_handed_over_first(pair: Pair) -> None:
    sender, receiver = pair
    for text in "abc":
        await sender.send(text)
    assert await receiver.recv() == "a"
    await asyncio.sleep(0.02)
    collector = Collector(receiver)
    assert collector.texts == []
    await sender.send("d")
    await until(lambda: len(collector.texts) == 3)
    assert collector.texts == ["b", "c", "d"]


async def test_no_task_and_no_future_stand_between_the_socket_and_the_receiver(pair: Pair) -> None:
    sender, receiver = pair
    tasks: list[int] = []
    collector = Collector(receiver, lambda text: tasks.append(len(asyncio.all_tasks())))
    before = len(asyncio.all_tasks())
    for number in range(100):
        if not sender.try_send(str(number)):
            await sender.send(str(number))
    await until(lambda: len(collector.texts) == 100)
    assert set(tasks) == {before}


async def test_texts_answered_on_the_way_go_to_and_fro(pair: Pair) -> None:
    one, other = pair
    numbers: list[int] = []

    def answer(text: str) -> None:
        numbers.append(int(text))
        if int(text) < 300:
            side = one if int(text) % 2 else other
            assert side.try_send(str(int(text) + 1))

    Collector(one, answer)
    Collector(other, answer)
    assert one.try_send("0")
    await until(lambda: numbers[-1:] == [300])
    assert numbers == list(range(301))


@pytest.mark.rule("MQ-15")
async def test_a_pausing_receiver_gets_nothing_until_it_resumes_and_then_all(site: Site) -> None:
    sender, receiver = site.ends
    collector = Collector(receiver, lambda text: receiver.pause_reading())
    for number in range(100):
        await sender.send(str(number))
        await site.assert_the_others_stand()
        assert collector.texts == ["0"][: len(collector.texts)]
    for number in range(100):
        await until(lambda number=number: len(collector.texts) > number)  # type: ignore[misc]
        await asyncio.sleep(0)
        assert collector.texts == [str(n) for n in range(number + 1)]
        receiver.resume_reading()
        receiver.resume_reading()
        assert len(collector.texts) == number + 1, "a text was handed over within the call"


@pytest.mark.rule("MQ-15")
async def test_a_receiver_that_pauses_too_long_ends_its_own_session_and_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_INBOX_MESSAGES", 20)
    sender, receiver = site.ends
    collector = Collector(receiver)
    receiver.pause_reading()

    async def overrun() -> None:
        for number in range(1000):
            await sender.send(str(number))
            await site.assert_the_others_stand()

    with pytest.raises(ConnectionClosed) as caught:
        await overrun()
    assert caught.value.code == TRY_AGAIN_LATER
    assert (await collector.end()).reason == "overflow"
    assert collector.texts == [str(number) for number in range(20)]
    await site.assert_the_others_stand()


async def test_a_receiver_that_raises_ends_its_own_session_and_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = FailureLog()
    monkeypatch.setattr(process_failures, "failed", failures.failed)
    sender, receiver = site.ends

    def fail(text: str) -> None:
        raise ZeroDivisionError

    collector = Collector(receiver, fail)
    for text in "abc":
        await sender.send(text)
    with pytest.raises(ConnectionClosed):
        await sender.recv()
    assert (await collector.end()).code == INTERNAL_ERROR
    assert collector.texts == ["a"]
    assert failures.counts == {"receiver": 1}
    await site.assert_the_others_stand()


@pytest.mark.parametrize("how", ["straight", "from what waited"])
async def test_a_receiver_can_close_on_the_way(pair: Pair, how: str) -> None:
    sender, receiver = pair
    closing: list[asyncio.Task[None]] = []
    if how == "straight":
        collector = Collector(receiver, lambda text: closing.append(asyncio.create_task(receiver.close())))
    for text in "abc":
        await sender.send(text)
    if how == "from what waited":
        await asyncio.sleep(0.02)
        collector = Collector(receiver, lambda text: closing.append(asyncio.create_task(receiver.close())))
    assert (await collector.end()).code == 1000
    assert collector.texts == list("abc")[: len(collector.texts)]
    with pytest.raises(ConnectionClosed):
        receiver.try_send("too late")
    await asyncio.gather(*closing)


@pytest.mark.rule("MQ-15")
async def test_what_is_sent_without_waiting_keeps_its_order_and_the_window(
    own_broker: Callable[..., Mosquitto],
) -> None:
    broker = own_broker()
    async with Site(broker) as site:
        sender, receiver = site.ends
        broker.freeze()
        at_once = 0
        # The broker acknowledged what opened the sessions before it froze: that is read in a turn of the loop.
        for _ in range(3):
            while sender.try_send(str(at_once)):
                at_once += 1
            await asyncio.sleep(0)
        assert at_once == RECEIVE_MAXIMUM
        waiting = asyncio.create_task(sender.send("last"))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert not sender.try_send("overtaking")
        assert not site.others[0].try_send("overtaking, of another session")
        broker.thaw()
        assert [await receiver.recv() for _ in range(at_once + 1)] == [*map(str, range(at_once)), "last"]
        await waiting
        await sender.close()
        for end in site.ends:
            with pytest.raises(ConnectionClosed):
                await end.recv()
            with pytest.raises(ConnectionClosed):
                end.try_send("too late")


@pytest.mark.rule("MQ-15")
async def test_the_answer_to_a_message_that_is_too_long_comes_after_the_call_and_in_its_turn(
    own_broker: Callable[..., Mosquitto],
) -> None:
    async with Site(own_broker("max_packet_size 3000")) as site:
        server, client = site.ends
        collector = Collector(client)
        long = json.dumps({"message_type": "Handshake", "message_id": str(UUID(int=7)), "role": "RM" + "x" * 4000})
        client.pause_reading()
        assert client.try_send(long)
        await server.send("later")
        await asyncio.sleep(0.05)
        assert collector.texts == []
        client.resume_reading()
        await until(lambda: len(collector.texts) == 2)
        assert json.loads(collector.texts[0])["status"] == "INVALID_CONTENT"
        assert collector.texts[1] == "later"
        collector.texts.clear()
        assert client.try_send(long)
        assert collector.texts == [], "the receiver was called within our own call"
        await until(lambda: collector.texts)


# --- the end of the connection to the broker, in every state


def _nothing(text: str) -> None:
    pass


@pytest.mark.rule("MQ-10")
@pytest.mark.parametrize("state", ["idle", "paused", "resuming", "handing over", "before the receiver"])
async def test_a_lost_broker_ends_the_session_after_what_came(site: Site, state: str) -> None:
    sender, receiver = site.ends
    link = site.links[1]
    lose = lambda text: link.abort("pulled the plug")  # noqa: E731
    if state == "before the receiver":
        for text in "ab":
            await sender.send(text)
        await asyncio.sleep(0.02)
        lose("")
        collector = Collector(receiver)
    else:
        collector = Collector(receiver, lose if state == "handing over" else _nothing)
        if state in ("paused", "resuming"):
            receiver.pause_reading()
        for text in "ab":
            await sender.send(text)
        if state != "handing over":
            await asyncio.sleep(0.02)
            if state == "resuming":
                receiver.resume_reading()
            lose("")
    assert (await collector.end()).code == ABNORMAL_CLOSURE
    assert collector.texts == ["a", "b"][: 1 if state == "handing over" else 2]
    with pytest.raises(ConnectionClosed):
        receiver.try_send("too late")
    async with within(2):
        await receiver.wait_closed()


@pytest.mark.rule("MQ-10")
async def test_a_killed_broker_is_told_to_every_receiver(own_broker: Callable[..., Mosquitto]) -> None:
    broker = own_broker()
    async with Site(broker) as site:
        collectors = [Collector(end) for end in (*site.ends, *site.others)]
        site.others[0].pause_reading()
        assert site.ends[0].try_send("x")
        await until(lambda: collectors[1].texts == ["x"])
        broker.kill()
        for collector in collectors:
            assert (await collector.end()).code == ABNORMAL_CLOSURE


# --- others who may publish on our topics


@pytest.mark.rule("MQ-07", "MQ-09")
@pytest.mark.parametrize("paused", [False, True])
async def test_what_a_stranger_publishes_reaches_no_receiver(site: Site, paused: bool) -> None:
    sender, receiver = site.ends
    admin = await site.broker.connect(ADMIN)
    try:
        collector = Collector(receiver)
        await sender.send("honest")
        await until(lambda: collector.texts)
        if paused:
            receiver.pause_reading()
            await sender.send("waits")
            await asyncio.sleep(0.02)
        forged: Any = (("s2-frame", "data"), ("s2-seq", str(3 + paused)), ("s2-ver", "v1.0.0"))
        await admin.publish(Packet(receiver.channel.inbound_topic, b"x" * 50, SEALED, forged))  # type: ignore[attr-defined]
        end = await collector.end()
        assert end.code == PROTOCOL_ERROR
        assert collector.texts == ["honest", "waits"][: 1 + paused]
        await site.assert_the_others_stand()
    finally:
        await admin.close()


# --- property


Step = tuple[str, int]
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "try", "pause", "resume", "turn", "pause on the way"]), st.integers(1, 30)
    ),
    max_size=20,
)


def test_whatever_pauses_and_ends_come_every_text_arrives_once_in_order_until_the_end(broker: Mosquitto) -> None:
    with asyncio.Runner() as runner:
        site = runner.run(Site(broker).__aenter__())

        async def example(plan: list[Step], way: int, end: str) -> None:
            ends = await site.open(RM)
            sender, receiver = ends[way], ends[1 - way]
            pausing: list[int] = []
            paused = False

            def on_text(text: str) -> None:
                nonlocal paused
                assert not paused, "a text came although reading was paused"
                if pausing and pausing.pop():
                    receiver.pause_reading()
                    paused = True

            collector = Collector(receiver, on_text)
            sent: list[str] = []
            for what, count in plan:
                if what == "turn":
                    await asyncio.sleep(count * 1e-4)
                elif what == "pause on the way":
                    pausing.append(count)
                elif what in ("pause", "resume"):
                    paused = what == "pause"
                    (receiver.pause_reading if paused else receiver.resume_reading)()
                else:
                    for _ in range(count):
                        text = f"{len(sent)}:" + "y" * (len(sent) * 37 % 900)
                        if what == "send":
                            await sender.send(text)
                        elif not sender.try_send(text):
                            break
                        sent.append(text)
            if end == "resume":
                pausing.clear()
                paused = False
                receiver.resume_reading()
                await until(lambda: len(collector.texts) == len(sent))
            pausing.clear()
            paused = False
            await (sender if end != "receiver" else receiver).close()
            await collector.end()
            await until(lambda: len(collector.ends) == 1)
            if end == "receiver":
                assert collector.texts == sent[: len(collector.texts)]
            else:
                assert collector.texts == sent

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(steps, st.integers(0, 1), st.sampled_from(["sender", "receiver", "resume"]))
        def run(plan: list[Step], way: int, end: str) -> None:
            runner.run(example(plan, way, end))

        run()
        runner.run(site.__aexit__())
