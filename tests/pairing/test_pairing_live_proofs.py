"""No answer of a pairing server is a proof that one of its live attempts accepts (HMAC-05)."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.model.common import Deployment, NodeId, Role
from s2connect.model.log_limiter import PERIOD
from s2connect.model.reply import Reply
from s2connect.model.secret import HmacChallengeResponse
from s2connect.pairing.challenge import LiveProofs
from s2connect.pairing.code import MAX_FAILED_ATTEMPTS, PairingToken
from s2connect.pairing.interface import ReflectionRefused
from s2connect.pairing.server_core import ATTEMPT_LIFETIME, Answer
from tests.pairing.pairing_fixtures import (
    CLIENT_ID,
    OTHER_TOKEN,
    SERVER_ID,
    TOKEN,
    Attempt,
    PairingSetup,
    answered,
    b64,
    claim_at_once,
    endpoint,
    node,
    request,
)

pytestmark = pytest.mark.rule("HMAC-05")

LAN = Deployment.LAN
STRANGER = "192.0.2.66"
SAME_KEYS: dict[str, Callable[[bytes], bytes]] = {
    "the same": lambda key: key,
    **{f"{zeros} zero bytes more": lambda key, zeros=zeros: key + bytes(zeros) for zeros in (1, 16, 31, 32)},  # type: ignore[misc]
}


def reflect(
    setup: PairingSetup, attempt: Attempt, number: int = 9, change: Any = SAME_KEYS["the same"], **more: Any
) -> Reply:
    """Ask for the answer to the challenge of an attempt."""
    challenge = b64(change(base64.b64decode(attempt.answer["serverHmacChallenge"])))
    return setup.answer(setup.queue(request(number, clientHmacChallenge=challenge, **more), address=STRANGER))


def is_refused(reply: Reply) -> bool:
    return reply.status == 400 and answered(reply) == {
        "errorMessage": "Other",
        "additionalInfo": "The request was refused.",
    }


@pytest.mark.parametrize("change", SAME_KEYS.values(), ids=SAME_KEYS)
def test_a_challenge_that_hmac_takes_for_one_of_ours_is_not_answered(change: Callable[[bytes], bytes]) -> None:
    setup = PairingSetup()
    assert is_refused(reflect(setup, setup.begin(), change=change))


@pytest.mark.parametrize("length", [65, 100, 3000])
def test_a_challenge_longer_than_the_block_counts_as_its_hash(length: int) -> None:
    """Nobody finds such a challenge for one of ours; a server that drew it that way would be open."""
    setup = PairingSetup()
    long = bytes(range(256)) * 12
    entropy = bytes(24) + hashlib.sha256(long[:length]).digest()
    attempt = Attempt(setup, answered(setup.answer(setup.queue(request()), entropy)))
    assert is_refused(reflect(setup, attempt, change=lambda _: long[:length]))


def _two_nodes() -> PairingSetup:
    own = endpoint(Role.CEM, LAN, node(Role.CEM, 0, "a"), node(Role.CEM, 1, "b"))
    setup = PairingSetup(own, token=None)
    for each in own.nodes.values():
        setup.server.tokens(each.id).issue(PairingToken(TOKEN), now=setup.now, lifetime=None)
    return setup


def test_another_node_with_the_same_code_does_not_answer_either() -> None:
    setup = _two_nodes()
    assert is_refused(reflect(setup, setup.begin(nodeIdAlias="a"), nodeIdAlias="b"))


def test_a_node_with_another_code_answers_what_proves_nothing() -> None:
    setup = _two_nodes()
    second = list(setup.own.nodes.values())[1]
    setup.server.tokens(second.id).issue(PairingToken(OTHER_TOKEN), now=setup.now)
    attempt = setup.begin(nodeIdAlias="a")
    reply = reflect(setup, attempt, nodeIdAlias="b")
    assert reply.status == 200
    attempt.proof = lambda _token="": answered(reply)["clientHmacChallengeResponse"]  # type: ignore[method-assign, assignment]
    assert attempt.request_details() == Reply(403)


def test_the_certificate_of_another_connection_gives_another_answer() -> None:
    """The leaf was renewed between the two requests."""
    setup = PairingSetup()
    attempt = setup.begin()
    reply = setup.answer(
        setup.queue(
            request(9, clientHmacChallenge=attempt.answer["serverHmacChallenge"]), binding=hashlib.sha256(b"2").digest()
        )
    )
    assert reply.status == 200
    attempt.proof = lambda _token="": answered(reply)["clientHmacChallengeResponse"]  # type: ignore[method-assign, assignment]
    assert attempt.request_details() == Reply(403)


def test_a_request_that_was_queued_before_the_challenge_existed_is_looked_at_when_it_is_answered() -> None:
    """Whatever was known when it was queued: here the stranger has foreseen the challenge."""
    setup = PairingSetup()
    entropy = bytes(range(56))
    first = setup.queue(request(0))
    second = setup.queue(request(9, clientHmacChallenge=b64(entropy[24:])))
    attempt = Attempt(setup, answered(setup.answer(first, entropy)))
    assert is_refused(setup.answer(second))
    assert attempt.request_details().status == 200


def test_an_answer_to_the_very_challenge_that_is_drawn_for_it_is_not_sent() -> None:
    setup = PairingSetup()
    entropy = bytes(range(56))
    assert is_refused(setup.answer(setup.queue(request(clientHmacChallenge=b64(entropy[24:]))), entropy))


@pytest.mark.parametrize("typed_for", [0, 9], ids=["the first attempt", "the second attempt"])
def test_a_code_typed_for_one_of_the_two_clients_does_not_help(typed_for: int) -> None:
    """ROLE-03 b, where the typed code is that of the node, too."""
    setup = PairingSetup()
    own = setup.own.nodes[SERVER_ID]
    client = NodeId(type(CLIENT_ID)(int=CLIENT_ID.int + typed_for))
    setup.server.tokens(own.id).expect(client, PairingToken(TOKEN), now=setup.now)
    assert is_refused(reflect(setup, setup.begin()))


@pytest.mark.parametrize("state", ["has ended", "has exchanged the details", "is over in a moment"])
def test_as_long_as_an_attempt_may_live_its_proof_is_not_sent(state: str) -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    if state == "has ended":
        attempt.finalize(b'{"success": false}')
    elif state == "has exchanged the details":
        attempt.request_details()
    else:
        setup.now += ATTEMPT_LIFETIME - 1.001
    assert is_refused(reflect(setup, attempt))
    setup.now += ATTEMPT_LIFETIME
    late = reflect(setup, attempt)
    assert late.status == 200
    attempt.proof = lambda _token="": answered(late)["clientHmacChallengeResponse"]  # type: ignore[method-assign, assignment]
    assert attempt.request_details() == Reply(401)


def test_the_identical_request_again_is_still_answered_alike() -> None:
    setup = PairingSetup()
    first = setup.answer(setup.queue(request()))
    assert setup.answer(setup.queue(request())) == first


def test_a_reflection_counts_as_no_failure_and_leaves_nothing_behind() -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    for number in range(2 * MAX_FAILED_ATTEMPTS):
        assert is_refused(reflect(setup, attempt, number + 1))
    assert setup.in_flight == 1
    assert attempt.request_details().status == 200, "the code still counts"


def test_an_attack_is_told_with_its_address_at_most_once_a_minute() -> None:
    setup = PairingSetup()
    told: list[tuple[float, ReflectionRefused]] = []
    for number in range(int(2.5 * PERIOD) // 2):
        assert is_refused(reflect(setup, setup.begin(number), number))
        told += [(setup.now, event) for event in setup.events() if isinstance(event, ReflectionRefused)]
        own = next(iter(setup.own.nodes.values()))
        setup.server.tokens(own.id).issue(PairingToken(TOKEN), now=setup.now)
    assert {(event.node, event.address) for _, event in told} == {(SERVER_ID, STRANGER)}
    times = [at for at, _ in told]
    assert len(times) >= 3
    assert all(later - sooner >= PERIOD for sooner, later in itertools.pairwise(times))
    counts = [event.count for _, event in told]
    assert counts[0] == 1
    assert sum(counts) > 2 * len(counts), "those in between are counted"


def _answer(setup: PairingSetup) -> Answer:
    queued = setup.queue(request())
    setup.wait(queued)
    assert not isinstance(queued, Reply)
    answer = setup.server.answer(queued, now=setup.now, entropy=setup.entropy())
    assert isinstance(answer, Answer)
    return answer


def test_an_answer_whose_claim_took_longer_than_an_attempt_lives_is_not_sent() -> None:
    setup = PairingSetup()
    answer = _answer(setup)
    setup.now += ATTEMPT_LIFETIME
    assert setup.server.claimed(answer, free=True, now=setup.now) == Reply(503)
    assert (setup.events(), setup.in_flight) == ([], 0)


def test_of_two_identical_requests_whose_claims_are_under_way_one_attempt_is_left() -> None:
    setup = PairingSetup()
    one, two = _answer(setup), _answer(setup)
    assert one.attempt_id != two.attempt_id
    first = setup.server.claimed(one, free=True, now=setup.now)
    assert setup.server.claimed(two, free=True, now=setup.now) == first
    assert setup.in_flight == 1


def test_an_answer_does_not_show_what_it_claims() -> None:
    answer = _answer(PairingSetup())
    for secret in (answer.sent, answer.expected, answer.challenge):
        assert secret.reveal() not in repr(answer)


def test_services_that_share_an_identity_share_the_proofs() -> None:
    """Two processes with one certificate and one code."""
    one = PairingSetup()
    two = PairingSetup(proofs=one.server.proofs)
    attempt = one.begin()
    two.now = one.now
    assert is_refused(reflect(two, attempt))


def _response(number: int) -> HmacChallengeResponse:
    return HmacChallengeResponse.from_bytes(bytes([number]) * 32)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 640).map(lambda n: n / 64))))
def test_a_claim_is_taken_unless_a_live_attempt_accepts_what_it_sends(claims: list[tuple[int, int, float]]) -> None:
    proofs, now = LiveProofs(), 100.0
    live: dict[int, float] = {}
    for sent, expected, wait in claims:
        now += wait
        live = {each: until for each, until in live.items() if until > now}
        taken = claim_at_once(proofs, _response(sent), _response(expected), now=now)
        assert taken is (sent not in live and sent != expected)
        if taken:
            live[expected] = now + ATTEMPT_LIFETIME
    claim_at_once(proofs, _response(6), _response(7), now=now + ATTEMPT_LIFETIME)
    assert len(proofs._until) == 1, "those that are over are forgotten"
