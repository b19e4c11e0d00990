"""Connections to a real Mosquitto: opening, the window, order, losses, and coming back."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import itertools
import logging
import socket
import ssl
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from s2connect.errors import (
    CertificateRefused,
    ConnectionClosed,
    NotReachable,
    PeerTimeout,
    ProtocolViolation,
    SessionRefused,
)
from s2connect.model.url import MqttUrl
from s2connect.supervisor import FailureLog, TaskFailure
from s2connect.transports.backoff import BASE_DELAY
from s2connect.transports.base import MAX_MESSAGE_BYTES
from s2connect.transports.mqtt import broker as broker_module
from s2connect.transports.mqtt import client as client_module
from s2connect.transports.mqtt.broker import READ_BYTES, BrokerConnection
from s2connect.transports.mqtt.client import MqttClient
from s2connect.transports.mqtt.frames import PLAIN_CONTROL, Packet
from s2connect.transports.mqtt.parameters import MqttPassword
from s2connect.transports.mqtt.publish import NO_MATCHING_SUBSCRIBERS, write_publish
from s2connect.transports.mqtt.receiver import TopicHandler
from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.tls_buffer import use_small_tls_buffers
from tests.mosquitto import ADMIN, HOST, Mosquitto, access_list, password
from tests.mqtt_proxy import proxy, websocket_proxy
from tests.waits import patience, until, until_still, within

NODE = "00000000-0000-0000-0000-000000000001"
NOT_AUTHORIZED = 0x87
TAKEN_OVER = b"\xe0\x01\x8e"

Connect = Callable[..., Awaitable[BrokerConnection]]
Greeting = Callable[..., "GreetingClient"]


def _mosquitto(directory: Path, *options: str) -> Mosquitto:
    return Mosquitto(directory, ["cloud", "a", "b"], access_list({"cloud": [NODE]}), options=options)


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


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open connections that are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def open_(broker: Mosquitto, user: str = "a", **changes: Any) -> BrokerConnection:
            made = await broker.connect(user, **changes)
            stack.push_async_callback(made.close)
            return made

        yield open_


def url_at(port: int) -> str:
    return f"mqtts://{HOST}:{port}"


def topic(user: str, name: str = "x") -> str:
    return f"s2/s2/0/{NODE}/{user}/{name}"


async def inbox(connection: BrokerConnection, name: str) -> asyncio.Queue[Packet]:
    queue: asyncio.Queue[Packet] = asyncio.Queue()
    connection.set_handler(name, TopicHandler(queue.put_nowait))
    await connection.subscribe(name)
    return queue


# --- opening


async def test_a_wrong_password_is_refused_with_words_that_help(broker: Mosquitto) -> None:
    with pytest.raises(SessionRefused, match="not authorized") as caught:
        await broker.connect("a", secret=MqttPassword("wrong-one"))
    assert "password" in caught.value.hint
    assert "wrong-one" not in str(caught.value)


@pytest.mark.rule("MQ-18")
async def test_a_broker_of_another_ca_is_refused(broker: Mosquitto) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(context)
    with pytest.raises(CertificateRefused, match="of the broker localhost") as caught:
        await broker.connect("a", context=context)
    assert "ca_file" in str(caught.value)
    assert "pair" not in str(caught.value), "nobody is paired with a broker"


@pytest.mark.rule("MQ-18")
async def test_a_broker_of_another_name_is_refused(broker: Mosquitto) -> None:
    with pytest.raises(CertificateRefused) as caught:
        await broker.connect("a", url=f"mqtts://127.0.0.1:{broker.port}")
    assert caught.value.reason == "name"


async def test_no_broker_at_the_address_is_said(broker: Mosquitto) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(NotReachable):
            await broker.connect("a", url=url_at(unused.getsockname()[1]))


async def test_a_server_that_says_nothing_is_given_up_in_time(broker: Mosquitto) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(PeerTimeout):
            await broker.connect("a", url=url_at(silent.getsockname()[1]), open_timeout=0.3)


async def test_opening_can_be_cancelled_at_any_moment(broker: Mosquitto) -> None:
    for turns in (0, 1, 2, 3, 5, 8, 13):
        task = asyncio.create_task(broker.connect("a"))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(done, BrokerConnection):
            await done.close()
        else:
            assert isinstance(done, asyncio.CancelledError)


@pytest.mark.rule("MQ-02")
async def test_mqtt_goes_inside_a_websocket_as_well(broker: Mosquitto, connect: Connect) -> None:
    async with websocket_proxy(broker) as front:
        a = await connect(broker, url=str(front.url))
        queue = await inbox(a, topic("a"))
        admin = await connect(broker, ADMIN)
        for size in (0, 1, 5000, 250_000):
            await admin.publish(Packet(topic("a"), b"x" * size))
            assert len((await queue.get()).payload) == size
        await a.close()


@pytest.mark.rule("MQ-18", "SEC-01")
async def test_the_password_is_in_no_log_line_of_a_websocket_either(
    broker: Mosquitto, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with websocket_proxy(broker) as front:
        caplog.clear()  # the front is the library itself, which logs what it starts
        await (await connect(broker, url=str(front.url))).close()
    end = password("a").reveal().encode()[-4:].hex(" ")
    ours = [record.getMessage() for record in caplog.records if record.name == "websockets.client"]
    assert not [line for line in ours if end in line]


@pytest.mark.rule("MQ-15")
async def test_a_maximum_packet_size_is_announced_in_a_websocket_alone(broker: Mosquitto) -> None:
    """Only there is a packet kept until it is complete; elsewhere announcing it lets an old Mosquitto stand still."""
    connects: asyncio.Queue[bytes] = asyncio.Queue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    broker.ca.issue_cert(HOST).configure_cert(context)

    async def raw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connects.put_nowait(await reader.read(1000))
        writer.close()

    async def framed(socket: ServerConnection) -> None:
        data = await socket.recv()
        assert isinstance(data, bytes)
        connects.put_nowait(data)

    announced = b"\x27" + (2000).to_bytes(4, "big")
    async with await asyncio.start_server(raw, "127.0.0.1", 0, ssl=context) as server:
        with pytest.raises(NotReachable):
            await broker.connect("a", url=url_at(server.sockets[0].getsockname()[1]), max_packet=2000, open_timeout=5)
    assert announced not in await connects.get()
    async with serve(framed, "127.0.0.1", 0, ssl=context, subprotocols=[Subprotocol("mqtt")]) as front:
        port = next(iter(front.sockets)).getsockname()[1]
        with pytest.raises(NotReachable):
            await broker.connect("a", url=f"wss://{HOST}:{port}/mqtt", max_packet=2000, open_timeout=5)
    assert announced in await connects.get()


async def test_a_server_without_websocket_is_told_apart(broker: Mosquitto) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    broker.ca.issue_cert(HOST).configure_cert(context)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ProtocolViolation, match="WebSocket"):
            await broker.connect("a", url=f"wss://{HOST}:{port}/mqtt")


@pytest.mark.asyncio_only
async def test_the_connection_is_read_in_large_pieces_even_where_the_process_has_small_buffers(
    broker: Mosquitto, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may publish can fill it, and the sessions wait until it is empty."""
    monkeypatch.setattr(asyncio.sslproto.SSLProtocol, "max_size", asyncio.sslproto.SSLProtocol.max_size)
    use_small_tls_buffers()
    a = await connect(broker)
    protocol: Any = getattr(a._stream._transport, "_ssl_protocol")  # noqa: B009
    assert protocol.max_size == len(protocol._ssl_buffer) == READ_BYTES
    queue = await inbox(a, topic("a"))
    await (await connect(broker, ADMIN)).publish(Packet(topic("a"), b"x" * MAX_MESSAGE_BYTES))
    assert len((await queue.get()).payload) == MAX_MESSAGE_BYTES


# --- messages


async def test_all_that_a_packet_holds_arrives_unchanged(broker: Mosquitto, connect: Connect) -> None:
    admin, a = await connect(broker, ADMIN), await connect(broker, "a")
    queue = await inbox(a, topic("a"))
    sent = Packet(topic("a"), bytes(range(256)), "application/json", (("s2-frame", "data"), ("ü", "😀")), b"\x00id")
    assert await admin.publish(sent) == 0
    assert await queue.get() == sent


@pytest.mark.rule("MQ-08")
async def test_the_broker_says_who_is_not_there_and_what_is_not_allowed(broker: Mosquitto, connect: Connect) -> None:
    a = await connect(broker, "a")
    assert await a.publish(Packet(topic("a", "nobody"), b"x")) == NO_MATCHING_SUBSCRIBERS
    assert await a.publish(Packet(topic("b"), b"x")) == NOT_AUTHORIZED


@pytest.mark.rule("MQ-03")
async def test_nobody_hears_or_writes_on_the_topics_of_another_client(broker: Mosquitto, connect: Connect) -> None:
    a, b, admin = await connect(broker, "a"), await connect(broker, "b"), await connect(broker, ADMIN)
    mine, theirs = await inbox(b, topic("b")), asyncio.Queue[Packet]()
    a.set_handler(topic("b"), TopicHandler(theirs.put_nowait))
    for wished in ("#", topic("b"), "s2/s2/0/+/b/#"):
        await a.subscribe(wished)
    assert await a.publish(Packet(topic("b"), b"forged")) == NOT_AUTHORIZED
    await admin.publish(Packet(topic("b"), b"real"))
    assert (await mine.get()).payload == b"real"
    echo = await inbox(a, topic("a"))
    await admin.publish(Packet(topic("a"), b"last"))
    assert (await echo.get()).payload == b"last"
    assert theirs.empty()


async def test_a_connection_does_not_hear_itself(broker: Mosquitto, connect: Connect) -> None:
    admin, other = await connect(broker, ADMIN), await connect(broker, "a")
    queue = await inbox(admin, topic("a"))
    await admin.publish(Packet(topic("a"), b"of us"))
    await other.publish(Packet(topic("a"), b"of the other"))
    assert (await queue.get()).payload == b"of the other"


@pytest.mark.rule("MQ-04", "MQ-15")
async def test_many_at_once_keep_their_order_and_the_window_of_the_broker(
    own_broker: Callable[..., Mosquitto], connect: Connect
) -> None:
    broker = own_broker("max_inflight_messages 3")
    admin, a = await connect(broker, ADMIN), await connect(broker, "a")
    queue = await inbox(a, topic("a"))
    most = 0

    async def publish(number: int) -> None:
        nonlocal most
        await admin.room()
        admin.put(Packet(topic("a"), str(number).encode()))
        most = max(most, len(admin._unacknowledged))

    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(publish(number))
    assert [int((await queue.get()).payload) for _ in range(300)] == list(range(300))
    assert most == admin.receive_maximum


@pytest.mark.rule("MQ-04")
async def test_the_answers_to_what_came_in_one_piece_go_out_in_one_with_its_acknowledgements(
    broker: Mosquitto, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await connect(broker, "a")
    a.set_handler(topic("a"), TopicHandler(lambda packet: a.put(Packet(topic("b"), packet.payload))))
    pieces: list[bytes] = []
    monkeypatch.setattr(a._stream, "_write", pieces.append)
    packets = [write_publish(Packet(topic("a"), b"text %d" % number), 100 + number) for number in range(8)]
    a._stream.data_received(b"".join(packets))
    (piece,) = pieces
    assert [piece.find(b"text %d" % number) for number in range(8)] == sorted(
        piece.find(b"text %d" % number) for number in range(8)
    )
    assert piece.endswith(b"".join(b"\x40\x02" + (100 + number).to_bytes(2, "big") for number in range(8)))


@pytest.mark.rule("MQ-15")
async def test_who_waits_for_room_can_be_cancelled_and_blocks_nobody(
    broker: Mosquitto, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "RECEIVE_MAXIMUM", 2)
    a = await connect(broker, "a")
    for number in range(5):
        a.put(Packet(topic("a"), str(number).encode()))
    assert not a.has_room()
    tasks = [asyncio.create_task(a.room()) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in done] == [True, False] * 5
    assert await a.publish(Packet(topic("a"), b"")) == NO_MATCHING_SUBSCRIBERS


@pytest.mark.rule("MQ-15")
async def test_the_limits_of_the_broker_are_known(own_broker: Callable[..., Mosquitto], connect: Connect) -> None:
    a = await connect(own_broker("max_packet_size 2000"))
    assert a.max_packet == 2000


@pytest.mark.rule("MQ-15")
async def test_a_broker_that_sends_more_than_allowed_is_left(broker: Mosquitto, connect: Connect) -> None:
    async with proxy(broker) as front:
        a = await connect(broker, url=url_at(front.url.port), max_packet=1000)
        front.change = lambda first, packet: [b"\x90\xff\xff\xff\x7f", packet]
        a.put(Packet(topic("a"), b"x"))
        async with within(2):
            await a.ended.wait()


@pytest.mark.rule("MQ-15")
async def test_messages_that_are_too_long_are_dropped_and_all_others_come(broker: Mosquitto, connect: Connect) -> None:
    """More than fit into the window, so that none is left unacknowledged, with each length around the bound."""
    drops: Counter[str] = Counter()
    a, admin = await connect(broker, "a", max_packet=2000, drops=drops), await connect(broker, ADMIN)
    queue = await inbox(a, topic("a"))
    sizes = [5000, 300_000, *range(1900, 2100), *[1_200_000] * 25]
    got: list[int] = []
    for size in sizes:
        await admin.publish(Packet(topic("a"), b"x" * size))
    await admin.publish(Packet(topic("a"), b"last"))
    while (payload := (await queue.get()).payload) != b"last":
        got.append(len(payload))
    room = 2000 - len(topic("a")) - 5
    assert got == [size for size in sizes if size <= room]
    assert drops == {"too_long": len(sizes) - len(got)}
    assert a.lost is None


@pytest.mark.rule("MQ-04", "MQ-15")
async def test_a_broker_that_reads_slowly_slows_who_writes_and_nothing_is_lost(
    broker: Mosquitto, connect: Connect
) -> None:
    async with proxy(broker) as front:
        a = await connect(broker, url=url_at(front.url.port))
        admin = await connect(broker, ADMIN, max_packet=2_000_000)
        queue = await inbox(admin, topic("a"))
        front.passing.clear()
        put = 0

        async def write() -> None:
            nonlocal put
            for number in range(40):
                await a.room()
                a.put(Packet(topic("a"), str(number).encode() + b"x" * 1_000_000))
                put += 1

        writing = asyncio.create_task(write())
        await until_still(lambda: put)
        assert put < a.receive_maximum
        assert not a.has_room()
        front.passing.set()
        for number in range(40):
            assert (await queue.get()).payload.rstrip(b"x") == str(number).encode()
        await writing
        await a.close()


# --- the end


@pytest.mark.rule("MQ-10")
async def test_a_killed_broker_is_noticed_by_everybody_who_waits(
    own_broker: Callable[..., Mosquitto], connect: Connect
) -> None:
    broker = own_broker()
    a = await connect(broker)
    broker.freeze()
    heard: list[str] = []
    a.at_end(lambda lost: heard.append(lost.text))
    waiting = [asyncio.create_task(work) for work in (a.publish(Packet(topic("a"), b"")), a.subscribe("x"))]
    await asyncio.sleep(0.01)
    broker.kill()
    async with within(2):
        ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [ConnectionClosed] * 2
    assert heard == ["the connection to the broker was lost"]
    with pytest.raises(ConnectionClosed):
        a.put(Packet(topic("a"), b""))
    with pytest.raises(ConnectionClosed):
        await a.room()


@pytest.mark.rule("MQ-13")
async def test_a_broker_that_stands_still_is_noticed_by_keep_alive(
    own_broker: Callable[..., Mosquitto], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "KEEPALIVE", 1)
    broker = own_broker()
    a = await connect(broker)
    started = asyncio.get_running_loop().time()
    broker.freeze()
    async with within(4):
        await a.ended.wait()
    assert asyncio.get_running_loop().time() - started < patience(3.5)
    await a.close()


async def test_closing_is_bounded_where_the_broker_stands_still(own_broker: Callable[..., Mosquitto]) -> None:
    broker = own_broker()
    a = await broker.connect("a")
    broker.freeze()
    async with within(2.5):
        await a.close()
        await a.close()


@pytest.mark.rule("MQ-16")
async def test_a_connection_that_another_client_took_over_says_so(broker: Mosquitto, connect: Connect) -> None:
    async with proxy(broker) as front:
        first = await connect(broker, url=url_at(front.url.port))
        front.change = lambda first, packet: [TAKEN_OVER]  # Mosquitto 2.0.11 closes without a word
        with pytest.raises(ConnectionClosed, match="taken over"):
            await first.publish(Packet(topic("a"), b""))
        assert first.lost is not None
        assert first.lost.reason_code == 0x8E


@pytest.mark.rule("MQ-12")
async def test_the_will_is_published_with_its_content_type_when_the_connection_is_lost(
    broker: Mosquitto, connect: Connect
) -> None:
    queue = await inbox(await connect(broker, ADMIN), topic("a"))
    a = await connect(broker, "a", will=Packet(topic("a"), b"lost", PLAIN_CONTROL))
    a.abort("power cut")
    async with within(5):
        will = await queue.get()
    assert (will.payload, will.content_type) == (b"lost", PLAIN_CONTROL)


# --- the client


def test_paho_is_loaded_only_when_it_is_needed_and_missed_with_words_that_help() -> None:
    program = """
        import asyncio, sys
        import s2connect, s2connect.transports.mqtt.transport as transport
        from s2connect.errors import ConfigurationError
        from s2connect.model.url import MqttUrl
        from s2connect.transports.mqtt.settings import MqttSettings
        assert "paho" not in sys.modules
        sys.modules["paho"] = None
        async def main():
            settings = MqttSettings(url=MqttUrl("mqtts://localhost:1"), client_id="a")
            made = transport.MqttTransport(settings, role_of=None)
            try:
                await made.client.up()
            except ConfigurationError as error:
                print(error)
            await made.close()
        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert "s2connect[mqtt]" in done.stdout


class GreetingClient:
    """A client that counts the connections that it greets."""

    def __init__(self, broker: Mosquitto, *, failures: FailureLog | None = None, **changes: Any) -> None:
        self.greeted = 0
        self.faults: list[Exception] = []

        async def connect(_: MqttUrl) -> BrokerConnection:
            if self.faults:
                raise self.faults.pop()
            return await broker.connect("a", **changes)

        async def greet(connection: BrokerConnection) -> None:
            self.greeted += 1
            await connection.subscribe(topic("a"))

        self.client = MqttClient(broker.settings("a"), connect, greet=greet, chance=lambda: 0.05, failures=failures)


@pytest.fixture
async def greeting() -> AsyncIterator[Greeting]:
    made: list[GreetingClient] = []

    def make(broker: Mosquitto, **changes: Any) -> GreetingClient:
        made.append(GreetingClient(broker, **changes))
        return made[-1]

    yield make
    for one in made:
        await one.client.close()


@pytest.mark.rule("MQ-10", "MQ-17")
async def test_the_client_comes_back_when_the_broker_does(
    own_broker: Callable[..., Mosquitto], greeting: Greeting
) -> None:
    broker = own_broker()
    made = greeting(broker)
    first = await made.client.up()
    assert await made.client.up() is first
    broker.kill()
    await first.ended.wait()
    while made.client.error is None:
        await asyncio.sleep(0)
    with pytest.raises(NotReachable):
        await made.client.up()
    broker.start()
    await until(lambda: made.client.connection is not None)
    second = await made.client.up()
    assert second is not first
    assert first.lost is not None
    assert made.greeted == 2
    assert await second.publish(Packet(topic("a"), b"")) == 0  # there is a subscription


async def test_waiting_for_a_client_that_cannot_come_up_gives_the_cause_at_once(
    broker: Mosquitto, greeting: Greeting
) -> None:
    made = greeting(broker, secret=MqttPassword("wrong"))
    for _ in range(3):
        with pytest.raises(SessionRefused):
            await made.client.up()
    assert made.client.attempts <= 3


@pytest.mark.rule("MQ-17", "REC-02")
async def test_the_attempts_of_a_client_have_the_delays_of_s2_connect() -> None:
    loop = asyncio.get_running_loop()
    attempts: list[float] = []

    async def fail(_: MqttUrl) -> BrokerConnection:
        attempts.append(loop.time())
        raise NotReachable("The broker is not there.")

    async def greet(connection: BrokerConnection) -> None:
        raise AssertionError("there is no connection")

    settings = MqttSettings(url=MqttUrl(url_at(1)), client_id="a")
    client = MqttClient(settings, fail, greet=greet, chance=lambda: 0.02)
    client.start()
    while len(attempts) < 5:
        for _ in range(20):  # whoever needs the link makes no attempt of its own
            with pytest.raises(NotReachable):
                await client.up()
        await asyncio.sleep(0.01)
    await client.close()
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    for n, gap in enumerate(gaps):
        assert gap >= 0.02 * BASE_DELAY * 2**n - 0.002


@pytest.mark.rule("MQ-16")
async def test_a_client_whose_id_was_taken_does_not_come_back_at_once(broker: Mosquitto, greeting: Greeting) -> None:
    async with proxy(broker) as front:
        made = greeting(broker, url=url_at(front.url.port))
        first = await made.client.up()
        front.change = lambda first, packet: [TAKEN_OVER]
        first.put(Packet(topic("a"), b""))
        await first.ended.wait()
        await asyncio.sleep(0.3)  # the back-off alone would be 0.1 s
        assert made.client.attempts == 1
        assert client_module.TAKEN_OVER_DELAY >= 60
        with pytest.raises(NotReachable, match="client id"):
            await made.client.up()


@pytest.mark.long
@pytest.mark.rule("MQ-16")
async def test_a_broker_that_starts_again_several_times_is_no_second_client_with_our_id(
    own_broker: Callable[..., Mosquitto], greeting: Greeting
) -> None:
    broker = own_broker()
    made = greeting(broker)
    for end in (broker.stop, broker.kill, broker.stop, broker.kill):
        connection = await made.client.up()
        await asyncio.to_thread(end)
        await connection.ended.wait()
        await until(lambda: made.client.error is not None)
        await asyncio.to_thread(broker.start)
        await until(lambda: made.client.connection is not None)
    assert made.client.suspicion == ""


@pytest.mark.rule("MQ-16")
async def test_a_second_client_with_our_id_is_noticed_also_where_the_broker_says_nothing(
    broker: Mosquitto, greeting: Greeting
) -> None:
    """Mosquitto 2.0.11 closes the connection of the first without a word."""
    made = greeting(broker)
    for _ in range(3):
        connection = await made.client.up()
        rival = await broker.connect("a")
        await connection.ended.wait()
        await until(lambda: made.client.connection is not None or made.client.suspicion != "")
        await rival.close()
    assert "second client" in made.client.suspicion or "Another client" in made.client.suspicion


async def test_after_an_error_of_ours_which_is_logged_and_leaves_nobody_waiting_the_client_comes_up(
    broker: Mosquitto,
    greeting: Greeting,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("s2connect.supervisor.FIRST_DELAY", 0.2)
    told: list[TaskFailure] = []
    made = greeting(broker, failures=FailureLog(told.append))
    made.faults.append(TypeError("no options can be made like this"))
    with pytest.raises(NotReachable, match="failed"):
        await made.client.up()
    assert [(failure.task, failure.error) for failure in told] == [("mqtt-client", "TypeError")]
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info
    async with within(5):
        while made.client.connection is None:
            await asyncio.sleep(0.02)


async def test_the_end_of_a_connection_is_told_to_all_also_where_one_of_them_fails(
    broker: Mosquitto, greeting: Greeting, caplog: pytest.LogCaptureFixture
) -> None:
    made = greeting(broker)
    connection = await made.client.up()
    told: list[object] = []
    connection.at_end(lambda _: told.remove(None))
    connection.at_end(told.append)
    connection.abort("test")
    assert told == [connection.lost]
    assert "mqtt-end failed" in caplog.text


async def test_a_closed_client_says_so_and_leaves_nothing(broker: Mosquitto, greeting: Greeting) -> None:
    made = greeting(broker)
    connection = await made.client.up()
    await made.client.close()
    assert connection.lost is not None
    with pytest.raises(ConnectionClosed):
        await made.client.up()
    await made.client.close()


@pytest.mark.parametrize("keeps", [True, False], ids=["goes on", "is ending"])
async def test_a_loss_is_unexplained_only_where_the_broker_goes_on(keeps: bool) -> None:
    """A process that was killed may close its port after the connections: one more is taken then, and cut."""
    taken: list[asyncio.StreamWriter] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer) if keeps else writer.close()

    async def connect(_: MqttUrl) -> BrokerConnection:
        raise NotReachable("not asked for")

    async def greet(_: BrokerConnection) -> None:
        raise AssertionError("there is no connection")

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = MqttClient(MqttSettings(url=MqttUrl(f"mqtts://127.0.0.1:{port}"), client_id="a"), connect, greet=greet)
        assert await client._is_unexplained(broker_module.BrokerLost(None, "cut"), 1.0) is keeps
        for writer in taken:
            writer.close()
