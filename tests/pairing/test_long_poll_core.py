"""Long-polling as the server sees it: who hangs, who is answered, and what it costs."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import NotReachable
from s2connect.model.common import NodeId
from s2connect.model.pairing import WaitForPairingAction
from s2connect.model.reply import Reply
from s2connect.pairing import long_poll_core as core_module
from s2connect.pairing.long_poll_core import (
    LongPollServer,
    NodeGone,
    NodeWaits,
    NoTokenOnClient,
    Waiter,
)
from tests.pairing.lan_fixtures import node_id

DESCRIBE = WaitForPairingAction.SEND_NODE_DESCRIPTION
PREPARE = WaitForPairingAction.PREPARE_PAIRING
CANCEL = WaitForPairingAction.CANCEL_PREPARE_PAIRING
PAIR = WaitForPairingAction.REQUEST_PAIRING

A, B, C = (NodeId(node_id(n)) for n in range(3))


def item(node: UUID, *, describe: bool = False, error: bool = False, **more: Any) -> dict[str, Any]:
    value: dict[str, Any] = {"clientNodeId": str(node)}
    if describe:
        description = {"id": str(node), "brand": "B", "type": "T", "modelName": "M", "role": "RM"}
        value["clientNodeDescription"] = {**description, **more}
        value["clientEndpointDescription"] = {"name": "client", "deployment": "LAN"}
    if error:
        value["errorMessage"] = "NoValidTokenOnPairingClient"
    return value


class LongPollSetup:
    def __init__(self) -> None:
        self.core = LongPollServer()
        self.now = 1000.0

    def wait(self, *items: dict[str, Any], address: str = "10.0.0.1", offered: bool = True) -> Waiter | Reply:
        return self.core.wait(json.dumps(items).encode(), address=address, offered=offered, now=self.now)

    def hang(self, *nodes: UUID, address: str = "10.0.0.1") -> Waiter:
        """Come, describe, and hang."""
        waiter = self.wait(*(item(n, describe=True) for n in nodes), address=address)
        assert isinstance(waiter, Waiter)
        return waiter

    def ask(self, node: NodeId, action: WaitForPairingAction) -> list[tuple[Waiter, dict[UUID, str]]]:
        return [(w, orders(a)) for w, a in self.core.ask(node, action, now=self.now)]

    def expire(self) -> list[tuple[Waiter, Reply]]:
        return self.core.expire(now=self.now)

    def events(self) -> list[object]:
        found, self.core.events = self.core.events, []
        return list(found)


def orders(answer: Waiter | Reply) -> dict[UUID, str]:
    assert isinstance(answer, Reply)
    assert answer.status == 200
    assert answer.body is not None
    value = json.loads(answer.body.to_json())
    assert value
    found = {UUID(o["clientNodeId"]): o["action"] for o in value}
    assert len(found) == len(value)
    return found


def status(answer: Waiter | Reply) -> int | str:
    return answer.status if isinstance(answer, Reply) else "hangs"


@pytest.fixture
def setup() -> LongPollSetup:
    return LongPollSetup()


@pytest.mark.rule("LP-02", "LP-04")
def test_who_is_not_known_is_asked_for_its_description_and_then_hangs(setup: LongPollSetup) -> None:
    assert orders(setup.wait(item(A), item(B))) == {A: "sendNodeDescription", B: "sendNodeDescription"}
    assert setup.events() == []
    assert isinstance(setup.wait(item(A, describe=True), item(B, describe=True, brand="Other")), Waiter)
    events = setup.events()
    assert [(type(e), e.peer.id, e.peer.brand) for e in events] == [  # type: ignore[attr-defined]
        (NodeWaits, A, "B"),
        (NodeWaits, B, "Other"),
    ]
    assert list(setup.core.nodes()) == [A, B]


@pytest.mark.rule("LP-04")
def test_a_client_that_never_describes_itself_is_not_asked_again_at_once(setup: LongPollSetup) -> None:
    assert status(setup.wait(item(A))) == 200
    for _ in range(5):
        waiter = setup.wait(item(A))
        assert isinstance(waiter, Waiter)
        setup.core.release(waiter, now=setup.now)
    assert setup.core.nodes() == {A: None}


@pytest.mark.rule("LP-03")
def test_a_request_is_answered_before_25_seconds_are_over(setup: LongPollSetup) -> None:
    waiter = setup.hang(A)
    deadline = setup.core.next_deadline()
    assert deadline is not None
    assert setup.now + 20 < deadline < setup.now + 25
    setup.now = deadline - 0.01
    assert setup.expire() == []
    setup.now = deadline
    assert setup.expire() == [(waiter, Reply(204))]
    assert setup.expire() == []


@pytest.mark.rule("LP-04", "LP-07")
@pytest.mark.parametrize("action", [PREPARE, CANCEL, PAIR])
def test_an_action_wakes_the_hanging_request_at_once(setup: LongPollSetup, action: WaitForPairingAction) -> None:
    waiter = setup.hang(A, B)
    assert setup.ask(A, action) == [(waiter, {A: action.value})]
    assert isinstance(setup.wait(item(A), item(B)), Waiter)


@pytest.mark.rule("LP-04", "LP-07")
def test_between_two_requests_the_last_action_of_each_node_is_kept(setup: LongPollSetup) -> None:
    setup.core.release(setup.hang(A, B, C), now=setup.now)
    for node, action in ((A, PREPARE), (A, PAIR), (B, PREPARE), (B, CANCEL)):
        assert setup.ask(node, action) == []
    assert orders(setup.wait(item(A), item(B), item(C))) == {A: "requestPairing", B: "cancelPreparePairing"}
    assert isinstance(setup.wait(item(A), item(B), item(C)), Waiter)


@pytest.mark.rule("LP-04")
def test_only_requests_for_that_node_are_woken(setup: LongPollSetup) -> None:
    setup.hang(A)
    other = setup.hang(B)
    assert setup.ask(B, PAIR) == [(other, {B: "requestPairing"})]


@pytest.mark.rule("SEC-03")
def test_nobody_takes_the_place_or_the_name_of_another(setup: LongPollSetup) -> None:
    first = setup.hang(A)
    second = setup.wait(item(A, describe=True, brand="Forged"), address="10.0.0.66")
    assert isinstance(second, Waiter)
    assert [n.brand for n in setup.core.nodes().values() if n] == ["B"]
    assert setup.ask(A, PAIR) == [(first, {A: "requestPairing"}), (second, {A: "requestPairing"})]


@pytest.mark.rule("LP-05")
def test_a_client_without_a_token_is_reported_if_it_was_asked_to_pair(setup: LongPollSetup) -> None:
    setup.core.release(setup.hang(A), now=setup.now)
    setup.events()
    setup.wait(item(A, error=True))
    assert setup.events() == []
    setup.ask(A, PAIR)
    setup.wait(item(A, error=True))
    assert setup.events() == [NoTokenOnClient(A)]
    setup.wait(item(A, error=True))
    assert setup.events() == []


def test_a_node_that_does_not_come_back_is_gone(setup: LongPollSetup) -> None:
    waiter = setup.hang(A)
    setup.events()
    setup.now += 10
    setup.core.release(waiter, now=setup.now)
    assert setup.core.next_deadline() == setup.now + core_module.GONE_AFTER
    setup.now += core_module.GONE_AFTER - 0.1
    setup.expire()
    assert list(setup.core.nodes()) == [A]
    setup.now += 0.1
    setup.expire()
    assert not setup.core.nodes()
    assert setup.events() == [NodeGone(A)]
    assert setup.core.next_deadline() is None
    with pytest.raises(NotReachable, match="does not wait"):
        setup.ask(A, PAIR)


def test_a_node_that_hangs_again_and_again_stays(setup: LongPollSetup) -> None:
    setup.hang(A)
    for _ in range(10):
        setup.now += 24
        setup.expire()
        assert isinstance(setup.wait(item(A)), Waiter)
    assert list(setup.core.nodes()) == [A]


@pytest.mark.rule("LP-06")
def test_what_is_not_offered_is_a_400(setup: LongPollSetup) -> None:
    assert status(setup.wait(item(A), offered=False)) == 400
    assert not setup.core.nodes()


@pytest.mark.rule("LP-01", "SEC-03", "SEC-04")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b"[{}]",
        b'[{"clientNodeId": "x"}]',
        json.dumps([item(A), item(A)]).encode(),
        json.dumps([{**item(A), "errorMessage": "Invented"}]).encode(),
        json.dumps([item(node_id(n)) for n in range(257)]).encode(),
    ],
)
def test_what_is_no_proper_request_is_a_400_and_leaves_nothing(setup: LongPollSetup, body: bytes) -> None:
    assert status(setup.core.wait(body, address="10.0.0.1", offered=True, now=setup.now)) == 400
    assert not setup.core.nodes()
    assert setup.core.next_deadline() is None


@pytest.mark.rule("ROLE-04", "SEC-03")
@pytest.mark.parametrize("changes", [{"role": "CEM"}, {"id": str(B)}, {"brand": "B" * 5000}])
def test_a_description_that_cannot_be_is_not_kept(setup: LongPollSetup, changes: dict[str, Any]) -> None:
    setup.wait(item(A))
    assert isinstance(setup.wait(item(A, describe=True, **changes)), Waiter)
    assert setup.core.nodes() == {A: None}
    assert setup.events() == []


@pytest.mark.rule("LP-04", "SEC-03")
def test_many_descriptions_are_asked_for_in_portions(setup: LongPollSetup) -> None:
    nodes = [node_id(n) for n in range(100)]
    described: set[UUID] = set()
    for _ in range(4):
        asked = orders(setup.wait(*(item(n, describe=n in described) for n in nodes)))
        assert len(asked) <= 32
        assert not described & asked.keys()
        described |= asked.keys()
    assert isinstance(setup.wait(*(item(n, describe=True) for n in nodes)), Waiter)
    assert len(described) == 100


@pytest.mark.rule("LP-07", "SEC-03")
def test_hanging_requests_are_bounded_per_address_and_in_all(
    setup: LongPollSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_module, "MAX_HANGING", 10)
    monkeypatch.setattr(core_module, "MAX_HANGING_PER_ADDRESS", 6)
    waiters = [setup.hang(node_id(n), address="fd00::1") for n in range(6)]
    assert status(setup.wait(item(node_id(50)), address="fd00::2")) == 503  # the same /64
    for n in range(4):
        setup.hang(node_id(10 + n), address="10.0.0.2")
    assert status(setup.wait(item(node_id(50), describe=True), address="10.0.0.3")) == 503
    assert len(setup.core.nodes()) == 10
    setup.core.release(waiters[0], now=setup.now)
    setup.core.release(waiters[0], now=setup.now)
    assert status(setup.wait(item(node_id(50), describe=True), address="10.0.0.3")) == "hangs"
    assert status(setup.wait(item(node_id(51), describe=True), address="10.0.0.3")) == 503


@pytest.mark.rule("SEC-03")
def test_known_nodes_are_bounded_per_address_and_in_all(setup: LongPollSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "MAX_NODES", 10)
    monkeypatch.setattr(core_module, "MAX_NODES_PER_ADDRESS", 6)
    assert status(setup.wait(*(item(node_id(n)) for n in range(6)))) == 200
    assert status(setup.wait(item(node_id(6)))) == 503
    assert status(setup.wait(*(item(node_id(n)) for n in range(6)))) == "hangs"
    assert status(setup.wait(*(item(node_id(10 + n)) for n in range(5)), address="10.0.0.2")) == 503
    assert status(setup.wait(*(item(node_id(10 + n)) for n in range(4)), address="10.0.0.2")) == 200
    assert status(setup.wait(item(node_id(20)), address="10.0.0.3")) == 503
    setup.now += core_module.GONE_AFTER
    setup.expire()
    assert status(setup.wait(item(node_id(20)), address="10.0.0.3")) == 200


STEP = st.one_of(
    st.tuples(st.just("wait"), st.sets(st.integers(0, 5), min_size=1), st.integers(0, 2)),
    st.tuples(st.just("ask"), st.integers(0, 5), st.sampled_from([PREPARE, CANCEL, PAIR])),
    st.tuples(st.just("leave"), st.integers(0, 20), st.none()),
    st.tuples(st.just("time"), st.floats(0, 40), st.none()),
)


@pytest.mark.rule("LP-03", "LP-04", "LP-07")
@given(st.lists(STEP, max_size=40))
def test_whatever_happens_every_request_is_answered_once_in_time_and_nothing_is_left(steps: list[Any]) -> None:
    setup = LongPollSetup()
    hanging: dict[Waiter, float] = {}

    def answered(answers: list[tuple[Waiter, Reply]]) -> None:
        for waiter, answer in answers:
            assert setup.now <= hanging.pop(waiter) + 25
            if answer.status == 200:
                assert orders(answer).keys() <= set(waiter.nodes)

    for kind, what, more in steps:
        if kind == "wait":
            made = setup.wait(*(item(node_id(n), describe=True) for n in what), address=f"10.0.0.{more}")
            if isinstance(made, Waiter):
                hanging[made] = setup.now
            else:
                assert orders(made).keys() <= {node_id(n) for n in what}
        elif kind == "ask" and node_id(what) in setup.core.nodes():
            answered(setup.core.ask(NodeId(node_id(what)), more, now=setup.now))
        elif kind == "leave" and what < len(hanging):
            waiter = list(hanging)[what]
            del hanging[waiter]
            setup.core.release(waiter, now=setup.now)
        elif kind == "time":
            until = setup.now + what
            while (deadline := setup.core.next_deadline()) is not None and deadline <= until:
                setup.now = max(setup.now, deadline)
                answered(setup.expire())
                assert setup.core.next_deadline() != deadline  # an owner's timer must not spin
            setup.now = until
    assert len(setup.core._waiters) == len(hanging)
    assert setup.core._hanging.total() == len(hanging)
    while (deadline := setup.core.next_deadline()) is not None:
        setup.now = max(setup.now, deadline)
        answered(setup.expire())
        assert setup.core.next_deadline() != deadline
    assert not hanging
    assert not setup.core.nodes()
    assert not setup.core._hanging
    assert not setup.core._known
