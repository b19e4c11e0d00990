"""Ownership of sessions: after every interleaving of takeovers at several instances a pair has one session."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.model.common import NodeId
from s2connect.session.ownership import (
    BEAT_EVERY,
    GIVEN_UP_PART,
    HANDOVER_WITHIN,
    HEARD_FOR,
    LINK_LEASE,
    STANDSTILL,
    Claim,
    Hearing,
    Leases,
    LinkCounts,
    Outage,
    SessionRow,
    Shares,
    Standing,
    Standstill,
    invalid,
    standing,
)
from s2connect.store.base import PairKey

KEY = PairKey(NodeId(UUID(int=1)), NodeId(UUID(int=2)))
OTHER = PairKey(NodeId(UUID(int=1)), NodeId(UUID(int=3)))


@dataclass
class World:
    """The row of one pairing, and what each instance holds. Each step of a generator happens at one moment."""

    row: SessionRow | None = field(default_factory=lambda: SessionRow(1.0, None, 0))
    held: dict[str, Claim] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)

    def rows(self) -> dict[PairKey, list[SessionRow]]:
        return {KEY: [self.row]} if self.row is not None else {}

    def take(self, instance: str) -> Iterator[None]:
        if self.row is None:
            return
        if self.row.owner not in (None, instance):
            self.hints.append(str(self.row.owner))
        self.row = SessionRow(self.row.paired_at, instance, self.row.generation + 1)
        claim = Claim(KEY, self.row.paired_at, instance, self.row.generation)
        yield
        before = self.held.get(instance)
        if before is None or not before.is_newer(claim):
            self.held[instance] = claim
        yield
        yield from self.review(instance)

    def review(self, instance: str) -> Iterator[None]:
        claim, rows = self.held.get(instance), self.rows()
        yield
        for lost, _ in invalid([claim] if claim is not None else [], rows):
            if self.held.get(instance) == lost:
                del self.held[instance]

    def pair_anew(self) -> Iterator[None]:
        if self.row is not None:
            if self.row.owner is not None:
                self.hints.append(self.row.owner)
            self.row = SessionRow(self.row.paired_at + 1, None, 0)
        return
        yield

    def unpair(self) -> Iterator[None]:
        if self.row is not None and self.row.owner is not None:
            self.hints.append(self.row.owner)
        self.row = None
        return
        yield


@given(
    st.lists(st.sampled_from(["a", "b", "c", "anew"]), min_size=1, max_size=7),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_after_any_takeovers_a_pair_has_one_session(
    work: list[str], ends_unpaired: bool, hints_are_lost: bool, data: st.DataObject
) -> None:
    world = World()
    under_way = [world.pair_anew() if one == "anew" else world.take(one) for one in work]
    if ends_unpaired:
        under_way.append(world.unpair())
    while under_way or world.hints:
        if world.hints and (not under_way or data.draw(st.booleans())):
            instance = world.hints.pop()
            if not hints_are_lost:
                under_way.append(world.review(instance))
            continue
        one = under_way[data.draw(st.integers(0, len(under_way) - 1))]
        if next(one, "over") == "over":
            under_way.remove(one)
    if hints_are_lost:  # then they are read again
        for instance in "abc":
            for _ in world.review(instance):
                pass
    row = world.row
    owner = None if row is None else row.owner
    assert set(world.held) == ({owner} if owner is not None else set())
    if row is not None and owner is not None:
        assert world.held[owner].generation == row.generation


def test_a_claim_stands_while_the_row_has_its_owner_and_generation() -> None:
    claim = Claim(KEY, 1.0, "a", 4)
    for row, expected in (
        (SessionRow(1.0, "a", 4), Standing.VALID),
        (SessionRow(1.0, "b", 5), Standing.TAKEN),
        (SessionRow(1.0, "a", 6), Standing.TAKEN),
        (SessionRow(1.0, None, 4), Standing.TAKEN),
        (SessionRow(2.0, None, 0), Standing.REPLACED),
    ):
        assert standing(claim, [row]) is expected, row
    assert standing(claim, []) is Standing.ENDED
    unconfirmed_beside = [SessionRow(1.0, "a", 4), SessionRow(2.0, None, 0)]
    assert standing(claim, unconfirmed_beside) is Standing.VALID


def test_a_lease_is_over_here_before_it_is_in_the_database() -> None:
    leases = Leases()
    assert not leases.holds(KEY, now=0.0)
    leases.granted([KEY], asked_at=100.0)  # the database heard of it later
    assert leases.holds(KEY, now=100.0 + LINK_LEASE - 0.1)
    assert not leases.holds(KEY, now=100.0 + LINK_LEASE)
    assert leases.expired(now=100.0 + LINK_LEASE) == [KEY]
    assert not len(leases)


def test_a_renewal_lengthens_what_is_kept_and_names_what_is_lost() -> None:
    leases = Leases()
    leases.granted([KEY, OTHER], asked_at=0.0)
    assert leases.renewed([KEY, OTHER], {KEY}, asked_at=10.0) == [OTHER]
    assert leases.holds(KEY, now=39.0)
    assert not leases.holds(OTHER, now=11.0)


def test_a_lease_that_was_given_up_meanwhile_does_not_come_back_with_its_renewal() -> None:
    leases = Leases()
    leases.granted([KEY], asked_at=0.0)
    assert leases.released(KEY)
    assert leases.renewed([KEY], {KEY}, asked_at=10.0) == []
    assert not leases.holds(KEY, now=11.0)
    assert not leases.released(KEY)


@pytest.mark.parametrize("limit", [0.0, 300.0])
def test_sessions_outlive_the_database_for_the_limit_since_its_last_answer(limit: float) -> None:
    outage = Outage(limit, now=0.0)
    outage.answered(now=10.0)
    assert not outage.is_over_limit(now=10_000.0), "it has not failed"
    assert outage.failed()
    assert not outage.failed(), "that is known"
    assert outage.is_over_limit(now=10.0 + limit)
    assert limit == 0.0 or not outage.is_over_limit(now=9.0 + limit)
    assert outage.answered(now=11.0 + limit)
    assert not outage.is_over_limit(now=10_000.0)


def test_after_a_standstill_all_is_in_doubt_from_the_first_look_until_the_rows_were_read() -> None:
    standstill, now = Standstill(now=0.0), 0.0
    for _ in range(10):
        now += BEAT_EVERY * 2
        assert not standstill.is_in_doubt(now=now - BEAT_EVERY)
        assert not standstill.beat(now=now)
    assert standstill.is_in_doubt(now=now + STANDSTILL + 0.1), "a look before the beat"
    count = standstill.count
    now += STANDSTILL + 0.2
    assert standstill.beat(now=now), "until the rows were read"
    standstill.settled(count)
    assert not standstill.is_in_doubt(now=now)
    now += 30.0
    assert standstill.beat(now=now)
    count = standstill.count
    now += 30.0
    assert standstill.beat(now=now), "once more, while the rows are read"
    standstill.settled(count)
    assert standstill.is_in_doubt(now=now)


@dataclass
class Links:
    """Links of several instances, and their looks at them; ``takes`` are the instances that connect at all.

    Attributes:
        others_come_and_go: Whether instances always give up others, which peers take, so that hints never cease.
    """

    links: int
    takes: dict[str, bool]
    others_come_and_go: bool = False
    held: dict[str, int] = field(default_factory=dict)
    shares: dict[str, Shares] = field(default_factory=dict)
    moved: int = 0
    now: float = 0.0

    def join(self, name: str) -> None:
        self.held[name], self.shares[name] = 0, Shares()

    def leave(self, name: str) -> None:
        del self.held[name], self.shares[name]
        for other in self.shares.values():
            other.freed(now=self.now)

    @property
    def free(self) -> int:
        return self.links - sum(self.held.values())

    def look(self, name: str) -> None:
        """One look of an instance, as its task does it."""
        if not self.takes[name]:
            return
        shares, counts = self.shares[name], LinkCounts(self.links, dict(self.held))
        if shares.is_stale(now=self.now):
            given = shares.read(counts, self.held[name], me=name, now=self.now)
            excess = self.held[name] - counts.links // len(counts.held)
            assert 0 <= given <= max(0, excess), "never more than the excess"
            assert given <= max(1, self.held[name] // GIVEN_UP_PART), "slowly"
            self.held[name] -= given
            self.moved += given
            if given:
                for other in self.shares.values():
                    other.freed(now=self.now)
        taken = min(shares.may_take(self.held[name], now=self.now), self.free)
        self.held[name] += taken
        shares.took(taken, self.held[name])

    def pass_time(self, seconds: float, order: random.Random) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 5.0
            if self.others_come_and_go:
                for shares in self.shares.values():
                    shares.freed(now=self.now)
            for name in order.sample(sorted(self.held), len(self.held)):
                self.look(name)


@settings(max_examples=20)
@given(
    st.integers(0, 200),
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
def test_links_even_out_after_instances_have_come_and_gone_and_stay_then(
    links: int, changes: list[str], seed: int
) -> None:
    order = random.Random(seed)
    world = Links(links, dict.fromkeys("abcdef", True))
    for name in changes:
        if name not in world.held:
            world.join(name)
        elif len(world.held) > 1:
            world.leave(name)
        world.pass_time(order.choice([5.0, 60.0, 300.0]), order)
    world.pass_time(1800.0, order)
    assert world.free == 0
    least, most = min(world.held.values()), max(world.held.values())
    assert most - least <= 1
    before, moved = dict(world.held), world.moved
    world.pass_time(600.0, order)
    assert (world.held, world.moved) == (before, moved), "nothing goes to and fro"


@settings(max_examples=8)
@given(st.integers(1, 200), st.integers(1, 4), st.booleans(), st.integers(0, 2**32))
def test_what_an_instance_does_not_take_is_taken_back_and_given_up_ever_less(
    links: int, idle: int, others_come_and_go: bool, seed: int
) -> None:
    order = random.Random(seed)
    names = [f"idle-{number}" for number in range(idle)]
    world = Links(links, {"a": True, **dict.fromkeys(names, False)}, others_come_and_go)
    world.join("a")
    world.pass_time(600.0, order)
    for name in names:
        world.join(name)
    for _ in range(4 * 60):
        world.pass_time(60.0, order)
        assert world.free <= max(1, links // GIVEN_UP_PART), "no more, before those are taken"
    moved = world.moved
    world.pass_time(4 * 3600.0, order)
    assert world.moved - moved <= 5 * max(1, links // GIVEN_UP_PART), "once an hour"
    assert world.held["a"] >= links - max(1, links // GIVEN_UP_PART)


def test_an_instance_would_know_of_a_takeover_for_some_time_after_it_has_heard() -> None:
    assert HEARD_FOR < HANDOVER_WITHIN, "whoever has the session then delivers nothing yet"
    hearing = Hearing()
    hearing.heard(asked_at=10.0)
    assert not hearing.is_certain(now=10.1), "before the rows were read"
    hearing.missed()
    first = hearing.gaps
    hearing.missed()
    hearing.settled(first)
    assert not hearing.is_certain(now=10.1), "they were read before the last gap"
    hearing.settled(hearing.gaps)
    assert hearing.is_certain(now=10.1)
    assert not hearing.is_certain(now=10.0 + HEARD_FOR)
    hearing.heard(asked_at=20.0)
    assert hearing.is_certain(now=20.1)


def test_an_instance_knows_nothing_while_it_cannot_read_the_rows_of_a_hint() -> None:
    hearing = Hearing()
    hearing.settled(hearing.gaps)
    hearing.heard(asked_at=10.0)
    hearing.doubted()
    hearing.heard(asked_at=10.3)
    hearing.doubted()
    assert hearing.is_certain(now=10.7), "nothing was done before 10.0 that it does not know"
    assert not hearing.is_certain(now=10.0 + HEARD_FOR), "the first hint waits"
    hearing.reviewed(since=10.3)
    assert hearing.is_certain(now=10.9)
    assert not hearing.is_certain(now=10.3 + HEARD_FOR)
    hearing.heard(asked_at=10.6)
    hearing.reviewed(since=None)
    assert hearing.is_certain(now=10.3 + HEARD_FOR)


def test_a_hint_that_was_held_up_is_read_before_anything_is_certain() -> None:
    hearing = Hearing()
    hearing.settled(hearing.gaps)
    hearing.heard(asked_at=10.0)
    hearing.doubted()  # comes with the answer to a question of much later
    hearing.heard(asked_at=20.0)
    assert not hearing.is_certain(now=20.1)
    hearing.reviewed(since=None)
    assert hearing.is_certain(now=20.1)
