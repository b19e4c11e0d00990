"""A code that the user typed at the pairing server, for one node that waits there (ROLE-03 b, PAIR-01)."""

from __future__ import annotations

from typing import Any

import pytest

from s2connect.model.common import Deployment, NodeId, Role
from s2connect.pairing.code import DYNAMIC_LIFETIME, AfterFailure, PairingToken
from s2connect.pairing.server_core import Commit
from tests.pairing.pairing_fixtures import (
    CLIENT_ID,
    OTHER_TOKEN,
    SERVER_ID,
    TOKEN,
    Attempt,
    PairingSetup,
    answered,
    b64,
    endpoint,
    node,
    request,
)

CLIENT = NodeId(CLIENT_ID)


def error_of(setup: PairingSetup, number: int = 0, **changes: Any) -> str:
    found: str = answered(setup.answer(setup.queue(request(number, **changes))))["errorMessage"]
    return found


def expecting(*, token: str | None = None) -> PairingSetup:
    setup = PairingSetup(token=token)
    setup.server.tokens(setup.own.nodes[SERVER_ID].id).expect(CLIENT, PairingToken(OTHER_TOKEN), now=setup.now)
    return setup


def pair(setup: PairingSetup, attempt: Attempt, token: str) -> None:
    assert attempt.request_details(token).status == 200
    assert isinstance(attempt.finalize(), Commit)
    assert attempt.committed().status == 204


@pytest.mark.rule("ROLE-03", "PAIR-01")
def test_a_typed_code_makes_one_pairing_with_the_node_it_was_typed_for() -> None:
    setup = expecting()
    pair(setup, setup.begin(), OTHER_TOKEN)
    setup.now += 20
    assert error_of(setup) == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("PAIR-01")
def test_it_does_not_count_for_another_node() -> None:
    setup = expecting()
    assert error_of(setup, 1) == "NoValidPairingTokenOnPairingServer"
    pair(setup, setup.begin(), OTHER_TOKEN)


@pytest.mark.rule("PAIR-01", "TOK-02")
def test_it_expires_for_new_attempts_only() -> None:
    setup = expecting()
    setup.now += DYNAMIC_LIFETIME - 2
    attempt = setup.begin()
    setup.now += 5
    setup.server.tokens(setup.own.nodes[SERVER_ID].id).expect(NodeId(SERVER_ID), PairingToken(TOKEN), now=setup.now)
    pair(setup, attempt, OTHER_TOKEN)
    setup = expecting()
    setup.now += DYNAMIC_LIFETIME
    assert error_of(setup) == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("ROLE-03")
def test_it_goes_before_codes_of_the_node_itself_and_leaves_them_alone() -> None:
    setup = expecting(token=TOKEN)
    other = setup.begin(1)
    assert other.request_details(TOKEN).status == 200
    pair(setup, setup.begin(), OTHER_TOKEN)
    assert isinstance(other.finalize(), Commit)


@pytest.mark.rule("TOK-05", "PAIR-01")
def test_five_failures_withdraw_a_short_one_without_a_word_about_the_own_code() -> None:
    setup = expecting(token=TOKEN)
    for number in range(5):
        attempt = setup.begin(clientHmacChallenge=b64(bytes([number]) * 32))
        assert attempt.request_details("wrong7").status == 403
        (event,) = setup.events()
        assert (event.reason, event.code_after) == ("wrong_code", AfterFailure.NOTHING)
    again = setup.begin()
    assert again.request_details(OTHER_TOKEN).status == 403
    assert setup.begin().request_details(TOKEN).status == 200


@pytest.mark.rule("PAIR-01")
def test_the_user_can_take_it_back() -> None:
    setup = expecting()
    attempt = setup.begin()
    assert attempt.request_details(OTHER_TOKEN).status == 200
    setup.server.tokens(SERVER_ID).withdraw_expected(CLIENT)
    assert attempt.finalize().status == 400  # type: ignore[union-attr]
    assert error_of(setup) == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("ROLE-03", "PAIR-01")
def test_of_several_nodes_the_one_is_meant_at_which_the_code_was_typed() -> None:
    own = endpoint(Role.CEM, Deployment.LAN, node(Role.CEM, 0, "a"), node(Role.CEM, 1, "b"))
    setup = PairingSetup(own, token=None)
    first, second = own.nodes.values()
    assert answered(setup.queue(request()))["errorMessage"] == "NoNodeIdProvided"
    setup.server.tokens(second.id).expect(CLIENT, PairingToken(OTHER_TOKEN), now=setup.now)
    attempt = setup.begin()
    assert attempt.answer["serverNodeDescription"]["id"] == str(second.id)
    pair(setup, attempt, OTHER_TOKEN)
    for each in (first, second):
        setup.server.tokens(each.id).expect(CLIENT, PairingToken(OTHER_TOKEN), now=setup.now)
    setup.now += 20
    assert answered(setup.queue(request(clientHmacChallenge="A" * 44)))["errorMessage"] == "NoNodeIdProvided"
