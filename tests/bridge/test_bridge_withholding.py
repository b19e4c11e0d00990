"""A link that another instance may have: what comes is passed on only behind a sign of its sender."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.bridge.link_state import LinkState
from s2connect.bridge.outbox import MAX_QUEUED
from s2connect.bridge.relay import FAR_SIDE_PATIENCE
from s2connect.model.common import Role
from s2connect.session.budget import PeerLimits
from s2connect.session.withholding import MAX_WITHHELD, SIGN_FOR
from tests.bridge.test_bridge_link_hold import FakeHold
from tests.bridge.test_bridge_side_connection import SLOWING, UNLIMITED, Played, play

RM, CEM = Role.RM, Role.CEM

both = pytest.mark.parametrize("role", [RM, CEM])

pytestmark = pytest.mark.rule("WS-06")


def doubtful(scene: Callable[[Played, FakeHold], Awaitable[None]], limits: PeerLimits = UNLIMITED) -> None:
    """Play with a link of which this instance does not know whether another one has it."""
    hold = FakeHold()
    hold.until = math.inf
    hold.guard.certain = False

    async def with_hold(played: Played) -> None:
        await scene(played, hold)

    play(with_hold, limits, hold)


@both
def test_what_comes_is_passed_on_behind_a_sign_of_its_sender_and_so_is_the_answer(role: Role) -> None:
    async def scene(played: Played, hold: FakeHold) -> None:
        sender, receiver = played.end(role), played.end(role.other)
        played.send(role, 3)
        await asyncio.sleep(0.1)
        assert not receiver.sent
        assert (sender.asked, receiver.asked) == (1, 0)
        sender.signs()
        await asyncio.sleep(0.01)
        assert played.got(role.other) == [f"{role}-{number}" for number in range(3)]
        played.acknowledge(role.other, 3)
        await asyncio.sleep(0.1)
        assert not sender.sent, "the other side has given no sign yet"
        receiver.signs()
        await asyncio.sleep(0.01)
        assert len(played.answers(role)) == 3

    doubtful(scene)


@both
def test_without_a_sign_nothing_is_passed_on_and_when_the_link_is_lost_it_never_is(role: Role) -> None:
    async def scene(played: Played, hold: FakeHold) -> None:
        sender, receiver = played.end(role), played.end(role.other)
        played.send(role, 3)
        await asyncio.sleep(100)
        assert not receiver.sent
        hold.lose("b")
        await asyncio.sleep(0.1)
        sender.signs()
        hold.guard.hear()
        await asyncio.sleep(FAR_SIDE_PATIENCE * 2)
        assert not receiver.sent
        assert receiver.ended is not None
        assert sender.ended is not None

    doubtful(scene)


def test_once_it_would_know_of_another_instance_everything_is_passed_on_in_its_order() -> None:
    async def scene(played: Played, hold: FakeHold) -> None:
        played.send(RM, 3)
        await asyncio.sleep(1)
        played.send(RM, 3)
        await asyncio.sleep(1)
        hold.guard.hear()
        await asyncio.sleep(0.1)
        assert played.got(CEM) == [f"RM-{number}" for number in range(6)]
        played.send(RM, 1)
        await asyncio.sleep(0.1)
        assert len(played.got(CEM)) == 7

    doubtful(scene)


def test_a_sign_counts_for_a_moment_and_then_the_sender_is_asked_again() -> None:
    async def scene(played: Played, hold: FakeHold) -> None:
        played.send(RM, 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        played.end(RM).signs()
        played.send(RM, 1)
        await asyncio.sleep(SIGN_FOR / 4)
        assert len(played.got(CEM)) == 2
        await asyncio.sleep(SIGN_FOR)
        played.send(RM, 1)
        await asyncio.sleep(0.1)
        assert len(played.got(CEM)) == 2
        played.end(RM).signs()
        await asyncio.sleep(0.01)
        assert len(played.got(CEM)) == 3

    doubtful(scene)


def test_no_more_than_some_is_withheld_and_then_the_sender_is_not_read_from() -> None:
    async def scene(played: Played, hold: FakeHold) -> None:
        played.send(RM, 2 * MAX_WITHHELD)
        await asyncio.sleep(1)
        assert played.end(RM).paused
        assert len(played.end(RM).inbox) == MAX_WITHHELD
        assert not played.end(CEM).paused
        hold.guard.hear()
        await asyncio.sleep(100)
        assert not played.end(RM).paused
        assert not played.end(RM).inbox

    doubtful(scene)


def test_a_sender_that_is_not_read_from_for_the_other_side_is_not_read_from_in_doubt_either() -> None:
    async def scene(played: Played, hold: FakeHold) -> None:
        hold.guard.hear()
        played.end(CEM).makes_room(0)
        played.send(RM, 3 * MAX_QUEUED)
        await asyncio.sleep(0.1)
        assert played.end(RM).paused
        hold.guard.may = False
        played.send(RM, 3 * MAX_WITHHELD)
        played.end(CEM).makes_room()
        await asyncio.sleep(1)
        assert played.end(RM).paused
        assert len(played.end(RM).inbox) > 2 * MAX_WITHHELD
        hold.guard.settle()
        await asyncio.sleep(100)
        assert not played.end(RM).inbox

    doubtful(scene)


def test_where_the_link_ends_what_is_withheld_is_answered_and_not_passed_on() -> None:
    async def scene(played: Played, hold: FakeHold) -> None:
        played.send(RM, 3)
        await asyncio.sleep(0.1)
        played.link.begin_none("this instance is about to end")
        played.link.leave()
        await asyncio.sleep(1)
        assert played.link.state is LinkState.ELSEWHERE
        assert not played.got(CEM)
        assert played.answers(RM) == [(f"RM-{number}", "TEMPORARY_ERROR") for number in range(3)]

    doubtful(scene)


def test_after_a_standstill_nothing_is_passed_on_before_the_rows_were_read_also_behind_a_sign() -> None:
    async def scene(played: Played, hold: FakeHold) -> None:
        played.send(RM, 3)
        await asyncio.sleep(0.1)
        hold.guard.may = False
        played.end(RM).signs()
        await asyncio.sleep(SIGN_FOR / 2)
        assert not played.got(CEM)
        hold.guard.settle()
        await asyncio.sleep(0.01)
        assert len(played.got(CEM)) == 3

    doubtful(scene)


STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(Role), st.sampled_from([1, 1, 2, 5, 30])),
    st.tuples(st.just("acknowledge"), st.sampled_from(Role), st.sampled_from([1, 5, 1000])),
    st.tuples(st.just("room"), st.sampled_from(Role), st.sampled_from([0, 1, 20, 10**9])),
    st.tuples(st.just("time"), st.sampled_from(Role), st.sampled_from([0.01, 0.3, 1.0, 5.0])),
    st.tuples(
        st.sampled_from(["turn", "sign", "sign", "standstill", "settle", "deaf", "hear"]),
        st.sampled_from(Role),
        st.just(1),
    ),
)


@given(st.lists(STEPS, min_size=5, max_size=60), st.sampled_from([UNLIMITED, SLOWING]))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_what_is_passed_on_is_in_order_and_in_doubt_signed(
    steps: list[tuple[str, Role, float]], limits: PeerLimits
) -> None:
    async def scene(played: Played, hold: FakeHold) -> None:
        now = asyncio.get_running_loop().time
        signed_until = dict.fromkeys(Role, -math.inf)
        for what, role, amount in steps:
            known = played.forwarded()
            sure = hold.guard.may and hold.guard.certain
            match what:
                case "send":
                    played.send(role, int(amount))
                case "acknowledge":
                    played.acknowledge(role, int(amount))
                case "room":
                    played.end(role).makes_room(int(amount))
                case "time":
                    await asyncio.sleep(amount)
                case "sign":
                    signed_until[role] = now() + 2 * SIGN_FOR  # at most: it counts from the question
                    played.end(role).signs()
                case "standstill":
                    hold.guard.may = False
                case "settle":
                    hold.guard.settle()
                case "deaf":
                    hold.guard.certain = False
                case "hear":
                    hold.guard.hear()
            for _ in range(3):
                await asyncio.sleep(0)
            played.check()
            if not sure and not hold.guard.certain:
                began = now() - (amount if what == "time" else 0.0)
                for side, number in played.forwarded().items():
                    assert number == known[side] or began < signed_until[side]
        hold.guard.settle()
        hold.guard.hear()
        for role in Role:
            played.end(role).makes_room()
        for _ in range(4):
            await asyncio.sleep(max(FAR_SIDE_PATIENCE, 0.01 * played.number) + 10)
        played.check()
        assert sum(len(played.answers(role)) for role in Role) == played.number, "all of them are answered"

    doubtful(scene, limits)
