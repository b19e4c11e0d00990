"""Sessions between two paired endpoints: rotation, reconnection, unpairing, and what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from s2connect import Endpoint, Message, NodeConfig, RefuseMessage, Role, Session, SessionEnd, events
from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.chain import capture_chain
from s2connect.certs.tls import pinned_client_context
from s2connect.errors import (
    CertificateRefused,
    ConnectionClosed,
    MessageRefused,
    NetworkError,
    NotPaired,
    NotReachable,
    SessionRefused,
    UsageError,
)
from s2connect.https.client import Destination, HttpsClient
from s2connect.messages.enums import Check
from s2connect.model.session_init import InitiateSession
from s2connect.store.base import PairKey, Pin, Record, token_digest
from s2connect.transports import backoff
from tests.endpoint.conftest import Interloper, OpenEndpoint, identity_of, lan_config
from tests.store.store_examples import active_digest, was_unpaired
from tests.waits import slowed, until, within

DETAILS = {
    "message_type": "ResourceManagerDetails",
    "resource_id": "battery-1",
    "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
    "instruction_processing_delay": 0,
    "available_control_types": ["FILL_RATE_BASED_CONTROL"],
    "provides_forecast": False,
    "provides_power_measurement_types": ["ELECTRIC.POWER.L1"],
}

MEASUREMENT = {
    "message_type": "PowerMeasurement",
    "measurement_timestamp": "2026-01-01T00:00:00Z",
    "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}],
}


class Application:
    """Takes the sessions of one node."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.sessions: list[Any] = []
        self.received: list[Any] = []
        self._readers: list[asyncio.Task[None]] = []
        self._task = asyncio.create_task(self._run(), name="test-application")

    async def _run(self) -> None:
        async for session in self.endpoint.node().sessions():
            self.sessions.append(session)
            self._readers.append(asyncio.create_task(self._read(session), name="test-reader"))

    async def _read(self, session: Any) -> None:
        async for message in session:
            self.received.append(message)

    async def stop(self) -> None:
        for task in (self._task, *self._readers):
            task.cancel()
        await asyncio.gather(self._task, *self._readers, return_exceptions=True)


@pytest.fixture
async def applications() -> AsyncIterator[Any]:
    made: list[Application] = []

    def make(endpoint: Endpoint) -> Application:
        made.append(Application(endpoint))
        return made[-1]

    yield make
    for application in made:
        await application.stop()


async def paired(cem: Endpoint, rm: Endpoint) -> PairKey:
    """Pair without the mandatory second, which other tests prove."""
    cem._pairing.server.delay = 0.0
    return (await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())).key


@pytest.mark.rule("SES-02", "SES-03", "SES-04", "SESC-03", "WS-01")
async def test_messages_go_both_ways_and_the_token_has_changed(cem: Endpoint, rm: Endpoint, applications: Any) -> None:
    await paired(cem, rm)
    [before] = await rm._state.store.candidate_tokens((await rm.pairings())[0])
    manager, device = applications(cem), applications(rm)
    await until(lambda: bool(manager.sessions and device.sessions))
    await device.sessions[0].send(DETAILS)
    await manager.sessions[0].send({"message_type": "SelectControlType", "control_type": "FILL_RATE_BASED_CONTROL"})
    await until(lambda: bool(manager.received and device.received))
    assert manager.received[0].body["resource_id"] == "battery-1"
    assert device.received[0].type == "SelectControlType"
    [after] = await rm._state.store.candidate_tokens((await rm.pairings())[0])
    assert after != before
    assert await active_digest(cem._state.store, (await cem.pairings())[0]) == token_digest(after)


@pytest.mark.parametrize(
    ("version", "check", "refused"),
    [("v1.0.0", Check.RULES, True), ("v1.0.0", Check.SCHEMA, False), ("v9", Check.RULES, False)],
)
async def test_how_far_messages_are_validated_is_a_setting_and_nothing_is_validated_of_an_unknown_version(
    open_endpoint: OpenEndpoint, version: str, check: Check, caplog: pytest.LogCaptureFixture, *, refused: bool
) -> None:
    nodes = {role: (NodeConfig(role=role, s2_versions=(version,)),) for role in Role}
    cem, rm = [await open_endpoint(lan_config(role, nodes=nodes[role])) for role in (Role.CEM, Role.RM)]
    await paired(cem, rm)
    sessions = (cem.node().sessions(check=check), rm.node().sessions(check=check))
    theirs, ours = await asyncio.gather(*(anext(one) for one in sessions))
    early = {"message_type": "FRBC.StorageStatus", "present_fill_level": 40.0}
    if refused:
        with pytest.raises(UsageError, match="MSG-02"):
            await ours.send(early)
    else:
        await ours.send(early)
        assert (await theirs.receive()).type == "FRBC.StorageStatus"
    assert ("messages are not validated" in caplog.text) is (version == "v9")


@pytest.mark.rule("MSG-03", "MSG-07")
async def test_what_an_energy_manager_refuses_for_good_ends_one_session_and_not_every_next_one(
    cem: Endpoint, rm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.endpoint.connections.random.random", lambda: 0.0)
    await paired(cem, rm)

    def decide(_: Session, message: Message) -> None:
        if message.type == "ResourceManagerDetails":
            raise RefuseMessage("PERMANENT_ERROR", "no batteries here")

    refused: list[MessageRefused] = []
    measured = asyncio.Event()

    async def manage() -> None:
        async for session in cem.node().sessions(answer=decide):
            async for message in session:
                assert message.type == "PowerMeasurement"
                measured.set()

    async def measure() -> None:
        async for session in rm.node().sessions():
            try:
                await session.send(DETAILS)
            except MessageRefused as error:
                refused.append(error)
            ends.append(session)
            with suppress(ConnectionClosed):
                await session.send(MEASUREMENT)
            await session.wait_closed()

    ends: list[Session] = []
    tasks = [asyncio.create_task(work()) for work in (manage, measure)]
    async with within(20):
        await measured.wait()
    assert [end.end_reason for end in ends] == [SessionEnd.PERMANENT_ERROR, SessionEnd.OPEN]
    assert [(error.status, error.label) for error in refused] == [("PERMANENT_ERROR", "no batteries here")] * 2
    assert "was not sent" in str(refused[1])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.rule("REC-01", "REC-02")
async def test_a_lost_connection_comes_back_by_itself_with_a_new_token(
    cem: Endpoint, rm: Endpoint, applications: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The delay itself is proven in its core.
    monkeypatch.setattr("s2connect.endpoint.connections.random.random", lambda: 0.0)
    await paired(cem, rm)
    manager, device = applications(cem), applications(rm)
    await until(lambda: bool(manager.sessions and device.sessions))
    for live in cem.connected().values():
        connection: Any = live.connection
        connection._transport.abort()
    await until(lambda: len(manager.sessions) == 2 and len(device.sessions) == 2)
    assert device.sessions[0].end_reason is SessionEnd.LOST
    await device.sessions[1].send(DETAILS)


@pytest.mark.rule("REC-03")
async def test_a_requested_reconnection_starts_anew(
    cem: Endpoint, rm: Endpoint, applications: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.endpoint.connections.random.random", lambda: 0.0)
    await paired(cem, rm)
    manager, device = applications(cem), applications(rm)
    await until(lambda: bool(manager.sessions and device.sessions))
    await manager.sessions[0].request_reconnect()
    await until(lambda: len(device.sessions) == 2)
    assert device.sessions[0].end_reason is SessionEnd.RECONNECT_REQUESTED


@pytest.mark.rule("UNP-01", "SES-05", "UNP-03", "WS-06")
async def test_the_communication_client_unpairs(cem: Endpoint, rm: Endpoint, applications: Any) -> None:
    key = await paired(cem, rm)
    manager, device = applications(cem), applications(rm)
    await until(lambda: bool(manager.sessions and device.sessions))
    seen = cem.events()
    await rm.node().unpair(key.remote)
    assert await rm.pairings() == await cem.pairings() == []
    event = await anext(seen)
    assert isinstance(event, events.Unpaired)
    assert event.by is events.UnpairedBy.PEER
    async with within(5):
        await manager.sessions[0].wait_closed()
    assert await was_unpaired(cem._state.store, PairKey(key.remote, key.local))
    with pytest.raises(NotPaired):
        await rm.node().unpair(key.remote)


@pytest.mark.rule("UNP-02", "SES-01", "SESC-05", "UNP-03")
async def test_the_communication_server_unpairs(cem: Endpoint, rm: Endpoint, applications: Any) -> None:
    key = await paired(cem, rm)
    manager, device = applications(cem), applications(rm)
    await until(lambda: bool(manager.sessions and device.sessions))
    seen = rm.events()
    await cem.node().unpair(key.local)
    told: list[events.Event] = []
    async with within(10):
        while not any(isinstance(e, events.Unpaired) for e in told):
            told.append(await anext(seen))
    assert device.sessions[0].end_reason is SessionEnd.RECONNECT_REQUESTED
    failed = next(e for e in told if isinstance(e, events.SessionFailed))
    assert failed.kind == "no_longer_paired"
    assert failed.retry_in is None
    assert await rm.pairings() == []


@pytest.mark.rule("UNP-02", "SES-05")
async def test_the_server_removes_all_asks_for_a_new_session_and_closes(
    cem: Endpoint, rm: Endpoint, applications: Any
) -> None:
    key = await paired(cem, rm)
    manager = applications(cem)
    connection, _ = await anext(rm.node().connections(connect=True))
    await until(lambda: bool(manager.sessions))
    [token] = await rm._state.store.candidate_tokens((await rm.pairings())[0])
    await cem.node().unpair(key.local)
    assert await cem._state.store.record(PairKey(key.remote, key.local)) == Record(unpaired=True), (
        "the material is gone"
    )
    texts: list[dict[str, Any]] = []
    async with within(10):
        async for text in connection:
            texts.append(json.loads(text))  # noqa: PERF401 - until the connection ends
    assert (texts[-1]["message_type"], texts[-1]["request"]) == ("SessionRequest", "RECONNECT")
    context = pinned_client_context(cem._certificates._ca.certificate.public_bytes(Encoding.DER))  # type: ignore[union-attr]
    async with HttpsClient(Destination(context)) as http:
        again = InitiateSession(
            client_node_id=key.local,
            server_node_id=key.remote,
            supported_s2_message_versions=("v1.0.0",),
            supported_communication_protocols=("WebSocket",),
        )
        reply = await http.post(cem.session_url, "v1", "initiateSession", again, bearer=token)
    assert (reply.status, json.loads(reply.body)["errorMessage"]) == (400, "NoLongerPaired")


@pytest.mark.rule("UNP-01")
async def test_unpairing_from_a_server_that_is_gone_says_so_and_can_be_forced(
    rm: Endpoint, open_endpoint: OpenEndpoint
) -> None:
    async with Endpoint.open(config=lan_config(Role.CEM)) as cem:
        key = await paired(cem, rm)
    with pytest.raises(NetworkError):
        await rm.node().unpair(key.remote)
    assert len(await rm.pairings()) == 1
    await rm.node().unpair(key.remote, forget=True)
    assert await rm.pairings() == []


@pytest.mark.rule("SES-01", "SESC-05")
async def test_a_server_that_knows_nothing_of_the_pairing_is_asked_again_after_hours(
    cem: Endpoint, rm: Endpoint, applications: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was restored from an older copy, and is put right."""
    assert 3600 <= backoff.after_refusal(0.0) < backoff.after_refusal(0.999) <= 86_400
    await paired(cem, rm)
    [pairing] = await cem.pairings()
    [token] = await rm._state.store.candidate_tokens((await rm.pairings())[0])
    await cem._state.store.remove_pairing(pairing, tombstone=False)
    seen = rm.events()
    monkeypatch.setattr(backoff, "REFUSED_DELAY", 0.2)
    manager, device = applications(cem), applications(rm)
    for _ in range(2):
        async with within(5):
            event = await anext(seen)
        assert isinstance(event, events.SessionFailed)
        assert event.kind == "access_refused"
        assert event.retry_in is not None
        assert "pair" in event.sentence
    assert len(await rm.pairings()) == 1
    await cem._state.store.save_pairing(pairing, token)
    await until(lambda: bool(manager.sessions and device.sessions))


@pytest.mark.rule("SES-07", "SESC-05")
async def test_an_access_token_of_five_years_counts_as_unknown_and_a_session_renews_it(
    cem: Endpoint, rm: Endpoint, applications: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await paired(cem, rm)
    [pairing] = await cem.pairings()
    [token] = await rm._state.store.candidate_tokens((await rm.pairings())[0])
    issued_at, years = time.time(), 365 * 86_400
    await cem._state.store.activate_token(pairing, token_digest(token), issued_at)
    clock = [issued_at + 5.1 * years]
    monkeypatch.setattr("s2connect.endpoint.state.time", SimpleNamespace(time=lambda: clock[0]))
    seen = rm.events()
    monkeypatch.setattr(backoff, "REFUSED_DELAY", 0.2)
    manager, device = applications(cem), applications(rm)
    async with within(5):
        event = await anext(seen)
    assert isinstance(event, events.SessionFailed)
    assert event.kind == "access_refused"
    assert any("older than five years" in text for text in caplog.messages), "the server's log says why"
    clock[0] = issued_at + 4.9 * years
    await until(lambda: bool(manager.sessions and device.sessions))
    record = await cem._state.store.record(pairing.key)
    assert record.issued_at == clock[0]


@pytest.mark.rule("SES-01")
async def test_without_an_application_the_server_is_not_ready_and_the_client_comes_back(
    cem: Endpoint, rm: Endpoint, applications: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await paired(cem, rm)
    seen = rm.events()
    monkeypatch.setattr("s2connect.endpoint.connections.random.random", lambda: 0.0)
    device = applications(rm)
    event = await anext(seen)
    assert isinstance(event, events.SessionFailed)
    assert event.kind == "session_refused"
    applications(cem)
    await until(lambda: bool(device.sessions))


@pytest.mark.rule("SESC-01", "SESC-03", "SES-03")
@pytest.mark.parametrize("acted", [False, True], ids=["server did not act", "server acted"])
async def test_a_lost_answer_to_the_confirmation_leaves_both_tokens_and_the_next_session_finds_the_right_one(
    cem: Endpoint, rm: Endpoint, applications: Any, acted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Interloper(cem, identity_of(cem))
    lost = False

    async def spoil(name: str, forward: Any) -> web.Response:
        nonlocal lost
        if name == "confirmAccessToken" and not lost:
            lost = True
            if acted:
                await forward()
            raise ConnectionError
        return await forward()

    front.spoil = spoil
    async with front.running():
        key = await paired(cem, rm)
        url = type(cem.session_url)(f"https://127.0.0.1:{front.port}/session/")
        monkeypatch.setattr(cem._pairing.server, "_session_url", lambda: url)
        key = (await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())).key
        applications(cem)
        local = rm._state.local
        [pairing] = await rm.pairings()
        await cem._connections[cem.node().id].start()
        with pytest.raises(NetworkError):
            await rm._client.open(local, local.nodes[key.local], pairing)
        assert len(await rm._state.store.candidate_tokens((await rm.pairings())[0])) == 2
        connection, _ = await rm._client.open(local, local.nodes[key.local], pairing)
        assert len(await rm._state.store.candidate_tokens((await rm.pairings())[0])) == 1
        await connection.close()


@pytest.mark.rule("SESC-04")
@pytest.mark.parametrize(
    "change",
    [{"selectedS2MessageVersion": "v9.9.9"}, {"selectedCommunicationProtocol": "Pigeon"}, {"accessToken": ""}],
)
async def test_what_was_not_offered_is_not_accepted(cem: Endpoint, rm: Endpoint, change: dict[str, str]) -> None:
    from s2connect.errors import ProtocolViolation

    key = await paired(cem, rm)
    await cem._connections[cem.node().id].start()
    front = Interloper(cem, identity_of(cem))

    async def spoil(name: str, forward: Any) -> web.Response:
        response = await forward()
        if name != "initiateSession":
            return response
        import json

        return web.json_response({**json.loads(response.body), **change})

    front.spoil = spoil
    async with front.running():
        [pairing] = await rm.pairings()
        from dataclasses import replace

        pairing = replace(
            pairing, initiate_session_url=type(cem.session_url)(f"https://127.0.0.1:{front.port}/session/")
        )
        with pytest.raises(ProtocolViolation):
            await rm._client.open(rm._state.local, rm._state.local.nodes[key.local], pairing)
    assert front.seen == ["index", "initiateSession"]
    assert len(await rm._state.store.candidate_tokens((await rm.pairings())[0])) == 1


@pytest.mark.rule("TRUST-06", "TRUST-07")
async def test_a_server_of_another_ca_gets_no_token(cem: Endpoint, rm: Endpoint) -> None:
    from dataclasses import replace
    from datetime import UTC, datetime

    await paired(cem, rm)
    now = datetime.now(UTC)
    thief = Interloper(cem, CertificateAuthority.create("thief", now=now).issue(["127.0.0.1"], now=now))
    async with thief.running():
        [pairing] = await rm.pairings()
        url = type(cem.session_url)(f"https://127.0.0.1:{thief.port}/session/")
        node = rm._state.local.nodes[rm.node().id]
        leaf = (await capture_chain("127.0.0.1", cem.session_url.port, timeout=slowed(10))).leaf_fingerprint
        for pin in (pairing.pin, Pin(pairing.pin.ca_fingerprint), Pin(leaf)):  # type: ignore[union-attr]
            with pytest.raises(CertificateRefused) as refused:
                await rm._client.open(rm._state.local, node, replace(pairing, initiate_session_url=url, pin=pin))
            assert refused.value.reason == "pin"
        assert thief.seen == []


@pytest.mark.rule("TRUST-07")
async def test_the_fingerprint_of_the_leaf_pins_the_root_that_is_shown_with_it(
    cem: Endpoint, rm: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    await paired(cem, rm)
    [pairing] = await rm.pairings()
    chain = await capture_chain("127.0.0.1", cem.session_url.port, timeout=slowed(10))
    given = replace(pairing, pin=Pin(chain.leaf_fingerprint))

    await rm._client.destination(given, cem.session_url, None)

    [pinned] = await rm.pairings()
    assert chain.ca_fingerprint is not None
    assert pinned.pin == Pin(chain.ca_fingerprint, chain.ca_der)
    assert "gave the fingerprint of its certificate when pairing" in caplog.text


@pytest.mark.rule("WS-02", "SES-04")
async def test_the_websocket_wants_its_token_once(cem: Endpoint, rm: Endpoint) -> None:
    context = pinned_client_context(cem._certificates._ca.certificate.public_bytes(Encoding.DER))  # type: ignore[union-attr]
    url = f"wss://127.0.0.1:{cem.pairing_url.port}/session/websocket"
    async with aiohttp.ClientSession() as session:
        for headers in ({}, {"Authorization": "Bearer " + base64.b64encode(os.urandom(32)).decode()}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(url, ssl=context, headers=headers)
            assert refused.value.status == 401


@pytest.mark.rule("WS-06")
async def test_a_second_session_of_a_pair_replaces_the_first(cem: Endpoint, rm: Endpoint) -> None:
    await paired(cem, rm)
    await cem._connections[cem.node().id].start()
    [pairing] = await rm.pairings()
    node = rm._state.local.nodes[rm.node().id]
    first, _ = await rm._client.open(rm._state.local, node, pairing)
    await until(lambda: len(cem.connected()) == 1)
    second, _ = await rm._client.open(rm._state.local, node, pairing)
    with pytest.raises(ConnectionClosed) as closed:
        async with within(5):
            await first.recv()
    assert "replaced" in closed.value.reason
    await second.send("{}")
    assert len(cem.connected()) == 1
    await second.close()


@pytest.mark.rule("SES-04", "WS-06")
async def test_an_older_offer_that_nobody_used_does_not_replace_a_newer_session(
    cem: Endpoint, rm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    await paired(cem, rm)
    await cem._connections[cem.node().id].start()
    [pairing] = await rm.pairings()
    node = rm._state.local.nodes[rm.node().id]
    websocket = rm._client._transports["WebSocket"]
    offered: list[Any] = []

    async def unused(*offer: Any) -> Any:
        offered.extend(offer)
        raise NotReachable("the client goes away before it connects")

    with monkeypatch.context() as patched:
        patched.setattr(websocket, "connect", unused)
        with pytest.raises(NotReachable):
            await rm._client.open(rm._state.local, node, pairing)
    newer, _ = await rm._client.open(rm._state.local, node, pairing)
    await until(lambda: len(cem.connected()) == 1)
    with pytest.raises(SessionRefused):
        await websocket.connect(*offered)
    await newer.send("{}")
    assert len(cem.connected()) == 1
    await newer.close()


@pytest.mark.rule("ROLE-06", "WS-06")
async def test_pairing_anew_ends_the_running_session_and_a_new_one_comes(
    cem: Endpoint, rm: Endpoint, applications: Any
) -> None:
    await paired(cem, rm)
    manager, device = applications(cem), applications(rm)
    await until(lambda: bool(manager.sessions and device.sessions))
    await paired(cem, rm)
    await until(lambda: len(manager.sessions) >= 2 and manager.sessions[0].end_reason is not SessionEnd.OPEN)


@pytest.mark.rule("PAIRC-06")
async def test_an_unconfirmed_pairing_of_the_communication_server_is_settled_by_the_first_session(
    cem: Endpoint, rm: Endpoint, applications: Any
) -> None:
    """The CEM is pairing client and loses the answer to the last step; the RM comes within the 15 seconds."""
    from tests.endpoint.test_endpoint_pairing import pair_impatiently

    rm._pairing.server.delay = 0.0
    front = Interloper(rm, identity_of(rm))

    async def spoil(name: str, forward: Any) -> web.Response:
        response = await forward()
        if name == "finalizePairing":
            raise ConnectionError
        return response

    front.spoil = spoil
    manager, device = applications(cem), applications(rm)
    from s2connect.errors import PairingUnconfirmed

    async with front.running():
        with pytest.raises(PairingUnconfirmed):
            await pair_impatiently(cem, front.pairing_url, rm.node().issue_pairing_code())
    await until(lambda: bool(manager.sessions and device.sessions))
    assert [p.confirmed for p in await cem.pairings()] == [True]


@pytest.mark.rule("PAIRC-06")
@pytest.mark.long
async def test_an_unconfirmed_pairing_whose_client_never_comes_is_dropped(cem: Endpoint, rm: Endpoint) -> None:
    from s2connect.errors import PairingUnconfirmed
    from tests.endpoint.test_endpoint_pairing import pair_impatiently

    front = Interloper(rm, identity_of(rm))

    async def spoil(name: str, forward: Any) -> web.Response:
        if name == "finalizePairing":
            raise ConnectionError
        return await forward()

    front.spoil = spoil
    async with front.running():
        with pytest.raises(PairingUnconfirmed):
            await pair_impatiently(cem, front.pairing_url, rm.node().issue_pairing_code())
    assert len(await cem.pairings()) == 1
    async with within(20):
        while await cem.pairings():
            await asyncio.sleep(0.2)


@pytest.mark.rule("SES-02")
async def test_what_a_node_says_of_itself_is_kept_up_to_date(cem: Endpoint, rm: Endpoint, applications: Any) -> None:
    key = await paired(cem, rm)
    fresh = rm._state.local.nodes[key.local].description.model_copy(update={"user_defined_name": "Cellar"})
    from dataclasses import replace

    renamed = replace(rm._state.local.nodes[key.local], description=fresh)
    rm._state.local = replace(rm._state.local, nodes={key.local: renamed})
    manager, _ = applications(cem), applications(rm)
    await until(lambda: bool(manager.sessions))
    assert manager.sessions[0].peer.user_defined_name == "Cellar"


async def test_closing_an_endpoint_says_goodbye_to_its_sessions(rm: Endpoint, applications: Any) -> None:
    async with Endpoint.open(config=lan_config(Role.CEM)) as cem:
        await paired(cem, rm)
        manager, device = applications(cem), applications(rm)
        await until(lambda: bool(manager.sessions and device.sessions))
    async with within(5):
        await device.sessions[0].wait_closed()
    assert device.sessions[0].end_reason is SessionEnd.CLOSED_BY_PEER
