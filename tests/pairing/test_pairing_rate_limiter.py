"""One attempt a second on one node, and no address keeps another waiting (PAIR-02)."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.pairing import rate_limiter as module
from s2connect.pairing.rate_limiter import (
    FAILURES_KEPT_FOR,
    FREE_FAILURES,
    MAX_QUEUED,
    MAX_QUEUED_PER_ADDRESS,
    RESPONSE_DELAY,
    SLOWED_DELAY,
    NodeRateLimiter,
    Turn,
)

pytestmark = pytest.mark.rule("PAIR-02")

ONE, OTHER = "192.0.2.1", "192.0.2.2"


def run(limiter: NodeRateLimiter, waiting: list[Turn], now: float, until: float = 1e9) -> list[tuple[float, Turn]]:
    """Let everybody ask when told to, until nobody waits or the time is over; who got a turn, and when."""
    taken: list[tuple[float, Turn]] = []
    waiting = list(waiting)
    for _ in range(10_000):
        times = []
        for turn in list(waiting):
            at = limiter.wait(turn, now=now)
            if at is None:
                taken.append((now, turn))
                waiting.remove(turn)
            else:
                times.append(at)
        if not waiting:
            return taken
        if times and len(times) == len(waiting) and min(times) > now:
            now = min(times)
        if now > until:
            return taken
    raise AssertionError("they ask without end")


def test_the_numbers_are_those_of_the_rule() -> None:
    assert RESPONSE_DELAY == 1.0
    assert (MAX_QUEUED_PER_ADDRESS, MAX_QUEUED) == (5, 100)


def test_a_lone_request_is_answered_after_one_second() -> None:
    limiter = NodeRateLimiter()
    turn = limiter.queue(ONE, now=100.0)
    assert turn is not None
    assert limiter.wait(turn, now=100.0) == 101.0
    assert limiter.wait(turn, now=100.9) == 101.0
    assert limiter.wait(turn, now=101.0) is None


def test_requests_of_one_address_are_answered_one_a_second_and_the_sixth_is_refused() -> None:
    limiter = NodeRateLimiter()
    turns = [turn for _ in range(6) if (turn := limiter.queue(ONE, now=10.0)) is not None]
    assert len(turns) == 5
    assert [at for at, _ in run(limiter, turns, 10.0)] == [11.0, 12.0, 13.0, 14.0, 15.0]
    assert limiter.queue(ONE, now=15.0) is not None


def test_whoever_comes_after_a_flood_from_another_address_is_next_but_one() -> None:
    limiter = NodeRateLimiter()
    flood = [turn for _ in range(50) if (turn := limiter.queue(ONE, now=10.0)) is not None]
    honest = limiter.queue(OTHER, now=10.5)
    assert honest is not None
    order = run(limiter, [*flood, honest], 10.5)
    assert [at for at, turn in order if turn is honest] == [12.0]


def test_the_addresses_of_one_ipv6_network_count_as_one() -> None:
    limiter = NodeRateLimiter()
    assert sum(limiter.queue(f"2001:db8:1:2::{n}", now=0.0) is not None for n in range(1, 9)) == 5
    assert limiter.queue("2001:db8:1:3::1", now=0.0) is not None


def test_the_whole_queue_is_bounded() -> None:
    limiter = NodeRateLimiter()
    turns = [limiter.queue(f"10.0.{n // 250}.{n % 250}", now=0.0) for n in range(MAX_QUEUED + 5)]
    assert sum(turn is not None for turn in turns) == MAX_QUEUED


def test_whoever_is_answered_or_leaves_makes_room_in_the_whole_queue() -> None:
    limiter = NodeRateLimiter()
    turns = [turn for n in range(MAX_QUEUED) if (turn := limiter.queue(f"10.0.0.{n}", now=0.0)) is not None]
    assert limiter.queue(OTHER, now=0.0) is None
    [taken] = [turn for turn in turns if limiter.wait(turn, now=1.0) is None]
    assert limiter.queue(OTHER, now=1.0) is not None
    assert limiter.queue(ONE, now=1.0) is None
    limiter.leave(next(turn for turn in turns if turn is not taken))
    assert limiter.queue(ONE, now=1.0) is not None


def test_in_a_full_queue_a_newcomer_takes_the_place_of_the_longest_line() -> None:
    limiter = NodeRateLimiter()
    crowd = [turn for n in range(MAX_QUEUED) if (turn := limiter.queue(f"10.0.0.{n // 5}", now=0.0)) is not None]
    assert len(crowd) == MAX_QUEUED
    honest = limiter.queue(ONE, now=0.5)
    assert honest is not None
    assert [turn.displaced for turn in crowd] == [n == 4 for n in range(MAX_QUEUED)]


def test_who_had_no_turn_of_late_comes_before_those_that_had() -> None:
    limiter = NodeRateLimiter()
    crowd = [turn for n in range(MAX_QUEUED) if (turn := limiter.queue(f"10.0.0.{n // 5}", now=0.0)) is not None]
    taken = [turn for _, turn in run(limiter, crowd, 0.0, until=25.0)]
    rest = [turn for turn in crowd if turn not in taken]
    honest = limiter.queue(ONE, now=26.0)
    assert honest is not None
    [at] = [at for at, turn in run(limiter, [*rest, honest], 26.0) if turn is honest]
    assert at == 27.0


def test_who_has_left_is_not_waited_for() -> None:
    limiter = NodeRateLimiter()
    gone, stays = limiter.queue(ONE, now=0.0), limiter.queue(OTHER, now=0.0)
    assert gone is not None
    assert stays is not None
    limiter.leave(gone)
    limiter.leave(gone)
    assert limiter.wait(stays, now=1.0) is None
    limiter.leave(stays)


def test_an_address_that_fails_again_and_again_is_slowed_down_for_a_while_and_others_are_not() -> None:
    limiter, now = NodeRateLimiter(), 0.0

    def lone(address: str, now: float) -> float:
        turn = limiter.queue(address, now=now)
        assert turn is not None
        [(at, _)] = run(limiter, [turn], now)
        return at - now

    for _ in range(FREE_FAILURES):
        assert lone(ONE, now) == RESPONSE_DELAY
        now += 3
        limiter.failed(ONE, now=now)
    assert lone(ONE, now) == RESPONSE_DELAY
    limiter.failed(ONE, now=now + 1)
    assert lone(ONE, now + 1) == RESPONSE_DELAY
    assert lone(ONE, now + 2) == SLOWED_DELAY
    assert lone(OTHER, now + 8) == RESPONSE_DELAY
    later = now + 1 + FAILURES_KEPT_FOR
    assert lone(ONE, later) == RESPONSE_DELAY
    limiter.failed(ONE, now=later + 1)
    assert [lone(ONE, later + 1), lone(ONE, later + 2)] == [RESPONSE_DELAY] * 2, "what it did before is forgotten"


def test_the_addresses_that_failed_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    limiter = NodeRateLimiter()
    for number in range(50):
        for _ in range(FREE_FAILURES + 1):
            limiter.failed(f"10.0.0.{number}", now=float(number))
    assert list(limiter._failures) == ["10.0.0.47", "10.0.0.48", "10.0.0.49"], "the last ones"


# Multiples of 1/64 second add up without rounding.
arrivals = st.lists(st.tuples(st.integers(0, 200).map(lambda n: n / 64), st.integers(0, 4), st.booleans()), max_size=60)


@given(arrivals)
def test_however_requests_arrive_none_is_early_and_every_address_has_its_share(
    requests: list[tuple[float, int, bool]],
) -> None:
    limiter, now = NodeRateLimiter(), 1000.0
    waiting: list[Turn] = []
    came: dict[Turn, float] = {}
    taken: list[tuple[float, Turn]] = []

    def until(then: float) -> None:
        nonlocal now
        while True:
            times = []
            for turn in list(waiting):
                at = limiter.wait(turn, now=now)
                if at is None:
                    waiting.remove(turn)
                    taken.append((now, turn))
                else:
                    times.append(at)
            later = min(times, default=then)
            if later >= then:
                now = max(now, then)
                return
            now = max(now, later)

    for wait, number, leaves in requests:
        until(now + wait)
        mine = [turn for turn in waiting if turn.source == f"10.0.0.{number}"]
        turn = limiter.queue(f"10.0.0.{number}", now=now)
        if turn is None:
            assert len(mine) == MAX_QUEUED_PER_ADDRESS
            if leaves:
                limiter.leave(mine[0])
                waiting.remove(mine[0])
            continue
        came[turn] = now
        waiting.append(turn)
    until(now + 1000)
    assert not waiting
    assert not limiter._waiting
    last = 0.0
    for at, turn in taken:
        assert at >= came[turn] + RESPONSE_DELAY
        assert at >= last + RESPONSE_DELAY
        last = at
    # Between the arrival and the turn of a request, no other address had more turns than this one, but for one.
    for at, turn in taken:
        turns: dict[str, int] = defaultdict(int)
        for other_at, other in taken:
            if came[turn] + RESPONSE_DELAY <= other_at <= at:
                turns[other.source] += 1
        assert all(count <= turns[turn.source] + 1 for count in turns.values())


@given(st.integers(0, 30), st.integers(0, 3))
def test_a_flood_costs_an_honest_client_two_seconds_more_at_most(flood: int, honest: int) -> None:
    """While one address sends all it can, at any time."""
    limiter, now = NodeRateLimiter(), 100.0
    waiting = [turn for _ in range(flood) if (turn := limiter.queue(ONE, now=now)) is not None]
    start = now + honest * 0.75
    taken = run(limiter, waiting, now, until=start)
    waiting = [turn for turn in waiting if turn not in [t for _, t in taken]]
    mine = limiter.queue(OTHER, now=start)
    assert mine is not None
    while len(waiting) < MAX_QUEUED_PER_ADDRESS and (turn := limiter.queue(ONE, now=start)) is not None:
        waiting.append(turn)
    [at] = [at for at, turn in run(limiter, [*waiting, mine], start) if turn is mine]
    assert at <= start + RESPONSE_DELAY + 2 * RESPONSE_DELAY


def test_without_a_delay_everything_is_answered_at_once() -> None:
    limiter = NodeRateLimiter(delay=0)
    turns = [turn for _ in range(5) if (turn := limiter.queue(ONE, now=5.0)) is not None]
    assert [at for at, _ in run(limiter, turns, 5.0)] == [5.0] * 5
