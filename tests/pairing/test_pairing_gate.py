"""One attempt a second on one node (PAIR-02)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.pairing.gate import MAX_QUEUED, RESPONSE_DELAY, NodeGate

pytestmark = pytest.mark.rule("PAIR-02")

# Multiples of 1/64 second add up without rounding.
gaps = st.lists(st.integers(0, 200).map(lambda n: n / 64), max_size=60)


def test_the_numbers_are_those_of_the_rule() -> None:
    assert RESPONSE_DELAY == 1.0
    assert MAX_QUEUED == 5


def test_a_lone_request_is_answered_after_one_second() -> None:
    assert NodeGate().admit(now=100.0) == 101.0


def test_requests_at_the_same_time_are_answered_one_a_second_and_the_sixth_is_refused() -> None:
    gate = NodeGate()
    assert [gate.admit(now=10.0) for _ in range(6)] == [11.0, 12.0, 13.0, 14.0, 15.0, None]
    assert gate.admit(now=10.5) == 16.0
    assert gate.admit(now=10.5) is None
    assert gate.admit(now=11.5) == 17.0


@given(gaps)
def test_however_requests_arrive_no_answer_is_early_and_none_waits_forever(waits: list[float]) -> None:
    gate = NodeGate()
    now, answers = 1000.0, []
    for wait in waits:
        now += wait
        pending = [at for at in answers if at > now]
        at = gate.admit(now=now)
        if at is None:
            assert len(pending) >= MAX_QUEUED
            continue
        assert at - now >= RESPONSE_DELAY
        assert at - now < RESPONSE_DELAY * (MAX_QUEUED + 1)
        if answers:
            assert at - answers[-1] >= RESPONSE_DELAY
        answers.append(at)


@given(gaps)
def test_refused_requests_cost_the_others_nothing(waits: list[float]) -> None:
    gate, now, latest = NodeGate(), 1000.0, 0.0
    for wait in waits:
        now += wait
        for _ in range(20):
            latest = gate.admit(now=now) or latest
        assert latest <= now + RESPONSE_DELAY * (MAX_QUEUED + 1)


@given(gaps, gaps)
def test_nodes_do_not_wait_for_each_other(mine: list[float], theirs: list[float]) -> None:
    alone, together, other = NodeGate(), NodeGate(), NodeGate()
    now = 1000.0
    for wait, more in zip(mine, theirs, strict=False):
        now += wait
        other.admit(now=now + more)
        assert together.admit(now=now) == alone.admit(now=now)


def test_without_a_delay_everything_is_answered_at_once() -> None:
    gate = NodeGate(delay=0)
    assert [gate.admit(now=5.0) for _ in range(50)] == [5.0] * 50
