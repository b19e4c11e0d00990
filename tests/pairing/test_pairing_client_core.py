"""The pairing client's side of one attempt (PAIRC)."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from s2connect.errors import (
    CertificateRefused,
    PairingError,
    PairingExpired,
    PairingRefused,
    ProtocolViolation,
    S2ConnectError,
    WrongPairingCode,
)
from s2connect.model.common import Deployment, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.url import BaseUrl
from s2connect.pairing.client_core import (
    CLIENT_ENTROPY,
    Agreed,
    PairingClientAttempt,
    ServerProof,
    Step,
    refused,
)
from s2connect.pairing.code import PairingCode
from s2connect.store.base import Pin
from tests.pairing.pairing_fixtures import CA, OTHER_TOKEN, TOKEN, F, b64, dump, endpoint, hmac_response, node

LAN, WAN = Deployment.LAN, Deployment.WAN
ENTROPY = bytes(range(CLIENT_ENTROPY))
CHALLENGE, OWN_TOKEN = b64(ENTROPY[:32]), b64(ENTROPY[32:])
SERVER_CHALLENGE = b64(bytes(range(50, 82)))
SERVER_TOKEN = b64(bytes(range(60, 100)))
ATTEMPT_ID = "attempt-" * 4
PEER_ID = UUID("3e9a5c0f-9d0e-4f3c-8a44-0d2f6a3b1c77")
URL = BaseUrl("https://client.local:8443/session/")
ROOT = Pin(CA, b"the root of the server")
D = b"ems.example"
SELF_SIGNED = ServerProof(F, ROOT)
PKI = ServerProof(D, None)


def attempt(
    role: Role = Role.RM, own: Deployment = LAN, proof: ServerProof = SELF_SIGNED, code: str = TOKEN, **more: Any
) -> PairingClientAttempt:
    local = endpoint(role, own)
    settings: dict[str, Any] = {"session_url": URL, "ca_fingerprint": CA if own is LAN else None, **more}
    return PairingClientAttempt(
        local, next(iter(local.nodes.values())), PairingCode.parse(code), proof, entropy=ENTROPY, **settings
    )


def answer(role: str = "CEM", deployment: str | None = "LAN", binding: bytes = F, **changes: Any) -> dict[str, Any]:
    value = {
        "pairingAttemptId": ATTEMPT_ID,
        "serverNodeDescription": {
            "id": str(PEER_ID),
            "brand": "Grid",
            "type": "HEMS",
            "modelName": "G1",
            "role": role,
        },
        "serverEndpointDescription": {"name": "server", **({"deployment": deployment} if deployment else {})},
        "selectedHmacHashingAlgorithm": "SHA256",
        "clientHmacChallengeResponse": hmac_response(CHALLENGE, TOKEN, binding),
        "serverHmacChallenge": SERVER_CHALLENGE,
        **changes,
    }
    return {k: v for k, v in value.items() if v is not None}


DETAILS_URL = "https://server.local:8443/session/"
DETAILS = dump({"initiateSessionUrl": DETAILS_URL, "accessToken": SERVER_TOKEN})


def body(step: Step) -> dict[str, Any]:
    return json.loads(step.body.to_json())


def answered(role: Role = Role.RM, own: Deployment = LAN, **more: Any) -> tuple[PairingClientAttempt, Step]:
    client = attempt(role, own, **more)
    client.request()
    return client, client.on_answer(dump(answer(role.other.value)), now=100.0)


# requestPairing


@pytest.mark.rule("PAIRC-01", "HMAC-01")
def test_the_request_says_what_the_node_is_and_can() -> None:
    local = attempt()
    step = local.request()
    assert step.operation == "requestPairing"
    said = body(step)
    assert said["clientNodeDescription"]["role"] == "RM"
    assert said["clientEndpointDescription"]["deployment"] == "LAN"
    assert said["supportedCommunicationProtocols"] == ["WebSocket"]
    assert said["supportedS2MessageVersions"] == ["v1.0.0"]
    assert said["supportedHmacHashingAlgorithms"] == ["SHA256"]
    assert said["clientHmacChallenge"] == CHALLENGE
    assert not said["forcePairing"]
    assert TOKEN not in json.dumps(said)
    assert local.request().body.to_json() == step.body.to_json(), "a repeat is identical"


@pytest.mark.rule("PAIRC-01", "TOK-04")
@pytest.mark.parametrize(
    ("code", "known", "sent"),
    [
        (TOKEN, None, {}),
        (f"A0-{TOKEN}", None, {"nodeIdAlias": "A0"}),
        (TOKEN, NodeId(PEER_ID), {"nodeId": str(PEER_ID)}),
        (f"A0-{TOKEN}", NodeId(PEER_ID), {"nodeId": str(PEER_ID)}),
    ],
)
def test_node_id_and_alias_never_go_together(code: str, known: NodeId | None, sent: dict[str, str]) -> None:
    said = body(attempt(code=code, server_node=known).request())
    assert {k: v for k, v in said.items() if k in ("nodeId", "nodeIdAlias")} == sent


def test_pairing_is_forced_where_the_user_says_so() -> None:
    assert body(attempt(force=True).request())["forcePairing"] is True


# The answer


@pytest.mark.rule("PAIRC-02")
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"pairingAttemptId": "short"}',
        b'{"pairingAttemptId": 1}',
        b'{"pairingAttemptId": {"a": 1}}',
        dump({"pairingAttemptId": ["x"] * 40}),
        dump({"pairingAttemptId": "é" * 40}),
        dump(answer())[:-1],
        dump(answer()).replace(b"SHA256", b"\xff"),
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_an_answer_that_cannot_be_read_ends_it_and_nothing_is_owed(raw: bytes) -> None:
    client = attempt()
    client.request()
    with pytest.raises(ProtocolViolation):
        client.on_answer(raw, now=0)
    assert not client.owes_refusal
    assert client.attempt_id is None


BAD_ANSWERS: dict[str, tuple[dict[str, Any], type[S2ConnectError]]] = {
    "member missing": (answer(serverNodeDescription=None), ProtocolViolation),
    "challenge too short": (answer(serverHmacChallenge=b64(bytes(31))), ProtocolViolation),
    "response no Base64": (answer(clientHmacChallengeResponse="%%%"), ProtocolViolation),
    "role of its own": (answer(role="EMS"), ProtocolViolation),
    "algorithm not offered": (answer(selectedHmacHashingAlgorithm="SHA512"), ProtocolViolation),
    "algorithm in another case": (answer(selectedHmacHashingAlgorithm="sha256"), ProtocolViolation),
    "our own role": (answer(role="RM"), PairingRefused),
    "another code": (answer(clientHmacChallengeResponse=hmac_response(CHALLENGE, OTHER_TOKEN)), WrongPairingCode),
    "another certificate": (answer(binding=CA), WrongPairingCode),
    "a truncated response": (answer(clientHmacChallengeResponse=b64(bytes(16))), WrongPairingCode),
    "our own challenge": (answer(clientHmacChallengeResponse=CHALLENGE), WrongPairingCode),
    "self-signed in the WAN": (answer(deployment="WAN"), CertificateRefused),
}


@pytest.mark.rule("PAIRC-02", "HMAC-03", "HMAC-04", "ROLE-01", "TRUST-03")
@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_a_bad_answer_with_an_id_ends_it_and_the_server_is_owed_a_refusal(name: str) -> None:
    said, error = BAD_ANSWERS[name]
    client = attempt()
    client.request()
    with pytest.raises(error) as caught:
        client.on_answer(dump(said), now=0)
    assert client.owes_refusal
    assert client.attempt_id is not None
    assert client.attempt_id.reveal() == ATTEMPT_ID
    assert (client.refusal.operation, body(client.refusal)) == ("finalizePairing", {"success": False})
    for secret in (ATTEMPT_ID, TOKEN, CHALLENGE, SERVER_CHALLENGE):
        assert secret not in str(caught.value)
    client.ended()
    assert not client.owes_refusal


@pytest.mark.rule("HMAC-05", "PAIRC-02")
@pytest.mark.parametrize("zeros", [0, 1, 32])
@pytest.mark.parametrize("knows_the_code", [False, True])
def test_a_server_that_sends_our_own_challenge_back_gets_no_proof(zeros: int, knows_the_code: bool) -> None:
    local = attempt()
    local.request()
    reflected = answer(serverHmacChallenge=b64(ENTROPY[:32] + bytes(zeros)))
    if not knows_the_code:
        reflected["clientHmacChallengeResponse"] = b64(bytes(32))
    with pytest.raises(ProtocolViolation, match="our own challenge"):
        local.on_answer(dump(reflected), now=100.0)
    assert local.owes_refusal


@pytest.mark.rule("TOK-04", "HMAC-02")
@pytest.mark.parametrize("right", ["4KX79M2PQRST", "4kx79m2pqrst"])
def test_a_code_that_can_be_read_in_two_ways_is_the_one_that_the_server_proves(right: str) -> None:
    """Errata S2C-46: of ours in lower case, or of another maker."""
    client = attempt(code="4kx7 9m2p qrst")
    client.request()
    step = client.on_answer(dump(answer(clientHmacChallengeResponse=hmac_response(CHALLENGE, right))), now=100.0)
    assert body(step)["serverHmacChallengeResponse"] == hmac_response(SERVER_CHALLENGE, right)
    client = attempt(code="4kx7 9m2p qrst")
    client.request()
    with pytest.raises(WrongPairingCode):
        client.on_answer(dump(answer(clientHmacChallengeResponse=hmac_response(CHALLENGE, "4KX79M2PQRSV"))), now=100.0)


@pytest.mark.rule("TRUST-04", "HMAC-02")
@pytest.mark.parametrize("claimed", ["LAN", "WAN", None])
def test_how_tls_was_authenticated_decides_the_formula_whatever_the_server_claims(claimed: str | None) -> None:
    """Errata S2C-01: a server behind PKI proves D, a self-signed one F, and neither may use the other's formula."""
    for proof, wrong in ((PKI, F), (SELF_SIGNED, D)):
        client = attempt(proof=proof)
        client.request()
        # A self-signed server in the WAN is refused for that alone (TRUST-03).
        refused = CertificateRefused if claimed == "WAN" and proof is SELF_SIGNED else WrongPairingCode
        with pytest.raises(refused):
            client.on_answer(dump(answer(deployment=claimed, binding=wrong)), now=0)
    client = attempt(proof=PKI)
    client.request()
    step = client.on_answer(dump(answer(deployment=claimed, binding=D)), now=0)
    assert body(step)["serverHmacChallengeResponse"] == hmac_response(SERVER_CHALLENGE, TOKEN, D)


@pytest.mark.rule("TRUST-03", "TRUST-04")
def test_a_self_signed_server_that_does_not_say_where_it_runs_is_in_the_lan() -> None:
    for role, operation in ((Role.RM, "requestConnectionDetails"), (Role.CEM, "postConnectionDetails")):
        client = attempt(role)
        client.request()
        assert client.on_answer(dump(answer(role.other.value, None)), now=0).operation == operation


@pytest.mark.rule("TRUST-04")
def test_a_server_behind_pki_that_does_not_say_where_it_runs_is_in_the_wan() -> None:
    client = attempt(Role.CEM, proof=PKI)
    client.request()
    step = client.on_answer(dump(answer("RM", None, binding=D)), now=0)
    assert step.operation == "requestConnectionDetails", "the WAN node is communication server"


@pytest.mark.rule("ROLE-02", "PAIRC-05")
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("own", [LAN, WAN])
@pytest.mark.parametrize("peer", [LAN, WAN])
def test_the_next_request_follows_from_roles_and_deployments(role: Role, own: Deployment, peer: Deployment) -> None:
    is_server = own is WAN if own is not peer else role is Role.CEM
    client = attempt(role, own, PKI if peer is WAN else SELF_SIGNED)
    client.request()
    binding = D if peer is WAN else F
    step = client.on_answer(dump(answer(role.other.value, peer.value, binding)), now=0)
    assert step.operation == ("postConnectionDetails" if is_server else "requestConnectionDetails")


# The details


@pytest.mark.rule("PAIRC-05", "TRUST-07", "PAIR-08")
def test_a_future_communication_server_in_the_lan_sends_its_url_token_and_ca() -> None:
    client, step = answered(Role.CEM)
    assert step.operation == "postConnectionDetails"
    said = body(step)
    assert said["serverHmacChallengeResponse"] == hmac_response(SERVER_CHALLENGE)
    details = said["connectionDetails"]
    assert details.keys() == {"initiateSessionUrl", "accessToken", "certificateFingerprint"}
    assert details["initiateSessionUrl"] == URL
    assert details["accessToken"] == OWN_TOKEN
    fingerprints = {key: value.replace(":", "").lower() for key, value in details["certificateFingerprint"].items()}
    assert fingerprints == {"SHA256": CA.hex(), "SHA265": CA.hex()}
    agreed = client.on_details(204, b"", now=101, wall_time=5.0)
    pairing = agreed.pairing
    assert pairing.communication_role is CommunicationRole.SERVER
    assert (pairing.initiate_session_url, pairing.pin) == (None, None)
    assert agreed.token.reveal() == OWN_TOKEN


@pytest.mark.rule("PAIRC-05", "TRUST-07")
def test_a_future_communication_server_in_the_wan_sends_no_fingerprint() -> None:
    client = attempt(Role.CEM, WAN, PKI)
    client.request()
    step = client.on_answer(dump(answer("RM", "WAN", D)), now=0)
    assert body(step)["connectionDetails"].keys() == {"initiateSessionUrl", "accessToken"}


@pytest.mark.rule("TRUST-06", "PAIRC-06")
def test_a_future_communication_client_takes_url_and_token_and_pins_the_root_it_captured() -> None:
    client, step = answered(Role.RM)
    assert body(step) == {"serverHmacChallengeResponse": hmac_response(SERVER_CHALLENGE)}
    agreed = client.on_details(200, DETAILS, now=101, wall_time=5.0)
    assert isinstance(agreed, Agreed)
    pairing = agreed.pairing
    assert pairing.key.remote == PEER_ID
    assert pairing.communication_role is CommunicationRole.CLIENT
    assert pairing.initiate_session_url == "https://server.local:8443/session/"
    assert pairing.pin == ROOT
    assert pairing.paired_at == 5.0
    assert not pairing.confirmed
    assert pairing.peer_endpoint.deployment is LAN
    assert agreed.token.reveal() == SERVER_TOKEN
    assert SERVER_TOKEN not in repr(agreed)
    assert (agreed.finalize.operation, body(agreed.finalize)) == ("finalizePairing", {"success": True})


def test_an_endpoint_without_a_server_says_so_when_it_would_have_to_be_one() -> None:
    client = attempt(Role.CEM, session_url=None)
    client.request()
    with pytest.raises(PairingError, match=r"runs none.*config set server on"):
        client.on_answer(dump(answer("RM")), now=0)
    assert client.owes_refusal


@pytest.mark.rule("PAIRC-02", "PAIRC-04")
@pytest.mark.parametrize("role", list(Role))
def test_403_means_that_the_code_is_wrong_and_the_id_is_dropped(role: Role) -> None:
    client, _ = answered(role)
    with pytest.raises(WrongPairingCode):
        client.on_details(403, b"", now=101, wall_time=0)
    assert not client.owes_refusal


@pytest.mark.rule("PAIRC-04")
@pytest.mark.parametrize("role", list(Role))
def test_401_means_that_the_server_gave_up_and_the_id_is_dropped(role: Role) -> None:
    client, _ = answered(role)
    with pytest.raises(PairingExpired):
        client.on_details(401, b"", now=101, wall_time=0)
    assert not client.owes_refusal


@pytest.mark.rule("PAIRC-02")
@pytest.mark.parametrize("status", [199, 300, 302, 400, 404])
def test_any_other_answer_to_the_details_is_a_violation_and_is_told_to_the_server(status: int) -> None:
    client, _ = answered(Role.RM)
    with pytest.raises(ProtocolViolation):
        client.on_details(status, DETAILS, now=101, wall_time=0)
    assert client.owes_refusal


@pytest.mark.rule("PAIRC-02")
@pytest.mark.parametrize("status", [199, 300, 302, 400, 404])
def test_details_that_were_not_accepted_with_204_are_not_accepted(status: int) -> None:
    client, _ = answered(Role.CEM)
    with pytest.raises(ProtocolViolation):
        client.on_details(status, b"", now=101, wall_time=0)
    assert client.owes_refusal


@pytest.mark.rule("PAIRC-02", "VER-03", "PAIR-08")
@pytest.mark.parametrize(
    "change",
    [
        {"initiateSessionUrl": "http://server.local/session/"},
        {"initiateSessionUrl": None},
        {"accessToken": ""},
        {"accessToken": "two words"},
        {"accessToken": "x" * 4097},
        {"accessToken": None},
    ],
    ids=str,
)
def test_details_that_break_their_schema_are_a_violation_and_are_told_to_the_server(change: dict[str, Any]) -> None:
    client, _ = answered(Role.RM)
    with pytest.raises(ProtocolViolation) as caught:
        client.on_details(200, dump({**json.loads(DETAILS), **change}), now=101, wall_time=0)
    assert client.owes_refusal
    assert f"{next(iter(change))} " in str(caught.value)
    assert SERVER_TOKEN not in str(caught.value)


@pytest.mark.rule("VER-03", "SES-04", "TRUST-07")
@pytest.mark.parametrize(
    "change",
    [
        {"initiateSessionUrl": DETAILS_URL.removesuffix("/")},
        {"initiateSessionUrl": f"{DETAILS_URL}v1/"},
        {"accessToken": b64(bytes(24))},
        {"accessToken": "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJybSJ9.c2lnbmF0dXJl"},
        {"certificateFingerprint": {"SHA256": 7}},
    ],
    ids=str,
)
def test_details_that_conform_in_another_way_are_taken(change: dict[str, Any]) -> None:
    client, _ = answered(Role.RM)
    agreed = client.on_details(200, dump({**json.loads(DETAILS), **change}), now=101, wall_time=0)
    assert agreed.pairing.initiate_session_url == DETAILS_URL
    assert agreed.token.reveal() == change.get("accessToken", SERVER_TOKEN)


@pytest.mark.parametrize("role", list(Role))
def test_what_the_server_says_of_refused_details_reaches_the_user(role: Role) -> None:
    client, _ = answered(role)
    said = dump({"errorMessage": "ParsingError", "additionalInfo": "connectionDetails.accessToken is missing."})
    with pytest.raises(ProtocolViolation, match=r"HTTP 400, saying: connectionDetails\.accessToken is missing\)"):
        client.on_details(400, said, now=101, wall_time=0)


@pytest.mark.rule("PAIRC-03")
@pytest.mark.parametrize("role", list(Role))
def test_the_attempt_has_15_seconds_from_the_receipt_of_its_id(role: Role) -> None:
    good = (200, DETAILS) if role is Role.RM else (204, b"")
    client, _ = answered(role)
    assert client.deadline == 115
    assert client.on_details(*good, now=115.0, wall_time=0)
    client, _ = answered(role)
    with pytest.raises(PairingExpired):
        client.on_details(*good, now=115.001, wall_time=0)
    assert client.owes_refusal


@pytest.mark.rule("PAIRC-04")
@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_success_where_the_standard_lists_one(status: int) -> None:
    for role in Role:
        client, _ = answered(role)
        assert client.on_details(status, DETAILS if role is Role.RM else b"", now=101, wall_time=0)
        client.on_finalized(status)
        assert not client.owes_refusal
    client, _ = answered(Role.RM)
    with pytest.raises(ProtocolViolation):
        client.on_details(status, b"", now=101, wall_time=0)


# finalizePairing


@pytest.mark.rule("PAIRC-06")
def test_the_pairing_stands_with_the_204() -> None:
    client, _ = answered()
    client.on_details(200, DETAILS, now=101, wall_time=0)
    client.on_finalized(204)
    assert not client.owes_refusal


@pytest.mark.rule("PAIRC-04")
def test_a_401_to_the_last_step_means_that_there_is_no_pairing() -> None:
    client, _ = answered()
    client.on_details(200, DETAILS, now=101, wall_time=0)
    with pytest.raises(PairingExpired):
        client.on_finalized(401)
    assert not client.owes_refusal


@pytest.mark.parametrize("status", [302, 400, 403, 404])
def test_any_other_answer_to_the_last_step_means_that_there_is_no_pairing(status: int) -> None:
    client, _ = answered()
    client.on_details(200, DETAILS, now=101, wall_time=0)
    with pytest.raises(PairingError):
        client.on_finalized(status)


# Refusals


@pytest.mark.rule("PAIRC-07")
@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("InvalidCombinationOfRoles", "same kind"),
        ("IncompatibleS2MessageVersions", "no common version"),
        ("IncompatibleHmacHashingAlgorithms", "hash function"),
        ("IncompatibleCommunicationProtocols", "communication protocol"),
        ("NodeNotFound", "before the dash"),
        ("NoNodeIdProvided", "whole code"),
        ("NoValidPairingTokenOnPairingServer", "ask for a new one"),
        ("ParsingError", "did not understand"),
        ("Other", "refused to pair"),
    ],
)
def test_every_refusal_has_a_sentence_that_says_what_to_do(reason: str, words: str) -> None:
    error = refused(dump({"errorMessage": reason}))
    assert error.reason == reason
    assert words in str(error)
    assert error.hint or reason == "Other"


@pytest.mark.rule("PAIRC-07", "SEC-01")
def test_what_the_server_adds_is_shown_clean_and_short() -> None:
    info = "Back \x1b[2J\u202eat\n nine. " + "x" * 5000
    error = refused(dump({"errorMessage": "Other", "additionalInfo": info}))
    assert "saying: Back [2J at nine. xx" in str(error)
    assert len(str(error)) < 300
    assert str(error).isprintable()
    assert "\x1b" not in error.additional_info


@pytest.mark.rule("VER-07")
@pytest.mark.parametrize(
    "raw", [b"", b"<html>", b"{}", dump({"errorMessage": "MoonIsFull"}), dump({"errorMessage": 1})]
)
def test_a_refusal_that_cannot_be_read_is_one_all_the_same(raw: bytes) -> None:
    assert refused(raw).reason == "Other"


def test_the_node_of_several_is_the_one_that_was_asked_for() -> None:
    second = node(Role.RM, 1)
    local = endpoint(Role.RM, LAN, node(Role.RM, 0), second)
    client = PairingClientAttempt(
        local, second, PairingCode.parse(TOKEN), SELF_SIGNED, entropy=ENTROPY, session_url=URL, ca_fingerprint=CA
    )
    assert body(client.request())["clientNodeDescription"]["id"] == str(second.id)
    client.on_answer(dump(answer()), now=0)
    assert client.on_details(200, DETAILS, now=1, wall_time=0).pairing.key.local == second.id
