"""The queue of one side: order, bounds, what is taken back, and what happens when the connection goes."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.bridge.outbox import MAX_QUEUED, MAX_QUEUED_CHARACTERS, Outbox
from s2connect.errors import ConnectionClosed
from s2connect.transports.base import Connection
from tests.bridge.link_fixtures import connection_pair
from tests.waits import until, within


class Roomy(Connection):
    """A connection whose room the test sets."""

    info = connection_pair()[0].info

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.room = asyncio.Event()
        self.room.set()
        self.waiting = 0
        self.error: Exception | None = None

    async def send(self, text: str) -> None:
        self.waiting += 1
        try:
            await self.room.wait()
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error
        self.sent.append(text)

    def try_send(self, text: str) -> bool:
        assert not self.waiting, "a text would overtake"
        if self.error is not None:
            raise self.error
        if self.room.is_set():
            self.sent.append(text)
        return self.room.is_set()

    async def recv(self) -> str:
        raise AssertionError

    async def close(self, code: int = 1000, reason: str = "") -> None:
        raise AssertionError

    async def wait_closed(self) -> None:
        raise AssertionError


class Box:
    """An outbox, and what it tells."""

    def __init__(self) -> None:
        self.connection = Roomy()
        self.errors: list[Exception] = []
        self.room = 0
        self.outbox = Outbox(self.connection, self._on_room, self.errors.append)

    def _on_room(self) -> None:
        self.room += 1


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_text_goes_out_at_once_where_nothing_waits_and_there_is_room() -> None:
    box, before = Box(), asyncio.all_tasks()
    box.outbox.put("a", "a")
    assert box.connection.sent == ["a"]
    assert not box.outbox.withdraw("a")
    assert asyncio.all_tasks() == before, "without a task"


async def test_a_task_sends_only_as_long_as_something_waits() -> None:
    box, before = Box(), asyncio.all_tasks()
    box.connection.room.clear()
    for name in "abc":
        box.outbox.put(name)
    assert len(asyncio.all_tasks() - before) == 1
    box.connection.room.set()
    await box.outbox.flush()
    assert asyncio.all_tasks() == before
    assert box.connection.sent == ["a", "b", "c"]


@given(st.lists(st.sampled_from(["put", "put", "stop", "go", "turn", "withdraw"]), max_size=60))
@settings(max_examples=100, deadline=None)
def test_nothing_is_lost_repeated_or_overtaken(steps: list[str]) -> None:
    async def play() -> None:
        box = Box()
        put, withdrawn = 0, set()
        for step in steps:
            match step:
                case "put":
                    box.outbox.put(str(put), str(put))
                    put += 1
                case "stop":
                    box.connection.room.clear()
                case "go":
                    box.connection.room.set()
                case "withdraw" if box.outbox.withdraw(str(put // 2)):
                    withdrawn.add(put // 2)
                case _:
                    await asyncio.sleep(0)
        box.connection.room.set()
        await box.outbox.flush()
        assert box.connection.sent == [str(n) for n in range(put) if n not in withdrawn]
        assert len(box.outbox) == 0
        assert not box.outbox.is_full(1)
        assert not box.errors

    asyncio.run(play())


@pytest.mark.rule("WS-07")
async def test_a_slow_side_fills_the_queue_which_tells_when_there_is_room_again() -> None:
    box = Box()
    box.connection.room.clear()
    for number in range(MAX_QUEUED + 1):  # the first one is being sent
        assert not box.outbox.is_full()
        box.outbox.put(str(number))
        await asyncio.sleep(0)
    assert box.outbox.is_full()
    assert not box.outbox.is_full(2 * MAX_QUEUED)
    before = box.room
    box.connection.room.set()
    await turns()
    assert box.room > before
    assert not box.outbox.is_full()
    await box.outbox.close()


@pytest.mark.rule("WS-07")
async def test_a_few_long_texts_count_as_many_short_ones() -> None:
    box = Box()
    box.connection.room.clear()
    box.outbox.put("first")
    await turns()  # it is being sent
    box.outbox.put("x" * (MAX_QUEUED_CHARACTERS - 1))
    assert not box.outbox.is_full()
    box.outbox.put("x")
    assert box.outbox.is_full()
    box.connection.room.set()
    await box.outbox.flush()
    assert not box.outbox.is_full()


async def test_what_is_taken_back_never_leaves() -> None:
    box = Box()
    box.connection.room.clear()
    for name in "abc":
        box.outbox.put(name, name)
    await turns()
    assert not box.outbox.withdraw("a"), "it is being sent"
    assert box.outbox.withdraw("b")
    assert not box.outbox.withdraw("b")
    assert not box.outbox.withdraw("?")
    box.connection.room.set()
    await box.outbox.flush()
    assert box.connection.sent == ["a", "c"]


@pytest.mark.parametrize("error", [ConnectionClosed(1006), RuntimeError("an error of ours")], ids=["gone", "ours"])
async def test_what_ends_the_sending_is_told_once_whoever_notices(error: Exception) -> None:
    at_once, queued = Box(), Box()
    at_once.connection.error = error
    at_once.outbox.put("directly")
    assert at_once.errors == [error]
    queued.connection.room.clear()
    queued.outbox.put("queued", "queued")
    queued.outbox.put("behind it", "behind it")
    await turns()
    queued.connection.error = error
    queued.connection.room.set()
    await until(lambda: queued.errors == [error])
    for box in (at_once, queued):
        box.outbox.put("later")
        async with within(1):
            with pytest.raises(ConnectionClosed):
                await box.outbox.flush()
        assert box.errors == [error]
        assert not box.connection.sent
    assert queued.outbox.withdraw("behind it"), "it never left"


async def test_a_text_is_sent_whole_or_not_where_the_sending_is_stopped() -> None:
    box = Box()
    box.connection.room.clear()
    box.outbox.put("a")
    box.outbox.put("b")
    await turns()
    await box.outbox.close()
    box.connection.room.set()
    await turns()
    assert box.connection.sent == []
    assert not box.errors


async def test_over_a_connection_with_little_room_all_arrives_in_order() -> None:
    ours, theirs = connection_pair(capacity=1)
    outbox = Outbox(ours, lambda: None, lambda error: None)
    for number in range(MAX_QUEUED + 2):
        outbox.put(str(number))
    assert [await theirs.recv() for _ in range(MAX_QUEUED + 2)] == [str(number) for number in range(MAX_QUEUED + 2)]
