"""Reconnect storm on paper: no client is lost or served twice, and it goes as with clients that draw their delays."""

from __future__ import annotations

import heapq
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.storm import LONGEST, SLOT, back, delays, storm
from s2connect.transports.backoff import BASE_DELAY, BUSY_DELAY, MAX_BUSY, MAX_DELAY, Backoff


@settings(max_examples=15, deadline=None)
@given(
    clients=st.integers(1, 200_000),
    per_second=st.floats(500, 20_000),
    first=st.floats(0, 300),
    busy=st.booleans(),
)
def test_every_client_comes_back_once_and_no_more_are_served_than_there_is_capacity(
    clients: int, per_second: float, first: float, busy: bool
) -> None:
    served, waiting = 0.0, float(clients)
    for step in storm(clients, per_second, first_within=first, busy=busy):
        assert 0 <= step.served <= min(step.tried, per_second * SLOT) * (1 + 1e-9)
        assert step.tried <= waiting * (1 + 1e-9), "nobody tries twice within a slot, or once it is back"
        served, waiting = served + step.served, step.waiting
        assert served + waiting == pytest.approx(clients)
    assert waiting < 0.5 or step.seconds >= LONGEST


@pytest.mark.rule("REC-02")
@pytest.mark.parametrize("busy", [False, True])
def test_it_goes_as_with_clients_that_draw_their_delays(busy: bool) -> None:
    clients, per_second, chance = 4000, 60.0, random.Random(1)
    due = [(chance.uniform(0, BASE_DELAY), n) for n in range(clients)]
    heapq.heapify(due)
    backoffs = [Backoff() for _ in range(clients)]
    came: list[float] = []
    slot, left = -1, 0.0
    while due:
        now, one = heapq.heappop(due)
        if int(now / SLOT) > slot:
            slot, left = int(now / SLOT), per_second * SLOT
        if left >= 1:
            left -= 1
            came.append(now)
        else:
            backoff = backoffs[one]
            delay = backoff.busy(chance.random()) if busy else backoff.failed(chance.random())
            heapq.heappush(due, (now + max(delay, SLOT), one))
    found = back(clients, per_second, busy=busy)
    assert found.half == pytest.approx(came[clients // 2], rel=0.1)
    assert found.all == pytest.approx(came[-1], rel=0.35)


@pytest.mark.rule("REC-02")
def test_the_delays_are_those_of_the_back_off() -> None:
    assert delays(busy=False)[:3] == [(0.0, 2.0), (0.0, 4.0), (0.0, 8.0)]
    assert delays(busy=False)[-1] == (0.0, MAX_DELAY)
    told = delays(busy=True)
    assert {high for _, high in told[8:MAX_BUSY]} == {BUSY_DELAY}
    assert told[-1] == (0.0, MAX_DELAY)


def test_a_storm_without_capacity_does_not_end_and_one_without_clients_has_ended() -> None:
    assert back(10, 0.0).all == math.inf
    assert back(0, 0.0).all == 0


@pytest.mark.parametrize("busy", [False, True])
def test_first_attempts_that_are_spread_make_fewer_attempts(busy: bool) -> None:
    at_once, spread = back(100_000, 1500, busy=busy), back(100_000, 1500, first_within=60, busy=busy)
    assert spread.peak < at_once.peak / 5
    assert spread.attempts < at_once.attempts
