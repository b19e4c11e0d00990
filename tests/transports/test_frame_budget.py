"""Frames that carry no message: bounded on both sides of a WebSocket, before a library parses them (SEC-03)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from s2connect.errors import ConnectionClosed, NotReachable
from s2connect.transports import frame_budget
from s2connect.transports.frame_budget import MAX_FRAMES, FrameBudget, FrameCounter, FrameGuard
from tests.transports.test_websocket import MINE, THEIRS, foreign_server, raw_pair
from tests.waits import patience, within

pytestmark = pytest.mark.rule("SEC-03")

FRAMES = st.lists(
    st.tuples(st.sampled_from(list(Opcode)), st.binary(max_size=200) | st.just(bytes(70_000)), st.booleans()),
    max_size=12,
)


def wire(frames: list[tuple[Opcode, bytes, bool]]) -> bytes:
    """The frames, as another library writes them."""
    return b"".join(Frame(opcode, data, fin=True).serialize(mask=mask) for opcode, data, mask in frames)


@given(FRAMES, st.binary(max_size=30), st.lists(st.integers(0, 10_000), max_size=10), st.booleans())
def test_however_the_bytes_come_the_frames_are_counted(
    frames: list[tuple[Opcode, bytes, bool]], head: bytes, cuts: list[int], after_head: bool
) -> None:
    frames = [(opcode, data[:125] if opcode >= 8 else data, mask) for opcode, data, mask in frames]
    data = wire(frames)
    if after_head:
        data = head.replace(b"\r", b"") + b"\r\n\r\n" + data
    counter = FrameCounter(after_head=after_head)
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    assert sum(counter.feed(data[a:b]) for a, b in itertools.pairwise(edges)) == len(frames)


def test_byte_by_byte_is_the_same() -> None:
    data = wire([(Opcode.TEXT, bytes(70_000), True), (Opcode.PING, b"x", False), (Opcode.CONT, bytes(300), True)])
    counter = FrameCounter()
    assert sum(counter.feed(data[n : n + 1]) for n in range(len(data))) == 3


def test_counting_ends_where_it_is_enough() -> None:
    before = time.process_time()
    assert FrameCounter().feed(b"\x00\x00" * 5_000_000) == MAX_FRAMES + 1
    assert time.process_time() - before < patience(0.05)


def test_a_message_is_worth_its_frames_and_an_empty_one_is_worth_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_budget, "MAX_FRAMES", 10)
    monkeypatch.setattr(frame_budget, "FRAMES_PER_SECOND", 1.0)
    budget = FrameBudget(0.0)
    for _ in range(1000):
        assert budget.came(1, now=0.0)
        budget.delivered(1)
        assert budget.came(5, now=0.0)
        budget.delivered(1024)
    for _ in range(10):
        assert budget.came(1, now=0.0)
        budget.delivered(0)
    assert not budget.came(1, now=0.0)
    assert budget.came(2, now=3.0)
    assert not budget.came(1, now=3.0)


MASK = b"\x00\x00\x00\x00"
FLOODS = {
    "empty continuations": (b"\x01\x80" + MASK, b"\x00\x80" + MASK),
    "one-byte fragments": (b"\x01\x81" + MASK + b"x", b"\x00\x81" + MASK + b"x"),
    "pings": (b"", b"\x89\x80" + MASK),
    "pongs": (b"", b"\x8a\x80" + MASK),
    "empty messages": (b"", b"\x81\x80" + MASK),
}


async def until_closed(connection: Any) -> int:
    async with within(20):
        try:
            while True:
                await connection.recv()
        except ConnectionClosed as error:
            return error.code


@pytest.mark.parametrize("what", FLOODS)
async def test_a_client_that_sends_frames_and_no_messages_is_put_out_with_1008(rig: Any, what: str) -> None:
    first, again = FLOODS[what]
    async with rig() as made:
        server, client = await raw_pair(made, ping_interval=None)
        before = time.process_time()
        client.transport.write(first + again * 500_000)
        assert await until_closed(server) == 1008
        assert time.process_time() - before < 2.0  # the bare client's part of it included
        with contextlib.suppress(Exception):
            await client.recv()
        client.transport.abort()


@pytest.mark.parametrize("what", FLOODS)
async def test_a_server_that_sends_frames_and_no_messages_is_left_with_1008(rig: Any, what: str) -> None:
    first, again = (frame.replace(b"\x80" + MASK, b"\x00").replace(b"\x81" + MASK, b"\x01") for frame in FLOODS[what])

    async def handler(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        assert request.transport is not None
        await response.receive()
        request.transport.write(first + again * 500_000)
        with contextlib.suppress(Exception):
            while (await response.receive()).type is not aiohttp.WSMsgType.CLOSE:
                pass
        return response

    async with rig() as made, foreign_server(made, handler) as details:
        client = await made.client.connect(THEIRS, details, made.trust)
        before = time.process_time()
        await client.send("{}")
        assert await until_closed(client) in {1008, 1009}  # newer versions of the library bound fragments, too
        assert time.process_time() - before < 2.0


async def test_a_server_that_floods_at_once_is_not_waited_for(rig: Any) -> None:
    async def handler(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        assert request.transport is not None
        await response.prepare(request)
        request.transport.write(b"\x00\x00" * 500_000)
        return response

    async with rig() as made, foreign_server(made, handler) as details, within(5):
        with contextlib.suppress(NotReachable):
            client = await made.client.connect(THEIRS, details, made.trust)
            await until_closed(client)


async def test_nobody_has_to_read_for_that(rig: Any) -> None:
    async with rig() as made:
        server, client = await raw_pair(made, ping_interval=None)
        client.transport.write(b"\x01\x80" + MASK + b"\x00\x80" + MASK * 1 + (b"\x00\x80" + MASK) * 20_000)
        async with within(20):
            await server.closed.wait()
        client.transport.abort()


async def test_frames_before_the_answer_to_the_upgrade_count_too(rig: Any) -> None:
    """aiohttp keeps them in ``_message_tail`` of its protocol: where that moves, this fails."""
    async with rig() as made:
        offer = made.server.offer(MINE)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", made.port, ssl=made.client_context, server_hostname="device.local"
        )
        head = (
            f"GET {made.url.partition(str(made.port))[2]} HTTP/1.1\r\nHost: device.local\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n"
            f"Authorization: Bearer {offer.details.websocket_token.reveal()}\r\n\r\n"
        )
        # Half a frame with the head: were it not seen, all that follows would be counted wrongly.
        writer.write(head.encode() + b"\x81\xfe\x00")
        server = await offer.connection
        assert isinstance(server._transport.get_protocol(), FrameGuard)
        writer.write(b"\x80" + MASK + bytes(128) + (b"\x00\x80" + MASK) * 20_000)
        assert await until_closed(server) in {1002, 1008}
        assert server._frames._level > 0
        writer.transport.abort()
        del reader


async def test_messages_may_come_as_fast_as_they_like_and_wait_for_a_slow_reader(rig: Any) -> None:
    async with rig() as made:
        server, client = await made.pair()
        for sender, receiver in ((client, server), (server, client)):
            texts = ["{}" if n % 2 else "x" * 200 for n in range(MAX_FRAMES * 2)]

            async def send_all(sender: Any = sender, texts: list[str] = texts) -> None:
                for text in texts:
                    await sender.send(text)

            task = asyncio.create_task(send_all())
            await asyncio.sleep(0.3)
            async with within(40):
                assert [await receiver.recv() for _ in texts] == texts
                await task
        await asyncio.gather(server.close(), client.close())
