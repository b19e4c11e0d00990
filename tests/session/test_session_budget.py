"""Share of the event loop that one peer may use before reading from it pauses."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.https.rate import TokenBucket
from s2connect.messages.enums import Check
from s2connect.messages.envelope import reception_status
from s2connect.model.common import NodeDescription, NodeId, Role
from s2connect.session.budget import (
    DEFAULT_LIMITS,
    HANDLING,
    YIELD_AFTER,
    PeerBudget,
    PeerLimits,
)
from s2connect.session.session import Session
from s2connect.session.work import LONG, MOST_FOR_SHORT, begin_work, work_since
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.memory import memory_pair
from tests.bridge.link_fixtures import message
from tests.waits import until, within

CEM, RM = NodeId(UUID(int=1)), NodeId(UUID(int=2))


def limits(**some: float) -> PeerLimits:
    off = {"messages_per_second": 0, "bytes_per_second": 0, "busy_share": 0}
    return PeerLimits(**{**off, **some})  # type: ignore[arg-type]


@pytest.mark.rule("SEC-03")
@pytest.mark.parametrize(
    ("given_limits", "size", "worked"),
    [
        (limits(messages_per_second=10, message_burst=5), 1_000_000, 9.0),
        (limits(bytes_per_second=1000, byte_burst=500), 100, 9.0),
        (limits(busy_share=0.1, busy_burst=0.05), 1_000_000, 0.01 - HANDLING),
    ],
    ids=["messages", "bytes", "work"],
)
def test_reading_goes_on_within_the_burst_and_then_at_the_rate(
    given_limits: PeerLimits, size: int, worked: float
) -> None:
    budget = PeerBudget(given_limits)
    assert [not budget.charge(size, worked, now=100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert budget.charge(size, worked, now=100.0) == pytest.approx(0.3)
    assert budget.slowed == 3
    assert not budget.charge(size, worked, now=100.4)
    assert budget.charge(size, worked, now=100.4) == pytest.approx(0.1)
    assert [not budget.charge(size, worked, now=1e6) for _ in range(6)] == [True] * 5 + [False]


def test_without_limits_nothing_pauses_and_the_others_still_have_their_turn() -> None:
    budget = PeerBudget(PeerLimits(messages_per_second=0, bytes_per_second=0, busy_share=0))
    streak = round(YIELD_AFTER / HANDLING)
    turns = [budget.charge(10**6, 1e-9, now=0.0) for _ in range(2 * streak)]
    assert turns == ([None] * (streak - 1) + [0.0]) * 2
    assert budget.charge(1, YIELD_AFTER, now=0.0) == 0.0
    assert budget.slowed == 0


def test_who_sends_one_text_after_another_gives_others_their_turn_by_itself() -> None:
    budget = PeerBudget(DEFAULT_LIMITS)
    assert {budget.charge(332, 5e-5, now=number * 0.01) for number in range(1000)} == {None}
    assert budget.charge(332, YIELD_AFTER, now=20.0) == 0.0


def test_the_work_for_a_text_is_that_of_the_processor_and_for_a_short_one_bounded() -> None:
    begun, begun_long = begin_work(LONG - 1), begin_work(LONG)
    time.sleep(3 * MOST_FOR_SHORT)
    assert work_since(begun, LONG - 1) == MOST_FOR_SHORT
    assert work_since(begun_long, LONG) < 3 * MOST_FOR_SHORT
    assert 0.0 <= work_since(begin_work(1), 1) <= MOST_FOR_SHORT


@given(st.lists(st.tuples(st.integers(1, 300_000), st.floats(0, 0.05), st.floats(0, 2)), min_size=1, max_size=60))
def test_whatever_comes_the_share_of_the_processor_is_kept_in_the_long_run(
    texts: list[tuple[int, float, float]],
) -> None:
    budget, now, work, size = PeerBudget(DEFAULT_LIMITS), 0.0, 0.0, 0
    for characters, worked, later in texts:
        now += later
        pause = budget.charge(characters, worked, now=now)
        work, size = work + worked, size + characters
        now += pause or 0.0
        assert work <= DEFAULT_LIMITS.busy_burst + DEFAULT_LIMITS.busy_share * now + 1e-6
        assert size <= DEFAULT_LIMITS.byte_burst + DEFAULT_LIMITS.bytes_per_second * now + 1


@given(
    st.lists(st.tuples(st.integers(0, 300_000), st.floats(0, 0.05), st.floats(0, 5)), min_size=1, max_size=60),
    st.sampled_from([DEFAULT_LIMITS, limits(messages_per_second=3, message_burst=4), limits(bytes_per_second=9)]),
    st.sampled_from([0.0, 1.0, 1e6]),
)
def test_the_pauses_are_those_of_a_token_bucket_for_each_limit(
    texts: list[tuple[int, float, float]], given_limits: PeerLimits, now: float
) -> None:
    budget = PeerBudget(given_limits)
    rates = [
        (given_limits.messages_per_second, given_limits.message_burst),
        (given_limits.bytes_per_second, given_limits.byte_burst),
        (given_limits.busy_share, given_limits.busy_burst),
    ]
    buckets = [TokenBucket(rate, burst) if rate else None for rate, burst in rates]
    for size, worked, later in texts:
        now += later
        expected = 0.0
        for bucket, amount in zip(buckets, (1, size, worked + HANDLING), strict=True):
            if bucket is not None:
                bucket.take(amount, now)
                expected = max(expected, bucket.delay(now))
        assert (budget.charge(size, worked, now=now) or 0.0) == pytest.approx(expected, abs=1e-6)


def session_of(connection_limits: PeerLimits, **more: Any) -> tuple[Session, object]:
    ours, theirs = memory_pair(
        ConnectionInfo("Memory", CEM, RM, "v1.0.0"), ConnectionInfo("Memory", RM, CEM, "v1.0.0"), capacity=1000
    )
    peer = NodeDescription(id=RM, brand="B", type="T", model_name="M", role=Role.RM)
    return Session(ours, peer=peer, role=Role.CEM, limits=connection_limits, **more), theirs


@pytest.mark.rule("SEC-03", "WS-07")
async def test_a_session_reads_more_slowly_from_a_peer_that_sends_too_much_and_refuses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    session, peer = session_of(limits(messages_per_second=100, message_burst=10))
    begun = time.monotonic()
    async with within(20):
        for number in range(40):
            await peer.send(message(f"m{number}"))  # type: ignore[attr-defined]
        statuses = [json.loads(await peer.recv()) for _ in range(40)]  # type: ignore[attr-defined]
    assert time.monotonic() - begun > 0.25
    assert [status["subject_message_id"] for status in statuses] == [f"m{number}" for number in range(40)]
    assert [r.message for r in caplog.records if "sends more than it may" in r.message]
    assert len([r for r in caplog.records if "sends more than it may" in r.message]) == 1
    await session.close()


@pytest.mark.parametrize("by_us", [True, False])
async def test_a_session_that_pauses_ends_at_once(*, by_us: bool) -> None:
    session, peer = session_of(limits(messages_per_second=0.01, message_burst=1))
    for number in range(3):
        await peer.send(reception_status(f"m{number}", "OK"))  # type: ignore[attr-defined,arg-type]
    await asyncio.sleep(0.05)
    async with within(3):
        await (session.close() if by_us else peer.close())  # type: ignore[attr-defined]
        await session.wait_closed()


@pytest.mark.rule("SEC-03")
async def test_the_work_of_an_application_for_a_short_message_counts_in_full() -> None:
    def work(_: Session, __: object) -> None:
        begun = time.thread_time()
        while time.thread_time() - begun < 5 * MOST_FOR_SHORT:
            pass

    # The share is small, because a busy machine would let the peer earn it back while the application works.
    session, peer = session_of(limits(busy_share=0.001, busy_burst=0.1), answer=work, check=Check.ENVELOPE)
    async with within(20):
        for number in range(5):
            await peer.send(message(f"m{number}"))  # type: ignore[attr-defined]
        for _ in range(2):
            await peer.recv()  # type: ignore[attr-defined]
        # The application has worked for more than the burst.
        await until(lambda: session._reading._budget.slowed > 0)
    await session.close()
