"""Many nodes at once."""

from __future__ import annotations

import asyncio
import os
import resource

import pytest

from s2connect import CommunicationRole, EndpointConfig, NodeConfig, Pairing, PairKey, Pin, Role, Session
from s2connect.endpoint.endpoint import Endpoint
from s2connect.model.secret import AccessToken
from s2connect.transports.websocket_connection import WebSocketConnection
from tests.endpoint.conftest import MEASUREMENT, OpenEndpoint, lan_config
from tests.waits import within

FLEET = 1000


async def introduce(cem: Endpoint, fleet: Endpoint) -> None:
    """Pair every device with the energy manager, without the second that each pairing takes."""
    manager = cem.node()
    assert cem._certificates._ca is not None
    ca = cem._certificates._ca.certificate
    from cryptography.hazmat.primitives.serialization import Encoding

    pin = Pin(cem.ca_fingerprint or b"", ca.public_bytes(Encoding.DER))
    for node in fleet.nodes.values():
        token = AccessToken.from_bytes(os.urandom(32))
        theirs, ours = PairKey(manager.id, node.id), PairKey(node.id, manager.id)
        described = cem._state.local.description, fleet._state.local.description
        await cem._state.store.save_pairing(
            Pairing(theirs, CommunicationRole.SERVER, node.description, described[1]), token
        )
        await fleet._state.store.save_pairing(
            Pairing(ours, CommunicationRole.CLIENT, manager.description, described[0], cem.session_url, pin), token
        )


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.rule("WS-04")
async def test_a_thousand_idle_sessions_on_one_server_stay_alive(
    open_endpoint: OpenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    cem = await open_endpoint(lan_config(Role.CEM))
    devices = tuple(NodeConfig(role=Role.RM, alias=f"D{i}") for i in range(FLEET))
    fleet = await open_endpoint(EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=0, nodes=devices), serve=False)
    # Several ping intervals, in little time.
    monkeypatch.setattr(WebSocketConnection, "ping_interval", 5.0)
    monkeypatch.setattr(WebSocketConnection, "peer_timeout", 15.0)
    await introduce(cem, fleet)
    managed = cem.node().sessions()
    held: list[Session] = []

    async def take() -> None:
        held.extend([session async for session in managed])

    taking = asyncio.create_task(take(), name="test-take")
    opened = [asyncio.create_task(anext(node.sessions()), name="test-open") for node in fleet.nodes.values()]
    try:
        sessions = await asyncio.gather(*opened)
        async with within(30):
            while len(cem.connected()) < FLEET:
                await asyncio.sleep(0.1)
        await asyncio.sleep(21)
        assert len(cem.connected()) == len(fleet.connected()) == FLEET
        await asyncio.gather(*(session.send(MEASUREMENT) for session in sessions))
    finally:
        for task in (taking, *opened):
            task.cancel()
        await asyncio.gather(taking, *opened, return_exceptions=True)
