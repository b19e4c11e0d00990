"""Observation of a running service: what it shows is so."""

from __future__ import annotations

import asyncio
import contextlib
import json

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role
from s2connect.web.facts import PeerState, write_json
from s2connect.web.observation import Observation
from tests.waits import until


def config(role: Role) -> EndpointConfig:
    node = NodeConfig(role=role, brand="Acme", type="Device", model_name="One")
    return EndpointConfig(host="127.0.0.1", port=0, bind="127.0.0.1", advertise=False, nodes=(node,))


async def test_a_new_endpoint_shows_itself_and_nobody_else() -> None:
    async with Endpoint.open(config=config(Role.CEM)) as endpoint:
        snapshot = Observation(endpoint).snapshot()
    assert snapshot.service.kind == "serve"
    assert [node.role for node in snapshot.nodes] == [Role.CEM]
    assert snapshot.peers == ()
    assert snapshot.certificate is not None
    assert snapshot.certificate.left > 0
    assert json.loads(write_json(snapshot))["nodes"][0]["description"]["brand"] == "Acme"


async def test_a_pairing_is_shown_once_it_stands() -> None:
    async with Endpoint.open(config=config(Role.CEM)) as cem, Endpoint.open(config=config(Role.RM)) as rm:
        observation = Observation(cem)
        task = asyncio.create_task(observation.run())
        await rm.node().pair(str(cem.pairing_url), cem.node().issue_pairing_code())
        await until(lambda: observation.snapshot().peers)
        (peer,) = observation.snapshot().peers
        assert peer.peer.id == rm.node().id
        assert peer.state is not PeerState.CONNECTED
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
