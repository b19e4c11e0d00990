"""The table of a link's life."""

from __future__ import annotations

import ast
import inspect
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.bridge import link_state as module
from s2connect.bridge.link_state import TABLE, LinkEvent, LinkState, LinkStateMachine
from s2connect.transports.backoff import BASE_DELAY, MAX_DELAY, SHORT_SESSION

S, E = LinkState, LinkEvent

FOLLOWS = {
    (S.UNPAIRED, E.PAIRED): S.WAITING,
    (S.WAITING, E.BEGIN): S.REACHING,
    (S.WAITING, E.UNPAIRED): S.UNPAIRED,
    (S.REACHING, E.REACHED): S.ADMITTING,
    (S.REACHING, E.ARRIVED): S.UP,
    (S.REACHING, E.FAILED): S.FAILED,
    (S.REACHING, E.REFUSED): S.REFUSED,
    (S.ADMITTING, E.ARRIVED): S.UP,
    (S.ADMITTING, E.FAILED): S.FAILED,
    (S.ADMITTING, E.REFUSED): S.REFUSED,
    (S.UP, E.LOST): S.PARTING,
    (S.PARTING, E.PARTED): S.WAITING,
    (S.FAILED, E.BEGIN): S.REACHING,
    (S.FAILED, E.UNPAIRED): S.UNPAIRED,
    (S.REFUSED, E.BEGIN): S.REACHING,
    (S.REFUSED, E.PAIRED): S.WAITING,
    (S.REFUSED, E.UNPAIRED): S.UNPAIRED,
    (S.WAITING, E.AWAY): S.ELSEWHERE,
    (S.FAILED, E.AWAY): S.ELSEWHERE,
    (S.REFUSED, E.AWAY): S.ELSEWHERE,
    (S.ELSEWHERE, E.AWAY): S.ELSEWHERE,
    (S.ELSEWHERE, E.FREE): S.WAITING,
    (S.ELSEWHERE, E.BEGIN): S.REACHING,
    (S.ELSEWHERE, E.UNPAIRED): S.UNPAIRED,
}


def life_in(state: LinkState) -> LinkStateMachine:
    life = LinkStateMachine(paired=True, now=0.0)
    life.state = state
    return life


@pytest.mark.parametrize(("state", "event"), list(itertools.product(S, E)))
def test_every_event_in_every_state_leads_where_it_should_or_nowhere(state: LinkState, event: LinkEvent) -> None:
    life = life_in(state)
    expected = S.STOPPED if event is E.STOP else FOLLOWS.get((state, event))
    if event is E.BROKEN and state is not S.STOPPED:
        expected = S.FAILED
    if expected is None:
        with pytest.raises(ValueError, match="cannot be"):
            life.on(event, now=1.0)
        assert life.state is state
        assert life.since == 0.0
    else:
        assert life.on(event, now=1.0, reason="why") is expected
        assert (life.state, life.since, life.reason) == (expected, 1.0, "why")


def test_every_state_can_be_reached_and_all_but_the_last_can_be_left() -> None:
    reached, new = set(), {S.UNPAIRED}
    while new:
        reached |= new
        new = {S.STOPPED, *(to for state in new for to in TABLE[state].values())} - reached
    assert reached == set(S)
    assert {state for state in S if not TABLE[state]} == {S.STOPPED}


def test_every_state_is_documented() -> None:
    tree = ast.parse(inspect.getsource(module))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "LinkState").body
    for here, following in itertools.pairwise(body[1:]):
        if isinstance(here, ast.Assign):
            assert isinstance(following, ast.Expr), ast.unparse(here)
    assert isinstance(body[-1], ast.Expr)


@pytest.mark.rule("REC-02")
def test_a_link_that_fails_again_and_again_is_tried_ever_later_and_never_later_than_the_longest_pause() -> None:
    life = LinkStateMachine(paired=True, now=0.0)
    assert life.retry_at == 0.0
    pauses = []
    for now in range(20):
        life.on(E.BEGIN, now=now)
        life.on(E.FAILED, now=now, chance=1.0)
        assert life.retry_at is not None
        pauses.append(life.retry_at - now)
    assert pauses[:4] == [BASE_DELAY, 2 * BASE_DELAY, 4 * BASE_DELAY, 8 * BASE_DELAY]
    assert pauses[-1] == MAX_DELAY


@pytest.mark.rule("REC-02", "REC-03")
def test_a_link_that_stood_comes_back_soon_and_one_that_falls_at_once_ever_later() -> None:
    life = LinkStateMachine(paired=True, now=0.0)
    for expected, lasted in ((1, 0.0), (2, 0.0), (4, 0.0), (1, SHORT_SESSION), (2, 1.0)):
        life.on(E.BEGIN, now=0.0)
        life.on(E.ARRIVED, now=0.0)
        life.on(E.LOST, now=lasted)
        life.on(E.PARTED, now=lasted, chance=1.0)
        assert life.retry_at == lasted + expected * BASE_DELAY


def test_a_new_pairing_is_tried_at_once() -> None:
    life = LinkStateMachine(paired=True, now=0.0)
    life.on(E.BEGIN, now=0.0)
    life.on(E.REFUSED, now=0.0, chance=0.5)
    life.on(E.PAIRED, now=0.1)
    assert life.retry_at == 0.1
    life.on(E.UNPAIRED, now=0.2)
    assert life.retry_at is None


@given(st.lists(st.tuples(st.sampled_from(LinkEvent), st.floats(0, 10), st.floats(0, 0.999))))
def test_whatever_happens_a_link_that_waits_knows_when_it_is_tried_next(
    events: list[tuple[LinkEvent, float, float]],
) -> None:
    life, now = LinkStateMachine(paired=True, now=0.0), 0.0
    for event, passed, chance in events:
        now += passed
        try:
            state = life.on(event, now=now, chance=chance)
        except ValueError:
            continue
        if state in (S.WAITING, S.FAILED, S.REFUSED):
            assert life.retry_at is not None
            assert now <= life.retry_at <= now + MAX_DELAY
        if state in (S.UNPAIRED, S.STOPPED):
            assert life.retry_at is None
        assert life.since == now


@pytest.mark.parametrize("state", list(LinkState))
def test_a_person_can_have_a_link_connect_at_once_only_where_it_waits_to_connect(state: LinkState) -> None:
    machine = life_in(state)
    waits = (state, E.BEGIN) in FOLLOWS
    if waits:
        machine.retry_at = 1e9
    before = machine.retry_at
    assert machine.waits_to_connect is waits
    assert machine.try_now(5.0) is waits
    assert machine.retry_at == (5.0 if waits else before)
    assert machine.state is state


def test_why_the_last_attempt_failed_is_known_while_the_next_one_is_under_way() -> None:
    machine = LinkStateMachine(paired=True, now=0.0)
    for event, reason, known in (
        (E.BEGIN, "", ""),
        (E.FAILED, "no answer", "no answer"),
        (E.BEGIN, "", "no answer"),
        (E.REACHED, "", "no answer"),
        (E.FAILED, "nobody came", "nobody came"),
        (E.BEGIN, "", "nobody came"),
        (E.ARRIVED, "", ""),
    ):
        machine.on(event, now=1.0, reason=reason)
        assert machine.last_failure == known, event
