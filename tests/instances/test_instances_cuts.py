"""The connection to the database is cut at every message of a pairing and of a session initiation, each in turn."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from s2connect.errors import StorageUnavailable
from s2connect.pairing import rate_limiter
from tests.instances.instances import (
    NODES,
    Answered,
    Instance,
    b64,
    instances,
    pairing_request,
    proof_of,
    session_request,
)
from tests.instances.test_instances_at_once import issue
from tests.postgresql import Cluster
from tests.store.postgresql_cutter import Cutter, cutter

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

STEP = int(os.environ.get("S2CONNECT_CUT_EVERY", "9"))
"""Every so many messages there is a cut; 1 is all of them, which takes two minutes."""

SIDES = pytest.mark.parametrize("side", ["client", "server"])


async def ask(instance: Instance, path: str, body: bytes, bearer: str | None = None) -> Answered:
    """Ask as a client does: again after 503."""
    for _ in range(6):
        found = await instance.ask(path, body, bearer)
        if found.status != 503:
            break
    return found


async def pair(instance: Instance) -> str:
    """Pair a device, and return its access token."""
    begun = await ask(instance, "pairing/requestPairing", pairing_request(1, b64(random.randbytes(32))))
    assert begun.status == 200
    attempt = begun.body["pairingAttemptId"]
    proof = json.dumps({"serverHmacChallengeResponse": proof_of(begun.body["serverHmacChallenge"])}).encode()
    details = await ask(instance, "pairing/requestConnectionDetails", proof, attempt)
    assert details.status == 200
    assert (await ask(instance, "pairing/finalizePairing", b'{"success": true}', attempt)).status == 204
    return str(details.body["accessToken"])


async def begin_session(instance: Instance, tokens: list[str]) -> list[str]:
    """Begin a session with one of the tokens; return those that may count then (SESC-01). One has to count."""
    for token in tokens:
        begun = await ask(instance, "session/initiateSession", session_request(1), token)
        if begun.status == 200:
            break
    assert begun.status == 200, "locked out"
    new = begun.body["accessToken"]
    confirmed = await instance.ask("session/confirmAccessToken", b"", new)
    if confirmed.status != 200:
        assert confirmed.status in (401, 503)
        return [new, token]
    assert instance.pairings.offers is not None
    with contextlib.suppress(StorageUnavailable):  # then the client comes again
        assert await instance.pairings.offers.take(confirmed.body["websocketToken"]) is not None
    return [new]


class Both:
    """An instance whose connections are cut, and one whose are not."""

    def __init__(self, cut: Cutter, one: Instance, other: Instance) -> None:
        self.cut, self.one, self.other = cut, one, other


@pytest.fixture
async def both(postgresql_cluster: Cluster, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Both]:
    monkeypatch.setattr(rate_limiter, "MAX_QUEUED_PER_ADDRESS", 100)
    monkeypatch.setattr(rate_limiter, "FREE_FAILURES", 10**6)
    async with cutter(Path(postgresql_cluster.directory)) as (cut, directory):
        through = postgresql.replace(str(postgresql_cluster.directory), str(directory))
        async with instances(postgresql) as (other,), instances(through) as (one,):
            yield Both(cut, one, other)


@pytest.mark.rule("SES-02", "SES-03")
@SIDES
async def test_a_cut_while_a_session_begins_locks_nobody_out(both: Both, side: str) -> None:
    await issue(both.other)
    tokens = [await pair(both.other)]
    at = random.randrange(STEP)
    while True:
        both.cut.arm(side, at)
        tokens = await begin_session(both.one, tokens)
        if not both.cut.has_cut:
            break
        both.cut.arm(side, None)
        tokens = await begin_session(random.choice([both.one, both.other]), tokens)
        assert len(tokens) == 1, "and goes on as if nothing had been"
        at += STEP
    assert at > STEP


@pytest.mark.rule("PAIR-07", "PAIR-10")
@SIDES
async def test_a_cut_while_two_pair_leaves_nothing_half_done(both: Both, side: str) -> None:
    at = random.randrange(STEP)
    while True:
        await issue(both.other)
        both.cut.arm(side, at)
        token = await pair(both.one)
        has_cut = both.cut.has_cut
        both.cut.arm(side, None)
        (made,) = await both.other.store.pairings()
        local = both.other.state.local.nodes[NODES[0]]
        assert not (await both.other.pairing.code_statuses([local]))[NODES[0]].code, "it is spent"
        assert len(await begin_session(both.other, [token])) == 1
        await both.other.pairings.unpair(NODES[0], made.key.remote)
        if not has_cut:
            break
        at += STEP
    assert at > STEP
