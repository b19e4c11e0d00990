"""The path of messages through a link, over connections whose room and whose pauses the test sees."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect import LinkHold
from s2connect.bridge.link import Link
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.outbox import MAX_QUEUED, MAX_QUEUED_CHARACTERS
from s2connect.bridge.relay import FAR_SIDE_PATIENCE, Policy
from s2connect.bridge.side_connection import MAX_KEPT, MAX_UNREAD, SideConnection
from s2connect.bridge.sides import Initiator, LinkSide
from s2connect.errors import ConnectionClosed
from s2connect.messages.envelope import NIL_ID
from s2connect.model.common import Role
from s2connect.session.budget import PeerLimits
from s2connect.transports.base import Connection, Receiver
from tests.bridge.link_fixtures import answer, connection_pair, message
from tests.bridge.virtual_time import run_virtual

RM, CEM = Role.RM, Role.CEM


class Scripted(Connection):
    """The bridge's end of a connection that hands its texts over by callbacks, several in one go.

    Attributes:
        inbox: What the peer has sent and the bridge has not taken.
        sent: What the bridge has sent.
        room: How many texts more the peer takes.
        asked: How often the peer was asked for a sign of life.
    """

    def __init__(self) -> None:
        self.info = connection_pair()[0].info
        self.inbox: deque[str] = deque()
        self.sent: list[str] = []
        self.room = 10**9
        self.asked = 0
        self._answer: Callable[[], None] | None = None
        self.paused = False
        self.ended: ConnectionClosed | None = None
        self.receiver: Receiver | None = None
        self.is_due = False
        self._changed = asyncio.Event()
        self._waiting = 0
        self._loop = asyncio.get_running_loop()

    def receive_into(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._deliver_soon()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused, "it was never paused"
        self.paused = False
        self._deliver_soon()

    def ask(self, call: Callable[[], None]) -> bool:
        self.asked += 1
        self._answer = call
        return True

    def signs(self) -> None:
        """The peer answers the last question, if there is any, behind what it has sent."""
        call, self._answer = self._answer, None
        if call is not None and self.ended is None:
            call()

    def says(self, *texts: str) -> None:
        """The peer sends."""
        self.inbox.extend(texts)
        self._deliver_soon()

    def _deliver_soon(self) -> None:
        self.is_due = True
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        assert self.receiver is not None
        self.is_due = False
        while self.inbox and not self.paused and self.ended is None:
            self.receiver.text_received(self.inbox.popleft())

    def ends(self, code: int = 1006) -> None:
        """The connection ends; what came before is handed over all the same."""
        if self.ended is None:
            self.ended = ConnectionClosed(code)
            self._change()
            self._loop.call_soon(self._last)

    def _last(self) -> None:
        assert self.receiver is not None
        assert self.ended is not None
        while self.inbox:
            self.receiver.text_received(self.inbox.popleft())
        self.receiver.connection_ended(self.ended)

    def makes_room(self, room: int = 10**9) -> None:
        """The peer takes so many texts more."""
        self.room = room
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def try_send(self, text: str) -> bool:
        if self.ended is not None:
            raise self.ended
        if self._waiting or not self.room:
            return False
        self._sends(text)
        return True

    async def send(self, text: str) -> None:
        self._waiting += 1
        try:
            while not self.room and self.ended is None:
                await self._changed.wait()
            if self.ended is not None:
                raise self.ended
            self._sends(text)
        finally:
            self._waiting -= 1

    def _sends(self, text: str) -> None:
        self.room -= 1
        self.sent.append(text)
        if json.loads(text)["message_type"] == "SessionRequest":  # the peers of these tests end all by themselves
            self.says(answer(json.loads(text)["message_id"]))

    async def recv(self) -> str:
        raise AssertionError("nobody needs it")

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.ends(code)

    async def wait_closed(self) -> None:
        raise AssertionError("nobody needs it")


class ScriptedSide(LinkSide):
    """A side that the bridge connects to."""

    initiator = Initiator.BRIDGE

    def __init__(self, title: str) -> None:
        self.title = title
        self.connection = Scripted()

    async def open(self) -> Connection:
        if self.connection.ended is not None:
            self.connection = Scripted()
        return self.connection


UNLIMITED = PeerLimits(messages_per_second=0, bytes_per_second=0, busy_share=0)
SLOWING = PeerLimits(messages_per_second=100, message_burst=10, bytes_per_second=0, busy_share=0)


class Played:
    """A link that is up, and what its peers have sent and got."""

    def __init__(self, limits: PeerLimits, hold: LinkHold | None) -> None:
        self.sides = {RM: ScriptedSide("the device"), CEM: ScriptedSide("the manager")}
        self.link = Link("played", self.sides, Policy(limits=limits), hold=hold)
        self.number = 0
        self.accepted: dict[Role, set[str]] = {RM: set(), CEM: set()}

    def end(self, role: Role) -> Scripted:
        return self.sides[role].connection

    async def up(self) -> None:
        while self.link.status().state is not LinkState.UP:
            await asyncio.sleep(0.001)

    def send(self, role: Role, count: int) -> None:
        """The peer of one side sends messages."""
        names = [f"{role}-{self.number + n}" for n in range(count)]
        self.number += count
        self.end(role).says(*map(message, names))

    def got(self, role: Role) -> list[str]:
        """Return the ids of the messages that the peer of one side has got."""
        values = map(json.loads, self.end(role).sent)
        return [value["message_id"] for value in values if value["message_type"] == "PowerMeasurement"]

    def forwarded(self) -> dict[Role, int]:
        """Return how many messages of each side were passed on, which may wait to be sent."""
        return {role: counts.get("forwarded", 0) for role, counts in self.link.status().counts.items()}

    def answers(self, role: Role) -> list[tuple[str, str]]:
        """Return what the peer of one side was told about its messages."""
        values = [value for value in map(json.loads, self.end(role).sent) if "subject_message_id" in value]
        return [(v["subject_message_id"], v["status"]) for v in values if v["subject_message_id"] != NIL_ID]

    def acknowledge(self, role: Role, count: int) -> None:
        """The peer of one side answers the next messages that it has got."""
        new = [name for name in self.got(role) if name not in self.accepted[role]][:count]
        self.accepted[role].update(new)
        self.end(role).says(*map(answer, new))

    def check(self, *, standing: bool = True) -> None:
        for role in Role:
            got = self.got(role)
            numbers = [int(name.rpartition("-")[2]) for name in got]
            assert numbers == sorted(set(numbers)), "in order, and nothing twice"
            answered = [subject for subject, _ in self.answers(role)]
            assert len(answered) == len(set(answered)), "one answer for each"
            accepted = {subject for subject, status in self.answers(role) if status == "OK"}
            assert accepted <= self.accepted[role.other], "no OK on another's behalf"
            if standing:
                queued = self.link.status().queued[role]
                assert queued <= MAX_QUEUED + MAX_UNREAD
                assert not self.end(role).inbox or self.end(role).paused or self.end(role).is_due


def play(
    scene: Callable[[Played], Awaitable[None]], limits: PeerLimits = UNLIMITED, hold: LinkHold | None = None
) -> None:
    async def run() -> None:
        played = Played(limits, hold)
        running = asyncio.create_task(played.link.run())
        try:
            await played.up()
            await scene(played)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await asyncio.sleep(0)

    run_virtual(run())


def test_while_both_sides_take_what_comes_no_task_is_made_and_no_turn_of_the_loop_waited_for() -> None:
    async def scene(played: Played) -> None:
        tasks = asyncio.all_tasks()
        device, manager = played.end(RM), played.end(CEM)
        assert device.receiver is not None
        device.receiver.text_received(message("m1"))
        assert manager.sent == [message("m1")]
        assert manager.receiver is not None
        manager.receiver.text_received(answer("m1"))
        assert device.sent == [answer("m1")]
        assert asyncio.all_tasks() == tasks

    play(scene)


@pytest.mark.rule("WS-07")
def test_a_side_that_takes_nothing_pauses_the_other_until_it_does() -> None:
    async def scene(played: Played) -> None:
        played.end(CEM).makes_room(0)
        played.send(RM, 3 * MAX_QUEUED)
        await asyncio.sleep(0.1)
        assert played.end(RM).paused
        assert not played.end(CEM).paused
        in_the_bridge = 3 * MAX_QUEUED - len(played.end(RM).inbox)
        assert MAX_QUEUED <= in_the_bridge <= MAX_QUEUED + 1
        played.end(CEM).makes_room()
        await asyncio.sleep(0.1)
        assert not played.end(RM).paused
        assert len(played.got(CEM)) == 3 * MAX_QUEUED

    play(scene)


@pytest.mark.rule("WS-07")
def test_a_few_long_texts_pause_the_other_side_as_well() -> None:
    async def scene(played: Played) -> None:
        played.end(CEM).makes_room(0)
        filler = "x" * (MAX_QUEUED_CHARACTERS // 5)
        played.end(RM).says(*(message(f"m{n}", filler=filler) for n in range(20)))
        await asyncio.sleep(0.1)
        assert played.end(RM).paused
        assert 13 <= len(played.end(RM).inbox) <= 14
        played.end(CEM).makes_room()
        await asyncio.sleep(0.1)
        assert len(played.got(CEM)) == 20

    play(scene)


@pytest.mark.rule("WS-07")
def test_a_side_that_sends_and_does_not_take_the_answers_is_not_read_from_any_more() -> None:
    async def scene(played: Played) -> None:
        device = played.end(RM)
        device.makes_room(0)
        device.says(*(["no message"] * 5 * MAX_UNREAD))
        await asyncio.sleep(5)
        assert device.paused
        assert played.link.status().queued[RM] == MAX_UNREAD
        device.makes_room()
        await asyncio.sleep(5)
        assert len(device.sent) == 5 * MAX_UNREAD

    play(scene)


@pytest.mark.rule("SEC-03")
def test_a_side_that_uses_too_much_is_read_from_at_its_pace_and_loses_nothing() -> None:
    async def scene(played: Played) -> None:
        played.send(RM, 210)
        await asyncio.sleep(0.001)
        assert len(played.got(CEM)) + len(played.end(RM).inbox) >= 210 - MAX_KEPT, "the rest waits with the peer"
        await asyncio.sleep(1)
        assert 105 <= len(played.got(CEM)) <= 115
        assert played.end(RM).inbox
        await asyncio.sleep(1)
        assert len(played.got(CEM)) == 210
        await asyncio.sleep(1)
        assert not played.end(RM).paused

    play(scene, SLOWING)


def test_what_a_side_said_before_it_ended_reaches_the_other_also_while_it_was_not_read_from() -> None:
    async def scene(played: Played) -> None:
        played.send(RM, 60)
        await asyncio.sleep(0)
        played.end(RM).ends()
        await asyncio.sleep(0.3)
        manager = played.end(CEM)
        assert len(played.got(CEM)) < 60
        assert played.link.status().state is LinkState.UP
        await asyncio.sleep(0.3)
        assert len([text for text in manager.sent if "PowerMeasurement" in text]) == 60
        assert manager.ended is not None

    play(scene, SLOWING)


def test_the_end_of_a_side_that_the_bridge_cannot_send_to_any_more_is_not_waited_for() -> None:
    async def scene(played: Played) -> None:
        played.end(CEM).makes_room(0)
        played.send(RM, 2 * MAX_QUEUED)
        await asyncio.sleep(0.1)
        manager = played.end(CEM)
        played.end(RM).ends()
        await asyncio.sleep(0.1)
        assert played.link.status().state is LinkState.UP, "the rest may still be taken"
        await asyncio.sleep(2 * FAR_SIDE_PATIENCE)  # then its sender has to be told, who is gone
        assert manager.ended is not None

    play(scene)


@pytest.mark.rule("REC-03")
def test_who_has_not_got_the_session_request_of_the_other_side_gets_one_of_the_bridge() -> None:
    async def scene(played: Played) -> None:
        manager = played.end(CEM)
        manager.makes_room(0)
        played.send(RM, 1)  # which is being sent
        played.end(RM).says(message("bye", "SessionRequest", request="TERMINATE"))
        await asyncio.sleep(0.1)
        played.end(RM).ends()
        await asyncio.sleep(0.1)
        manager.makes_room()
        await asyncio.sleep(0.1)
        (request,) = [value for value in map(json.loads, manager.sent) if value["message_type"] == "SessionRequest"]
        assert request["message_id"] != "bye"
        assert request["request"] == "RECONNECT"

    play(scene)


async def test_a_side_of_which_nobody_takes_anything_is_read_from_only_a_little() -> None:
    connection, ends = Scripted(), list[Exception]()
    side = SideConnection(connection, ends.append)
    connection.says(*map(message, (f"m{n}" for n in range(3 * MAX_KEPT))))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert connection.paused
    assert len(connection.inbox) == 2 * MAX_KEPT
    taken: list[str] = []
    side.hand_to(taken.append, ends.append)
    await asyncio.sleep(0)
    assert taken == [message(f"m{n}") for n in range(3 * MAX_KEPT)]
    side.hold()
    connection.ends()
    await asyncio.sleep(0)
    assert [type(end) for end in ends] == [ConnectionClosed], "told although nobody takes anything"


async def test_an_error_of_ours_in_taking_a_text_is_told_and_nothing_more_is_taken() -> None:
    connection, ends, taken = Scripted(), list[Exception](), list[str]()

    def take(text: str) -> None:
        taken.append(text)
        raise ZeroDivisionError

    side = SideConnection(connection, ends.append)
    side.hand_to(take, ends.append)
    connection.says("a", "b")
    for _ in range(5):
        await asyncio.sleep(0)
    assert taken == ["a"]
    assert [type(end) for end in ends] == [ZeroDivisionError]
    assert connection.paused


STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(Role), st.sampled_from([1, 1, 2, 5, 30, 150])),
    st.tuples(st.just("nonsense"), st.sampled_from(Role), st.sampled_from([1, 3, 40])),
    st.tuples(st.just("acknowledge"), st.sampled_from(Role), st.sampled_from([1, 5, 1000])),
    st.tuples(st.just("room"), st.sampled_from(Role), st.sampled_from([0, 0, 1, 20, 10**9])),
    st.tuples(st.just("turn"), st.sampled_from(Role), st.just(1)),
    st.tuples(st.just("time"), st.sampled_from(Role), st.sampled_from([0.01, 0.3, 1.0, 5.0])),
)


@pytest.mark.rule("WS-07", "MSG-03")
@given(
    st.lists(STEPS, min_size=5, max_size=60), st.sampled_from([UNLIMITED, SLOWING]), st.sampled_from([None, RM, CEM])
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_peers_do_each_message_arrives_once_in_order_or_its_sender_is_told(
    steps: list[tuple[str, Role, float]], limits: PeerLimits, lost: Role | None
) -> None:
    async def scene(played: Played) -> None:
        for what, role, amount in steps:
            match what:
                case "send":
                    played.send(role, int(amount))
                case "nonsense":
                    played.end(role).says(*(["{}"] * int(amount)))
                case "acknowledge":
                    played.acknowledge(role, int(amount))
                case "room":
                    played.end(role).makes_room(int(amount))
                case "turn":
                    await asyncio.sleep(0)
                case _:
                    await asyncio.sleep(amount)
            for _ in range(3):
                await asyncio.sleep(0)
            played.check()
        if lost is not None:
            played.end(lost).ends()
            await asyncio.sleep(0.1)
            played.check(standing=False)
            return
        for role in Role:
            played.end(role).makes_room()
        for _ in range(4):
            await asyncio.sleep(max(FAR_SIDE_PATIENCE, 0.01 * played.number) + 10)
        played.check()
        told = {role: dict(played.answers(role)) for role in Role}
        assert sum(map(len, told.values())) == played.number, "all of them are answered"
        for role in Role:
            unseen = told[role].keys() - set(played.got(role.other))
            assert {told[role][name] for name in unseen} <= {"TEMPORARY_ERROR"}

    play(scene, limits)
