"""Overload control in virtual time: a server whose every step costs CPU, and clients that come as they like."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.https.overload import (
    INTERVAL,
    MAX_LIMIT,
    MAX_RETRY_AFTER,
    MIN_LIMIT,
    MIN_QUEUE,
    QUIET,
    QUIET_QUEUE,
    TARGET_LAG,
    Overload,
)

ACCEPT = 30e-6
"""Seconds of CPU to accept a connection and close it."""

HANDSHAKE, FINISHED, INDEX, INITIATE, CONFIRM, UPGRADE = 4e-3, 1e-3, 1.5e-3, 4e-3, 4e-3, 4e-3
FIRST = (HANDSHAKE, FINISHED + INDEX, INITIATE, CONFIRM)
SECOND = (HANDSHAKE, FINISHED + UPGRADE)
CPU = 2 * ACCEPT + sum(FIRST) + sum(SECOND)
"""Seconds of CPU for a whole session initiation."""

PATIENCE = 10.0
"""Seconds after which a client gives a connection up that has not got on."""

ROUND_TRIPS = 6.5
"""Round trips of a whole session initiation: half of one to arrive, then one between two steps, two for the upgrade."""


@dataclass
class Client:
    """One attempt."""

    network: str
    rtt: float
    began: float
    refused: bool = False
    through: bool = False


@dataclass
class World:
    """One core, its event loop, and everybody who talks to it."""

    controlled: bool = True
    now: float = 0.0
    overload: Overload = field(default_factory=Overload)
    finished: list[float] = field(default_factory=list)
    spans: list[float] = field(default_factory=list)  # without the network's share
    refused_upgrades: int = 0
    most_waiting: int = 0

    def __post_init__(self) -> None:
        self._numbers = count()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ready: deque[tuple[float, Callable[[], None]]] = deque()
        self._turns: deque[tuple[str, Callable[[], None]]] = deque()
        self._busy = False
        self.at(0.05, self._probe)

    def at(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now + delay, next(self._numbers), what))

    def run(self, until: float) -> None:
        while self._timers and self._timers[0][0] <= until:
            self.now, _, what = heapq.heappop(self._timers)
            what()

    # The server

    def work(self, cost: float, then: Callable[[], None]) -> None:
        """A socket is ready: its callback runs when those before it have run."""
        self._ready.append((cost, then))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._ready)
        if self._busy:
            cost, then = self._ready.popleft()

            def run() -> None:
                then()
                self._give_turns()
                self._next()

            self.at(cost, run)

    def _probe(self) -> None:
        sent = self.now
        self.work(0.0, lambda: self.overload.look(self.now - sent, now=self.now))
        self.at(0.05, self._probe)

    def _give_turns(self) -> None:
        while self._turns:
            place = next((n for n, (network, _) in enumerate(self._turns) if self.overload.is_expected(network)), 0)
            network, turn = self._turns[place]
            if self.controlled and not self.overload.begins(network, now=self.now):
                return
            del self._turns[place]
            turn()

    # A client

    def come(self, client: Client) -> None:
        self.at(client.rtt / 2, lambda: self.work(ACCEPT, lambda: self._accepted(client, FIRST)))

    def _accepted(self, client: Client, steps: tuple[float, ...]) -> None:
        if self.controlled and not self.overload.takes(client.network, waiting=len(self._turns)):
            client.refused = True
            self.refused_upgrades += steps is SECOND
            return
        name = next(self._numbers)
        came = self.now

        def turn() -> None:
            if self.now - came < PATIENCE:
                step(0, self.now)

        def step(number: int, asked: float) -> None:
            self.overload.step(name, now=self.now)
            self.work(steps[number], lambda: done(number, asked))

        def done(number: int, asked: float) -> None:
            self.overload.step(name, now=self.now)
            if self.now - asked > PATIENCE:
                self.overload.end(name)  # the client has given up; the work was for nothing
            elif number + 1 < len(steps):
                self.at(client.rtt, lambda: step(number + 1, self.now))
            else:
                self.overload.end(name)
                self._through(client, steps)

        self._turns.append((client.network, turn))
        self.most_waiting = max(self.most_waiting, len(self._turns))
        self._give_turns()

    def _through(self, client: Client, steps: tuple[float, ...]) -> None:
        if steps is FIRST:
            self.overload.expect(client.network)
            self.at(
                2 * client.rtt,
                lambda: self.work(ACCEPT, lambda: self._accepted(client, SECOND)),
            )
            return
        self.overload.expect_no_more(client.network)
        client.through = True
        self.finished.append(self.now)
        self.spans.append(self.now - client.began - ROUND_TRIPS * client.rtt)


def goodput(load: float, *, seconds: float = 12.0, seed: int = 0, rtt: float = 0.02, controlled: bool = True) -> World:
    """Offer so many times the capacity; the world afterwards."""
    world, chance = World(controlled=controlled), random.Random(seed)
    rate = load / CPU

    def arrive() -> None:
        number = next(world._numbers)
        world.come(Client(f"net-{number}", rtt * (0.5 + chance.random()), world.now))
        world.at(chance.expovariate(rate), arrive)

    world.at(0.0, arrive)
    world.run(seconds)
    return world


def late_rate(world: World, since: float = 4.0) -> float:
    """Sessions a second once the control has settled."""
    return sum(moment > since for moment in world.finished) / (world.now - since)


@pytest.mark.rule("SEC-03")
@settings(max_examples=20, deadline=None)
@given(
    load=st.floats(0.3, 12.0),
    rtt=st.sampled_from([0.0005, 0.02, 0.1, 0.4]),
    seed=st.integers(0, 2**16),
)
def test_under_any_load_the_rate_stays_above_four_fifths_of_the_best(load: float, rtt: float, seed: int) -> None:
    world = goodput(load, rtt=rtt, seed=seed)
    assert late_rate(world) >= 0.8 * min(load * 0.97, 1.0) / CPU
    # Nobody who was let in waits for long, and no conversation that has begun is refused.
    assert max(world.spans) < 10.0
    assert world.refused_upgrades == 0


def test_without_the_control_the_same_load_ends_in_nothing() -> None:
    assert late_rate(goodput(6.0, seconds=30.0, controlled=False), 15.0) < 0.4 / CPU
    assert late_rate(goodput(6.0, seconds=30.0), 15.0) > 0.8 / CPU


def test_a_herd_is_back_in_the_time_that_the_rate_needs() -> None:
    """Every device comes at once, and comes again with the back-off of our client for a busy server."""
    world, chance, devices = World(), random.Random(1), 800

    def attempt(tries: int) -> None:
        client = Client(f"net-{next(world._numbers)}", 0.03, world.now)
        world.come(client)
        world.at(1.0, lambda: look(client, tries))

    def look(client: Client, tries: int) -> None:
        if client.refused:
            world.at(chance.random() * min(32.0, 2.0 * 2**tries), lambda: attempt(tries + 1))
        elif not client.through:
            world.at(1.0, lambda: look(client, tries))

    for _ in range(devices):
        attempt(0)
    world.run(devices * CPU / 0.8 + 40.0)
    assert len(world.finished) == devices


def test_the_limit_falls_when_the_loop_is_late_all_the_time_and_not_for_one_pause() -> None:
    overload, now = Overload(), 0.0
    for number in range(600):
        overload.step(number, now=now)
        overload.begins("x", now=now)
        overload.look(0.001, now=(now := now + 0.02))
    high = overload._limit
    assert high > 1.2 * MIN_LIMIT
    overload.look(5 * TARGET_LAG, now=(now := now + 0.05))
    assert overload._limit >= high
    overload.look(0.001, now=(now := now + 0.05))
    for _ in range(60):
        overload.look(5 * TARGET_LAG, now=(now := now + 0.05))
    assert overload._limit == MIN_LIMIT


def test_the_limit_does_not_grow_while_it_holds_nobody_up() -> None:
    overload = Overload()
    for number in range(1000):
        overload.look(0.001, now=number * 0.05)
    assert overload._limit == MIN_LIMIT


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 2)), max_size=200))
def test_what_makes_no_step_counts_no_more(steps: list[tuple[int, float]]) -> None:
    overload, now, last = Overload(), 0.0, dict[int, float]()
    for conversation, pause in steps:
        now += pause
        overload.step(conversation, now=now)
        last[conversation] = now
        assert overload.under_way(now=now) == sum(then > now - QUIET for then in last.values())
        last = {name: then for name, then in last.items() if then > now - QUIET}


def test_idle_strangers_hold_up_nobody_for_longer_than_they_take_to_be_quiet() -> None:
    overload, now = Overload(), 0.0
    for number in range(MIN_LIMIT):
        overload.step(("idle", number), now=now)
    assert not overload.begins("honest", now=now)
    assert overload.begins("honest", now=now + QUIET + 0.01)


def test_a_burst_may_wait_where_the_loop_has_little_to_do() -> None:
    overload = Overload()
    assert overload.takes("gateway", waiting=QUIET_QUEUE - 1)
    assert not overload.takes("gateway", waiting=QUIET_QUEUE)
    overload.look(TARGET_LAG, now=0.0)
    assert not overload.takes("gateway", waiting=MIN_QUEUE)


def test_who_was_offered_a_session_goes_first() -> None:
    overload = Overload()
    overload.look(2 * TARGET_LAG, now=0.0)
    for number in range(MIN_LIMIT):
        overload.step(number, now=0.0)
    assert not overload.begins("guest", now=0.0)
    assert overload.takes("guest", waiting=MIN_QUEUE - 1)
    assert not overload.takes("guest", waiting=MIN_QUEUE)
    overload.expect("guest")
    assert overload.begins("guest", now=0.0)
    assert overload.takes("guest", waiting=MIN_QUEUE)
    overload.step("guest's", now=0.0)
    assert not overload.begins("guest", now=0.0)  # one offer, one connection beyond the limit
    assert not overload.begins("other", now=0.0)
    overload.expect_no_more("guest")
    assert not overload.is_expected("guest")


def test_a_second_conversation_on_a_connection_is_one_of_those_that_are_held_up() -> None:
    overload = Overload()
    assert overload.begins_anew("kept", now=0.0)
    assert overload.begins_anew("kept", now=0.0)  # it is the same one
    for number in range(MIN_LIMIT):
        overload.step(number, now=0.0)
    assert not overload.begins_anew("kept", now=0.0)
    assert overload.under_way(now=0.0) == MIN_LIMIT


def test_the_time_to_come_again_grows_with_the_crowd_and_is_bounded() -> None:
    overload = Overload()
    assert overload.retry_after() == 1
    now = 0.0
    for _ in range(200):
        for _ in range(100):
            overload.takes("x", waiting=10**6)
        overload.look(INTERVAL, now=(now := now + 0.05))
    assert overload.retry_after() == MAX_RETRY_AFTER
    assert overload._limit <= MAX_LIMIT
