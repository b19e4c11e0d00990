"""Every request of a pairing attempt and of a session initiation may go to another instance."""

from __future__ import annotations

import hashlib
import json

import pytest

from s2connect.events import Paired
from s2connect.pairing.code import PairingToken
from tests.instances.instances import (
    NODES,
    TOKEN,
    Instance,
    b64,
    instances,
    pairing_request,
    proof_of,
    session_request,
)


async def issue(instance: Instance, token: str = TOKEN, lifetime: float | None = 300.0) -> None:
    local = instance.state.local.nodes[NODES[0]]
    await instance.pairing.new_code(local, PairingToken(token), lifetime)


@pytest.mark.rule("PAIR-07")
async def test_a_pairing_and_a_session_whose_requests_go_to_three_instances(postgresql: str) -> None:
    async with instances(postgresql, 3) as (one, two, three):
        await issue(one)
        begun = await two.ask("pairing/requestPairing", pairing_request(1, b64(hashlib.sha256(b"1").digest())))
        assert begun.status == 200
        attempt = begun.body["pairingAttemptId"]
        proof = json.dumps({"serverHmacChallengeResponse": proof_of(begun.body["serverHmacChallenge"])}).encode()
        details = await three.ask("pairing/requestConnectionDetails", proof, attempt)
        assert details.status == 200
        assert await one.ask("pairing/requestConnectionDetails", proof, attempt) == details
        for instance in (one, two, three):
            assert (await instance.ask("pairing/finalizePairing", b'{"success": true}', attempt)).status == 204
        assert [sum(isinstance(event, Paired) for event in each.happened) for each in (one, two, three)] == [1, 0, 0]
        assert not (await three.pairing.code_statuses(list(three.state.local.nodes.values())))[NODES[0]].code

        access = details.body["accessToken"]
        pending = await two.ask("session/initiateSession", session_request(1), access)
        assert pending.status == 200
        confirmed = await three.ask("session/confirmAccessToken", b"", pending.body["accessToken"])
        assert confirmed.status == 200
        assert (await one.ask("session/confirmAccessToken", b"", pending.body["accessToken"])).status == 401
        assert (await one.ask("session/initiateSession", session_request(1), access)).status == 401
        again = await one.ask("session/initiateSession", session_request(1), pending.body["accessToken"])
        assert again.status == 200
