"""The pairing server's side of an attempt (PAIR)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from s2connect.model.common import Deployment, NodeDescription, Role
from s2connect.model.reply import Reply
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import PairingAttemptId
from s2connect.pairing import server_core
from s2connect.pairing.code import AfterFailure, PairingToken
from s2connect.pairing.interface import NoValidCode
from s2connect.pairing.server_core import ATTEMPT_LIFETIME, Commit, Queued
from tests.pairing.pairing_fixtures import (
    ADDRESS,
    CA,
    CLIENT_TOKEN,
    OTHER_TOKEN,
    SERVER_ID,
    TOKEN,
    Attempt,
    PairingSetup,
    answered,
    dump,
    endpoint,
    faulty,
    hmac_response,
    node,
    request,
)

LAN, WAN = Deployment.LAN, Deployment.WAN
SUCCESS = b'{"success": true}'
FAILURE = b'{"success": false}'


# requestPairing

MALFORMED: dict[str, Any] = {
    "no JSON": b"nonsense",
    "nothing": b"",
    "no object": b"[]",
    "no description": request(clientNodeDescription=None),
    "no endpoint": request(clientEndpointDescription=None),
    "no protocols": request(supportedCommunicationProtocols=None),
    "no versions": request(supportedS2MessageVersions=None),
    "no algorithms": request(supportedHmacHashingAlgorithms=None),
    "no challenge": request(clientHmacChallenge=None),
    "challenge of 31 bytes": request(clientHmacChallenge=base64.b64encode(bytes(31)).decode()),
    "challenge in no Base64": request(clientHmacChallenge="-_" * 32),
    "role of its own": request(role="EMS"),
    "deployment of its own": request(deployment="MAN"),
    "id that is no UUID": request(nodeId="1"),
    "alias with a dash": request(nodeIdAlias="a-b"),
    "id and alias": request(nodeId=str(SERVER_ID), nodeIdAlias="A"),
    "force in words": request(forcePairing="yes"),
    "member twice": dump(request())[:-1] + b', "forcePairing": true, "forcePairing": false}',
}


@pytest.mark.rule("PAIR-01", "HMAC-01", "SEC-04")
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_a_parsing_error(body: Any) -> None:
    setup = PairingSetup()
    reply = setup.queue(body)
    assert isinstance(reply, Reply)
    assert reply.status == 400
    assert answered(reply)["errorMessage"] == "ParsingError"
    assert setup.in_flight == 0


# Each fault, in the order in which they are looked for. Those that do not fit together stand beside each other.
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("ParsingError", {"nodeId": str(uuid4()), "nodeIdAlias": "A"}),
    ("NodeNotFound", {"nodeIdAlias": None}),
    ("Other", {"nodeId": str(SERVER_ID)}),
    ("InvalidCombinationOfRoles", {}),
    ("IncompatibleHmacHashingAlgorithms", {"role": "RM"}),
    ("IncompatibleCommunicationProtocols", {"supportedHmacHashingAlgorithms": ["MD5", "SHA256"]}),
    ("IncompatibleS2MessageVersions", {"supportedCommunicationProtocols": ["QUIC", "WebSocket"]}),
]


@pytest.mark.rule("PAIR-01")
@pytest.mark.parametrize("mended", range(len(FAULTS)))
def test_each_fault_has_its_reason_and_they_are_looked_for_in_order(mended: int) -> None:
    """The first request has every fault at once; then they are mended one after the other."""
    setup = PairingSetup(token=None)
    body: dict[str, Any] = {
        "role": "CEM",
        "supportedHmacHashingAlgorithms": ["MD5"],
        "supportedCommunicationProtocols": ["QUIC"],
        "supportedS2MessageVersions": ["v0.1"],
    }
    for _, change in FAULTS[: mended + 1]:
        body |= change
    reply = setup.queue(request(**body), ready=mended > 2)
    assert isinstance(reply, Reply)
    assert reply.status == 400
    said = answered(reply)
    assert said["errorMessage"] == FAULTS[mended][0]
    assert len(said["additionalInfo"]) > 10
    assert setup.in_flight == 0


@pytest.mark.rule("PAIR-01", "PAIR-02")
def test_without_a_valid_token_the_refusal_comes_after_the_same_second() -> None:
    setup = PairingSetup(token=None)
    queued = setup.queue(request())
    assert isinstance(queued, Queued)
    assert setup.server.wait(queued, now=setup.now) == setup.now + 1
    reply = setup.answer(queued)
    assert (reply.status, answered(reply)["errorMessage"]) == (400, "NoValidPairingTokenOnPairingServer")
    assert setup.in_flight == 0
    (event,) = setup.events()
    assert isinstance(event, NoValidCode), "nobody has tried a code"
    assert (event.state, event.count) == ("none", 1)


@pytest.mark.rule("PAIR-01")
def test_of_several_nodes_one_has_to_be_named() -> None:
    own = endpoint(Role.CEM, LAN, node(Role.CEM, 0, "A"), node(Role.CEM, 1, "B"), node(Role.CEM, 2))
    setup = PairingSetup(own)
    assert answered(setup.queue(request()))["errorMessage"] == "NoNodeIdProvided"
    assert answered(setup.queue(request(nodeIdAlias="C")))["errorMessage"] == "NodeNotFound"
    for number, named in enumerate([{"nodeIdAlias": "B"}, {"nodeIdAlias": "b"}, {"nodeId": str(node(Role.CEM, 1).id)}]):
        queued = setup.queue(request(number, **named))
        assert isinstance(queued, Queued)
        assert queued.node.alias == "B"


@pytest.mark.rule("PAIR-01")
def test_an_endpoint_without_nodes_has_no_node_to_pair_with() -> None:
    setup = PairingSetup()
    setup.own = endpoint(Role.CEM, LAN, node(Role.CEM))
    object.__setattr__(setup.own, "nodes", {})
    assert answered(setup.queue(request()))["errorMessage"] == "NoNodeIdProvided"


@pytest.mark.rule("PAIR-01")
@pytest.mark.parametrize("change", [{"supportedCommunicationProtocols": ["QUIC"]}, {"supportedS2MessageVersions": []}])
def test_forced_pairing_needs_no_common_protocol_and_version(change: dict[str, Any]) -> None:
    setup = PairingSetup()
    assert isinstance(setup.queue(request(forcePairing=True, **change)), Queued)
    assert isinstance(setup.queue(request(forcePairing=False, **change)), Reply)
    for reason, more in (
        ("IncompatibleHmacHashingAlgorithms", {"supportedHmacHashingAlgorithms": ["MD5"]}),
        ("InvalidCombinationOfRoles", {"role": "CEM"}),
    ):
        assert answered(setup.queue(request(forcePairing=True, **change, **more)))["errorMessage"] == reason


@pytest.mark.rule("PAIR-01", "ROLE-03")
def test_a_vendors_server_takes_clients_in_the_wan_only() -> None:
    setup = PairingSetup(wan_clients_only=True)
    for deployment in ("LAN", None):
        assert answered(setup.queue(request(deployment=deployment)))["errorMessage"] == "Other"
    assert isinstance(setup.queue(request(deployment="WAN")), Queued)


@pytest.mark.rule("PAIR-01", "SEC-01")
def test_refusals_say_nothing_of_the_peers_own_words() -> None:
    setup = PairingSetup()
    for body in (request(nodeIdAlias="Qq7"), request(supportedCommunicationProtocols=["Qq7"]), b"Qq7"):
        assert "Qq7" not in json.dumps(answered(setup.queue(body)))


@pytest.mark.rule("PAIR-02", "PAIR-12")
def test_one_node_queues_five_and_the_next_is_told_to_come_back() -> None:
    setup = PairingSetup()
    queued = [setup.queue(request(number)) for number in range(6)]
    assert queued[5] == Reply(503)
    assert setup.in_flight == 5
    started, answered_at = setup.now, []
    for each in queued[:5]:
        setup.answer(each)
        answered_at.append(setup.now - started)
    assert answered_at == [1, 2, 3, 4, 5]


@pytest.mark.rule("PAIR-02")
def test_nodes_are_paired_in_parallel() -> None:
    own = endpoint(Role.CEM, LAN, *(node(Role.CEM, n, f"N{n}") for n in range(50)))
    setup = PairingSetup(own)
    started = setup.now
    queued = [setup.queue(request(number, nodeIdAlias=f"N{number}")) for number in range(50)]
    assert all(setup.answer(each).status == 200 for each in queued)
    assert setup.now == started + 1


@pytest.mark.rule("PAIR-12")
def test_attempts_in_flight_are_bounded_and_those_that_ended_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_core, "MAX_ATTEMPTS", 3)
    setup = PairingSetup(response_delay=0)
    first, _, _ = (setup.begin(n) for n in range(3))
    assert setup.queue(request(3)) == Reply(503)
    assert isinstance(first.finalize(FAILURE), Reply)
    queued = setup.queue(request(3))
    assert isinstance(queued, Queued)
    assert setup.queue(request(4)) == Reply(503)
    setup.abandon(queued)
    assert isinstance(setup.queue(request(4)), Queued)


@pytest.mark.rule("PAIR-12", "ROLE-07")
def test_one_address_cannot_have_all_the_attempts_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_core, "MAX_ATTEMPTS_PER_ADDRESS", 3)
    own = endpoint(Role.CEM, LAN, *(node(Role.CEM, n, f"N{n}") for n in range(5)))
    setup = PairingSetup(own)
    attempts = [setup.begin(n, nodeIdAlias=f"N{n}") for n in range(3)]
    assert setup.queue(request(3, nodeIdAlias="N3")) == Reply(503)
    assert isinstance(setup.queue(request(3, nodeIdAlias="N3"), address="192.0.2.99"), Queued)
    attempts[0].finalize(FAILURE)
    assert isinstance(setup.queue(request(4, nodeIdAlias="N4")), Queued)


@pytest.mark.rule("PAIR-12")
def test_ended_attempts_are_kept_for_repeats_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_core, "MAX_KEPT_ATTEMPTS", 3)
    setup = PairingSetup(response_delay=0)
    for number in range(3):
        setup.begin(number).finalize(FAILURE)
    assert setup.in_flight == 0
    assert setup.queue(request(3)) == Reply(503)
    setup.now += ATTEMPT_LIFETIME
    assert isinstance(setup.queue(request(3)), Queued)


@pytest.mark.rule("PAIR-03", "HMAC-02", "HMAC-03", "PAIR-11")
def test_the_answer_proves_the_token_and_describes_the_node() -> None:
    setup = PairingSetup()
    sent = request(supportedHmacHashingAlgorithms=["SHA512", "SHA256"])
    reply = setup.answer(setup.queue(sent))
    said = answered(reply)
    assert reply.status == 200
    assert said["clientHmacChallengeResponse"] == hmac_response(sent["clientHmacChallenge"])
    assert said["selectedHmacHashingAlgorithm"] == "SHA256"
    assert said["serverNodeDescription"]["id"] == str(SERVER_ID)
    assert said["serverEndpointDescription"] == {"name": "server", "deployment": "LAN"}
    assert len(base64.b64decode(said["serverHmacChallenge"])) == 32
    assert len(said["pairingAttemptId"]) == 32
    assert len(base64.b64decode(said["pairingAttemptId"])) == 24
    assert TOKEN not in json.dumps(said)


@pytest.mark.rule("PAIR-03", "HMAC-01")
def test_ids_and_challenges_come_from_the_random_bytes_alone() -> None:
    setup = PairingSetup()
    one, two = setup.begin(1), setup.begin(2)
    assert one.id != two.id
    assert one.answer["serverHmacChallenge"] != two.answer["serverHmacChallenge"]


# Later requests

LATER: dict[str, Any] = {
    "requestConnectionDetails": lambda a: a.request_details(),
    "postConnectionDetails": lambda a: a.post_details(),
    "finalizePairing": lambda a: a.finalize(),
}


def _in_branch(server: CommunicationRole) -> PairingSetup:
    """A setup whose server will be communication server (a CEM) or client (an RM)."""
    return PairingSetup(endpoint(Role.CEM if server is CommunicationRole.SERVER else Role.RM))


def _begin(setup: PairingSetup, number: int = 0) -> Attempt:
    role = next(iter(setup.own.nodes.values())).description.role
    return setup.begin(number, role=role.other.value)


@pytest.fixture(params=list(CommunicationRole), ids=lambda role: f"server will be {role}")
def branch(request: pytest.FixtureRequest) -> CommunicationRole:
    return request.param


def _exchange(attempt: Attempt, branch: CommunicationRole, token: str = TOKEN) -> Reply:
    if branch is CommunicationRole.SERVER:
        return attempt.request_details(token)
    return attempt.post_details(token)


@pytest.mark.rule("PAIR-03")
@pytest.mark.parametrize("operation", LATER)
def test_an_unknown_id_is_401(operation: str) -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    for unknown in (None, PairingAttemptId("x" * 32), PairingAttemptId(attempt.id.reveal() + "x")):
        attempt.id = unknown  # type: ignore[assignment] # as the handlers do without a bearer
        assert LATER[operation](attempt) == Reply(401)
    assert setup.events() == []
    assert setup.in_flight == 1


@pytest.mark.rule("PAIR-04")
@pytest.mark.parametrize("operation", LATER)
def test_an_attempt_lives_15_seconds_from_the_issue_of_its_id(operation: str) -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    issued = setup.now
    setup.now = issued + 14.999
    assert LATER[operation](setup.begin(1)).status in (200, 204, 400)
    setup.now = issued + 15
    assert LATER[operation](attempt) == Reply(401)
    assert [e.reason for e in setup.events() if e.peer.id == _peer_id(0)] == ["expired"]


def _peer_id(number: int) -> Any:
    return NodeDescription.from_value(request(number)["clientNodeDescription"]).id


@pytest.mark.rule("PAIR-04")
def test_the_whole_attempt_may_take_just_under_15_seconds(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    setup.now += 14.998
    assert _exchange(attempt, branch).status in (200, 204)
    setup.now += 0.001
    assert isinstance(attempt.finalize(), Commit)


@pytest.mark.rule("PAIR-04", "TOK-05")
def test_attempts_that_nobody_finishes_fail_by_the_clock_alone() -> None:
    setup = PairingSetup()
    attempts = [setup.begin(n) for n in range(2)]
    deadline = setup.server.next_deadline()
    assert deadline == setup.now - 1 + ATTEMPT_LIFETIME
    setup.server.expire(now=deadline)
    assert [e.reason for e in setup.events()] == ["expired"]
    assert setup.server.next_deadline() == deadline + 1
    setup.server.expire(now=deadline + 1)
    assert setup.in_flight == 0
    assert setup.server.next_deadline() is None
    assert attempts[0].request_details().status == 401


@pytest.mark.rule("PAIR-05", "ROLE-02")
@pytest.mark.parametrize("own_role", list(Role))
@pytest.mark.parametrize("own", [LAN, WAN])
@pytest.mark.parametrize("peer", [LAN, WAN, None])
def test_the_branch_follows_from_roles_and_deployments(
    own_role: Role, own: Deployment, peer: Deployment | None
) -> None:
    """A client that does not say where it runs is where the server is (errata S2C-03)."""
    meant = peer or own
    is_server = own is WAN if own is not meant else own_role is Role.CEM
    for tried in CommunicationRole:
        setup = PairingSetup(endpoint(own_role, own))
        attempt = setup.begin(role=own_role.other.value, deployment=peer.value if peer else None)
        reply = _exchange(attempt, tried)
        if (tried is CommunicationRole.SERVER) == is_server:
            assert reply.status == (200 if is_server else 204)
            commit = attempt.finalize()
            assert isinstance(commit, Commit)
            assert commit.pairing.communication_role is tried
            assert commit.pairing.peer_endpoint.deployment is meant
        else:
            assert reply == Reply(400)
            assert attempt.finalize() == Reply(401)
            assert [e.reason for e in setup.events()] == ["out_of_order"]


@pytest.mark.rule("PAIR-05")
def test_a_second_exchange_with_another_body_is_out_of_order(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    assert _exchange(attempt, branch).status in (200, 204)
    reply = (
        attempt.request_details(OTHER_TOKEN)
        if branch is CommunicationRole.SERVER
        else attempt.post_details(accessToken=base64.b64encode(bytes(32)).decode())
    )
    assert reply == Reply(400)
    assert attempt.finalize() == Reply(401)


@pytest.mark.rule("PAIR-06", "HMAC-04")
def test_a_wrong_response_is_403_and_the_attempt_is_over(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    assert _exchange(attempt, branch, OTHER_TOKEN) == Reply(403)
    assert _exchange(attempt, branch) == Reply(401), "the right code comes too late"
    assert attempt.finalize() == Reply(401)
    assert attempt.finalize(FAILURE) == Reply(401)
    assert [e.reason for e in setup.events()] == ["wrong_code"]
    assert setup.in_flight == 0


@pytest.mark.rule("HMAC-04")
def test_the_servers_own_response_proves_nothing(branch: CommunicationRole) -> None:
    """Reflection: what the server sent for the client's challenge is no answer to its own."""
    setup = _in_branch(branch)
    attempt = _begin(setup)
    attempt.proof = lambda _token="": attempt.answer["clientHmacChallengeResponse"]  # type: ignore[method-assign, assignment]
    assert _exchange(attempt, branch) == Reply(403)


BROKEN_DETAILS: dict[str, Any] = {
    "no JSON": b"x",
    "empty": b"{}",
    "no object": b"[]",
    "response no Base64": dump({"serverHmacChallengeResponse": "%"}),
    "response a number": dump({"serverHmacChallengeResponse": 1}),
}


@pytest.mark.parametrize("body", BROKEN_DETAILS.values(), ids=BROKEN_DETAILS)
def test_malformed_details_end_the_attempt(branch: CommunicationRole, body: bytes) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    if branch is CommunicationRole.SERVER:
        assert faulty(attempt.request_details(body=body))
    else:
        assert faulty(attempt.post_details(body=body))
    assert [e.reason for e in setup.events()] == ["malformed"]
    assert attempt.finalize() == Reply(401)


@pytest.mark.rule("PAIR-08", "SES-06")
def test_the_access_token_is_32_random_bytes_and_usable_only_after_finalization() -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    said = answered(attempt.request_details())
    assert said.keys() == {"initiateSessionUrl", "accessToken"}
    assert said["initiateSessionUrl"] == "https://server.local:8443/session/"
    assert len(base64.b64decode(said["accessToken"])) == 32
    commit = attempt.finalize()
    assert isinstance(commit, Commit)
    assert commit.token.reveal() == said["accessToken"]
    assert said["accessToken"] not in repr(commit)


@pytest.mark.rule("TRUST-07")
@pytest.mark.parametrize(
    "fingerprints",
    [
        {"SHA256": CA.hex()},
        {"SHA265": CA.hex()},
        {"sha256": CA.hex(":").upper()},
        {"SHA-256": base64.b64encode(CA).decode()},
        {"MD5": "00", "Sha265": CA.hex(":")},
        {"SHA256": CA.hex(), "SHA265": CA.hex().upper()},
    ],
    ids=str,
)
def test_the_fingerprint_of_the_clients_ca_is_pinned(fingerprints: dict[str, str]) -> None:
    setup = _in_branch(CommunicationRole.CLIENT)
    attempt = _begin(setup)
    assert attempt.post_details(certificateFingerprint=fingerprints) == Reply(204)
    commit = attempt.finalize()
    assert isinstance(commit, Commit)
    assert commit.pairing.pin is not None
    assert (commit.pairing.pin.ca_fingerprint, commit.pairing.pin.ca_der) == (CA, None)
    assert commit.pairing.initiate_session_url == "https://client.local:8443/session/"
    assert commit.token.reveal() == CLIENT_TOKEN


@pytest.mark.rule("TRUST-07")
@pytest.mark.parametrize(
    "fingerprints",
    [
        None,
        {},
        {"MD5": CA.hex()},
        {"SHA256": CA.hex()[2:]},
        {"SHA256": CA.hex() + "00"},
        {"SHA256": "x" * 64},
        {"SHA256": ""},
        {"SHA256": CA.hex(), "SHA265": CA[::-1].hex()},
    ],
    ids=str,
)
def test_a_client_in_the_lan_without_a_usable_fingerprint_is_refused(fingerprints: dict[str, str] | None) -> None:
    setup = _in_branch(CommunicationRole.CLIENT)
    attempt = _begin(setup)
    assert faulty(attempt.post_details(certificateFingerprint=fingerprints)).startswith(
        "connectionDetails.certificateFingerprint "
    )
    assert attempt.finalize() == Reply(401)
    assert [e.reason for e in setup.events()] == ["malformed"]


@pytest.mark.rule("TRUST-07", "TRUST-03")
def test_a_client_in_the_wan_needs_no_fingerprint_and_gets_no_pin() -> None:
    setup = PairingSetup(endpoint(Role.RM, LAN))
    attempt = setup.begin(role="CEM", deployment="WAN")
    assert attempt.post_details(certificateFingerprint=None) == Reply(204)
    commit = attempt.finalize()
    assert isinstance(commit, Commit)
    assert commit.pairing.pin is None


@pytest.mark.rule("TRUST-07")
@pytest.mark.parametrize("fingerprint", [{"SHA256": "nonsense"}, "AA:BB", {"SHA256": 7}, []], ids=str)
def test_the_fingerprint_of_a_client_in_the_wan_is_ignored_whatever_it_is(fingerprint: object) -> None:
    setup = PairingSetup(endpoint(Role.RM, LAN))
    attempt = setup.begin(role="CEM", deployment="WAN")
    assert attempt.post_details(certificateFingerprint=fingerprint) == Reply(204)
    commit = attempt.finalize()
    assert isinstance(commit, Commit)
    assert commit.pairing.pin is None


@pytest.mark.rule("TRUST-07", "PAIRC-07")
@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({"accessToken": None}, "connectionDetails.accessToken is missing."),
        ({"certificateFingerprint": None}, "connectionDetails.certificateFingerprint is missing."),
        (
            {"certificateFingerprint": "AA:BB"},
            "connectionDetails.certificateFingerprint holds no text under the key SHA256.",
        ),
        (
            {"certificateFingerprint": {"SHA256": "AA:BB"}},
            "connectionDetails.certificateFingerprint holds no SHA-256 fingerprint: 32 bytes in hex, with or without "
            "colons, or in Base64.",
        ),
    ],
)
def test_what_is_wrong_with_details_is_named_to_both_sides(
    details: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    setup = _in_branch(CommunicationRole.CLIENT)
    attempt = _begin(setup)
    assert faulty(attempt.post_details(**details)) == said
    assert f"postConnectionDetails of {ADDRESS} refused: {said.removesuffix('.')}" in caplog.messages
    assert CLIENT_TOKEN not in caplog.text


# finalizePairing


@pytest.mark.rule("PAIR-09")
@pytest.mark.parametrize(
    "body", [b"{}", b'{"success": null}', b'{"success": "true"}', b'{"success": 1}', b"x", b"", b"[]"]
)
def test_finalize_without_a_usable_success_is_400_and_the_attempt_has_failed(
    branch: CommunicationRole, body: bytes
) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    _exchange(attempt, branch)
    assert faulty(attempt.finalize(body))
    assert attempt.finalize() == Reply(401)
    assert [e.reason for e in setup.events()] == ["malformed"]


@pytest.mark.rule("PAIR-09", "PAIR-05")
def test_success_before_the_details_is_400_and_the_attempt_has_failed(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    assert attempt.finalize() == Reply(400)
    assert _exchange(attempt, branch) == Reply(401)
    assert [e.reason for e in setup.events()] == ["out_of_order"]


@pytest.mark.rule("PAIR-09")
@pytest.mark.parametrize("exchanged", [False, True])
def test_a_client_that_gives_up_gets_204_and_nothing_is_kept(branch: CommunicationRole, exchanged: bool) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    if exchanged:
        _exchange(attempt, branch)
    assert attempt.finalize(FAILURE) == Reply(204)
    assert attempt.finalize() == Reply(401)
    assert setup.in_flight == 0
    assert [(e.reason, e.code_after) for e in setup.events()] == [("refused_by_client", AfterFailure.NOTHING)]


@pytest.mark.rule("PAIR-09", "PAIR-10")
def test_success_asks_for_a_durable_pairing_before_the_client_is_told(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    _exchange(attempt, branch)
    commit = attempt.finalize()
    assert isinstance(commit, Commit)
    pairing = commit.pairing
    assert (pairing.key.local, pairing.key.remote) == (SERVER_ID, _peer_id(0))
    assert pairing.communication_role is branch
    assert pairing.confirmed
    assert pairing.paired_at == 1.7e9
    assert attempt.finalize() == Reply(503), "not while the first is being stored"
    assert attempt.committed() == Reply(204)
    assert setup.events() == []
    assert setup.in_flight == 0


@pytest.mark.rule("PAIR-10", "TOK-05")
def test_a_pairing_that_could_not_be_stored_may_be_tried_again(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    _exchange(attempt, branch)
    first = attempt.finalize()
    assert isinstance(first, Commit)
    assert setup.server.commit_failed(first.attempt_id) == Reply(500)
    setup.now += 5
    second = attempt.finalize()
    assert isinstance(second, Commit)
    assert second.token == first.token
    assert attempt.committed() == Reply(204)
    assert setup.events() == []


@pytest.mark.rule("PAIR-04", "PAIR-10")
def test_a_pairing_that_could_not_be_stored_fails_with_the_15_seconds(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    _exchange(attempt, branch)
    commit = attempt.finalize()
    assert isinstance(commit, Commit)
    setup.now += 20
    setup.server.expire(now=setup.now)
    assert setup.events() == [], "it came in time; the store decides"
    setup.server.commit_failed(commit.attempt_id)
    setup.server.expire(now=setup.now)
    assert [e.reason for e in setup.events()] == ["not_stored"]
    assert attempt.finalize() == Reply(401)
    assert setup.in_flight == 0


@pytest.mark.rule("TOK-05", "PAIR-10")
def test_what_is_wrong_after_a_pairing_could_not_be_stored_is_a_failure_all_the_same(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    _exchange(attempt, branch)
    commit = attempt.finalize()
    assert isinstance(commit, Commit)
    setup.server.commit_failed(commit.attempt_id)
    reply = attempt.finalize(b"nonsense")
    assert isinstance(reply, Reply)
    assert reply.status == 400
    assert [e.reason for e in setup.events()] == ["malformed"]


@pytest.mark.rule("PAIR-04")
def test_a_slow_store_does_not_keep_other_attempts_alive() -> None:
    setup = PairingSetup()
    slow, other = setup.begin(0), setup.begin(1)
    slow.request_details()
    assert isinstance(slow.finalize(), Commit)
    setup.now += 15
    assert other.request_details() == Reply(401)
    again = setup.answer(setup.queue(request(1)))
    assert again.status == 200
    assert answered(again)["pairingAttemptId"] != other.answer["pairingAttemptId"]
    assert slow.committed() == Reply(204)


# Identical repeats


@pytest.mark.rule("PAIR-07")
def test_the_same_request_pairing_is_the_same_attempt() -> None:
    setup = PairingSetup()
    queued = [setup.queue(request()) for _ in range(3)]
    replies = [setup.answer(q) for q in queued]
    setup.now += 8
    replies.append(setup.answer(setup.queue(request())))
    assert all(reply == replies[0] for reply in replies)
    assert len({json.dumps(answered(reply)) for reply in replies}) == 1
    assert setup.in_flight == 1
    attempt = Attempt(setup, answered(replies[0]))
    setup.now += 6
    assert attempt.request_details() == Reply(401), "repeats do not prolong an attempt"


@pytest.mark.rule("PAIR-07")
def test_the_same_request_pairing_after_the_details_is_still_the_same_attempt(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    body = request(role=next(iter(setup.own.nodes.values())).description.role.other.value)
    first = setup.answer(setup.queue(body))
    attempt = Attempt(setup, answered(first))
    _exchange(attempt, branch)
    assert setup.answer(setup.queue(body)) == first
    assert isinstance(attempt.finalize(), Commit)


@pytest.mark.rule("PAIR-07")
@pytest.mark.parametrize(
    "change", [{"clientHmacChallenge": base64.b64encode(bytes(32)).decode()}, {"forcePairing": True}]
)
def test_another_request_pairing_is_another_attempt(change: dict[str, Any]) -> None:
    setup = PairingSetup()
    one = setup.begin()
    two = setup.begin(**change)
    assert one.id != two.id
    assert setup.in_flight == 2


@pytest.mark.rule("PAIR-07")
def test_a_repeat_of_a_finished_attempt_is_a_new_attempt() -> None:
    setup = PairingSetup()
    one = setup.begin()
    one.finalize(FAILURE)
    two = setup.begin()
    assert one.id != two.id
    assert two.request_details().status == 200
    setup.server.expire(now=setup.now + 14)
    assert setup.in_flight == 1


@pytest.mark.rule("PAIR-07")
def test_a_repeat_of_a_new_attempt_is_still_one_when_the_finished_one_is_forgotten() -> None:
    setup = PairingSetup()
    one = setup.begin()
    one.finalize(FAILURE)
    setup.now += 10
    two = setup.begin()
    setup.now += 6  # the 15 seconds of the first are over, those of the second are not
    assert setup.begin().id == two.id != one.id


@pytest.mark.rule("PAIR-07", "PAIR-08")
def test_repeats_of_the_later_requests_are_answered_alike_and_have_no_second_effect(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    attempt = _begin(setup)
    replies = [_exchange(attempt, branch) for _ in range(3)]
    assert len({json.dumps(answered(reply)) for reply in replies}) == 1, "no second token"
    assert {reply.status for reply in replies} == {200 if branch is CommunicationRole.SERVER else 204}
    commit = attempt.finalize()
    assert isinstance(commit, Commit)
    assert attempt.committed() == Reply(204)
    assert [attempt.finalize() for _ in range(3)] == [Reply(204)] * 3
    assert _exchange(attempt, branch) == replies[0]
    assert setup.events() == []
    assert setup.in_flight == 0


@pytest.mark.rule("PAIR-07")
def test_the_same_values_in_other_bytes_are_the_same_request(branch: CommunicationRole) -> None:
    setup = _in_branch(branch)
    body = request(role=next(iter(setup.own.nodes.values())).description.role.other.value)
    first = setup.answer(setup.queue(body))
    other = json.dumps({"forcePairing": False, "later": 1, **dict(reversed(body.items()))}, indent=1).encode()
    assert setup.answer(setup.queue(other)) == first
    attempt = Attempt(setup, answered(first))
    exchanged = _exchange(attempt, branch)
    plain = json.loads(attempt.post_body() if branch is CommunicationRole.CLIENT else attempt.details_body())
    again = json.dumps({"later": 1, **plain}, indent=2).encode()
    step = attempt.post_details if branch is CommunicationRole.CLIENT else attempt.request_details
    assert step(body=again) == exchanged
    assert isinstance(attempt.finalize(), Commit)
    attempt.committed()
    assert attempt.finalize(b'{ "success" : true, "later": 1 }') == Reply(204)
    assert setup.events() == []


@pytest.mark.rule("PAIR-07")
def test_the_same_bytes_at_another_operation_are_another_request() -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    both = dump({"serverHmacChallengeResponse": attempt.proof(), "success": True})
    assert attempt.request_details(body=both).status == 200
    assert isinstance(attempt.finalize(both), Commit)
    setup = PairingSetup()
    for number, body in enumerate((b"x", b"{}")):
        attempt = setup.begin(number)
        assert faulty(attempt.request_details(body=body))
        assert attempt.finalize(body) == Reply(401), "not the answer to the other request"


@pytest.mark.rule("PAIR-07")
def test_repeats_of_a_refusal_by_the_client_are_answered_alike() -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    assert [attempt.finalize(FAILURE) for _ in range(3)] == [Reply(204)] * 3
    assert len(setup.events()) == 1


@pytest.mark.rule("PAIR-07", "PAIR-06")
@pytest.mark.parametrize("number", range(3), ids=["wrong code", "malformed", "out of order"])
def test_repeats_of_what_failed_are_answered_alike_and_count_once(number: int) -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    wrong = dump({"serverHmacChallengeResponse": attempt.proof(OTHER_TOKEN)})
    steps: list[tuple[Callable[[], object], int]] = [
        (lambda: attempt.request_details(body=wrong), 403),
        (lambda: attempt.request_details(body=b"{}"), 400),
        (lambda: attempt.finalize(), 400),
    ]
    step, status = steps[number]
    replies = [step() for _ in range(8)]
    assert isinstance(replies[0], Reply)
    assert replies == [replies[0]] * 8
    assert replies[0].status == status
    assert [e.code_after for e in setup.events()] == [AfterFailure.NOTHING]
    assert setup.in_flight == 0
    setup.now += 15
    assert step() == Reply(401)


# Tokens


@pytest.mark.rule("TOK-02")
@pytest.mark.parametrize("lifetime", [300.0, None], ids=["another dynamic code", "a static code"])
def test_asking_for_a_new_code_does_not_end_the_attempt_under_way(lifetime: float | None) -> None:
    setup = PairingSetup()
    own = next(iter(setup.own.nodes.values()))
    attempt = setup.begin()
    setup.server.tokens(own.id).issue(PairingToken(OTHER_TOKEN), now=setup.now, lifetime=lifetime)
    assert attempt.request_details().status == 200
    assert isinstance(attempt.finalize(), Commit)
    assert attempt.committed() == Reply(204)
    later = setup.begin(1)
    assert later.request_details(OTHER_TOKEN).status == 200, "the new code counts"


@pytest.mark.rule("TOK-02", "TOK-05")
def test_a_code_that_is_replaced_still_makes_one_pairing_only() -> None:
    setup = PairingSetup()
    own = next(iter(setup.own.nodes.values()))
    attempts = [setup.begin(), setup.begin(1)]
    setup.server.tokens(own.id).issue(PairingToken(OTHER_TOKEN), now=setup.now)
    assert [attempt.request_details().status for attempt in attempts] == [200, 200]
    assert isinstance(attempts[0].finalize(), Commit)
    assert attempts[0].committed() == Reply(204)
    assert attempts[1].finalize() == Reply(400)


@pytest.mark.rule("TOK-02")
def test_a_code_that_its_user_withdraws_ends_the_attempt_under_way() -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    assert attempt.request_details().status == 200
    setup.server.tokens(next(iter(setup.own.nodes))).withdraw()
    assert attempt.finalize() == Reply(400)


@pytest.mark.rule("TOK-02")
def test_expiry_of_the_token_is_looked_at_when_the_request_arrives() -> None:
    setup = PairingSetup(token=None)
    own = next(iter(setup.own.nodes.values()))
    issued = setup.server.tokens(own.id).issue(PairingToken(TOKEN), now=setup.now, lifetime=10)
    assert (issued.token.reveal(), issued.expires_at) == (TOKEN, setup.now + 10)
    setup.now += 9.9
    attempt = setup.begin()
    assert attempt.request_details().status == 200
    assert isinstance(attempt.finalize(), Commit)
    assert answered(setup.answer(setup.queue(request(1))))["errorMessage"] == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("TOK-05")
def test_success_spends_the_token_and_a_second_attempt_with_it_cannot_finish() -> None:
    setup = PairingSetup()
    first, second = setup.begin(0), setup.begin(1)
    assert first.request_details().status == 200
    assert second.request_details().status == 200
    assert isinstance(first.finalize(), Commit)
    first.committed()
    assert second.finalize() == Reply(400)
    assert second.finalize(FAILURE) in (Reply(401), Reply(204))
    assert answered(setup.answer(setup.queue(request(2))))["errorMessage"] == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("TOK-05")
def test_two_attempts_cannot_be_stored_with_one_token_at_the_same_time() -> None:
    setup = PairingSetup()
    first, second = setup.begin(0), setup.begin(1)
    first.request_details()
    second.request_details()
    commit = first.finalize()
    assert isinstance(commit, Commit)
    assert second.finalize() == Reply(503), "the first one's store decides"
    setup.server.commit_failed(commit.attempt_id)
    assert isinstance(second.finalize(), Commit)
    assert first.finalize() == Reply(503)
    assert second.committed() == Reply(204)
    assert first.finalize() == Reply(400)


@pytest.mark.rule("TOK-02")
def test_a_static_token_pairs_again_and_again() -> None:
    setup = PairingSetup(token=None)
    own = next(iter(setup.own.nodes.values()))
    setup.server.tokens(own.id).issue(PairingToken(TOKEN), now=setup.now, lifetime=None)
    attempts = [setup.begin(n) for n in range(3)]
    for attempt in attempts:
        attempt.request_details()
    assert all(isinstance(attempt.finalize(), Commit) for attempt in attempts)
    assert all(attempt.committed() == Reply(204) for attempt in attempts)


@pytest.mark.rule("TOK-05")
def test_five_failures_of_any_kind_withdraw_the_token_and_the_user_is_told() -> None:
    setup = PairingSetup()
    attempts = [setup.begin(n) for n in range(4)]
    assert attempts[0].request_details(OTHER_TOKEN) == Reply(403)
    assert attempts[1].finalize(FAILURE) == Reply(204)
    assert attempts[2].finalize() == Reply(400)
    setup.now += 15
    setup.server.expire(now=setup.now)
    innocent = setup.begin(7)
    assert innocent.request_details().status == 200
    assert setup.begin(8).request_details(OTHER_TOKEN) == Reply(403)
    events = setup.events()
    assert [e.reason for e in events] == ["wrong_code", "refused_by_client", "out_of_order", "expired", "wrong_code"]
    assert [e.code_after for e in events] == [AfterFailure.NOTHING] * 4 + [AfterFailure.WITHDRAWN]
    assert {e.node for e in events} == {SERVER_ID}
    assert innocent.finalize() == Reply(400), "the code it began with has been withdrawn"
    assert answered(setup.answer(setup.queue(request(9))))["errorMessage"] == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("TOK-05")
def test_a_withdrawn_code_cannot_finish_what_began_with_it() -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    attempt.request_details()
    setup.server.tokens(SERVER_ID).withdraw()
    assert attempt.finalize() == Reply(400)
    queued = setup.queue(request(1))
    assert answered(setup.answer(queued))["errorMessage"] == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("ROLE-07")
def test_a_node_is_available_whatever_it_is_paired_with() -> None:
    setup = PairingSetup()
    for number in range(2):
        attempt = setup.begin(number)
        attempt.request_details()
        assert isinstance(attempt.finalize(), Commit)
        assert attempt.committed() == Reply(204)
        setup.server.tokens(next(iter(setup.own.nodes.values())).id).issue(PairingToken(TOKEN), now=setup.now)


def test_the_attempt_on_a_node_that_was_removed_meanwhile_is_finished_with_what_was_said() -> None:
    setup = PairingSetup()
    attempt = setup.begin()
    attempt.request_details()
    assert SUCCESS == b'{"success": true}'
    commit = attempt.finalize(SUCCESS)
    assert isinstance(commit, Commit)
    assert commit.pairing.peer.model_name == "HP"
