"""A code that the user typed at the pairing server, for one node that waits there (ROLE-03 b, PAIR-01)."""

from __future__ import annotations

from typing import Any

import pytest
from pairing_kit import CLIENT_ID, OTHER_TOKEN, SERVER_ID, TOKEN, Attempt, Bench, answered, b64, endpoint, node, request

from s2connect.model.common import Deployment, NodeId, Role
from s2connect.pairing.code import DYNAMIC_LIFETIME, AfterFailure, PairingToken
from s2connect.pairing.server_core import Commit

CLIENT = NodeId(CLIENT_ID)


def error_of(bench: Bench, number: int = 0, **changes: Any) -> str:
    found: str = answered(bench.answer(bench.queue(request(number, **changes))))["errorMessage"]
    return found


def expecting(*, token: str | None = None) -> Bench:
    bench = Bench(token=token)
    bench.server.expect(bench.own.nodes[SERVER_ID], CLIENT, PairingToken(OTHER_TOKEN), now=bench.now)
    return bench


def pair(bench: Bench, attempt: Attempt, token: str) -> None:
    assert attempt.request_details(token).status == 200
    assert isinstance(attempt.finalize(), Commit)
    assert attempt.committed().status == 204


@pytest.mark.rule("ROLE-03", "PAIR-01")
def test_a_typed_code_makes_one_pairing_with_the_node_it_was_typed_for() -> None:
    bench = expecting()
    pair(bench, bench.begin(), OTHER_TOKEN)
    bench.now += 20
    assert error_of(bench) == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("PAIR-01")
def test_it_does_not_count_for_another_node() -> None:
    bench = expecting()
    assert error_of(bench, 1) == "NoValidPairingTokenOnPairingServer"
    pair(bench, bench.begin(), OTHER_TOKEN)


@pytest.mark.rule("PAIR-01", "TOK-02")
def test_it_expires_for_new_attempts_only() -> None:
    bench = expecting()
    bench.now += DYNAMIC_LIFETIME - 2
    attempt = bench.begin()
    bench.now += 5
    bench.server.expect(bench.own.nodes[SERVER_ID], NodeId(SERVER_ID), PairingToken(TOKEN), now=bench.now)
    pair(bench, attempt, OTHER_TOKEN)
    bench = expecting()
    bench.now += DYNAMIC_LIFETIME
    assert error_of(bench) == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("ROLE-03")
def test_it_goes_before_codes_of_the_node_itself_and_leaves_them_alone() -> None:
    bench = expecting(token=TOKEN)
    other = bench.begin(1)
    assert other.request_details(TOKEN).status == 200
    pair(bench, bench.begin(), OTHER_TOKEN)
    assert isinstance(other.finalize(), Commit)


@pytest.mark.rule("TOK-05", "PAIR-01")
def test_five_failures_withdraw_a_short_one_without_a_word_about_the_own_code() -> None:
    bench = expecting(token=TOKEN)
    for number in range(5):
        attempt = bench.begin(clientHmacChallenge=b64(bytes([number]) * 32))
        assert attempt.request_details("wrong7").status == 403
        (event,) = bench.events()
        assert (event.reason, event.code_after) == ("wrong_code", AfterFailure.NOTHING)
    again = bench.begin()
    assert again.request_details(OTHER_TOKEN).status == 403
    assert bench.begin().request_details(TOKEN).status == 200


@pytest.mark.rule("PAIR-01")
def test_the_user_can_take_it_back() -> None:
    bench = expecting()
    attempt = bench.begin()
    assert attempt.request_details(OTHER_TOKEN).status == 200
    bench.server.withdraw_expected(SERVER_ID, CLIENT)
    assert attempt.finalize().status == 400  # type: ignore[union-attr]
    assert error_of(bench) == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("ROLE-03", "PAIR-01")
def test_of_several_nodes_the_one_is_meant_at_which_the_code_was_typed() -> None:
    own = endpoint(Role.CEM, Deployment.LAN, node(Role.CEM, 0, "a"), node(Role.CEM, 1, "b"))
    bench = Bench(own, token=None)
    first, second = own.nodes.values()
    assert answered(bench.queue(request()))["errorMessage"] == "NoNodeIdProvided"
    bench.server.expect(second, CLIENT, PairingToken(OTHER_TOKEN), now=bench.now)
    attempt = bench.begin()
    assert attempt.answer["serverNodeDescription"]["id"] == str(second.id)
    pair(bench, attempt, OTHER_TOKEN)
    for each in (first, second):
        bench.server.expect(each, CLIENT, PairingToken(OTHER_TOKEN), now=bench.now)
    bench.now += 20
    assert answered(bench.queue(request(clientHmacChallenge="A" * 44)))["errorMessage"] == "NoNodeIdProvided"
