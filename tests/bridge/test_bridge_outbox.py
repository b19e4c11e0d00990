"""The queue of one side: order, bounds, what is taken back, and what happens when the connection goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.bridge.outbox import MAX_QUEUED, MAX_QUEUED_CHARACTERS, Outbox
from s2connect.errors import ConnectionClosed
from s2connect.transports.base import Connection
from tests.bridge.link_fixtures import connection_pair
from tests.waits import within


class Roomy(Connection):
    """A connection whose room the test sets."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.room = asyncio.Event()
        self.room.set()
        self.gone = False

    async def send(self, text: str) -> None:
        await self.room.wait()
        if self.gone:
            raise ConnectionClosed(1006)
        self.sent.append(text)

    async def recv(self) -> str:
        raise AssertionError

    async def close(self, code: int = 1000, reason: str = "") -> None:
        raise AssertionError

    async def wait_closed(self) -> None:
        raise AssertionError

    def has_room(self) -> bool:
        return self.room.is_set()


@contextlib.asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(outbox.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_text_goes_out_at_once_where_nothing_waits_and_there_is_room() -> None:
    connection = Roomy()
    outbox = Outbox(connection)
    await outbox.put("a")  # nobody runs it
    assert connection.sent == ["a"]
    assert not outbox.withdraw("a")


@given(st.lists(st.sampled_from(["put", "now", "stop", "go", "turn"]), max_size=40))
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_repeated_or_overtaken(steps: list[str]) -> None:
    async def play() -> None:
        connection = Roomy()
        outbox = Outbox(connection)
        put = 0
        puts = []
        async with running(outbox):
            for step in steps:
                match step:
                    case "put":
                        puts.append(asyncio.create_task(outbox.put(str(put))))
                        await asyncio.sleep(0)
                        put += 1
                    case "now":
                        outbox.put_nowait(str(put))
                        put += 1
                    case "stop":
                        connection.room.clear()
                    case "go":
                        connection.room.set()
                    case _:
                        await asyncio.sleep(0)
            connection.room.set()
            await outbox.flush()
            await asyncio.gather(*puts)
        assert connection.sent == [str(n) for n in range(put)]

    asyncio.run(play())


async def test_a_slow_side_makes_the_writer_wait_and_the_queue_stays_bounded() -> None:
    connection = Roomy()
    connection.room.clear()
    outbox = Outbox(connection)
    async with running(outbox):
        put = 0

        async def flood() -> None:
            nonlocal put
            while True:
                await outbox.put("x")
                put += 1
                await asyncio.sleep(0)

        flooding = asyncio.create_task(flood())
        await turns(3 * MAX_QUEUED)
        assert len(outbox) == MAX_QUEUED
        before = put
        connection.room.set()
        await turns()
        connection.room.clear()
        assert put > before
        assert len(outbox) <= MAX_QUEUED
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


async def test_a_few_long_texts_count_as_many_short_ones() -> None:
    connection = Roomy()
    connection.room.clear()
    outbox = Outbox(connection)
    async with running(outbox):
        await outbox.put("first")
        await turns()  # it is being sent
        waiting = asyncio.create_task(outbox.put("x" * MAX_QUEUED_CHARACTERS))
        await turns()
        assert not waiting.done()
        connection.room.set()
        async with within(1):
            await waiting


async def test_what_is_taken_back_never_leaves() -> None:
    connection = Roomy()
    connection.room.clear()
    outbox = Outbox(connection)
    async with running(outbox):
        for name in "abc":
            await outbox.put(name, name)
        await turns()
        assert not outbox.withdraw("a"), "it is being sent"
        assert outbox.withdraw("b")
        assert not outbox.withdraw("b")
        assert not outbox.withdraw("?")
        connection.room.set()
        await outbox.flush()
    assert connection.sent == ["a", "c"]


async def test_the_end_of_the_connection_is_told_by_its_task_whoever_notices() -> None:
    connection = Roomy()
    outbox = Outbox(connection)
    async with running(outbox) as task:
        connection.gone = True
        await outbox.put("directly")  # not this caller's connection, so not its error
        with pytest.raises(ConnectionClosed):
            async with within(1):
                await task
    outbox = Outbox(connection)
    async with running(outbox) as task:
        outbox.put_nowait("queued")
        outbox.put_nowait("behind it")
        with pytest.raises(ConnectionClosed):
            async with within(1):
                await task
        with pytest.raises(ConnectionClosed):
            async with within(1):
                await outbox.flush()


async def test_a_put_that_is_cancelled_while_it_waits_is_sent_all_the_same() -> None:
    ours, theirs = connection_pair(capacity=1)
    outbox = Outbox(ours)
    async with running(outbox):
        for number in range(MAX_QUEUED + 1):
            outbox.put_nowait(str(number))
        waiting = asyncio.create_task(outbox.put("last"))
        await turns()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        read = [await theirs.recv() for _ in range(MAX_QUEUED + 2)]
    assert read == [*(str(number) for number in range(MAX_QUEUED + 1)), "last"]
