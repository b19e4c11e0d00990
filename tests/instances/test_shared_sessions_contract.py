"""The contract of pending tokens, in memory and in PostgreSQL."""

from __future__ import annotations

import os
import time

import pytest

from s2connect.model.secret import TOKEN_ENTROPY, AccessToken
from s2connect.model.session_init import InitiateSession, InitiateSessionResponse
from s2connect.pairing.code import PairingToken
from s2connect.session.server_core import Accepted, Activation, Holder
from s2connect.store.base import Pairing
from s2connect.transports.base import ConnectionInfo
from tests.instances.instances import NODES, TOKEN, Instance, instances, session_request
from tests.instances.test_instances_at_once import pair

URL = "wss://i0.i.cloud.example:443/session/websocket"


async def paired(instance: Instance) -> Pairing:
    await instance.pairing.new_code(instance.state.local.nodes[NODES[0]], PairingToken(TOKEN))
    await pair([instance], 1)
    (pairing,) = await instance.store.pairings()
    return pairing


async def issued(instance: Instance, pairing: Pairing, holder: Holder | None) -> AccessToken:
    accepted = Accepted(pairing, "WebSocket", "v1.0.0", InitiateSession.from_json(session_request(1)))
    async with instance.pairings.shared.issuing(pairing.key) as (core, now):
        entropy = os.urandom(TOKEN_ENTROPY)
        reply = core.issue(instance.state.local, accepted, now=now, entropy=entropy, holder=holder)
    assert isinstance(reply.body, InitiateSessionResponse)
    return reply.body.access_token


@pytest.mark.rule("SES-02", "SES-03")
@pytest.mark.parametrize("where", ["memory", "postgresql"])
async def test_a_pending_token_keeps_its_holder(where: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgresql") if where == "postgresql" else None
    async with instances(url) as (instance,):
        pairing = await paired(instance)
        offers = instance.pairings.offers
        here = Holder("" if offers is None else offers.holder, URL)
        for holder in (here, None, here):
            token = await issued(instance, pairing, holder)
            async with instance.pairings.shared.confirming(token) as (core, now):
                decision = core.confirm(token, now=now)
                assert isinstance(decision, Activation)
                assert (decision.holder, decision.protocol, decision.s2_version) == (holder, "WebSocket", "v1.0.0")
                info = ConnectionInfo("WebSocket", pairing.key.local, pairing.key.remote, "v1.0.0", "")
                details = await instance.pairings.shared.activate(decision, info, time.time())
                named = getattr(details, "websocket_url", None)
                expected = URL if holder is here else "wss://cloud.example:443/session/websocket"
                assert named == (expected if where == "postgresql" else None), "the transport of one process offers"
            async with instance.pairings.shared.confirming(token) as (core, now):
                assert not isinstance(core.confirm(token, now=now), Activation), "once"
