"""Frames that carry no message: bounded on both sides of a WebSocket, before a library parses them (SEC-03)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from s2connect.errors import ConnectionClosed, NotReachable
from s2connect.transports import frame_budget
from s2connect.transports.frame_budget import MAX_FRAMES, FrameBudget
from tests.transports.test_websocket import MINE, THEIRS, foreign_server, raw_pair
from tests.waits import within

pytestmark = pytest.mark.rule("SEC-03")


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
            await server.wait_closed()
        client.transport.abort()


async def test_frames_before_the_answer_to_the_upgrade_bring_a_client_nothing(rig: Any) -> None:
    """RFC 6455 forbids them (section 4.1). They are lost, so that what follows is out of step."""
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
        writer.write(head.encode() + b"\x81\xfe\x00")
        server = await offer.connection
        writer.write(b"\x80" + MASK + bytes(128) + (b"\x00\x80" + MASK) * 20_000)
        assert await until_closed(server) in {1002, 1008}
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
