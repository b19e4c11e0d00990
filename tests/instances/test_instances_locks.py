"""Statements that write several rows lock them in one order: two never wait for each other in a circle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

import pytest

pytest.importorskip("psycopg")
import psycopg

from s2connect.session.ownership import Claim
from s2connect.shared.clock import DatabaseClock
from s2connect.shared.ownership import PostgresqlOwners
from s2connect.store.postgresql.database import Database
from s2connect.store.postgresql.sealing import Sealer
from s2connect.store.postgresql.store import PostgresqlStore
from tests.postgresql import STORE_KEYS, Cluster
from tests.store.store_examples import LOCAL, key, pairing, token
from tests.waits import until, within

COUNT = 21
LAST = COUNT - 1
KEYS = [key(number) for number in range(COUNT)]


@dataclass(frozen=True, slots=True)
class Two:
    """Two instances, and the store of the first."""

    one: PostgresqlOwners
    two: PostgresqlOwners
    store: PostgresqlStore


Work = Callable[[Two], Awaitable[object]]


@pytest.fixture
async def both(postgresql: str) -> AsyncIterator[Two]:
    """Two instances on a database with pairings whose sessions and links the first has: rows against their order."""
    async with AsyncExitStack() as stack:
        databases = []
        for name in ("one", "two"):
            databases.append(await Database.open(postgresql, instance=name))
            stack.push_async_callback(databases[-1].close)
        store = PostgresqlStore(databases[0], Sealer(STORE_KEYS))
        found = [PostgresqlOwners(one, one.instance, DatabaseClock()) for one in databases]
        for number in range(COUNT):
            await store.save_pairing(pairing(number), token(str(number)))
        await store.save_pairing(pairing(LAST, confirmed=False), token("new"))
        for number in reversed(range(COUNT)):  # which writes them anew, one behind the other
            await found[0].claim(pairing(number))
            await found[0].take_link(KEYS[number], None)
        yield Two(found[0], found[1], store)


def claims() -> list[Claim]:
    return [Claim(key, pairing(number).paired_at, "one", 1) for number, key in enumerate(KEYS)]


OVER = "UPDATE link SET until = clock_timestamp() - interval '1 second'"

PAIRS: dict[str, tuple[str, Work, Work]] = {
    "renewing and claiming": (
        "link",
        lambda both: both.one.renew_taken(dict.fromkeys(KEYS, 1)),
        lambda both: both.two.claim_free_links(KEYS, COUNT),
    ),
    "renewing and claiming those of pairings": (
        "link",
        lambda both: both.one.renew_taken(dict.fromkeys(KEYS, 1)),
        lambda both: both.two.claim_links([LOCAL], [], COUNT),
    ),
    "releasing and claiming": (
        "link",
        lambda both: both.one.release_links(KEYS),
        lambda both: both.two.claim_free_links(KEYS, COUNT),
    ),
    "disowning and replacing": (
        "pairing",
        lambda both: both.one.disown(claims()),
        lambda both: both.store.save_pairing(pairing(COUNT), token("later"), alone=True),
    ),
    "disowning and replacing the first, too": (
        "pairing",
        lambda both: both.one.disown(claims()),
        lambda both: both.store.save_pairing(replace(pairing(0), paired_at=1.8e9), token("later"), alone=True),
    ),
    "disowning and confirming one that replaces the last, too": (
        "pairing",
        lambda both: both.one.disown(claims()),
        lambda both: both.store.confirm_pairing(pairing(LAST, confirmed=False), alone=True),
    ),
}


@pytest.mark.parametrize("which", PAIRS)
@pytest.mark.parametrize("swapped", [False, True], ids=["", "the other first"])
async def test_two_statements_over_the_same_rows_never_wait_in_a_circle(
    both: Two, postgresql: str, postgresql_cluster: Cluster, which: str, swapped: bool
) -> None:
    """Both wait for a row in the middle, each with the rows on one side of it, were they locked as they are found."""
    table, *works = PAIRS[which]
    log = postgresql_cluster.directory / "log"
    before = log.read_text().count("deadlock detected")
    middle = KEYS[COUNT // 2]

    def wait(count: int) -> bool:
        found = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        with psycopg.connect(postgresql, autocommit=True) as looking:
            row = looking.execute(found).fetchone()
            return row is not None and row[0] == count

    with psycopg.connect(postgresql) as holding:
        holding.execute(OVER.encode())
        holding.commit()
        held = f"SELECT FROM {table} WHERE local = %s AND remote = %s FOR UPDATE"
        holding.execute(held.encode(), (middle.local, middle.remote))
        async with within(30):
            tasks = []
            for number, work in enumerate(reversed(works) if swapped else works, 1):
                tasks.append(asyncio.ensure_future(work(both)))
                await until(partial(wait, number))
            holding.rollback()
            await asyncio.gather(*tasks)
    assert log.read_text().count("deadlock detected") == before
