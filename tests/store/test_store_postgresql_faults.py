"""The database misbehaves: answers that are lost, silence, others in the way. Nothing is half done or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncIterator

import pytest

pytest.importorskip("psycopg")

import psycopg

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql import database as module
from s2connect.store.postgresql import pool
from s2connect.store.postgresql.database import Database, Transaction
from s2connect.store.postgresql.store import PostgresqlStore
from tests.postgresql import STORE_KEYS, Cluster
from tests.store.postgresql_wire import Wire, wire
from tests.store.store_examples import SERVER, pairing, token
from tests.waits import until, within


@pytest.fixture
async def between(postgresql: str) -> AsyncIterator[Wire]:
    async with wire(postgresql) as made:
        yield made


async def add(transaction: Transaction, url: str = "a") -> str:
    await transaction.execute("INSERT INTO refused_server (url) VALUES (%s)", (url,))
    return url


async def urls(url: str) -> list[str]:
    """Return the rows of the database, read by a connection of the test."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        rows = await (await connection.execute("SELECT url FROM refused_server ORDER BY sequence")).fetchall()
        return [one for (one,) in rows]


@pytest.mark.parametrize("after", [False, True], ids=["the COMMIT was lost", "its answer was lost"])
async def test_a_commit_that_is_cut_off_is_done_once(between: Wire, after: bool) -> None:
    database = await Database.open(between.through)
    between.cut_at, between.after = b"COMMIT", after
    assert await database.run("write", add) == "a"
    assert between.seen == 1
    assert await urls(between.url) == ["a"]
    between.seen = 0
    if after:
        async with database.transaction() as transaction:
            await add(transaction, "b")
        assert await urls(between.url) == ["a", "b"]
    else:
        with contextlib.suppress(StorageUnavailable):
            async with database.transaction() as transaction:
                await add(transaction, "b")
        assert await urls(between.url) == ["a"], "a transaction of several steps is not tried again by itself"
    await database.close()


async def test_a_connection_that_is_cut_in_the_middle_is_replaced(between: Wire) -> None:
    store = await PostgresqlStore.open(between.through, STORE_KEYS)
    await store.save_pairing(pairing(1, SERVER), token("a"))
    for statement in (b"INSERT INTO pairing", b"DELETE FROM pairing", b"BEGIN"):
        between.cut_at, between.seen = statement, 0
        assert await store.save_pairing(pairing(1, SERVER), token("b")) == []
        assert between.seen == 1
    between.cut_at, between.seen = b"SELECT", 0
    assert await store.pairings() == [pairing(1, SERVER)]
    assert between.seen == 1
    await store.close()


@pytest.mark.rule("SES-03")
async def test_an_activation_whose_answer_was_lost_is_not_repeated_behind_its_callers_back(between: Wire) -> None:
    """Another instance may have activated a later token of the same client meanwhile."""
    store = await PostgresqlStore.open(between.through, STORE_KEYS)
    await store.save_pairing(pairing(1, SERVER), token("a"))
    between.cut_at, between.after = b"UPDATE pairing", True
    with pytest.raises(StorageUnavailable):
        await store.activate_token(pairing(1, SERVER), bytes(32), 1e9)
    assert between.seen == 1
    record = await store.record(pairing(1).key)
    assert record.confirmed is not None
    assert record.confirmed[1] == bytes(32)
    await store.close()


async def test_a_silent_database_is_not_waited_for(between: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await Database.open(between.through)
    assert await database.run("write", add) == "a"
    monkeypatch.setattr(module, "OPERATION_S", 0.3)
    between.silent = True
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, match="does not answer"):
        await database.run("write", add)
    assert time.monotonic() - began < 5
    between.silent = False
    monkeypatch.setattr(module, "OPERATION_S", 10.0)
    async with within(5):
        assert await database.run("write", lambda transaction: add(transaction, "b")) == "b"
    await database.close()


async def test_a_silent_commit_is_looked_up(between: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_S", 1.5)
    database = await Database.open(between.through)
    committed = asyncio.Event()

    async def adding(transaction: Transaction) -> None:
        await add(transaction)
        if not committed.is_set():
            committed.set()
            between.silent = True
            asyncio.get_running_loop().call_later(1.7, setattr, between, "silent", False)

    async with within(10):
        await database.run("write", adding)
    assert await urls(between.url) == ["a"]
    await database.close()


async def test_transactions_that_wait_for_each_other_are_tried_again(postgresql: str) -> None:
    database = await Database.open(postgresql)
    await database.run("write", add)
    await database.run("write", lambda transaction: add(transaction, "b"))
    both = asyncio.Barrier(2)
    tries = 0

    async def swap(transaction: Transaction, first: str, second: str) -> None:
        nonlocal tries
        tries += 1
        await transaction.execute("UPDATE refused_server SET url = url WHERE url = %s", (first,))
        if tries <= 2:
            await both.wait()
        await transaction.execute("UPDATE refused_server SET url = url WHERE url = %s", (second,))

    async with within(10):
        await asyncio.gather(
            database.run("write", lambda transaction: swap(transaction, "a", "b")),
            database.run("write", lambda transaction: swap(transaction, "b", "a")),
        )
    assert tries == 3
    await database.close()


async def test_more_callers_than_connections_wait_for_a_bounded_time(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "WAIT_S", 0.2)
    monkeypatch.setattr(pool, "MAX_WAITING", 1)
    database = await Database.open(postgresql, size=1)
    async with database.transaction() as transaction:
        await transaction.execute("SELECT 1")
        loop, outside = asyncio.get_running_loop(), contextvars.Context()  # tasks that are no part of this transaction
        waiting = [loop.create_task(database.run("write", add), context=outside) for _ in range(2)]
        for task in waiting:
            with pytest.raises(StorageUnavailable, match="too many operations wait"):
                await task
    assert await database.run("write", add) == "a"
    await database.close()


async def test_what_a_standby_does_not_have_is_not_acknowledged(
    postgresql: str, postgresql_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A synchronous standby is missing: a COMMIT waits, is given up, and shows to nobody until the standby is back."""
    monkeypatch.setattr(module, "COMMIT_S", 0.4)
    database = await Database.open(postgresql)
    postgresql_cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
    try:
        postgresql_cluster.sql("SELECT pg_reload_conf()")
        await until(lambda: postgresql_cluster.sql("SHOW synchronous_standby_names") == [("missing",)])
        async with within(10):
            with pytest.raises(StorageUnavailable, match="safe to do the same again"):
                await database.run("write", add)
        assert await urls(postgresql) == []
    finally:
        postgresql_cluster.sql("ALTER SYSTEM RESET synchronous_standby_names")
        postgresql_cluster.sql("SELECT pg_reload_conf()")
    async with within(10):
        while await urls(postgresql) != ["a"]:
            await asyncio.sleep(0.01)
    await database.close()


async def test_a_password_is_in_no_text(postgresql: str) -> None:
    for wrong in (
        "postgresql://u:hunter2@127.0.0.1:1/db",
        "postgresql://u:hunter2@127.0.0.1:1/db?nonsense=hunter2",
        "postgresql://u:hunter2%zz@127.0.0.1:1/db",
        "postgresql://u@127.0.0.1:1/db?password=hunter2",
        postgresql.replace("postgres@", "nobody:hunter2@"),
    ):
        with pytest.raises(Exception, match=r".") as refused:
            await Database.open(wrong)
        assert "hunter2" not in f"{refused.value!r} {refused.value} {refused.value.__cause__!r}"
