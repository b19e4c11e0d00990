"""A stranger cannot keep others from pairing: wrong attempts and a full queue (ROLE-07, TOK-05, PAIR-02)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from typing import Any

import pytest

from s2connect import Endpoint, Role, events
from s2connect.errors import PairingRefused, WrongPairingCode
from s2connect.events import Event, Paired, PairingFailed
from s2connect.model.pairing import WaitForPairingAction, WaitForPairingOrder
from tests.endpoint.stranger import Stranger, stranger
from tests.waits import patience, until

HONEST = 3.0
"""Seconds that an honest pairing takes beside an attack; before the queue was fair it took 34."""


@pytest.mark.rule("TOK-05", "ROLE-07")
async def test_wrong_attempts_of_a_stranger_do_not_withdraw_a_code_and_the_user_is_told_once(
    cem: Endpoint, rm: Endpoint
) -> None:
    code = cem.node().issue_pairing_code()
    news = cem.events()
    seen: list[events.Event] = []
    async with stranger(cem, "127.0.0.2") as mallory:
        for _ in range(6):
            status, answer = await mallory.request(Role.RM, os.urandom(32))
            assert status == 200
            assert await mallory.finish(answer["pairingAttemptId"], answer["clientHmacChallengeResponse"]) == [403, 401]
            seen.append(await anext(news))
            if len(seen) == 5:
                seen.append(await anext(news))
    assert [type(event).__name__ for event in seen] == ["PairingFailed"] * 5 + ["Notice", "PairingFailed"]
    notice = seen[5]
    assert isinstance(notice, events.Notice)
    assert notice.kind == "code_attacked"
    assert f"pair with {cem.node().description.title} have failed" in notice.sentence
    pairing = await rm.node().pair(cem.pairing_url, code)
    assert [p.key.remote for p in await cem.pairings()] == [pairing.key.local]


@pytest.mark.rule("TOK-05")
async def test_a_short_code_is_withdrawn_by_five_failures(cem: Endpoint) -> None:
    cem.node().issue_pairing_code(token="SHORT7")
    news = cem.events()
    async with stranger(cem) as mallory:
        for _ in range(5):
            _, answer = await mallory.request(Role.RM, os.urandom(32))
            await mallory.finish(answer["pairingAttemptId"], answer["clientHmacChallengeResponse"])
            assert isinstance(await anext(news), events.PairingFailed)
    assert isinstance(await anext(news), events.CodeWithdrawn)
    assert cem.node().valid_pairing_code() is None


async def _flood(mallory: Stranger, answered: list[int]) -> None:
    while True:
        status, _ = await mallory.request(Role.RM, os.urandom(32))
        answered.append(status)
        await asyncio.sleep(0.05)


@pytest.mark.rule("PAIR-02", "ROLE-07")
async def test_an_address_that_floods_a_node_does_not_keep_another_from_pairing(cem: Endpoint, rm: Endpoint) -> None:
    code = await cem.node().set_static_code("STICKER42")
    answered: list[int] = []
    async with stranger(cem, "127.0.0.2") as mallory:
        floods = [asyncio.create_task(_flood(mallory, answered), name=f"test-flood-{n}") for n in range(14)]
        try:
            await until(lambda: answered.count(503) >= 20)
            started = time.monotonic()
            await rm.node().pair(cem.pairing_url, code)
            took = time.monotonic() - started
        finally:
            for flood in floods:
                flood.cancel()
            await asyncio.gather(*floods, return_exceptions=True)
    assert took < patience(HONEST)


@pytest.mark.rule("PAIR-02")
async def test_a_client_that_has_gone_leaves_the_queue_and_makes_no_attempt(cem: Endpoint, rm: Endpoint) -> None:
    code = cem.node().issue_pairing_code(token="SHORT7")
    news = cem.events()
    async with stranger(cem) as mallory:
        asked = [asyncio.create_task(mallory.request(Role.RM, os.urandom(32)), name=f"test-{n}") for n in range(5)]
        await until(lambda: cem._pairing.server._in_flight.total() == 5)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    await until(lambda: cem._pairing.server._in_flight.total() == 0)
    await rm.node().pair(cem.pairing_url, code)
    assert isinstance(await anext(news), events.Paired), "no failure before it"


async def _wait(client: Stranger, device: Endpoint, **more: Any) -> tuple[int, Any]:
    """A waitForPairing in the name of a device."""
    endpoint = device._state.local
    [node] = endpoint.nodes.values()
    described = {
        "clientNodeId": str(node.id),
        "clientNodeDescription": node.description.to_value(),
        "clientEndpointDescription": endpoint.description.to_value(),
        **more,
    }
    return await client.post("waitForPairing", json.dumps([described]).encode())


@pytest.mark.rule("ROLE-07", "LP-05", "ROLE-03")
@pytest.mark.parametrize("device_comes", [True, False])
async def test_whoever_fails_in_the_name_of_a_waiting_device_does_not_keep_it_from_pairing(
    cem: Endpoint, rm: Endpoint, device_comes: bool
) -> None:
    code = rm.node().issue_pairing_code()
    async with stranger(cem, "127.0.0.2") as mallory, stranger(cem) as device:
        polls = [asyncio.create_task(_wait(who, rm), name="test-poll") for who in (device, mallory)]
        await until(lambda: bool(cem.waiting()) and len(cem._lan._long_polling._core._waiters) == 2)  # type: ignore[union-attr]
        pairing = asyncio.create_task(cem.node().pair_waiting(rm.node().id, code), name="test-pair")
        assert [(await poll)[1][0]["action"] for poll in polls] == ["requestPairing"] * 2
        mallory.node = str(rm.node().id)
        lie = asyncio.create_task(_wait(mallory, rm, errorMessage="NoValidTokenOnPairingClient"), name="test-lie")
        _, answer = await mallory.request(Role.RM, os.urandom(32))
        assert await mallory.finish(answer["pairingAttemptId"], answer["clientHmacChallengeResponse"]) == [403, 401]
        if device_comes:
            rm._pairing.follow_order(
                WaitForPairingOrder(client_node_id=rm.node().id, action=WaitForPairingAction.REQUEST_PAIRING),
                cem.pairing_url,
            )
            assert (await pairing).key.remote == rm.node().id
        else:
            with pytest.raises(PairingRefused):
                await pairing
        lie.cancel()
        await asyncio.gather(lie, return_exceptions=True)


@pytest.mark.rule("TOK-04", "ROLE-03")
@pytest.mark.parametrize(
    ("its_code", "outcome"),
    [
        ("4KX79M2PQRST", Paired),
        pytest.param("4kx79m2pqrst", Paired, marks=pytest.mark.long),
        pytest.param("9KX79M2PQRST", PairingFailed, marks=pytest.mark.long),
    ],
    ids=["ours", "of another maker", "another code"],
)
async def test_a_code_of_a_waiting_device_is_tried_in_both_ways_in_which_it_can_be_read(
    cem: Endpoint, rm: Endpoint, its_code: str, outcome: type[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errata S2C-46: the energy manager has to know the code before the device proves it. One pairing, one outcome."""
    monkeypatch.setattr("s2connect.endpoint.local_network.FAILURE_GRACE", 0.2)
    events = cem.events()
    rm.node().issue_pairing_code(token=its_code)

    async def wait(device: Stranger) -> None:
        while True:
            _, orders = await _wait(device, rm)
            if orders and orders[0]["action"] == "requestPairing":
                order = WaitForPairingOrder(client_node_id=rm.node().id, action=WaitForPairingAction.REQUEST_PAIRING)
                rm._pairing.follow_order(order, cem.pairing_url)

    async with stranger(cem) as device:
        waiting = asyncio.create_task(wait(device), name="test-poll")
        await until(lambda: bool(cem.waiting()))
        with contextlib.nullcontext() if outcome is Paired else pytest.raises(WrongPairingCode):
            pairing = await cem.node().pair_waiting(rm.node().id, "4kx7 9m2p qrst")
            assert pairing.key.remote == rm.node().id
        assert [type(event) for event in events._waiting if isinstance(event, Paired | PairingFailed)] == [outcome]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
