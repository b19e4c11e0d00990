"""Ownership of sessions: after every interleaving of takeovers at several instances a pair has one session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.model.common import NodeId
from s2connect.session.ownership import (
    BEAT_EVERY,
    LINK_LEASE,
    STANDSTILL,
    Claim,
    Leases,
    Outage,
    SessionRow,
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
