"""Contract of every transport, with memory and with WebSocket over real TLS on loopback."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from s2connect.endpoint.plain_server import PlainServer
from s2connect.errors import ConnectionClosed, ProtocolViolation, SessionRefused
from s2connect.model.common import NodeId, Role
from s2connect.model.session_init import CommunicationDetails
from s2connect.supervisor import FailureLog, process_failures
from s2connect.transports.base import Connection, ConnectionInfo, Transport, Trust
from s2connect.transports.memory import MemoryConnection, MemoryHub, MemoryTransport
from s2connect.transports.plain import PlainAcceptor, connect_plain
from tests.transports.asking import check_asking
from tests.waits import until, until_still, within

CEM, RM = NodeId(UUID(int=1)), NodeId(UUID(int=2))
TEXTS = [
    '{"a": 1.50,\n\t"ä":"€ 😀 \\u00e4"}',
    "",
    " ",
    "\u2028\x00\x7f",
    "x" * 100_000,
    "ü" * 130_000,
]


class TransportPair:
    def __init__(self, server: Transport, client: Transport, trust: Any) -> None:
        self.server, self.client, self.trust = server, client, trust
        self.mine = ConnectionInfo(server.name, CEM, RM, "v1.0.0")
        self.theirs = ConnectionInfo(server.name, RM, CEM, "v1.0.0")

    async def pair(self) -> tuple[Connection, Connection]:
        offer = self.server.offer(self.mine)
        client = await self.client.connect(self.theirs, offer.details, self.trust)
        return await offer.connection, client


TRANSPORTS = ["memory", "websocket", "websocket without deflate"]


@asynccontextmanager
async def transport_pair(name: str, rig: Any) -> AsyncIterator[TransportPair]:
    if name == "memory":
        hub = MemoryHub()
        server = MemoryTransport(hub)
        yield TransportPair(server, MemoryTransport(hub), Trust(None))  # type: ignore[arg-type]
        await server.close()
    else:
        async with rig(compression=name == "websocket") as made:
            yield TransportPair(made.server, made.client, made.trust)


@pytest.fixture(params=TRANSPORTS)
async def transports(request: pytest.FixtureRequest, rig: Any) -> AsyncIterator[TransportPair]:
    async with transport_pair(request.param, rig) as made:
        yield made


@asynccontextmanager
async def plain_pair() -> AsyncIterator[tuple[Connection, Connection]]:
    """Both connections of plain S2, which has no offers."""
    async with PlainServer(PlainAcceptor(role=Role.CEM, local=CEM, tokens=None)) as server:
        client = await connect_plain(f"ws://127.0.0.1:{server.port}/", role=Role.RM, local=RM)
        yield await anext(server), client


@pytest.fixture(params=[*TRANSPORTS, "plain S2"])
async def both(request: pytest.FixtureRequest, rig: Any) -> AsyncIterator[tuple[Connection, Connection]]:
    if request.param == "plain S2":
        async with plain_pair() as pair:
            yield pair
            await asyncio.gather(*(end.close() for end in pair))
    else:
        async with transport_pair(request.param, rig) as transports:
            pair = await transports.pair()
            yield pair
            await asyncio.gather(*(end.close() for end in pair))


@pytest.fixture(params=["server sends", "client sends"])
def pair(request: pytest.FixtureRequest, both: tuple[Connection, Connection]) -> tuple[Connection, Connection]:
    return both if request.param == "server sends" else both[::-1]


Pair = tuple[Connection, Connection]


@pytest.mark.rule("MSG-06", "WS-03", "WS-05")
async def test_texts_arrive_unchanged_and_in_order(pair: Pair) -> None:
    sender, receiver = pair

    async def send() -> None:
        for text in TEXTS:
            await sender.send(text)

    task = asyncio.create_task(send())
    for text in TEXTS:
        assert await receiver.recv() == text
    await task


@pytest.mark.rule("WS-07")
async def test_many_texts_both_ways_at_once_keep_their_order(pair: Pair) -> None:
    async def send(connection: Connection) -> None:
        for number in range(500):
            await connection.send(f"{number}:" + "y" * (number * 7 % 900))

    async def receive(connection: Connection) -> None:
        for number in range(500):
            assert (await connection.recv()).startswith(f"{number}:")

    async with asyncio.TaskGroup() as group:
        for connection in pair:
            group.create_task(send(connection))
            group.create_task(receive(connection))


@pytest.mark.rule("WS-04")
async def test_a_peer_that_is_asked_answers_behind_what_it_has_sent(pair: Pair) -> None:
    if isinstance(pair[0], MemoryConnection):
        assert not pair[0].ask(lambda: None), "nothing is held up on its way within a process"
    else:
        await check_asking(*pair)


@pytest.mark.rule("WS-04")
async def test_a_connection_that_watches_over_its_peer_says_how_long_that_was_silent(pair: Pair) -> None:
    sender, receiver = pair
    if receiver.heartbeat is None:
        assert receiver.silence() is None
        return
    before = receiver.silence()
    assert before is not None
    await until(lambda: (receiver.silence() or 0.0) > 0.02)
    silent_until = asyncio.get_running_loop().time()
    await sender.send("text")
    assert await receiver.recv() == "text"
    now = receiver.silence()
    assert now is not None
    assert now <= asyncio.get_running_loop().time() - silent_until
    assert 0 <= now < receiver.heartbeat


@pytest.mark.rule("WS-07")
async def test_a_cancelled_recv_loses_nothing(pair: Pair) -> None:
    sender, receiver = pair
    got: list[str] = []
    for number in range(50):
        waiting = asyncio.create_task(receiver.recv())
        await asyncio.sleep(0)
        if number % 2:
            await sender.send(str(number))
        waiting.cancel()
        done = (await asyncio.gather(waiting, return_exceptions=True))[0]
        if isinstance(done, str):
            got.append(done)
    await sender.send("end")
    while not got or got[-1] != "end":
        got.append(await receiver.recv())
    assert got == [str(number) for number in range(1, 50, 2)] + ["end"]


@pytest.mark.rule("WS-07")
async def test_what_was_sent_before_the_end_is_received_and_then_code_and_reason(pair: Pair) -> None:
    sender, receiver = pair
    for number in range(5):
        await sender.send(str(number))
    closing = asyncio.create_task(sender.close(1001, "good bye ü"))
    assert [await receiver.recv() for _ in range(5)] == list("01234")
    for _ in range(6):
        with pytest.raises(ConnectionClosed) as caught:
            await receiver.recv()
        assert (caught.value.code, caught.value.reason) == (1001, "good bye ü")
    await closing
    with pytest.raises(ConnectionClosed):
        await receiver.send("too late")
    with pytest.raises(ConnectionClosed):
        await sender.send("too late")
    with pytest.raises(ConnectionClosed):
        await sender.recv()


async def test_the_end_of_a_connection_is_told_to_whoever_asks_for_it_and_once(pair: Pair) -> None:
    sender, receiver = pair
    ended: list[str] = []
    for name, end in (("sender", sender), ("receiver", receiver)):
        end.at_close(partial(ended.append, name))
    waiting = asyncio.create_task(receiver.recv())
    await asyncio.sleep(0.01)
    assert not ended
    await sender.close()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: sorted(ended) == ["receiver", "sender"])
    sender.at_close(partial(ended.append, "late"))
    assert "late" not in ended
    await until(lambda: ended[2:] == ["late"])


async def test_a_connection_whose_end_would_not_be_noticed_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    class Unseen(MemoryConnection):
        at_close = Connection.at_close  # the default

        async def wait_closed(self) -> None:
            raise RuntimeError("no end")

    connection, ended = Unseen(ConnectionInfo("Memory", CEM, RM, "v1.0.0"), 1), asyncio.Event()
    connection.at_close(ended.set)
    async with within(2):
        await ended.wait()
    with pytest.raises(ConnectionClosed) as caught:
        await connection.recv()
    assert caught.value.code == 1011
    assert "the watch of" in caplog.text


async def test_iteration_ends_with_the_connection(pair: Pair) -> None:
    sender, receiver = pair
    await sender.send("one")
    closing = asyncio.create_task(sender.close())
    assert [text async for text in receiver] == ["one"]
    await closing


async def test_close_wakes_a_waiting_recv_on_both_sides_and_can_be_repeated(pair: Pair) -> None:
    ours, theirs = pair
    waiting = [asyncio.create_task(connection.recv()) for connection in pair]
    await asyncio.sleep(0.01)
    async with within(2):
        await asyncio.gather(ours.close(1000, "x" * 500), ours.close(), theirs.close())
        await ours.close()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(end, ConnectionClosed) and end.code == 1000 for end in ended)


async def more_than_is_taken(sender: Connection) -> asyncio.Task[None]:
    """Begin to send 400 numbered texts of 100 KB; return the task once it waits for the reader."""
    body = base64.b64encode(random.Random(1).randbytes(75_000)).decode()  # deflate gains little
    sent = 0

    async def send() -> None:
        nonlocal sent
        for number in range(400):
            await sender.send(f"{number}:{body[number * 100 :]}{body[: number * 100]}")
            sent += 1

    task = asyncio.create_task(send())
    await until_still(lambda: sent)
    assert sent < 400, "40 MB were taken in without a reader"
    return task


@pytest.mark.rule("WS-07")
async def test_a_slow_reader_slows_the_writer_and_loses_nothing(pair: Pair) -> None:
    sender, receiver = pair
    task = await more_than_is_taken(sender)
    for number in range(400):
        assert (await receiver.recv()).startswith(f"{number}:")
    await task


class Collector:
    """Receiver that keeps what comes, and acts on the way."""

    def __init__(self, connection: Connection, on_text: Callable[[str], None] | None = None) -> None:
        self.texts: list[str] = []
        self.ends: list[ConnectionClosed] = []
        self.changed = asyncio.Event()
        self._on_text = on_text
        connection.receive_into(self)

    def text_received(self, text: str) -> None:
        assert not self.ends, "a text came after the end"
        self.texts.append(text)
        self.changed.set()
        if self._on_text is not None:
            self._on_text(text)

    def connection_ended(self, error: ConnectionClosed) -> None:
        self.ends.append(error)
        self.changed.set()

    async def until(self, what: Callable[[], bool]) -> None:
        async with within(10):
            while not what():
                self.changed.clear()
                await self.changed.wait()


@pytest.mark.rule("MSG-06", "WS-07")
async def test_a_receiver_gets_every_text_in_order_and_then_the_end_once(pair: Pair) -> None:
    sender, receiver = pair
    await sender.send("before")
    collector = Collector(receiver)
    assert not collector.texts, "a text was handed over within the call"
    for text in TEXTS:
        await sender.send(text)
    closing = asyncio.create_task(sender.close(1001, "good bye ü"))
    await collector.until(lambda: bool(collector.ends))
    assert collector.texts == ["before", *TEXTS]
    assert [(end.code, end.reason) for end in collector.ends] == [(1001, "good bye ü")]
    await closing


@pytest.mark.rule("WS-07")
async def test_a_pausing_receiver_gets_nothing_until_it_resumes_and_slows_the_writer(pair: Pair) -> None:
    sender, receiver = pair
    collector = Collector(receiver, lambda text: receiver.pause_reading())
    task = await more_than_is_taken(sender)
    for number in range(400):
        await collector.until(lambda number=number: len(collector.texts) > number)  # type: ignore[misc]
        assert len(collector.texts) == number + 1, "a text came although reading was paused"
        assert collector.texts[-1].startswith(f"{number}:")
        receiver.pause_reading()
        receiver.resume_reading()
    await task


@pytest.mark.rule("WS-07")
async def test_a_receiver_that_pauses_gets_what_came_before_the_end(pair: Pair) -> None:
    sender, receiver = pair
    collector = Collector(receiver, lambda text: receiver.pause_reading())
    await sender.send("one")
    await collector.until(lambda: collector.texts == ["one"])
    await sender.send("two")
    await receiver.close()
    await collector.until(lambda: bool(collector.ends))
    assert collector.texts in (["one"], ["one", "two"])


async def test_a_receiver_that_raises_ends_the_connection(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = FailureLog()
    monkeypatch.setattr(process_failures, "failed", failures.failed)
    sender, receiver = pair

    def fail(text: str) -> None:
        raise ZeroDivisionError

    collector = Collector(receiver, fail)
    await sender.send("one")
    with pytest.raises(ConnectionClosed):
        await sender.recv()
    await collector.until(lambda: bool(collector.ends))
    assert collector.texts == ["one"]
    assert collector.ends[0].code == 1011
    assert failures.counts == {"receiver": 1}


@pytest.mark.rule("WS-07")
async def test_what_is_sent_without_waiting_keeps_its_order_and_its_bound(pair: Pair) -> None:
    sender, receiver = pair
    body = "".join(random.Random(2).choices("abcdefghijklmnop", k=20_000))
    at_once = 0
    for number in range(400):
        if not sender.try_send(f"{number}:{body}"):
            break
        at_once += 1
    assert at_once < 400, "8 MB were taken in without a reader"
    waiting = asyncio.create_task(sender.send("last"))
    await asyncio.sleep(0)
    assert waiting.done() or not sender.try_send("overtaking")
    for number in range(at_once):
        assert (await receiver.recv()).startswith(f"{number}:")
    assert await receiver.recv() == "last"
    await waiting
    closing = asyncio.create_task(sender.close())
    with pytest.raises(ConnectionClosed):
        await receiver.recv()
    await closing


@pytest.mark.rule("SES-04", "WS-02")
async def test_an_offer_serves_one_client(transports: TransportPair) -> None:
    offer = transports.server.offer(transports.mine)
    client = await transports.client.connect(transports.theirs, offer.details, transports.trust)
    server = await offer.connection
    with pytest.raises(SessionRefused):
        await transports.client.connect(transports.theirs, offer.details, transports.trust)
    await asyncio.gather(client.close(), server.close())


@pytest.mark.rule("SES-04")
async def test_a_withdrawn_offer_is_cancelled_and_opens_nothing(transports: TransportPair) -> None:
    first, second = transports.server.offer(transports.mine), transports.server.offer(transports.mine)
    first.connection.cancel()
    await asyncio.sleep(0)
    with pytest.raises(SessionRefused):
        await transports.client.connect(transports.theirs, first.details, transports.trust)
    await transports.server.close()
    assert second.connection.cancelled()
    with pytest.raises(SessionRefused):
        await transports.client.connect(transports.theirs, second.details, transports.trust)


async def test_details_of_another_transport_are_refused(transports: TransportPair) -> None:
    details = CommunicationDetails(communication_protocol="Pigeon")
    with pytest.raises(ProtocolViolation):
        await transports.client.connect(transports.theirs, details, transports.trust)


@pytest.mark.rule("SEC-01")
async def test_the_token_does_not_show_in_the_details(rig: Any) -> None:
    async with rig() as made:
        offer = made.server.offer(ConnectionInfo("WebSocket", CEM, RM, "v1.0.0"))
        assert offer.details.websocket_token.reveal() not in repr(offer)
        offer.connection.cancel()
