"""An instance is killed while it answers: another one answers the repeated request, and nobody is locked out."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from s2connect.pairing import server_core as pairing_core
from s2connect.pairing.code import PairingToken
from s2connect.session import server_core as session_core
from tests.instances.instances import NODES, TOKEN, Answered, Instance, instances, session_request
from tests.instances.test_instances_at_once import begin, exchange, finalize, pair
from tests.waits import patience, within

ROOT = Path(__file__).parents[2]
POINTS = [*(pytest.param(point, marks=pytest.mark.long) for point in ("stored", "commit")), "committed"]


@pytest.fixture(autouse=True)
def _lifetimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts and pending tokens outlive the start of a process on a busy machine; the database has their ends."""
    monkeypatch.setattr(pairing_core, "ATTEMPT_LIFETIME", 300.0)
    monkeypatch.setattr(session_core, "PENDING_LIFETIME", 300.0)


async def killed(url: str, point: str, path: str, body: bytes, bearer: str) -> None:
    """Send a request to an instance of its own, which is killed at a point of it."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.instances.instance_program", url, point, path, body.decode(), bearer, cwd=ROOT
    )
    async with within(30):
        assert await program.wait() == -signal.SIGKILL


async def issue(instance: Instance, lifetime: float | None) -> None:
    local = instance.state.local.nodes[NODES[0]]
    await instance.pairing.new_code(local, PairingToken(TOKEN), lifetime)


@pytest.mark.rule("PAIR-07")
@pytest.mark.parametrize("point", POINTS)
async def test_a_pairing_is_made_once_where_the_instance_that_made_it_is_killed(postgresql: str, point: str) -> None:
    async with instances(postgresql, 2) as several:
        await issue(several[0], 300.0)
        begun = await begin(several[0], 1)
        details = await exchange(several[1], begun)
        success = b'{"success": true}'
        await killed(postgresql, point, "pairing/finalizePairing", success, begun.body["pairingAttemptId"])
        stored = await several[0].store.pairings()
        assert len(stored) == (point == "committed"), "all of it is there, or nothing"
        assert (await finalize(several[1], begun)).status == 204
        assert (await finalize(several[0], begun)).status == 204
        (pairing,) = await several[0].store.pairings()
        assert not stored or pairing.is_same(stored[0])
        assert (await begin(several[0], 2)).status == 400, "the code is spent"
        assert (await _initiate(several[0], details.body["accessToken"])).status == 200


async def _initiate(instance: Instance, access: str) -> Answered:
    return await instance.ask("session/initiateSession", session_request(1), access)


@pytest.mark.long
@pytest.mark.rule("SESC-01")
@pytest.mark.parametrize("point", POINTS)
async def test_a_client_comes_in_with_one_of_its_two_tokens_where_the_instance_that_confirmed_is_killed(
    postgresql: str, point: str
) -> None:
    async with instances(postgresql, 2) as several:
        await issue(several[0], None)
        former = await pair(several, 1)
        pending = (await _initiate(several[0], former)).body["accessToken"]
        await killed(postgresql, point, "session/confirmAccessToken", b"", pending)
        # The client has no answer, and tries its tokens, the oldest first.
        answers = [(await _initiate(several[1], token)).status for token in (former, pending)]
        assert answers == ([401, 200] if point == "committed" else [200, 401])
        repeated = await several[1].ask("session/confirmAccessToken", b"", pending)
        assert repeated.status == (401 if point == "committed" else 200)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.rule("PAIR-07", "SESC-01", "SES-03", "SES-04")
async def test_whichever_commit_an_instance_is_killed_at_its_device_goes_on_at_another_one(postgresql: str) -> None:
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.instances.instance_kills", postgresql],
        capture_output=True,
        text=True,
        timeout=patience(120),
        cwd=ROOT,
        check=True,
    )
    found = [json.loads(line) for line in child.stdout.splitlines()]
    assert not [line for line in found if line[3]], "nobody is locked out, and each has one pairing and one session"
    assert {answers for _, _, answers, _ in found} == set(range(7)), "before the first answer, and after each"
