"""Peers that conform in another way than we do are paired with and get their sessions; what is wrong is named."""

from __future__ import annotations

import base64
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from s2connect import Endpoint, NodeId, Pairing, Role, Session
from s2connect.diagnostics.findings import Findings
from s2connect.diagnostics.peers import check_peer, step_of
from s2connect.errors import AccessRefused, IncompatibleApiVersion, PairingExpired, PeerBusy, ProtocolViolation
from s2connect.model.proxy import Proxies
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.pairing.http_client import PairingTimings
from tests.endpoint.other_maker import CODE, JWT, OtherMaker
from tests.endpoint.stranger import stranger
from tests.endpoint.test_endpoint_local_network import LanEndpoint
from tests.endpoint.test_endpoint_pairing import pair_impatiently
from tests.netns import Lan, require_netns
from tests.waits import within

PATIENT = PairingTimings(busy_delay=0.01)


@pytest.fixture
async def other() -> AsyncIterator[OtherMaker]:
    async with OtherMaker().running() as running:
        yield running


async def session_of(rm: Endpoint) -> Session:
    async with within(10):
        return await anext(rm.node().sessions())


@pytest.mark.rule("VER-03", "SES-04", "VER-06", "VER-08", "PAIRC-04")
@pytest.mark.parametrize(
    "quirk",
    [
        {},
        {"slash": ""},
        {"token": JWT},
        {"token": base64.b64encode(bytes(24)).decode()},
        {"token": "x" * 4095},
        {"version": "1.0.0"},
        {"lacks": {"index"}},
        {"answers": {"finalizePairing": (200, {})}},
        {"answers": {"finalizePairing": (202, None), "requestPairing": (201, None)}},
        {"answers": {"requestConnectionDetails": (203, None)}},
        {"answers": {"initiateSession": (201, None), "confirmAccessToken": (202, None), "index": (203, None)}},
        {"busy": {"index": 1, "requestPairing": 1, "requestConnectionDetails": 6, "finalizePairing": 1}},
    ],
    ids=str,
)
async def test_our_device_pairs_and_gets_its_session(rm: Endpoint, other: OtherMaker, quirk: dict[str, Any]) -> None:
    for name, value in quirk.items():
        setattr(other, name, other.busy + type(other.busy)(value) if name == "busy" else value)
    pairing = await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    assert pairing.initiate_session_url == f"https://127.0.0.1:{other.port}/s2/start/"
    session = await session_of(rm)
    assert session.info.s2_version == "v1.0.0"
    assert other.bearers["initiateSession"] == other.token
    assert other.bearers["confirmAccessToken"] == other.issued(2)
    assert other.bearers["websocket"] == other.issued(3)
    assert [t.reveal() for t in await rm._state.store.candidate_tokens(pairing)] == [other.issued(2)]


@pytest.mark.rule("PAIRC-04", "PAIRC-03")
async def test_a_server_that_stays_busy_is_asked_until_the_time_is_over(
    rm: Endpoint, other: OtherMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.pairing.client_core.ATTEMPT_LIFETIME", 0.5)
    other.busy["requestConnectionDetails"] = 10_000
    with pytest.raises((PeerBusy, PairingExpired)):
        await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    assert other.seen.count("requestConnectionDetails") > PATIENT.busy_retries + 1
    assert other.seen[-1] == "finalizePairing", "the server is told"
    assert other.bodies["finalizePairing"] == {"success": False}


@pytest.mark.rule("PAIRC-04", "UNP-01")
@pytest.mark.parametrize("status", [200, 202, 204])
async def test_any_2xx_ends_the_pairing_at_the_other_side(rm: Endpoint, other: OtherMaker, status: int) -> None:
    other.answers["unpair"] = (status, None)
    await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    [pairing] = await rm.pairings()
    await rm.node().unpair(pairing.key.remote)
    assert other.seen[-1] == "unpair"
    assert await rm.pairings() == []


@pytest.mark.rule("VER-08")
async def test_a_missing_version_index_is_in_the_log(
    rm: Endpoint, other: OtherMaker, caplog: pytest.LogCaptureFixture
) -> None:
    other.lacks = {"index"}
    await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    [warned] = [r for r in caplog.records if "version index" in r.getMessage()]
    assert warned.levelno == logging.WARNING
    assert other.pairing_url in warned.getMessage()


SESSION = ["initiateSession", "confirmAccessToken", "websocket"]


async def operations_of_a_session(rm: Endpoint, other: OtherMaker) -> list[str]:
    """Open a session, end it, and return what the server was asked for."""
    other.seen.clear()
    async with within(10):
        connection = await rm.node().open(NodeId(UUID(other.id)))
        await connection.close()
    return other.seen


@pytest.mark.rule("VER-02")
async def test_the_index_is_read_before_the_first_session_and_again_when_the_version_is_gone(
    rm: Endpoint, other: OtherMaker
) -> None:
    await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    assert await operations_of_a_session(rm, other) == ["index", *SESSION]
    assert await operations_of_a_session(rm, other) == SESSION
    other.first["initiateSession"] = [404]
    assert await operations_of_a_session(rm, other) == ["initiateSession", "index", *SESSION]
    assert await operations_of_a_session(rm, other) == SESSION
    other.first["initiateSession"] = [404]
    other.answers["index"] = (200, ["v2"])
    with pytest.raises(IncompatibleApiVersion):
        await operations_of_a_session(rm, other)
    assert other.seen == ["initiateSession", "index"]
    with pytest.raises(IncompatibleApiVersion):
        await operations_of_a_session(rm, other)
    assert other.seen == ["index"], "what failed is not remembered"


@pytest.mark.rule("WS-01", "SES-04")
@pytest.mark.parametrize(
    ("quirk", "value", "connections"),
    [
        ("closes", set(), [0, 0, 0, 0]),
        ("closes", {"confirmAccessToken"}, [0, 0, 0, 1]),
        ("closes", {"index", "initiateSession"}, [0, 1, 2, 2]),
        ("new_for_websocket", True, [0, 0, 0, 1]),
    ],
    ids=["one", "ended after the requests", "ended after each", "ended by the upgrade"],
)
async def test_a_session_needs_one_connection_where_the_server_keeps_it(
    rm: Endpoint, other: OtherMaker, quirk: str, value: Any, connections: list[int]
) -> None:
    await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    setattr(other, quirk, value)
    await operations_of_a_session(rm, other)
    first = other.connections["index"]
    assert [other.connections[name] - first for name in ("index", *SESSION)] == connections


@pytest.mark.rule("SESC-01")
async def test_the_token_of_the_last_session_is_not_read_again_unless_it_is_refused(
    rm: Endpoint, other: OtherMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, read = rm._state.store, list[Pairing]()
    candidates = store.candidate_tokens

    async def reading(pairing: Pairing) -> list[AccessToken]:
        read.append(pairing)
        return await candidates(pairing)

    pairing = await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    await operations_of_a_session(rm, other)
    monkeypatch.setattr(store, "candidate_tokens", reading)
    assert await operations_of_a_session(rm, other) == SESSION
    assert not read
    assert other.bearers["initiateSession"] == other.issued(2)
    other.first["initiateSession"] = [401]
    assert await operations_of_a_session(rm, other) == ["initiateSession", *SESSION]
    assert [one.is_same(pairing) for one in read] == [True]
    other.first["initiateSession"] = [401, 401]
    with pytest.raises(AccessRefused):
        await operations_of_a_session(rm, other)
    read.clear()
    assert await operations_of_a_session(rm, other) == SESSION
    assert read, "what failed is not remembered"


@pytest.mark.rule("VER-02", "VER-08")
@pytest.mark.parametrize("quirk", ["without an index", "refused", "selects what was not offered"])
async def test_the_version_is_not_remembered_where_a_session_does_not_come_about(
    rm: Endpoint, other: OtherMaker, quirk: str
) -> None:
    await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    if quirk == "without an index":
        other.lacks = {"index"}
        for _ in range(2):
            assert await operations_of_a_session(rm, other) == ["index", *SESSION]
        return
    if quirk == "refused":
        other.answers["initiateSession"] = (403, None)
    else:
        await operations_of_a_session(rm, other)
        other.version = "v9.9.9"
        with pytest.raises(ProtocolViolation):
            await operations_of_a_session(rm, other)
        assert other.seen == ["initiateSession"]
    for _ in range(2):
        with pytest.raises(ProtocolViolation):
            await operations_of_a_session(rm, other)
        assert other.seen == ["index", "initiateSession"]


@pytest.mark.rule("VER-08", "VER-02")
@pytest.mark.parametrize(("lacks", "result"), [(set(), "ok"), ({"index"}, "warn")], ids=["with", "without"])
async def test_doctor_does_not_take_a_server_without_an_index_for_a_sound_one(
    rm: Endpoint, other: OtherMaker, lacks: set[str], result: str
) -> None:
    other.lacks = lacks
    pairing = await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    found = Findings(step_of(pairing, "session"))
    await found.collect(partial(check_peer, pairing, None, None, Proxies(), None))
    assert (found[-1].name.rpartition(".")[2], found[-1].verdict) == ("version", result)


@pytest.mark.rule("VER-08", "LAN-01")
async def test_where_there_is_neither_an_index_nor_anything_else_the_url_is_named(
    rm: Endpoint, other: OtherMaker
) -> None:
    url = f"https://127.0.0.1:{other.port}/nowhere/"
    other.lacks = {"index", "requestPairing", "endpoint"}
    with pytest.raises(ProtocolViolation, match=r"no S2 Connect at .*/nowhere/ \(HTTP 404\)"):
        await pair_impatiently(rm, url, CODE, PATIENT)
    with pytest.raises(ProtocolViolation, match=r"no S2 Connect at .*/nowhere/, or it tells strangers nothing"):
        await rm.look_at(BaseUrl(url))


@pytest.mark.rule("VER-03", "TRUST-07", "VER-07", "PAIR-07")
@pytest.mark.parametrize("again", [False, True], ids=["once", "every step twice, written otherwise"])
@pytest.mark.parametrize(
    ("request_more", "details"),
    [
        ({}, {}),
        ({}, {"initiateSessionUrl": "no slash"}),
        ({}, {"accessToken": JWT}),
        ({}, {"certificateFingerprint": "base64"}),
        ({"forcePairing": None, "nodeId": None, "nodeIdAlias": None}, {}),
    ],
    ids=str,
)
async def test_another_manager_pairs_with_our_device(
    rm: Endpoint, other: OtherMaker, again: bool, request_more: dict[str, Any], details: dict[str, Any]
) -> None:
    if "initiateSessionUrl" in details:
        details = {"initiateSessionUrl": other.details["initiateSessionUrl"].removesuffix("/")}
    if "certificateFingerprint" in details:
        details = {"certificateFingerprint": {"SHA-256": base64.b64encode(other.authority.fingerprint).decode()}}
    rm._pairing.server.delay = 0.0
    rm.node().issue_pairing_code(token=CODE)
    replies = await other.pair_with(rm, again=again, request=request_more, **details)
    expected = [200, 204, 204]
    assert [status for status, _ in replies] == [s for s in expected for _ in range(2 if again else 1)]
    if again:
        assert replies[0] == replies[1]
    [pairing] = await rm.pairings()
    assert pairing.pin is not None
    assert pairing.pin.ca_fingerprint == other.authority.fingerprint
    await session_of(rm)
    assert other.bearers["initiateSession"] == details.get("accessToken", other.token)


@pytest.mark.rule("PAIRC-07", "SEC-01")
@pytest.mark.parametrize(
    ("operation", "answer", "said"),
    [
        ("requestConnectionDetails", {"initiateSessionUrl": "https://127.0.0.1/s/"}, "accessToken is missing"),
        ("requestConnectionDetails", {"accessToken": JWT}, "initiateSessionUrl is missing"),
        (
            "requestConnectionDetails",
            {"accessToken": JWT, "initiateSessionUrl": f"http://x/{JWT}"},
            "initiateSessionUrl cannot be used: The URL does not start with https://",
        ),
        (
            "requestConnectionDetails",
            {"accessToken": [JWT], "initiateSessionUrl": "https://x/"},
            "accessToken is not a text of 1 to 4096 visible ASCII characters",
        ),
        ("requestConnectionDetails", [JWT], "it is not an object"),
        (
            "requestPairing",
            {"pairingAttemptId": JWT, "serverNodeDescription": {"role": "EMS"}},
            "serverNodeDescription.id is missing",
        ),
    ],
    ids=str,
)
async def test_what_is_wrong_in_an_answer_is_named_by_its_member_and_without_a_secret(
    rm: Endpoint, other: OtherMaker, operation: str, answer: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    other.answers[operation] = (200, answer)
    with caplog.at_level(logging.DEBUG), pytest.raises(ProtocolViolation) as raised:
        await pair_impatiently(rm, other.pairing_url, CODE, PATIENT)
    assert said in str(raised.value)
    assert "pydantic" not in str(raised.value).lower()
    assert "Field required" not in str(raised.value)
    for text in (str(raised.value), caplog.text):
        assert JWT not in text
        assert other.token not in text


@pytest.mark.rule("PAIRC-07", "SEC-01", "TRUST-07")
@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({"accessToken": None}, "connectionDetails.accessToken is missing"),
        ({"certificateFingerprint": None}, "connectionDetails.certificateFingerprint is missing"),
        ({"certificateFingerprint": {"SHA256": "00"}}, "connectionDetails.certificateFingerprint holds no SHA-256"),
    ],
    ids=str,
)
async def test_both_sides_learn_what_is_wrong_with_the_details_of_a_client(
    rm: Endpoint, other: OtherMaker, details: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    rm._pairing.server.delay = 0.0
    rm.node().issue_pairing_code(token=CODE)
    _, (status, answer), *_ = await other.pair_with(rm, **details)
    assert status == 400
    assert said in answer["additionalInfo"]
    [logged] = [r.getMessage() for r in caplog.records if "postConnectionDetails" in r.getMessage()]
    assert said in logged
    assert other.token not in caplog.text


@pytest.mark.rule("SEC-01", "SEC-03")
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("pairing/v1/requestPairing", "requestPairing of 127.0.0.1 refused: clientNodeDescription.role is "),
        ("session/v1/initiateSession", "clientNodeDescription.role is "),
    ],
)
async def test_the_log_names_the_member_of_a_malformed_request_and_strangers_cannot_fill_it(
    cem: Endpoint, path: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with stranger(cem) as other:
        body = other.request_body(Role.RM, bytes(32))
        body["clientNodeDescription"]["role"] = "EMS"
        body |= {"clientNodeId": other.node, "serverNodeId": other.node}
        for _ in range(20):
            url = f"https://127.0.0.1:{cem.pairing_url.port}/{path}"
            async with other.http.post(url, json=body, headers={"Authorization": f"Bearer {JWT}"}) as response:
                assert response.status == 400
                assert "clientNodeDescription.role" in (await response.json())["additionalInfo"]
    [warned] = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert said in warned.getMessage()
    assert JWT not in caplog.text


@pytest.mark.rule("TOK-02")
async def test_asking_for_a_new_code_does_not_end_the_pairing_under_way(
    cem: Endpoint, rm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    finalize = cem._pairing.server.finalize

    def asked_meanwhile(*arguments: Any, **more: Any) -> Any:
        cem.node().issue_pairing_code()
        return finalize(*arguments, **more)

    monkeypatch.setattr(cem._pairing.server, "finalize", asked_meanwhile)
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    assert len(await cem.pairings()) == len(await rm.pairings()) == 1


@pytest.mark.rule("TRUST-04", "TRUST-07")
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("responder", "address"), [("RM", "100.64.3.1"), ("CEM", "2001:db8:7::1")])
def test_the_address_of_a_self_signed_server_plays_no_part(tmp_path: Path, address: str, responder: str) -> None:
    """A provider's address, and a global one of IPv6 as every house has: both are ordinary in a LAN."""
    require_netns()
    numbers = itertools.count(2)
    homes: Iterator[Path] = (tmp_path / f"home-{number}" for number in numbers)
    length, sibling = (64, "2001:db8:7::2") if ":" in address else (24, "100.64.3.2")
    with Lan(2) as lan:
        places = {"CEM": (lan.hosts[0], address), "RM": (lan.hosts[1], sibling)}
        for machine, own in places.values():
            machine.add_address(f"{own}/{length}")
        endpoints = {
            role: LanEndpoint(machine, next(homes), role=role, host=own) for role, (machine, own) in places.items()
        }
        initiator = "RM" if responder == "CEM" else "CEM"
        code = endpoints[responder].do("code")
        assert endpoints[initiator].do("pair", endpoints[responder].url, code, None) == endpoints[responder].id
        for endpoint in endpoints.values():
            endpoint.event("session")
