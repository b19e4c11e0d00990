"""Two endpoints pair with each other: all deployments and roles, and what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import os
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from s2connect import CommunicationRole, Deployment, Endpoint, EndpointConfig, NodeConfig, Role, create_home, events
from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import pinned_client_context
from s2connect.errors import (
    CertificateChanged,
    CertificateRefused,
    InvalidPairingCode,
    InvalidUrl,
    NetworkError,
    NotReachable,
    PairingError,
    PairingExpired,
    PairingRefused,
    PairingUnconfirmed,
    PeerBusy,
    ProtocolViolation,
    S2ConnectError,
    UsageError,
    WrongPairingCode,
)
from s2connect.model.url import BaseUrl
from s2connect.pairing import client_core, http_client
from s2connect.pairing.code import PairingCode
from s2connect.pairing.http_client import PairingTimings
from s2connect.store.base import Pairing
from tests.endpoint.conftest import Interloper, OpenEndpoint, Wan, identity_of, lan_config
from tests.endpoint.stranger import stranger
from tests.waits import patience, slowed, until, within

IMPATIENT = PairingTimings(
    busy_retries=1,
    busy_delay=0.01,
    connect=1.0,
    request_pairing=2.0,
    step=0.5,
    finalize=0.4,
    finalize_delay=0.05,
    refusal=0.3,
    finalize_tries=3,
)


async def pair_impatiently(
    endpoint: Endpoint, url: str, code: PairingCode | str, timings: PairingTimings = IMPATIENT
) -> Pairing:
    """Pair with short time-outs, so that a peer that does not answer costs the test little."""
    node = endpoint.node()
    return await http_client.pair(
        endpoint._state.local,
        endpoint._state.local.nodes[node.id],
        BaseUrl(url),
        code if isinstance(code, PairingCode) else PairingCode.parse(code),
        pairings=endpoint._pairings,
        pki=endpoint._state.pki,
        session_url=endpoint.session_url,
        ca_fingerprint=endpoint.ca_fingerprint,
        timings=timings,
    )


@pytest.mark.rule("ROLE-02", "TRUST-04", "TRUST-06", "PAIR-02", "VER-04")
async def test_an_rm_pairs_with_a_cem_in_the_lan_and_both_know_it(cem: Endpoint, rm: Endpoint) -> None:
    seen = cem.events()
    started = time.monotonic()
    pairing = await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    assert time.monotonic() - started >= 1.0
    assert pairing.communication_role is CommunicationRole.CLIENT
    assert pairing.confirmed
    assert pairing.initiate_session_url == cem.session_url
    assert pairing.pin is not None
    assert pairing.pin.ca_fingerprint == cem.ca_fingerprint
    [other] = await cem.node().pairings()
    assert (other.key.local, other.key.remote) == (pairing.key.remote, pairing.key.local)
    assert other.communication_role is CommunicationRole.SERVER
    assert other.peer == rm.node().description
    event = await anext(seen)
    assert isinstance(event, events.Paired)
    assert event.peer.model_name == "RM one"


@pytest.mark.rule("ROLE-02", "PAIRC-05", "TRUST-07", "PAIR-05")
async def test_a_cem_pairs_with_an_rm_in_the_lan_and_sends_its_own_details(cem: Endpoint, rm: Endpoint) -> None:
    pairing = await cem.node().pair(rm.pairing_url, str(rm.node().issue_pairing_code()))
    assert pairing.communication_role is CommunicationRole.SERVER
    [other] = await rm.node().pairings()
    assert other.initiate_session_url == cem.session_url
    assert other.pin is not None
    assert other.pin.ca_fingerprint == cem.ca_fingerprint
    session = await anext(_open_both(cem, rm))
    assert session.info.remote == cem.node().id


async def _open_both(server: Endpoint, client: Endpoint):  # type: ignore[no-untyped-def]
    waiting = asyncio.create_task(anext(server.node().sessions()), name="test-server-session")
    try:
        async for session in client.node().sessions():
            yield session
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.rule("ROLE-02", "ROLE-03", "TRUST-03", "HMAC-02")
@pytest.mark.parametrize(
    ("initiator", "responder", "initiator_role", "expected"),
    [
        (Deployment.LAN, Deployment.WAN, Role.RM, CommunicationRole.CLIENT),
        (Deployment.LAN, Deployment.WAN, Role.CEM, CommunicationRole.CLIENT),
        (Deployment.WAN, Deployment.WAN, Role.RM, CommunicationRole.CLIENT),
        (Deployment.WAN, Deployment.WAN, Role.CEM, CommunicationRole.SERVER),
    ],
)
async def test_pairing_with_a_wan_server_counts_its_name(
    wan: Wan,
    open_endpoint: OpenEndpoint,
    initiator: Deployment,
    responder: Deployment,
    initiator_role: Role,
    expected: CommunicationRole,
) -> None:
    server = await open_endpoint(wan.config(initiator_role.other, "s2.example.test"))
    settings = (
        wan.config(initiator_role, "other.example.test")
        if initiator is Deployment.WAN
        else lan_config(initiator_role, trust_anchors=wan.anchors)
    )
    client = await open_endpoint(settings)
    pairing = await client.node().pair(server.pairing_url, server.node().issue_pairing_code(), address="127.0.0.1")
    assert pairing.communication_role is expected
    assert pairing.pin is None
    [other] = await server.node().pairings()
    assert other.pin is None
    assert other.communication_role is not expected


@pytest.mark.rule("ROLE-03", "PAIR-01")
async def test_a_vendors_wan_server_pairs_for_a_lan_endpoint_with_wan_clients_only(
    wan: Wan, open_endpoint: OpenEndpoint
) -> None:
    vendor = await open_endpoint(
        wan.config(Role.RM, "vendor.example.test", deployment=Deployment.LAN, wan_pairing_server=True)
    )
    lan_cem = await open_endpoint(lan_config(Role.CEM, trust_anchors=wan.anchors))
    with pytest.raises(PairingRefused) as refused:
        await lan_cem.node().pair(vendor.pairing_url, vendor.node().issue_pairing_code(), address="127.0.0.1")
    assert refused.value.reason == "Other"
    wan_cem = await open_endpoint(wan.config(Role.CEM, "cem.example.test"))
    pairing = await wan_cem.node().pair(vendor.pairing_url, vendor.node().issue_pairing_code(), address="127.0.0.1")
    assert pairing.communication_role is CommunicationRole.SERVER
    # The vendor sends the result to the device, which talks to the CEM from then on.
    [made] = await vendor.node().pairings()
    assert made.initiate_session_url == wan_cem.session_url
    parcel = await vendor.node().export_pairing(made.key.remote)
    await vendor.node().discard_pairing(made.key.remote)
    assert await vendor.node().pairings() == []
    device = await open_endpoint(
        lan_config(Role.RM, trust_anchors=wan.anchors, nodes=vendor.config.nodes),
        serve=False,
        addresses={"cem.example.test": "127.0.0.1"},
    )
    with pytest.raises(UsageError):
        await device.node().import_pairing(b"{}")
    await device.node().import_pairing(parcel)
    session = await anext(_open_both(wan_cem, device))
    assert session.info.remote == wan_cem.node().id


@pytest.mark.rule("TRUST-03")
async def test_a_wan_server_with_a_certificate_of_nobody_is_refused(wan: Wan, open_endpoint: OpenEndpoint) -> None:
    server = await open_endpoint(wan.config(Role.CEM, "s2.example.test"))
    client = await open_endpoint(lan_config(Role.RM))  # does not trust the CA
    with pytest.raises(CertificateRefused) as refused:
        await client.node().pair(server.pairing_url, server.node().issue_pairing_code(), address="127.0.0.1")
    # It is in the local network, so a self-signed chain would do; this one has no root in it.
    assert refused.value.reason in ("chain", "untrusted")
    assert await server.node().pairings() == []


@pytest.mark.rule("PAIRC-02", "PAIRC-07", "TOK-05")
async def test_a_wrong_code_is_told_to_both_users_and_the_right_one_still_works(cem: Endpoint, rm: Endpoint) -> None:
    seen = cem.events()
    code = cem.node().issue_pairing_code()
    with pytest.raises(WrongPairingCode) as wrong:
        await rm.node().pair(cem.pairing_url, "WRONGCODE23")
    assert "code" in str(wrong.value)
    event = await anext(seen)
    assert isinstance(event, events.PairingFailed)
    assert event.reason == "refused_by_client"
    assert await rm.node().pairings() == []
    await rm.node().pair(cem.pairing_url, code)


@pytest.mark.rule("TOK-02")
async def test_an_expired_code_is_refused_after_the_second(cem: Endpoint, rm: Endpoint) -> None:
    code = cem.node().issue_pairing_code(lifetime=0.0)
    started = time.monotonic()
    with pytest.raises(PairingRefused) as refused:
        await rm.node().pair(cem.pairing_url, code)
    assert refused.value.reason == "NoValidPairingTokenOnPairingServer"
    assert "new one" in refused.value.hint
    assert time.monotonic() - started >= 1.0


@pytest.mark.rule("TOK-05")
async def test_a_spent_code_is_refused(cem: Endpoint, rm: Endpoint, open_endpoint: OpenEndpoint) -> None:
    code = cem.node().issue_pairing_code()
    await rm.node().pair(cem.pairing_url, code)
    other = await open_endpoint(lan_config(Role.RM))
    with pytest.raises(PairingRefused) as refused:
        await other.node().pair(cem.pairing_url, code)
    assert refused.value.reason == "NoValidPairingTokenOnPairingServer"


@pytest.mark.rule("TOK-02", "TOK-05")
async def test_a_static_code_survives_a_restart_and_is_not_spent(tmp_path: Path, rm: Endpoint) -> None:
    home = tmp_path / "home"
    await asyncio.to_thread(create_home, home, lan_config(Role.CEM, vault="files"))
    async with Endpoint.open(home) as cem:
        await cem.node().set_static_code("STICKER42")
    async with Endpoint.open(home) as cem:
        await rm.node().pair(cem.pairing_url, "STICKER42")
        await rm.node().pair(cem.pairing_url, "STICKER42")
        assert len(await cem.node().pairings()) == 1


@pytest.mark.rule("ROLE-01", "PAIR-01")
async def test_two_of_the_same_role_cannot_pair(cem: Endpoint, open_endpoint: OpenEndpoint) -> None:
    other = await open_endpoint(lan_config(Role.CEM))
    with pytest.raises(PairingRefused) as refused:
        await other.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    assert refused.value.reason == "InvalidCombinationOfRoles"


@pytest.mark.rule("TOK-03", "TOK-04", "PAIRC-01", "PAIR-01")
async def test_the_alias_in_the_code_finds_the_node(rm: Endpoint, open_endpoint: OpenEndpoint) -> None:
    nodes = (NodeConfig(role=Role.CEM, alias="A1"), NodeConfig(role=Role.CEM, alias="B2"))
    managers = await open_endpoint(EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=0, nodes=nodes))
    code = managers.node(alias="B2").issue_pairing_code()
    assert str(code).startswith("B2-")
    pairing = await rm.node().pair(managers.pairing_url, str(code))
    assert pairing.key.remote == nodes[1].id
    for wrong, reason in (("C3-ABCDEFGH", "NodeNotFound"), ("ABCDEFGH", "NoNodeIdProvided")):
        with pytest.raises(PairingRefused) as refused:
            await rm.node().pair(managers.pairing_url, wrong)
        assert refused.value.reason == reason


@pytest.mark.rule("ROLE-05", "ROLE-07")
async def test_an_rm_that_pairs_with_another_cem_leaves_the_first(
    cem: Endpoint, rm: Endpoint, open_endpoint: OpenEndpoint
) -> None:
    first_events = cem.events()
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    second = await open_endpoint(lan_config(Role.CEM))
    own = rm.events()
    await rm.node().pair(second.pairing_url, second.node().issue_pairing_code())
    assert [p.key.remote for p in await rm.node().pairings()] == [second.node().id]
    told = [await anext(own), await anext(own)]
    assert isinstance(told[1], events.Unpaired)
    assert told[1].by is events.UnpairedBy.REPLACED
    # The first CEM is told, so that it does not wait for ever.
    assert isinstance(await anext(first_events), events.Paired)
    async with within(5):
        event = await anext(first_events)
    assert isinstance(event, events.Unpaired)
    assert await cem.node().pairings() == []


@pytest.mark.rule("ROLE-06")
async def test_pairing_again_replaces_the_pairing(cem: Endpoint, rm: Endpoint) -> None:
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    [before] = await rm._state.store.candidate_tokens((await rm.pairings())[0])
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    [pairing] = await rm.pairings()
    [after] = await rm._state.store.candidate_tokens(pairing)
    assert before != after
    assert len(await cem.pairings()) == 1


@pytest.mark.rule("TRUST-04", "HMAC-02")
async def test_a_relay_with_its_own_certificate_is_noticed(cem: Endpoint, rm: Endpoint) -> None:
    ca = CertificateAuthority.create("relay", now=_now())
    relay = Interloper(cem, ca.issue(["127.0.0.1"], now=_now()))
    code = cem.node().issue_pairing_code()
    async with relay.running():
        with pytest.raises(WrongPairingCode):
            await rm.node().pair(relay.pairing_url, code)
        assert relay.seen == ["index", "requestPairing", "finalizePairing"]
    assert await rm.pairings() == await cem.pairings() == []
    await rm.node().pair(cem.pairing_url, code)


@pytest.mark.rule("TRUST-05")
@pytest.mark.parametrize("operation", ["requestPairing", "requestConnectionDetails", "finalizePairing"])
async def test_a_certificate_that_changes_in_mid_attempt_ends_it(cem: Endpoint, rm: Endpoint, operation: str) -> None:
    ca = CertificateAuthority.create("house", now=_now())
    front = Interloper(cem, identity_of(cem))

    async def spoil(name, forward):  # type: ignore[no-untyped-def]
        response = await forward()
        following = {"requestPairing": "index", "requestConnectionDetails": "requestPairing"}
        if name == following.get(operation, "requestConnectionDetails"):
            front.tls.replace(ca.issue(["127.0.0.1"], now=_now()))
            response.force_close()  # the next request needs a new handshake
        return response

    front.spoil = spoil
    async with front.running():
        with pytest.raises(CertificateChanged):
            await rm.node().pair(front.pairing_url, cem.node().issue_pairing_code())
        assert operation not in front.seen
    assert await rm.pairings() == []


@pytest.mark.rule("TRUST-01")
async def test_a_renewed_leaf_of_the_same_ca_keeps_pairing_and_later_ones(cem: Endpoint, rm: Endpoint) -> None:
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    before = identity_of(cem).leaf_fingerprint
    await cem.renew_certificate()
    assert identity_of(cem).leaf_fingerprint != before
    session = await anext(_open_both(cem, rm))
    assert session.info.remote == cem.node().id
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())


def _now():  # type: ignore[no-untyped-def]
    from datetime import UTC, datetime

    return datetime.now(UTC)


STEPS = ["index", "requestPairing", "requestConnectionDetails", "finalizePairing"]


@pytest.mark.rule("PAIRC-03", "PAIRC-06", "PAIRC-07")
@pytest.mark.parametrize("after", [False, True], ids=["before it acts", "after it acted"])
@pytest.mark.parametrize("step", [pytest.param("index", marks=pytest.mark.long), *STEPS[1:]])  # index: ten seconds
async def test_a_server_that_falls_silent_at_a_step_leaves_the_client_in_order(
    cem: Endpoint, rm: Endpoint, step: str, after: bool
) -> None:
    front = Interloper(cem, identity_of(cem))

    async def spoil(name, forward):  # type: ignore[no-untyped-def]
        if name != step:
            return await forward()
        if after:
            await forward()
        return await asyncio.sleep(60, None)

    front.spoil = spoil
    code = cem.node().issue_pairing_code()
    expected = PairingUnconfirmed if step == "finalizePairing" else NetworkError
    async with front.running():
        with pytest.raises(expected):
            await pair_impatiently(rm, front.pairing_url, code)
    pairings = await rm.pairings()
    if step == "finalizePairing":
        assert [p.confirmed for p in pairings] == [False]
    else:
        assert pairings == []
    # The endpoint goes on working.
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())


@pytest.mark.rule("PAIR-07", "PAIRC-06")
async def test_a_lost_answer_to_the_last_step_is_asked_for_again(cem: Endpoint, rm: Endpoint) -> None:
    front = Interloper(cem, identity_of(cem))
    lost = 0

    async def spoil(name, forward):  # type: ignore[no-untyped-def]
        nonlocal lost
        response = await forward()
        if name == "finalizePairing" and lost < 2:
            lost += 1
            raise ConnectionError
        return response

    front.spoil = spoil
    async with front.running():
        await pair_impatiently(rm, front.pairing_url, cem.node().issue_pairing_code())
    assert lost == 2
    assert [p.confirmed for p in await rm.pairings()] == [True]
    assert len(await cem.pairings()) == 1


@pytest.mark.rule("PAIRC-02", "PAIRC-07")
@pytest.mark.parametrize(
    ("step", "status", "body", "error"),
    [
        ("index", 200, b"<html>router login</html>", ProtocolViolation),
        ("index", 302, b"", ProtocolViolation),
        ("index", 200, b'["v2"]', S2ConnectError),
        ("requestPairing", 200, b"{}", ProtocolViolation),
        ("requestPairing", 200, b"[" * 60_000, ProtocolViolation),
        ("requestPairing", 200, b"x" * 1_000_000, ProtocolViolation),
        ("requestPairing", 204, b"", ProtocolViolation),
        ("requestPairing", 400, b'{"errorMessage":"Surprise"}', PairingRefused),
        ("requestPairing", 500, b"", PeerBusy),
        ("requestConnectionDetails", 200, b"{}", ProtocolViolation),
        ("requestConnectionDetails", 400, b"", ProtocolViolation),
        ("requestConnectionDetails", 403, b"", WrongPairingCode),
        ("finalizePairing", 400, b"", PairingError),
        ("finalizePairing", 401, b"", PairingExpired),
    ],
)
async def test_what_a_faulty_server_answers_is_named_and_nothing_is_kept(
    cem: Endpoint, rm: Endpoint, step: str, status: int, body: bytes, error: type[Exception]
) -> None:
    front = Interloper(cem, identity_of(cem))

    async def spoil(name, forward):  # type: ignore[no-untyped-def]
        return web.Response(status=status, body=body) if name == step else await forward()

    front.spoil = spoil
    async with front.running():
        with pytest.raises(error) as raised:
            await pair_impatiently(rm, front.pairing_url, cem.node().issue_pairing_code())
    assert len(str(raised.value)) > 20
    assert await rm.pairings() == []


@pytest.mark.rule("PAIR-12", "SEC-04", "PAIR-01")
async def test_malformed_oversized_and_deep_bodies_get_their_answer_and_the_server_goes_on(
    cem: Endpoint, rm: Endpoint
) -> None:
    context = pinned_client_context(cem._certificates._ca.certificate.public_bytes(_der()))  # type: ignore[union-attr]
    url = f"{cem.pairing_url}v1/requestPairing"
    bodies: list[tuple[bytes, int]] = [
        (b"", 400),
        (b"nonsense", 400),
        (b"\xff\xfe", 400),
        (b"{}", 400),
        (b'{"clientHmacChallenge": NaN}', 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
        (b'{"a":1,"a":2}', 400),
        (b'"' + b"x" * 70_000 + b'"', 413),
    ]
    async with aiohttp.ClientSession() as session:
        for body, status in bodies:
            async with session.post(url, data=body, ssl=context) as response:
                assert response.status == status, body[:20]
                if status == 400:
                    assert (await response.json())["errorMessage"] == "ParsingError"
        for path, status in (("v1/finalizePairing", 401), ("v1/requestConnectionDetails", 401), ("v2/x", 404)):
            async with session.post(f"{cem.pairing_url}{path}", data=b"{}", ssl=context) as response:
                assert response.status == status
        async with session.get(cem.pairing_url, ssl=context) as response:
            assert await response.json() == ["v1"]
    await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())


def _der():  # type: ignore[no-untyped-def]
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


@pytest.mark.rule("VER-01")
async def test_every_api_has_its_index(cem: Endpoint) -> None:
    context = pinned_client_context(cem._certificates._ca.certificate.public_bytes(_der()))  # type: ignore[union-attr]
    async with aiohttp.ClientSession() as session:
        for url in (cem.pairing_url, cem.session_url):
            async with session.get(url, ssl=context) as response:
                assert await response.json() == ["v1"]


@pytest.mark.rule("VER-05")
async def test_plain_http_is_not_served(cem: Endpoint) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(str(cem.pairing_url).replace("https", "http"))


def listening() -> set[int]:
    """TCP ports on which this process listens, by the kernel's own tables."""
    held = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(os.readlink(entry))
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            place, state, inode = (line.split()[column] for column in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in held:
                found.add(int(place.rpartition(":")[2], 16))
    return found


@pytest.mark.rule("VER-05")
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs the tables of a Linux kernel")
@pytest.mark.parametrize("role", list(Role))
async def test_no_port_of_an_endpoint_answers_without_tls(open_endpoint: OpenEndpoint, role: Role) -> None:
    before = listening()
    endpoint = await open_endpoint(lan_config(role))
    ports = listening() - before
    assert endpoint.pairing_url.port in ports
    for port in ports:
        for path in ("/pairing/", "/session/", "/"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            answered = b""
            with contextlib.suppress(ConnectionError):
                async with within(20):
                    answered = await reader.read()
            writer.close()
            assert b"HTTP/" not in answered, f"port {port} answers in the clear"


@pytest.mark.rule("PAIRC-07")
async def test_what_a_person_mistypes_is_named_before_anything_is_sent(rm: Endpoint) -> None:
    with pytest.raises(InvalidUrl):
        await rm.node().pair("http://127.0.0.1/pairing/", "ABCDEF")
    with pytest.raises(InvalidPairingCode):
        await rm.node().pair("https://127.0.0.1/pairing/", "AB-")
    with pytest.raises(NotReachable):
        await rm.node().pair("https://127.0.0.1:1/pairing/", "ABCDEF")
    with pytest.raises(NotReachable, match="name"):
        await rm.node().pair("https://does-not-exist.invalid/pairing/", "ABCDEF")


@pytest.mark.rule("PAIR-02", "PAIRC-04")
async def test_sixty_nodes_pair_in_the_time_of_a_few(open_endpoint: OpenEndpoint) -> None:
    nodes = tuple(NodeConfig(role=Role.CEM, alias=f"N{i}") for i in range(60))
    managers = await open_endpoint(EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=0, nodes=nodes))
    devices = tuple(NodeConfig(role=Role.RM, alias=f"D{i}") for i in range(60))
    street = await open_endpoint(EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=0, nodes=devices))

    async def pair(number: int) -> None:
        code = managers.node(alias=f"N{number}").issue_pairing_code()
        await street.node(alias=f"D{number}").pair(managers.pairing_url, code)

    started = time.monotonic()
    await asyncio.gather(*(pair(number) for number in range(60)))
    assert time.monotonic() - started < patience(20), "the second per node added up"
    assert len(await managers.pairings()) == 60


async def test_cancelling_a_pairing_is_prompt_and_leaves_nothing(cem: Endpoint, rm: Endpoint) -> None:
    task = asyncio.create_task(rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code()), name="test-pair")
    await until(lambda: cem._pairing.server._in_flight.total() == 1)
    task.cancel()
    started = time.monotonic()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert time.monotonic() - started < patience(0.5)
    assert await rm.pairings() == []


# The rules of the client, each seen from outside


@pytest.mark.rule("PAIRC-04")
@pytest.mark.parametrize("role", list(Role))
async def test_503_at_every_step_is_tried_again_and_is_no_failure(role: Role, open_endpoint: OpenEndpoint) -> None:
    server, client = await open_endpoint(lan_config(role.other)), await open_endpoint(lan_config(role))
    front = Interloper(server, identity_of(server))
    news = server.events()
    refused: list[str] = []

    async def spoil(name, forward):  # type: ignore[no-untyped-def]
        if name not in refused:
            refused.append(name)
            return web.Response(status=503)
        return await forward()

    front.spoil = spoil
    code = server.node().issue_pairing_code()
    async with front.running():
        await pair_impatiently(client, front.pairing_url, code)
    assert len(refused) == len(STEPS)
    assert isinstance(await anext(news), events.Paired), "no failed attempt at the server"
    assert [p.confirmed for p in await client.pairings()] == [True]


@pytest.mark.rule("PAIRC-02")
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"clientHmacChallengeResponse": "A" * 43 + "="}, WrongPairingCode),
        ({"selectedHmacHashingAlgorithm": "SHA512"}, ProtocolViolation),
        ({"serverHmacChallenge": "AAAA"}, ProtocolViolation),
        ({"serverNodeDescription": None}, ProtocolViolation),
        ({"role": "RM"}, PairingRefused),
    ],
    ids=str,
)
async def test_who_gives_up_with_an_attempt_id_tells_the_server_and_stops(
    cem: Endpoint, rm: Endpoint, change: dict[str, object], error: type[Exception]
) -> None:
    front = Interloper(cem, identity_of(cem))
    news = cem.events()

    async def spoil(name, forward):  # type: ignore[no-untyped-def]
        response = await forward()
        if name != "requestPairing":
            return response
        value = json.loads(response.body)
        if "role" in change:
            value["serverNodeDescription"]["role"] = change["role"]
        else:
            value.update(change)
        return web.json_response({k: v for k, v in value.items() if v is not None})

    front.spoil = spoil
    async with front.running():
        with pytest.raises(error):
            await pair_impatiently(rm, front.pairing_url, cem.node().issue_pairing_code())
    assert front.seen == ["index", "requestPairing", "finalizePairing"]
    assert json.loads(front.bodies[-1][1]) == {"success": False}
    failed = await anext(news)
    assert isinstance(failed, events.PairingFailed)
    assert failed.reason == "refused_by_client"


@pytest.mark.rule("PAIRC-03")
async def test_the_15_seconds_begin_with_the_answer_and_end_a_step_that_takes_longer(
    cem: Endpoint, rm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second here: its queue at the server costs the attempt nothing, what follows has that second in all."""
    lifetime = slowed(1.0)
    monkeypatch.setattr(client_core, "ATTEMPT_LIFETIME", lifetime)
    front = Interloper(cem, identity_of(cem))
    delay = {"requestPairing": 1.5 * lifetime, "requestConnectionDetails": 0.0}

    async def spoil(name, forward):  # type: ignore[no-untyped-def]
        await asyncio.sleep(delay.get(name, 0.0))
        return await forward()

    front.spoil = spoil
    patient = PairingTimings(request_pairing=600.0, step=600.0)
    async with front.running():
        await pair_impatiently(rm, front.pairing_url, cem.node().issue_pairing_code(), patient)
        delay["requestConnectionDetails"] = 600.0
        with pytest.raises(PairingExpired):
            async with within(10):
                await pair_impatiently(rm, front.pairing_url, cem.node().issue_pairing_code(), patient)


@pytest.mark.rule("PAIR-08")
async def test_the_access_token_counts_only_once_the_pairing_is_finalized(cem: Endpoint, rm: Endpoint) -> None:
    code = cem.node().issue_pairing_code()
    context = {"clientNodeId": "", "serverNodeId": str(cem.node().id)}
    async with stranger(cem) as client:
        context["clientNodeId"] = client.node

        async def initiate(token: str) -> int:
            body = {
                **context,
                "supportedCommunicationProtocols": ["WebSocket"],
                "supportedS2MessageVersions": ["v1.0.0"],
            }
            headers = {"Authorization": f"Bearer {token}"}
            url = f"{cem.session_url}v1/initiateSession"
            async with client.http.post(url, json=body, headers=headers) as response:
                return response.status

        _, answer = await client.request(Role.RM, os.urandom(32))
        proof = hmac.digest(
            base64.b64decode(answer["serverHmacChallenge"]),
            code.token.reveal().encode() + identity_of(cem).leaf_fingerprint,
            "sha256",
        )
        attempt = answer["pairingAttemptId"]
        body = {"serverHmacChallengeResponse": base64.b64encode(proof).decode()}
        status, details = await client.post("requestConnectionDetails", body, attempt)
        assert status == 200
        assert await initiate(details["accessToken"]) == 401
        status, _ = await client.post("finalizePairing", {"success": True}, attempt)
        assert status == 204
        cem.node().sessions()
        assert await initiate(details["accessToken"]) in (200, 400), "known now, whether or not it is ready"


@pytest.mark.rule("ROLE-01")
async def test_a_cem_has_many_rms_and_an_rm_one_cem(open_endpoint: OpenEndpoint) -> None:
    cem, other = await open_endpoint(lan_config(Role.CEM)), await open_endpoint(lan_config(Role.CEM))
    first, second = await open_endpoint(lan_config(Role.RM)), await open_endpoint(lan_config(Role.RM))
    for device in (first, second):
        await device.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
    assert {p.key.remote for p in await cem.pairings()} == {first.node().id, second.node().id}
    await first.node().pair(other.pairing_url, other.node().issue_pairing_code())
    assert [p.key.remote for p in await first.pairings()] == [other.node().id]
    assert [p.key.remote for p in await second.pairings()] == [cem.node().id]
