"""Order on the wire, and that nothing is lost, whatever the application, the peer and the room on the wire do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from itertools import pairwise
from typing import Any, TypeVar
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from s2connect.errors import AcknowledgementTimeout, ConnectionClosed, MessageRefused, UsageError
from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message, read_message
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.session.outgoing import Departure, Leaving, Outgoing
from s2connect.session.session import Session
from s2connect.transports.base import Connection, ConnectionInfo
from s2connect.transports.memory import memory_pair
from tests.waits import within

T = TypeVar("T")
CEM, RM = NodeId(UUID(int=1)), NodeId(UUID(int=2))


class WithoutCallbacks(Connection):
    """Connection that has only what a transport must have."""

    def __init__(self, inner: Connection) -> None:
        self._inner, self.info = inner, inner.info

    async def send(self, text: str) -> None:
        await self._inner.send(text)

    async def recv(self) -> str:
        return await self._inner.recv()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._inner.close(code, reason)

    async def wait_closed(self) -> None:
        await self._inner.wait_closed()


class Exchange(RuleBasedStateMachine):
    """A session of an RM, and the far connection, whose texts are taken off the wire one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.count = 0
        self.turns = 30
        self.received: list[str] = []  # ids of messages of the peer, as our session got them
        self.seen: list[tuple[str, str]] = []  # all that the observer of our session saw
        self.wire: list[Message] = []  # what the far side has taken
        self.begun: dict[str, set[str]] = {}  # our messages, and what was received before each
        self.sends: dict[str, asyncio.Task[str]] = {}
        self.unanswered: list[str] = []  # our messages that the far side has taken
        self.refused: set[str] = set()
        self.cancelled: set[str] = set()
        self.delivered: list[str] = []
        self.pauses = 0
        self.ended = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with within(10):
                result = await work
                for _ in range(self.turns):
                    await asyncio.sleep(0)
                return result

        return self.loop.run_until_complete(bounded())

    @initialize(capacity=st.sampled_from([1, 2, 100]), small=st.booleans(), callbacks=st.booleans())
    def open(self, capacity: int, *, small: bool, callbacks: bool) -> None:
        self.small = small

        async def make() -> None:
            ours, self.far = memory_pair(
                ConnectionInfo("Memory", RM, CEM, "v1.0.0"),
                ConnectionInfo("Memory", CEM, RM, "v1.0.0"),
                capacity=capacity,
            )
            self.session = Session(
                ours if callbacks else WithoutCallbacks(ours),
                peer=NodeDescription(id=CEM, brand="B", type="T", model_name="M", role=Role.CEM),
                role=Role.RM,
                inbox_limit=2 if small else 1000,
                overflow_limit=2,
                on_message=self.observe,
            )
            self.far_queue: asyncio.Queue[str] = asyncio.Queue()
            self.far_sender = asyncio.create_task(self.far_sends())

        self.run(make())

    def observe(self, direction: str, message: Message) -> None:
        self.seen.append((direction, message.id or message.subject_id or ""))
        if direction == "received" and message.id is not None:
            self.received.append(message.id)

    async def far_sends(self) -> None:
        while True:
            await self.far.send(await self.far_queue.get())

    def next_id(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    @rule(turns=st.sampled_from([0, 1, 30]))
    def hurry_or_wait(self, turns: int) -> None:
        """Let the loop turn so often after each step."""
        self.turns = turns

    # Steps of the application

    @rule(allowed=st.integers(0, 5))
    def begin_to_send(self, allowed: int) -> None:
        async def begin() -> None:
            self.begin(allowed=bool(allowed))

        self.run(begin())

    def begin(self, *, allowed: bool = True) -> None:
        name = self.next_id("ours-")
        if allowed:
            kind: dict[str, Any] = {
                "message_type": "PowerMeasurement",
                "measurement_timestamp": "2026-01-01T00:00:00Z",
                "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}],
            }
        else:
            kind = {"message_type": "FRBC.StorageStatus", "present_fill_level": 0.5}  # no control type is selected
            self.refused.add(name)

        async def send() -> str:
            self.begun[name] = set(self.received)
            return await self.session.send({**kind, "message_id": name})

        self.sends[name] = asyncio.create_task(send())

    @precondition(lambda self: any(not task.done() for task in self.sends.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, task in self.sends.items() if not task.done()]))
        self.cancelled.add(name)

        async def cancel() -> None:
            self.sends[name].cancel()

        self.run(cancel())

    @rule()
    def receive(self) -> None:
        async def receive() -> None:
            task = asyncio.create_task(self.session.receive())
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError, ConnectionClosed):
                self.delivered.append((await task).id or "")

        self.run(receive())

    @rule()
    def pause_or_resume(self) -> None:
        async def change() -> None:
            if self.pauses:
                self.session._reading.resume()
            else:
                self.session._reading.pause()
            self.pauses = 1 - self.pauses

        self.run(change())

    # Steps of the peer

    @rule(count=st.integers(1, 4))
    def peer_sends(self, count: int) -> None:
        async def send() -> None:
            for _ in range(count):
                self.far_queue.put_nowait(self.message_of_the_peer())

        self.run(send())

    def message_of_the_peer(self) -> str:
        name = self.next_id("theirs-")
        return json.dumps({"message_type": "SelectControlType", "message_id": name, "control_type": "NO_SELECTION"})

    @rule(steps=st.lists(st.sampled_from(["take", "send", "peer", "turn"]), min_size=2, max_size=8))
    def much_at_once(self, steps: list[str]) -> None:
        async def act() -> None:
            taking: asyncio.Task[str] | None = None
            for step in steps:
                if step == "take":
                    taking = taking or asyncio.create_task(self.far.recv())
                elif step == "send":
                    self.begin()
                elif step == "peer":
                    self.far_queue.put_nowait(self.message_of_the_peer())
                else:
                    await asyncio.sleep(0)
            if taking is not None:
                await self.take(taking, 3)

        self.run(act())

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data(), status=st.sampled_from(["OK", "OK", "INVALID_CONTENT"]))
    def peer_answers(self, data: st.DataObject, status: str) -> None:
        name = data.draw(st.sampled_from(self.unanswered))
        self.unanswered.remove(name)

        async def answer() -> None:
            answer = {"message_type": "ReceptionStatus", "subject_message_id": name, "status": status}
            self.far_queue.put_nowait(json.dumps(answer))

        self.run(answer())

    @rule(count=st.integers(1, 6), patience=st.integers(1, 10))
    def peer_takes(self, count: int, patience: int) -> None:
        async def take() -> None:
            for _ in range(count):
                if not await self.take(asyncio.create_task(self.far.recv()), patience):
                    return

        self.run(take())

    async def take(self, task: asyncio.Task[str], patience: int) -> bool:
        for _ in range(patience):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled() or task.exception() is not None:
            return False
        self.take_in(read_message(task.result()))
        return True

    def take_in(self, message: Message) -> None:
        if message.id is not None:
            assert message.id not in self.refused
            order = list(self.begun)
            left = [one.id for one in self.wire if one.id is not None]
            assert not left or order.index(left[-1] or "") < order.index(message.id), "messages changed their order"
            answered = {one.subject_id for one in self.wire}
            if not self.small:  # otherwise some wait for room in the inbox
                assert self.begun[message.id] <= answered, "a message overtook the answer to an earlier one"
            self.unanswered.append(message.id)
        self.wire.append(message)

    # Invariants

    @invariant()
    def every_message_is_answered_once_and_in_order(self) -> None:
        answers = [message.subject_id for message in self.wire if message.subject_id is not None]
        assert max(Counter(answers).values(), default=1) == 1
        assert set(answers) <= set(self.received)
        accepted = [message.subject_id for message in self.wire if message.status == "OK"]
        assert accepted == [name for name in self.received if name in set(accepted)]

    @invariant()
    def the_observer_sees_the_order_on_the_wire(self) -> None:
        sent = [name for direction, name in self.seen if direction == "sent"]
        taken = [message.id or message.subject_id for message in self.wire]
        assert sent[: len(taken)] == taken

    @invariant()
    def what_is_delivered_is_what_was_accepted(self) -> None:
        refused = {message.subject_id for message in self.wire if message.status not in (None, "OK")}
        assert self.delivered == [name for name in self.received if name in set(self.delivered)]
        assert not refused & set(self.delivered)

    # The end

    def teardown(self) -> None:
        if not hasattr(self, "session"):
            self.loop.close()
            return
        self.turns = 30
        if self.pauses:
            self.pause_or_resume()
        before = -1
        while (size := len(self.wire) + len(self.delivered)) != before:  # until nothing moves
            before = size
            self.peer_takes(50, 10)
            for _ in range(10):
                self.receive()
        self.every_message_is_answered_once_and_in_order()
        answers = [message.subject_id for message in self.wire if message.subject_id is not None]
        assert sorted(answers) == sorted(self.received), "a message has no answer"
        left = {message.id for message in self.wire}
        assert self.begun.keys() - self.refused - self.cancelled <= left, "a message did not leave"
        self.run(self.finish())
        self.loop.close()

    async def finish(self) -> None:
        await self.far.close()
        await self.session.wait_closed()
        self.far_sender.cancel()
        ends = await asyncio.gather(*self.sends.values(), return_exceptions=True)
        for name, end in zip(self.sends, ends, strict=True):
            if name in self.refused and name not in self.cancelled:
                assert isinstance(end, UsageError)
            else:
                assert end == name or isinstance(end, MessageRefused | ConnectionClosed | asyncio.CancelledError)
        await asyncio.wait({self.far_sender})
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task outlives the session"


TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# The queue alone


def prepared(message: Message, leaving: Leaving | None) -> None:
    if message.text.endswith("!"):
        raise UsageError("It may not be sent.")


@given(st.lists(st.sampled_from(["status", "message", "refused", "cancelled", "take"]), max_size=60))
async def test_a_message_waits_for_the_statuses_before_it_and_never_for_later_ones_twice(steps: list[str]) -> None:
    queue = Outgoing()
    statuses: list[int] = []
    messages: list[tuple[int, bool]] = []
    taken: list[int] = []
    answers: dict[int, asyncio.Future[Message]] = {}

    def take() -> bool:
        message = queue.take(prepared)
        if message is not None:
            taken.append(int(message.text.rstrip("!")))
        return message is not None

    for number, step in enumerate(steps):
        if step == "take":
            take()
        elif step == "status":
            statuses.append(number)
            assert queue.put(Message(str(number), "ReceptionStatus", None)) == queue.statuses
        else:
            answer = answers[number] = asyncio.get_running_loop().create_future()
            if step == "cancelled":
                answer.cancel()
            messages.append((number, step == "message"))
            queue.put(Departure(Message(f"{number}!" if step == "refused" else f"{number}", "A", "m"), None, answer))
    while take():
        pass
    leaving = [one for one, leaves in messages if leaves]
    assert [one for one in taken if one in statuses] == statuses
    assert [one for one in taken if one in leaving] == leaving
    assert len(taken) == len(statuses) + len(leaving)
    for one in leaving:
        assert all(taken.index(status) < taken.index(one) for status in statuses if status < one)
    for one, answer in answers.items():
        if answer.done() and not answer.cancelled():
            assert isinstance(answer.exception(), UsageError)
            assert one not in leaving


@pytest.mark.rule("MSG-04")
async def test_messages_that_wait_do_not_hold_up_statuses_nor_statuses_them_for_ever() -> None:
    queue = Outgoing()
    for number in range(3):
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        queue.put(Departure(Message(f"m{number}", "A", "m"), None, answer))
    taken = []
    for number in range(6):  # one more status comes with each text that leaves
        queue.put(Message(f"s{number}", "ReceptionStatus", None))
        message = queue.take(prepared)
        assert message is not None
        taken.append(message.text)
    assert taken == ["m0", "s0", "m1", "s1", "s2", "m2"]


class Narrow(WithoutCallbacks):
    """Connection whose room the test decides on; what goes out is in ``wire``."""

    def __init__(self, inner: Connection) -> None:
        super().__init__(inner)
        self.room = False
        self.wire: list[str | None] = []

    def try_send(self, text: str) -> bool:
        if self.room:
            self.note(text)
        return self.room

    async def send(self, text: str) -> None:
        self.note(text)

    def note(self, text: str) -> None:
        message = read_message(text)
        self.wire.append(message.id or message.subject_id)


def narrow_connection() -> Narrow:
    return Narrow(memory_pair(ConnectionInfo("Memory", RM, CEM, "v1"), ConnectionInfo("Memory", CEM, RM, "v1"))[0])


def session_on(connection: Connection) -> Session:
    peer = NodeDescription(id=CEM, brand="B", type="T", model_name="M", role=Role.CEM)
    return Session(connection, peer=peer, role=Role.RM, check=Check.ENVELOPE)


@pytest.mark.rule("MSG-04")
async def test_nothing_overtakes_what_waits_although_there_is_room_again() -> None:
    narrow = narrow_connection()
    async with session_on(narrow) as ours, within(5):
        sending = asyncio.create_task(ours.send({"message_type": "A", "message_id": "m1"}))
        ours.text_received('{"message_type":"A","message_id":"t1"}')
        narrow.room = True
        ours.text_received('{"message_type":"A","message_id":"t2"}')
        await asyncio.sleep(0)
        ours.text_received('{"message_type":"A","message_id":"t3"}')
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert narrow.wire == ["t1", "t2", "m1", "t3"] or narrow.wire == ["t1", "t2", "t3", "m1"]
        ours.text_received('{"message_type":"ReceptionStatus","subject_message_id":"m1","status":"OK"}')
        assert await sending == "m1"


@pytest.mark.rule("SEC-03")
async def test_many_messages_that_wait_leave_the_loop_to_others_in_between() -> None:
    narrow = narrow_connection()
    async with session_on(narrow) as ours, within(5):
        sends = [asyncio.create_task(ours.send({"message_type": "A", "message_id": f"m{n}"})) for n in range(50)]
        turns = [0]
        while turns[-1] < 50:
            await asyncio.sleep(0)
            turns.append(len(narrow.wire))
        assert max(after - before for before, after in pairwise(turns)) <= 2
        for number in range(50):
            ours.text_received(f'{{"message_type":"ReceptionStatus","subject_message_id":"m{number}","status":"OK"}}')
        assert await asyncio.gather(*sends) == narrow.wire


@pytest.mark.rule("MSG-07")
async def test_a_message_whose_time_is_over_before_it_could_leave_never_leaves() -> None:
    ours_end, far = memory_pair(
        ConnectionInfo("Memory", RM, CEM, "v1"), ConnectionInfo("Memory", CEM, RM, "v1"), capacity=1
    )
    peer = NodeDescription(id=CEM, brand="B", type="T", model_name="M", role=Role.CEM)
    async with Session(ours_end, peer=peer, role=Role.RM, check=Check.ENVELOPE, ack_timeout=0.05) as ours, within(5):
        sends = [asyncio.create_task(ours.send({"message_type": "A", "message_id": f"m{n}"})) for n in range(5)]
        ends = await asyncio.gather(*sends, return_exceptions=True)
        assert all(isinstance(end, AcknowledgementTimeout) for end in ends)
        last = asyncio.create_task(ours.send({"message_type": "A", "message_id": "last"}))
        left = []
        while "last" not in left:
            left.append(read_message(await far.recv()).id)
        assert left in (["m0", "last"], ["m0", "m1", "last"]), "what had found no room before, and then the last"
        await far.send('{"message_type":"ReceptionStatus","subject_message_id":"last","status":"OK"}')
        assert await last == "last"
