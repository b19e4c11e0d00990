"""Requests to several instances at the same moment: reflections, one code for two, confirmations and unpairings."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence

import psycopg
import pytest

from s2connect.errors import NotPaired
from s2connect.events import Paired
from s2connect.model.common import EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.pairing import rate_limiter
from s2connect.pairing.code import PairingToken
from s2connect.shared import pairing as shared_pairing
from s2connect.store.base import Pairing, PairKey
from s2connect.store.postgresql.database import Transaction
from s2connect.store.postgresql.store import PostgresqlStore
from tests.instances.instances import (
    KEY,
    NODES,
    TOKEN,
    Answered,
    Instance,
    b64,
    client_id,
    instances,
    pairing_request,
    proof_of,
    session_request,
)


async def issue(instance: Instance, node: int = 0, lifetime: float | None = 300.0) -> None:
    local = instance.state.local.nodes[NODES[node]]
    await instance.pairing.new_code(local, PairingToken(TOKEN), lifetime)


async def begin(instance: Instance, client: int, challenge: str | None = None, node: int = 0) -> Answered:
    drawn = b64(random.randbytes(32))
    return await instance.ask("pairing/requestPairing", pairing_request(client, challenge or drawn, node))


async def exchange(instance: Instance, begun: Answered) -> Answered:
    proof = json.dumps({"serverHmacChallengeResponse": proof_of(begun.body["serverHmacChallenge"])}).encode()
    return await instance.ask("pairing/requestConnectionDetails", proof, begun.body["pairingAttemptId"])


async def finalize(instance: Instance, begun: Answered) -> Answered:
    return await instance.ask("pairing/finalizePairing", b'{"success": true}', begun.body["pairingAttemptId"])


async def pair(several: Sequence[Instance], client: int) -> str:
    """Pair a device through any instances; return its access token. The code is a static one."""
    begun = await begin(random.choice(several), client)
    details = await exchange(random.choice(several), begun)
    assert (await finalize(random.choice(several), begun)).status == 204
    return str(details.body["accessToken"])


@pytest.mark.rule("HMAC-05")
async def test_a_proof_that_an_attempt_at_another_instance_accepts_is_never_sent(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros at the end of a challenge make another challenge with the same HMAC, up to 64 bytes."""
    monkeypatch.setattr(rate_limiter, "MAX_QUEUED_PER_ADDRESS", 100)
    async with instances(postgresql, 3, nodes=2) as several:
        for node in range(2):
            await issue(several[0], node, None)
        live = [await begin(random.choice(several), number) for number in range(10)]

        async def reflect(number: int) -> None:
            begun = live[number % len(live)]
            challenge = base64.b64decode(begun.body["serverHmacChallenge"]) + bytes((0, 1, 32)[number % 3])
            # The other node has the same code, and its turn at the same time.
            answered = await begin(random.choice(several), 100 + number, b64(challenge), node=number % 2)
            assert (answered.status, answered.body.get("errorMessage")) == (400, "Other")

        await asyncio.gather(*(reflect(number) for number in range(20)))
        assert (await exchange(several[1], live[0])).status == 200, "the attempts themselves go on"


@pytest.mark.rule("HMAC-05")
@pytest.mark.long
async def test_hundreds_of_reflections_while_attempts_begin(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter, "MAX_QUEUED_PER_ADDRESS", 100)
    monkeypatch.setattr(rate_limiter, "FREE_FAILURES", 10**6)  # those that are left alone fail
    async with instances(postgresql, 3) as several:
        await issue(several[0], 0, None)
        refused = 0

        for number in range(100):
            begun = await begin(several[number % 3], number)
            assert begun.status == 200
            reflections = (
                begin(instance, 1000 + number, begun.body["serverHmacChallenge"])
                for instance in random.sample(several, 3)
            )
            for answered in await asyncio.gather(*reflections):
                assert (answered.status, answered.body.get("errorMessage")) == (400, "Other")
                refused += 1
        assert refused == 300


@pytest.mark.rule("TOK-05")
async def test_one_code_makes_one_pairing_however_many_finish_with_it_at_once(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limiter, "FREE_FAILURES", 100)
    async with instances(postgresql, 3) as several:
        for round_ in range(2):
            await issue(several[round_ % 3])
            begun = [await begin(several[number], 10 * round_ + number) for number in range(3)]
            assert [(await exchange(random.choice(several), one)).status for one in begun] == [200] * 3
            answered = await asyncio.gather(
                *(finalize(several[(number + round_) % 3], one) for number, one in enumerate(begun))
            )
            assert Counter(one.status for one in answered) == {204: 1, 400: 2}
            again = [await finalize(several[round_ % 3], one) for one in begun]
            assert [one.status for one in again] == [one.status for one in answered], "repeats get the same"
        assert len(await several[0].store.pairings()) == 2
        assert sum(isinstance(event, Paired) for one in several for event in one.happened) == 2


@pytest.mark.rule("PAIR-07")
async def test_the_same_request_at_several_instances_at_once_is_one_attempt(postgresql: str) -> None:
    async with instances(postgresql, 3) as several:
        await issue(several[0])
        challenge = b64(hashlib.sha256(b"one").digest())
        answered = await asyncio.gather(*(begin(one, 1, challenge) for one in several))
        assert [one.status for one in answered] == [200] * 3
        assert answered[0] == answered[1] == answered[2]
        details = await asyncio.gather(*(exchange(one, answered[0]) for one in several))
        assert details[0] == details[1] == details[2]
        ended = await asyncio.gather(*(finalize(one, answered[0]) for one in several))
        assert [one.status for one in ended] == [204] * 3
        assert len(await several[0].store.pairings()) == 1


@pytest.mark.rule("SES-03")
async def test_of_the_pending_tokens_of_a_pair_one_is_activated(postgresql: str) -> None:
    async with instances(postgresql, 3) as several:
        await issue(several[0], 0, None)
        access = await pair(several, 1)
        for _ in range(2):
            pending = [
                (await one.ask("session/initiateSession", session_request(1), access)).body["accessToken"]
                for one in several
            ]
            confirmed = await asyncio.gather(
                *(one.ask("session/confirmAccessToken", b"", token) for one in several for token in pending)
            )
            assert Counter(one.status for one in confirmed) == {200: 1, 401: 8}
            (number,) = (number % 3 for number, one in enumerate(confirmed) if one.status == 200)
            access = pending[number]


async def _roam(several: Sequence[Instance], client: int, rounds: int, codes: Counter[int]) -> None:
    """Pair, begin sessions and unpair, as one device that loses answers and asks everybody at once."""
    for _ in range(rounds):
        access = await pair(several, client)
        for _ in range(3):
            answered = await asyncio.gather(
                *(
                    random.choice(several).ask("session/initiateSession", session_request(client), access)
                    for _ in range(3)
                )
            )
            codes.update(one.status for one in answered)
            pending = [one.body["accessToken"] for one in answered if one.status == 200]
            confirmed = await asyncio.gather(
                *(random.choice(several).ask("session/confirmAccessToken", b"", token) for token in pending * 2)
            )
            codes.update(one.status for one in confirmed)
            won = [token for token, one in zip(pending * 2, confirmed, strict=True) if one.status == 200]
            assert len(won) == 1
            access = won[0]
        again = random.choice(several).ask("session/initiateSession", session_request(client), access)
        if random.random() < 0.5:
            ids = {"clientNodeId": str(client_id(client)), "serverNodeId": str(NODES[0])}
            unpair = random.choice(several).ask("session/unpair", json.dumps(ids).encode(), access)
            codes.update(one.status for one in await asyncio.gather(again, unpair))
        else:
            ours = random.choice(several).pairings.unpair(NODES[0], NodeId(client_id(client)))
            found = await asyncio.gather(again, ours, return_exceptions=True)
            assert all(isinstance(one, Answered | NotPaired) or not isinstance(one, Exception) for one in found)


def _deadlocks(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


async def _roam_all(url: str, monkeypatch: pytest.MonkeyPatch, clients: int, rounds: int) -> None:
    monkeypatch.setattr(rate_limiter, "MAX_QUEUED_PER_ADDRESS", 100)
    codes: Counter[int] = Counter()
    before = _deadlocks(url)  # of other tests, which had this database
    async with instances(url, 3) as several:
        await issue(several[0], 0, None)
        sweeping = asyncio.create_task(_sweep(several))
        try:
            await asyncio.gather(*(_roam(several, client, rounds, codes) for client in range(clients)))
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
        assert codes.keys() <= {200, 204, 400, 401}, "nothing has failed"
        assert not await several[0].store.pairings()
    assert _deadlocks(url) == before


async def _sweep(several: Sequence[Instance]) -> None:
    while True:
        for instance in several:
            await instance.pairing.shared.sweep()  # type: ignore[attr-defined]  # that of PostgreSQL
            await instance.pairings.shared.sweep()  # type: ignore[attr-defined]
        await asyncio.sleep(0)


async def test_confirmations_pairings_and_unpairings_never_wait_in_a_circle(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _roam_all(postgresql, monkeypatch, clients=3, rounds=1)


@pytest.mark.long
async def test_nor_do_many(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await _roam_all(postgresql, monkeypatch, clients=6, rounds=4)


@pytest.mark.rule("ROLE-05")
async def test_a_pairing_waits_for_one_that_another_instance_agrees_on_as_the_client(postgresql: str) -> None:
    async with instances(postgresql, 2) as several:
        await issue(several[0])
        begun = await begin(several[0], 1)
        assert (await exchange(several[0], begun)).status == 200
        key = PairKey(NODES[0], NodeId(client_id(1)))
        peer = NodeDescription(id=key.remote, brand="B", type="t", model_name="m", role=Role.RM)
        other_way = Pairing(key, CommunicationRole.SERVER, peer, EndpointDescription(), confirmed=False)
        await several[1].pairings.hold(other_way, AccessToken.from_bytes(bytes(32)))
        assert (await finalize(several[0], begun)).status == 503, "at another instance"
        assert (await finalize(several[1], begun)).status == 503
        assert several[1].pairings.gives_way(other_way)
        await several[1].pairings.drop(other_way)
        assert not several[1].pairings.gives_way(other_way)
        assert (await finalize(several[0], begun)).status == 204
        assert [p.confirmed for p in await several[0].store.pairings()] == [True]


@pytest.mark.rule("PAIR-10")
async def test_nothing_takes_effect_that_is_not_durable(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with instances(postgresql, 2) as (one, other):
        await issue(one)
        begun = await begin(one, 1)
        assert (await exchange(one, begun)).status == 200
        assert isinstance(one.store, PostgresqlStore)
        roll_back = one.store.database._roll_back

        async def fails(transaction: Transaction) -> None:
            assert transaction.connection is not None
            await roll_back(transaction.connection)
            raise psycopg.OperationalError("the connection is lost")

        with monkeypatch.context() as broken:
            broken.setattr(one.store.database, "_commit", fails)
            assert (await finalize(one, begun)).status == 503
        assert not one.happened
        assert not await other.store.pairings()
        assert (await finalize(other, begun)).status == 204
        assert [type(event) for event in other.happened] == [Paired]
        assert not one.happened


async def test_requests_on_one_node_wait_for_each_other_for_a_bounded_time(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_pairing, "WAIT_S", 0.2)
    async with instances(postgresql, nodes=2) as (one,):
        await issue(one, 0, None)
        await issue(one, 1, None)
        async with one.pairing.shared.codes(NODES[0]):  # and the database stands still
            answered = await asyncio.gather(*(begin(one, number) for number in range(3)))
            assert [each.status for each in answered] == [503] * 3
            other = asyncio.create_task(begin(one, 1, node=1), context=contextvars.Context())
            assert (await other).status == 200, "other nodes go on"
        assert (await begin(one, 1)).status == 200


async def test_while_the_key_is_changed_step_by_step_all_instances_understand_each_other(postgresql: str) -> None:
    """First all know the new key, and then one after the other seals with it."""
    new = bytes(reversed(KEY))
    async with instances(postgresql, 2, keys=[[KEY, new], [new, KEY]]) as (before, after):
        for first, second in ((before, after), (after, before)):
            await issue(first)
            local = second.state.local.nodes[NODES[0]]
            assert (await second.pairing.code_statuses([local]))[NODES[0]].code
            begun = await begin(first, 1)
            assert (await exchange(second, begun)).status == 200
            assert (await finalize(first, begun)).status == 204
