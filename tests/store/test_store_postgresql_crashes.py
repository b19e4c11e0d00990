"""Processes that are killed, and a database that crashes: what was acknowledged is there, and nothing is half done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys

import pytest

pytest.importorskip("psycopg")

from s2connect.errors import StorageUnavailable
from s2connect.store.base import token_digest
from s2connect.store.memory import MemoryStore
from s2connect.store.postgresql.store import PostgresqlStore
from tests.postgresql import STORE_KEYS, Cluster
from tests.store.postgresql_kills import KEYS
from tests.store.power_cut_child import STEPS, before
from tests.store.store_examples import SERVER, contents, pairing, token
from tests.waits import patience, within

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


async def expected_states() -> list[str]:
    """Content of the store after none, one, … all of the steps, by the store that has no disk."""
    store = MemoryStore()
    await before(store)
    states = [repr(await contents(store, KEYS))]
    for step in STEPS:
        await step(store)
        states.append(repr(await contents(store, KEYS)))
    return states


@pytest.mark.rule("PAIR-10", "SES-03", "SESC-02", "SESC-03", "SESC-06", "ROLE-05", "ROLE-06")
async def test_a_process_that_is_killed_leaves_the_state_before_or_after_a_step(postgresql: str) -> None:
    states = await expected_states()
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.store.postgresql_kills", postgresql],
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=True,
    )
    found = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(found) > 4 * len(STEPS)
    for told, state in found:
        assert state in states[told : told + 2], f"after {told} steps that were told as done"
    assert {told for told, _ in found} == set(range(len(STEPS) + 1))


@pytest.mark.rule("SES-03", "SESC-02")
async def test_what_was_acknowledged_is_there_after_the_database_crashed(durable: Cluster) -> None:
    """Whoever was told that a token is active finds that one, or the one after it whose answer did not come."""
    url = durable.new_database()
    store = await PostgresqlStore.open(url, STORE_KEYS)
    numbers, stopping = range(6), asyncio.Event()
    told = dict.fromkeys(numbers, 0)
    asked = dict.fromkeys(numbers, 0)
    for number in numbers:
        await store.save_pairing(pairing(number, SERVER), token("0"))
        await store.save_pairing(pairing(100 + number), token("0"))
    chance = random.Random(1)

    async def rotate(number: int) -> None:
        """As the communication server, and beside it as a client."""
        while not stopping.is_set():
            asked[number] = told[number] + 1
            name = token(str(asked[number]))
            try:
                await store.activate_token(pairing(number, SERVER), token_digest(name), 1e9)
                await store.add_pending_token(pairing(100 + number), name)
                await store.keep_token(pairing(100 + number), name)
            except StorageUnavailable:
                await asyncio.sleep(0.02)
                continue
            told[number] = asked[number]

    tasks = [asyncio.ensure_future(rotate(number)) for number in numbers]
    for _ in range(3):
        more = {number: done + 3 for number, done in told.items()}
        async with within(20):
            while any(told[number] < more[number] for number in numbers):
                await asyncio.sleep(0.01)
        await asyncio.sleep(chance.uniform(0, 0.1))
        await asyncio.to_thread(durable.stop, "immediate")
        await asyncio.to_thread(durable.start)
    async with within(20):
        stopping.set()
        await asyncio.gather(*tasks)
    await store.close()
    store = await PostgresqlStore.open(url, STORE_KEYS)
    for number in numbers:
        record = await store.record(pairing(number).key)
        assert record.confirmed is not None
        possible = [str(told[number]), str(asked[number])]
        assert record.confirmed[1] in [token_digest(token(name)) for name in possible]
        candidates = await store.candidate_tokens(pairing(100 + number))
        assert token(str(told[number])) in candidates or candidates == [token(str(asked[number]))]
    await store.close()


async def test_a_database_that_is_gone_is_said_at_once_and_used_again_when_it_is_back(durable: Cluster) -> None:
    store = await PostgresqlStore.open(durable.new_database(), STORE_KEYS)
    await store.save_pairing(pairing(1), token("a"))
    await asyncio.to_thread(durable.stop)
    async with within(3):
        for _ in range(20):
            with pytest.raises(StorageUnavailable, match="Could not"):
                await store.pairings()
            with pytest.raises(StorageUnavailable, match="Could not"):
                await store.keep_token(pairing(1), token("b"))
    await asyncio.to_thread(durable.start)
    async with within(5):
        while True:
            with contextlib.suppress(StorageUnavailable):
                await store.keep_token(pairing(1), token("b"))
                break
            await asyncio.sleep(0.01)
    assert await store.candidate_tokens(pairing(1)) == [token("b")]
    await store.close()
