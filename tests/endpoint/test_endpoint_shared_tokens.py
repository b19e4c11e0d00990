"""Tokens that a client presents where several instances, or attempts that were cut short, have changed them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from s2connect import Endpoint
from s2connect.events import TokenUnknown
from s2connect.model.secret import AccessToken
from s2connect.session.http_client import SessionClient
from s2connect.store.base import token_digest
from tests.waits import until


async def test_no_instance_presents_a_token_that_another_one_has_replaced(
    cem: Endpoint, rm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, device = cem.node(), rm.node()
    await device.pair(cem.pairing_url, server.issue_pairing_code())
    server._connections.started.set()
    unknown: list[Any] = []
    monkeypatch.setattr(cem._pairings, "token_unknown", lambda *of: unknown.append(of))
    (pairing,) = await device.pairings()
    state = rm._state
    clients = [SessionClient(state.store, rm._transports, state.pki) for _ in range(2)]
    for client in clients:
        client.alone = False
    for client in clients * 2:
        own = state.local.nodes[device.id]
        connection, _ = await client.open(state.local, own, pairing, address="127.0.0.1")
        await connection.close()
    assert not unknown


@pytest.mark.rule("SESC-03")
async def test_the_older_of_two_tokens_is_no_sign_of_an_older_copy_where_the_newer_one_follows(
    cem: Endpoint, rm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was killed once it had activated the token, before it said so."""
    monkeypatch.setattr("s2connect.endpoint.connections.UNKNOWN_TOKEN_GRACE", 0.2)
    server, device = cem.node(), rm.node()
    await device.pair(cem.pairing_url, server.issue_pairing_code())
    manager = server._connections
    manager.started.set()
    (pairing,), (theirs,) = await device.pairings(), await cem.pairings()
    token = AccessToken.from_bytes(bytes(range(32)))
    await rm._state.store.add_pending_token(pairing, token)
    await cem._state.store.activate_token(theirs, token_digest(token), 1.8e9)
    events = cem.events()
    client = SessionClient(rm._state.store, rm._transports, rm._state.pki)
    connection, _ = await client.open(rm._state.local, rm._state.local.nodes[device.id], pairing, address="127.0.0.1")
    await connection.close()
    assert not manager._suspected

    manager.token_unknown(theirs, token_digest(token))  # whose newer token comes to another instance
    await until(lambda: not manager._suspected)
    record = await cem._state.store.record(theirs.key)
    assert record.confirmed is not None
    manager.token_unknown(theirs, record.confirmed[1])
    manager._pairing_ended(theirs.key.remote)
    await asyncio.sleep(0)
    assert not manager._suspected
    events.close()
    assert not [event async for event in events if isinstance(event, TokenUnknown)]
    seen = cem.events()
    for _ in range(3):
        manager.token_unknown(theirs, record.confirmed[1])
    await until(lambda: not manager._suspected)
    seen.close()
    assert len([event async for event in seen if isinstance(event, TokenUnknown)]) == 1


async def test_an_error_while_an_unknown_token_is_looked_at_is_reported_and_the_next_one_is_looked_at(
    cem: Endpoint, rm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.endpoint.connections.UNKNOWN_TOKEN_GRACE", 0.0)
    server, device = cem.node(), rm.node()
    await device.pair(cem.pairing_url, server.issue_pairing_code())
    manager = server._connections
    (pairing,) = await cem.pairings()
    record = await cem._state.store.record(pairing.key)
    assert record.confirmed is not None

    async def fails(_: object) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as broken:
        broken.setattr(cem._state.store, "record", fails)
        manager.token_unknown(pairing, record.confirmed[1])
        await until(lambda: bool(cem.supervisor.failures.counts["unknown-token"]))
    assert not manager._suspected
    manager.token_unknown(pairing, record.confirmed[1])
    await until(lambda: manager.history_of(pairing.key.remote).trouble is not None)
