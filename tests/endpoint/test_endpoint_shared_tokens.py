"""Instances that connect to one server in turn present the token that the last of them got."""

from __future__ import annotations

from s2connect import Endpoint
from s2connect.events import TokenUnknown
from s2connect.session.http_client import SessionClient


async def test_no_instance_presents_a_token_that_another_one_has_replaced(cem: Endpoint, rm: Endpoint) -> None:
    server, device = cem.node(), rm.node()
    await device.pair(cem.pairing_url, server.issue_pairing_code())
    server._connections.started.set()
    events = cem.events()
    (pairing,) = await device.pairings()
    state = rm._state
    clients = [SessionClient(state.store, rm._transports, state.pki) for _ in range(2)]
    for client in clients:
        client.alone = False
    for client in clients * 2:
        own = state.local.nodes[device.id]
        connection, _ = await client.open(state.local, own, pairing, address="127.0.0.1")
        await connection.close()
    events.close()
    assert not [event async for event in events if isinstance(event, TokenUnknown)]
