"""A link between virtual peers that connect, vanish, refuse and stall, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from s2connect import LinkHold
from s2connect.bridge.farewell import FAREWELL_TIMEOUT, end_of
from s2connect.bridge.link import (
    ARRIVAL_TIMEOUT,
    OPEN_TIMEOUT,
    RENDEZVOUS,
    Link,
)
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.outbox import MAX_QUEUED
from s2connect.bridge.relay import FAR_SIDE_PATIENCE, Policy
from s2connect.bridge.requests import REQUEST_TIMEOUT
from s2connect.bridge.side_connection import MAX_KEPT, MAX_UNREAD
from s2connect.bridge.sides import NOT_NOW, Initiator
from s2connect.errors import AccessRefused, ConnectionClosed
from s2connect.model.common import Role
from s2connect.session import LedTo
from s2connect.supervisor import FailureLog, Supervisor, TaskFailure
from s2connect.transports.backoff import BASE_DELAY
from s2connect.transports.base import Connection
from tests.bridge.link_fixtures import NOBODY, PeerSide, answer, farewell, message
from tests.bridge.virtual_time import run_virtual

RM, CEM = Role.RM, Role.CEM
OPEN, ACCEPT = Initiator.BRIDGE, Initiator.PEER
WAYS = [(OPEN, OPEN), (OPEN, ACCEPT), (ACCEPT, OPEN), (ACCEPT, ACCEPT)]
all_ways = pytest.mark.parametrize(("rm", "cem"), WAYS, ids=lambda way: way.value)


class LinkSetup:
    """A link with its two peers."""

    def __init__(
        self,
        rm: Initiator | None,
        cem: Initiator | None,
        policy: Policy | None = None,
        *,
        hold: LinkHold | None = None,
        **more: Any,
    ) -> None:
        self.sides = {RM: PeerSide("the device", rm, **more), CEM: PeerSide("the manager", cem, **more)}
        self.states: list[LinkState] = []
        self.make(hold, policy)

    def make(self, hold: LinkHold | None, policy: Policy | None = None) -> None:
        """Make the link of the sides."""
        self.link = Link("house/device", self.sides, policy or Policy(), on_change=self._changed, hold=hold)

    def _changed(self, link: Link) -> None:
        self.states.append(link.status().state)

    @property
    def state(self) -> LinkState:
        return self.link.status().state

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def until(self, *states: LinkState, within: float = FAREWELL_TIMEOUT + 1) -> None:
        async with asyncio.timeout(within):
            while self.state not in states:
                await asyncio.sleep(0.001)

    async def come(self, role: Role) -> str | LedTo | None:
        """Play a peer that asks, and comes if it may."""
        told = await self.link.request_session(role, "v1.0.0")
        if told is None:
            connection = self.sides[role].connect()
            if not self.link.hand_over(role, connection):
                await connection.close(1001)
                return "too late"
        return told

    async def meet(self) -> None:
        """Bring both sides up, whoever connects."""
        asking = [asyncio.create_task(self.come(role)) for role in Role if self.sides[role].initiator is ACCEPT]
        await self.until(LinkState.UP)
        assert await asyncio.gather(*asking) == [None] * len(asking)

    def peer(self, role: Role) -> Connection:
        return self.sides[role].peer

    def standing(self) -> set[Role]:
        return {role for role, side in self.sides.items() if side.standing()}


@contextlib.asynccontextmanager
async def running(setup: LinkSetup) -> AsyncIterator[LinkSetup]:
    task = asyncio.create_task(setup.link.run())
    try:
        yield setup
        assert not task.done(), "a link lives until it is stopped"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert setup.state is LinkState.STOPPED
    assert not setup.standing()


def play(
    scene: Callable[[LinkSetup], Awaitable[None]], rm: Initiator | None, cem: Initiator | None, **more: Any
) -> None:
    async def run() -> None:
        async with running(LinkSetup(rm, cem, **more)) as setup:
            await scene(setup)

    run_virtual(run())


@all_ways
def test_both_sides_meet_whoever_connects_and_messages_pass_with_their_answers(rm: Initiator, cem: Initiator) -> None:
    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        device, manager = setup.peer(RM), setup.peer(CEM)
        await device.send(message("m1"))
        assert await manager.recv() == message("m1")
        await manager.send(answer("m1"))
        assert await device.recv() == answer("m1")
        await manager.send(message("m1"))
        assert await device.recv() == message("m1")
        status = setup.link.status()
        assert status.times_up == 1
        assert all(side.connected and side.s2_version == "v1.0.0" for side in status.sides.values())

    play(scene, rm, cem)


# One side cannot be had


@pytest.mark.parametrize(("near", "far"), [(RM, CEM), (CEM, RM)])
def test_who_asks_is_told_to_come_again_where_the_far_side_cannot_be_reached(near: Role, far: Role) -> None:
    async def scene(setup: LinkSetup) -> None:
        setup.sides[far].refuse = NOBODY
        assert await setup.come(near) == NOT_NOW
        await setup.until(LinkState.FAILED)
        assert "Nobody is there" in setup.link.status().reason
        assert setup.link.status().retry_in is None, "the peer comes again, not the bridge"
        setup.sides[far].refuse = None
        await setup.meet()

    play(scene, *([ACCEPT, OPEN] if near is RM else [OPEN, ACCEPT]))


def test_who_asks_is_told_within_ten_seconds_where_the_far_side_stalls() -> None:
    async def scene(setup: LinkSetup) -> None:
        setup.sides[CEM].stall = asyncio.Event()
        assert await setup.come(RM) == NOT_NOW
        assert setup.now() == pytest.approx(OPEN_TIMEOUT)
        assert OPEN_TIMEOUT < REQUEST_TIMEOUT

    play(scene, ACCEPT, OPEN)


def test_where_both_connect_to_the_bridge_one_waits_for_the_other_for_a_bounded_time() -> None:
    async def scene(setup: LinkSetup) -> None:
        assert await setup.come(CEM) == NOT_NOW
        assert setup.now() == pytest.approx(RENDEZVOUS)
        assert RENDEZVOUS < REQUEST_TIMEOUT
        await setup.until(LinkState.FAILED)
        assert "the device has not asked" in setup.link.status().reason

    play(scene, ACCEPT, ACCEPT)


def test_a_side_that_wants_no_session_any_more_is_asked_seldom_and_at_once_after_a_new_pairing() -> None:
    async def scene(setup: LinkSetup) -> None:
        setup.sides[CEM].refuse = AccessRefused("The manager accepts none of our tokens.")
        await setup.until(LinkState.REFUSED)
        await asyncio.sleep(600)
        opened = setup.states.count(LinkState.REACHING)
        assert 3 < opened < 60
        assert setup.state is LinkState.REFUSED
        setup.sides[CEM].refuse = None
        setup.link.pairing_changed()
        before = setup.now()
        await setup.until(LinkState.UP)
        assert setup.now() - before < 0.1

    play(scene, OPEN, OPEN)


def test_what_nobody_expected_fails_the_attempt_and_not_the_link(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(setup: LinkSetup) -> None:
        setup.sides[RM].refuse = ZeroDivisionError()
        await setup.until(LinkState.FAILED)
        assert setup.link.status().reason.startswith("an unexpected error")
        setup.sides[RM].refuse = None
        await setup.until(LinkState.UP, within=2 * BASE_DELAY)

    play(scene, OPEN, OPEN)
    assert "ZeroDivisionError" in caplog.text


def test_a_follower_that_stumbles_does_not_hurt_the_link(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(setup: LinkSetup) -> None:
        setup.link._on_change = lambda link: 1 / 0  # type: ignore[assignment]
        await setup.until(LinkState.UP)

    play(scene, OPEN, OPEN)
    assert "the observer of the link house/device failed" in caplog.text


@pytest.mark.parametrize("fault", ["waiting", "parting", "timer", "farewell"])
def test_after_an_error_of_ours_wherever_it_comes_the_link_comes_up_again(
    fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = True

    def once(real: Any) -> Any:
        def faulty(*arguments: Any, **more: Any) -> Any:
            nonlocal armed
            if armed:
                armed = False
                raise RuntimeError("an error of ours")
            return real(*arguments, **more)

        return faulty

    told: list[TaskFailure] = []

    async def scene() -> None:
        failures = FailureLog(told.append)
        setup = LinkSetup(OPEN, OPEN)
        link = setup.link
        link._failures = failures
        async with Supervisor("test", failures) as supervisor:
            task = supervisor.keep(link.run, "link")
            if fault != "waiting":
                await setup.until(LinkState.UP)
            match fault:
                case "waiting":
                    monkeypatch.setattr(link, "_is_paired", once(link._is_paired))
                case "parting":
                    assert link._relay is not None
                    monkeypatch.setattr(link._relay, "ended", once(link._relay.ended))
                    await setup.peer(RM).close()
                case "timer":
                    assert link._relay is not None
                    monkeypatch.setattr(link._relay, "overdue", once(link._relay.overdue))
                    await setup.peer(RM).send(message("m1"))  # which nobody acknowledges
                case "farewell":
                    await setup.peer(RM).close()
                    monkeypatch.setattr(link, "_say_goodbye", once(link._say_goodbye))
            async with asyncio.timeout(600):
                while armed:
                    await asyncio.sleep(0.01)
                await setup.until(LinkState.UP, within=600)
            assert not task.done()
        assert setup.state is LinkState.STOPPED

    run_virtual(scene())
    assert [(failure.task, failure.error) for failure in told] == [("link", "RuntimeError")]
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info


def test_sides_that_speak_versions_nobody_can_translate_do_not_come_together() -> None:
    async def scene(setup: LinkSetup) -> None:
        setup.sides[RM].version = "v9"
        await setup.until(LinkState.FAILED)
        assert "v9" in setup.link.status().reason
        assert await farewell(setup.peer(RM)) == ["SessionRequest"]

    play(scene, OPEN, OPEN)


# Somebody vanishes on the way


def test_a_device_that_vanishes_while_the_manager_is_fetched_ends_the_attempt_at_once() -> None:
    async def scene(setup: LinkSetup) -> None:
        setup.sides[CEM].stall = asyncio.Event()
        await setup.sides[RM].opened.wait()
        await setup.peer(RM).close()
        await setup.until(LinkState.FAILED)
        assert setup.now() < 0.1
        assert "the device ended the session" in setup.link.status().reason

    play(scene, OPEN, OPEN)


def test_a_far_side_that_vanishes_while_the_near_one_is_on_its_way_ends_the_attempt_at_once() -> None:
    async def scene(setup: LinkSetup) -> None:
        assert await setup.link.request_session(RM, "v1.0.0") is None
        await setup.until(LinkState.ADMITTING)
        await setup.peer(CEM).close()
        await setup.until(LinkState.FAILED)
        late = setup.sides[RM].connect()
        assert not setup.link.hand_over(RM, late)
        await late.close()

    play(scene, ACCEPT, OPEN)


def test_a_peer_that_may_come_and_does_not_leaves_the_other_one_alone_for_half_a_minute() -> None:
    async def scene(setup: LinkSetup) -> None:
        assert await setup.link.request_session(RM, "v1.0.0") is None
        assert await farewell(setup.peer(CEM)) == ["SessionRequest"]
        assert setup.now() == pytest.approx(ARRIVAL_TIMEOUT, abs=0.1)
        await setup.until(LinkState.FAILED)
        assert "the device was let in and did not come" in setup.link.status().reason

    play(scene, ACCEPT, OPEN)


def test_who_comes_first_of_two_that_were_let_in_is_told_when_the_other_does_not_come() -> None:
    async def scene(setup: LinkSetup) -> None:
        coming = asyncio.create_task(setup.come(RM))
        assert await setup.link.request_session(CEM, "v1.0.0") is None
        assert await coming is None
        assert await farewell(setup.peer(RM)) == ["SessionRequest"]
        assert setup.now() == pytest.approx(ARRIVAL_TIMEOUT, abs=0.1)

    play(scene, ACCEPT, ACCEPT)


def test_a_peer_that_comes_without_being_let_in_is_not_taken() -> None:
    async def scene(setup: LinkSetup) -> None:
        for role in Role:
            stranger = setup.sides[role].connect()
            assert not setup.link.hand_over(role, stranger)
            await stranger.close()
        asking = asyncio.create_task(setup.link.request_session(RM, "v1.0.0"))
        await asyncio.sleep(1)
        early = setup.sides[CEM].connect()
        assert not setup.link.hand_over(CEM, early), "it has not asked"
        await early.close()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    play(scene, ACCEPT, ACCEPT)


def test_a_peer_that_gives_up_asking_while_the_far_side_is_opened_is_not_waited_for_without_end() -> None:
    async def scene(setup: LinkSetup) -> None:
        stall = setup.sides[CEM].stall = asyncio.Event()
        asking = asyncio.create_task(setup.link.request_session(RM, "v1.0.0"))
        await asyncio.sleep(1)
        asking.cancel()
        stall.set()
        await setup.sides[CEM].opened.wait()
        assert await farewell(setup.peer(CEM)) == ["SessionRequest"]
        assert setup.now() <= 1 + RENDEZVOUS + 0.1

    play(scene, ACCEPT, OPEN)


@all_ways
def test_of_two_that_ask_on_one_side_the_first_is_told_to_come_again(rm: Initiator, cem: Initiator) -> None:
    async def scene(setup: LinkSetup) -> None:
        near = RM if rm is ACCEPT else CEM
        stall = setup.sides[near.other].stall = asyncio.Event()
        first = asyncio.create_task(setup.link.request_session(near, "v1.0.0"))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(setup.link.request_session(near, "v1.0.0"))
        assert await first == NOT_NOW
        stall.set()
        if setup.sides[near.other].initiator is ACCEPT:
            assert await setup.link.request_session(near.other, "v1.0.0") is None
        assert await second is None
        assert await setup.link.request_session(near, "v1.0.0") is None, "its answer may have been lost"

    if ACCEPT in (rm, cem):
        play(scene, rm, cem)


# Messages sent before the other side is there


def test_what_a_side_says_before_the_other_is_there_is_delivered_in_order() -> None:
    async def scene(setup: LinkSetup) -> None:
        assert await setup.link.request_session(RM, "v1.0.0") is None
        texts = [message(f"m{n}") for n in range(3 * MAX_KEPT)]

        async def exchange() -> None:
            for text in texts:
                await setup.peer(CEM).send(text)

        exchanging = asyncio.create_task(exchange())
        await asyncio.sleep(ARRIVAL_TIMEOUT - 1)
        assert setup.link.hand_over(RM, setup.sides[RM].connect())
        assert [await setup.peer(RM).recv() for _ in texts] == texts
        await exchanging

    play(scene, ACCEPT, OPEN)


def test_what_a_side_said_is_refused_when_the_other_one_does_not_come() -> None:
    async def scene(setup: LinkSetup) -> None:
        assert await setup.link.request_session(RM, "v1.0.0") is None
        manager = setup.peer(CEM)
        for n in range(MAX_KEPT + 3):
            await manager.send(message(f"m{n}"))
        request = json.loads(await manager.recv())
        assert request["message_type"] == "SessionRequest"
        told = [json.loads(await manager.recv()) for _ in range(MAX_KEPT + 3)]
        assert [(t["subject_message_id"], t["status"]) for t in told] == [
            (f"m{n}", "TEMPORARY_ERROR") for n in range(MAX_KEPT + 3)
        ]
        await manager.send(answer(request["message_id"]))
        with pytest.raises(ConnectionClosed):
            await manager.recv()

    play(scene, ACCEPT, OPEN)


# The end of a session


@all_ways
@pytest.mark.parametrize("lost", Role)
def test_when_one_side_is_lost_the_other_is_told_at_once_and_both_come_back(
    rm: Initiator, cem: Initiator, lost: Role
) -> None:
    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        before = setup.now()
        await setup.peer(lost).close()
        assert await farewell(setup.peer(lost.other)) == ["SessionRequest"]
        assert setup.now() - before < 0.1
        await setup.until(LinkState.WAITING, LinkState.REACHING, LinkState.UP, within=3 * BASE_DELAY)
        if rm is cem is OPEN:
            await setup.until(LinkState.UP, within=3 * BASE_DELAY)
        else:
            await setup.meet()
        assert setup.link.status().times_up == 2

    play(scene, rm, cem)


def test_a_side_that_does_not_answer_the_farewell_is_closed_after_three_seconds() -> None:
    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        await setup.peer(RM).close()
        before = setup.now()
        await setup.peer(CEM).wait_closed()
        assert setup.now() - before == pytest.approx(FAREWELL_TIMEOUT, abs=0.1)

    play(scene, OPEN, OPEN)


def test_at_the_end_everybody_who_waits_for_an_answer_gets_one_and_what_is_queued_is_delivered() -> None:
    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        device, manager = setup.peer(RM), setup.peer(CEM)
        for n in range(3):
            await manager.send(message(f"c{n}"))
            await device.send(message(f"r{n}"))
        await asyncio.sleep(0.1)
        await manager.send(answer("r1"))
        await asyncio.sleep(0.1)
        await manager.close()
        texts = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                texts.append(json.loads(await device.recv()))
                if texts[-1]["message_type"] == "SessionRequest":
                    await device.send(message("x"))
                    await device.send(message("too-late"))
                    await device.send(answer(texts[-1]["message_id"]))
        told = [(t["subject_message_id"], t["status"]) for t in texts if t["message_type"] == "ReceptionStatus"]
        late = "00000000-0000-0000-0000-000000000000"
        assert sorted(told) == [
            (late, "INVALID_DATA"),
            ("r0", "TEMPORARY_ERROR"),
            ("r1", "OK"),
            ("r2", "TEMPORARY_ERROR"),
            ("too-late", "TEMPORARY_ERROR"),
        ]
        assert [t["message_id"] for t in texts if t["message_type"] == "PowerMeasurement"] == ["c0", "c1", "c2"]

    play(scene, OPEN, OPEN)


def test_a_slow_side_still_gets_the_answers_that_were_queued_for_it() -> None:
    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        device, manager = setup.peer(RM), setup.peer(CEM)
        for n in range(40):
            await device.send(message(f"r{n}"))
            await manager.recv()
        for n in range(40):
            await manager.send(answer(f"r{n}"))
        await asyncio.sleep(0.1)
        await manager.close()
        told: list[Any] = []
        while len(told) < 40:
            await asyncio.sleep(0.05)
            told.append(json.loads(await device.recv())["subject_message_id"])
        assert told == [f"r{n}" for n in range(40)]

    play(scene, OPEN, OPEN, capacity=1)


@pytest.mark.rule("REC-03")
@pytest.mark.parametrize("request_", ["RECONNECT", "TERMINATE"])
def test_a_side_that_was_told_by_the_other_is_not_told_twice(request_: str) -> None:
    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        device, manager = setup.peer(RM), setup.peer(CEM)
        await device.send(message("m1", "SessionRequest", request=request_))
        assert json.loads(await manager.recv())["message_id"] == "m1"
        await manager.send(answer("m1"))
        assert await device.recv() == answer("m1")
        await device.close()
        with pytest.raises(ConnectionClosed):
            await manager.recv()

    play(scene, OPEN, OPEN)


@all_ways
def test_who_asks_while_the_link_is_up_has_lost_its_session_and_gets_a_new_one(rm: Initiator, cem: Initiator) -> None:
    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        near = RM if rm is ACCEPT else CEM
        old, other = setup.peer(near), setup.peer(near.other)  # nobody reads the old one any more
        before = setup.now()
        coming = asyncio.create_task(setup.come(near))
        assert await farewell(other) == ["SessionRequest"]
        if setup.sides[near.other].initiator is ACCEPT:
            assert await setup.come(near.other) is None
        assert await coming is None
        await setup.until(LinkState.UP)
        assert setup.now() - before <= FAREWELL_TIMEOUT + 0.1
        assert await farewell(old) == ["SessionRequest"]
        assert setup.link.status().times_up == 2

    if ACCEPT in (rm, cem):
        play(scene, rm, cem)


@all_ways
def test_a_pairing_that_ends_while_the_link_is_up_ends_the_link_on_both_sides(rm: Initiator, cem: Initiator) -> None:
    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        setup.sides[CEM].given_initiator = None
        setup.link.pairing_changed()
        assert await farewell(setup.peer(RM)) == ["SessionRequest"]
        await setup.until(LinkState.UNPAIRED, within=FAREWELL_TIMEOUT + 1)
        assert await setup.link.request_session(RM, "v1.0.0") == NOT_NOW
        setup.sides[CEM].given_initiator = cem
        setup.link.pairing_changed()
        await setup.until(LinkState.WAITING, LinkState.UP)
        await setup.meet()

    play(scene, rm, cem)


# Stop


@all_ways
@pytest.mark.parametrize("state", [s for s in LinkState if s not in (LinkState.STOPPED, LinkState.ELSEWHERE)])
def test_a_link_that_is_stopped_in_any_state_leaves_nothing_behind(
    rm: Initiator, cem: Initiator, state: LinkState
) -> None:
    async def scene() -> None:
        setup = LinkSetup(rm, cem)
        asks: list[asyncio.Task[str | LedTo | None]] = []

        def ask() -> None:
            accepting = [role for role in Role if setup.sides[role].initiator is ACCEPT]
            asks.extend(asyncio.create_task(setup.link.request_session(role, "v1.0.0")) for role in accepting)

        async with running(setup):
            await asyncio.sleep(0)
            if state is LinkState.UNPAIRED:
                setup.sides[RM].given_initiator = None
                setup.link.pairing_changed()
            elif state is LinkState.REACHING:
                if rm is cem is ACCEPT:
                    return
                for side in setup.sides.values():
                    side.stall = asyncio.Event()
                ask()
            elif state is LinkState.ADMITTING:
                if rm is cem is OPEN:
                    return
                ask()
            elif state in (LinkState.FAILED, LinkState.REFUSED):
                error = NOBODY if state is LinkState.FAILED else AccessRefused("No.")
                for side in setup.sides.values():
                    side.refuse = error
                if rm is cem is ACCEPT:
                    return
                ask()
            elif state is not LinkState.WAITING or rm is cem is OPEN:
                await setup.meet()
                if state in (LinkState.PARTING, LinkState.WAITING):
                    await setup.peer(RM).close()
            await setup.until(state, within=2 * FAREWELL_TIMEOUT)
        for asked in asks:
            assert await asked in (None, NOT_NOW)
        assert await setup.link.request_session(RM, "v1.0.0") == NOT_NOW
        assert setup.now() <= 4 * FAREWELL_TIMEOUT

    run_virtual(scene())


# Slow peers


def test_a_slow_side_slows_the_other_memory_is_bounded_and_what_is_given_up_never_arrives() -> None:
    """The energy manager takes one message a second, the device sends up to a thousand, for two minutes."""

    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        device, manager = setup.peer(RM), setup.peer(CEM)
        sent, told, seen, ok, most = 0, dict[str, str](), list[str](), set[str](), 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await device.send(message(f"m{sent}"))
                sent += 1
                await asyncio.sleep(0.001)

        async def listen() -> None:
            while True:
                value = json.loads(await device.recv())
                assert value["subject_message_id"] not in told, "one answer for each"
                told[value["subject_message_id"]] = value["status"]

        async def take() -> None:
            while True:
                identifier = json.loads(await manager.recv())["message_id"]
                seen.append(identifier)
                ok.add(identifier)
                await manager.send(answer(identifier))
                await asyncio.sleep(1)

        tasks = [asyncio.create_task(work()) for work in (flood, listen, take)]
        for _ in range(120):
            await asyncio.sleep(1)
            most = max(most, *setup.link.status().queued.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= MAX_QUEUED
        assert 110 <= len(seen) <= 125
        assert seen == sorted(seen, key=lambda name: int(name[1:])), "in order"
        assert len(seen) == len(set(seen)), "once"
        assert {name for name, status in told.items() if status == "OK"} <= ok, "no OK on another's behalf"
        assert set(told.values()) == {"OK", "TEMPORARY_ERROR"}
        counts = setup.link.status().counts[RM]
        waiting = counts["forwarded"] - counts["acknowledged"] - counts["unanswered"]
        assert 0 <= waiting <= 2 * MAX_QUEUED
        in_the_connection = 20
        assert len(seen) + in_the_connection >= counts["acknowledged"] + counts["late"]
        assert setup.state is LinkState.UP

    play(scene, OPEN, OPEN)


def test_the_answers_of_a_side_that_is_flooded_are_not_held_up() -> None:
    """While the device floods a slow manager, what the manager sends is answered all the same, or told to be late."""

    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        device, manager = setup.peer(RM), setup.peer(CEM)

        async def flood() -> None:
            for number in range(100_000):
                await device.send(message(f"m{number}"))

        async def answering() -> None:
            while True:
                value = json.loads(await device.recv())
                if value["message_type"] != "ReceptionStatus":
                    await device.send(answer(value["message_id"]))

        tasks = [asyncio.create_task(work()) for work in (flood, answering)]
        await asyncio.sleep(1)
        await manager.send(message("order"))
        before = setup.now()
        while (value := json.loads(await manager.recv())).get("subject_message_id") != "order":
            await asyncio.sleep(0.01)
        assert value["status"] in ("OK", "TEMPORARY_ERROR")
        assert setup.now() - before <= 2 * FAR_SIDE_PATIENCE
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    play(scene, OPEN, OPEN)


def test_a_side_that_sends_and_never_reads_the_answers_fills_no_memory() -> None:
    async def scene(setup: LinkSetup) -> None:
        await setup.meet()
        device, manager = setup.peer(RM), setup.peer(CEM)

        async def flood() -> None:
            while True:
                await device.send("no message")

        async def ignore() -> None:
            while True:
                await manager.recv()

        tasks = [asyncio.create_task(work()) for work in (flood, ignore)]
        await asyncio.sleep(60)
        assert setup.link.status().queued[RM] <= 2 * MAX_UNREAD
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        async def flood_well() -> None:
            number = 0
            while True:
                await device.send(message(f"x{number}"))
                number += 1

        tasks = [asyncio.create_task(work()) for work in (flood_well, ignore)]
        await asyncio.sleep(120)
        assert setup.link.status().queued[RM] <= 3 * MAX_UNREAD
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    play(scene, OPEN, OPEN)


@pytest.mark.parametrize(
    ("closed", "told"),
    [
        (ConnectionClosed(1000), "the device has ended the session (1000)"),
        (ConnectionClosed(1006), "the connection to the device was lost"),
        (
            ConnectionClosed(1006, "the connection to the broker was lost"),
            "the connection to the device was lost (the connection to the broker was lost)",
        ),
    ],
)
def test_a_connection_that_was_lost_is_not_said_to_be_ended_by_the_peer(closed: ConnectionClosed, told: str) -> None:
    assert end_of("the device", closed) == told
