"""The database of several instances: transactions that are whole or not at all, bounded waits, and migrations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from s2connect.store.postgresql.resealing import reseal
from s2connect.store.postgresql.store import PostgresqlStore
from s2connect.store.postgresql.vault import PostgresqlVault
from tests.postgresql import STORE_KEYS
from tests.store.store_examples import SERVER, pairing, token
from tests.waits import until

pytest.importorskip("psycopg")

import psycopg

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql.database import Database, Transaction
from s2connect.store.postgresql.failures import unavailable


@pytest.fixture
async def database(postgresql: str) -> AsyncIterator[Database]:
    opened = await Database.open(postgresql, instance="one")
    yield opened
    await opened.close()


async def add(transaction: Transaction, url: str) -> None:
    await transaction.execute("INSERT INTO refused_server (url) VALUES (%s)", (url,))


async def urls(database: Database) -> list[str]:
    async with database.transaction("read") as transaction:
        return [row["url"] for row in await transaction.rows("SELECT url FROM refused_server ORDER BY sequence")]


async def test_a_transaction_is_whole_or_not_at_all(database: Database) -> None:
    async with database.transaction() as transaction:
        await add(transaction, "a")
        assert transaction.now > 1e9

    async def failing() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "b")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()
    assert await urls(database) == ["a"]


async def test_a_transaction_with_a_failed_statement_does_not_pass_for_done(database: Database) -> None:
    async def going_on() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "a")
            with pytest.raises(psycopg.Error, match="nowhere"):
                await transaction.execute("SELECT * FROM nowhere")

    with pytest.raises(StorageUnavailable):
        await going_on()
    assert await urls(database) == []


@pytest.mark.parametrize("task", ["database-operation", "database-commit"])
async def test_an_error_of_this_program_in_a_task_is_reported_and_blocks_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    broken = {"database-operation": "_in_transactions", "database-commit": "_commit"}

    roll_back = database._roll_back

    async def fail(given: Any) -> None:
        if not callable(given):
            await roll_back(getattr(given, "connection", given))
        raise RuntimeError

    async def write(transaction: Transaction) -> None:
        await add(transaction, "a")

    with monkeypatch.context() as patched:
        patched.setattr(database, broken[task], fail)
        with pytest.raises(RuntimeError):
            await database.run("write", write)
        await until(lambda: database.failures.counts[task])
    assert await urls(database) == []


async def test_an_operation_goes_on_where_its_caller_is_cancelled(database: Database) -> None:
    begun = asyncio.Event()

    async def slowly(transaction: Transaction) -> None:
        begun.set()
        await transaction.execute("SELECT pg_sleep(0.1)")
        await add(transaction, "a")

    task = asyncio.ensure_future(database.run("write", slowly))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await database.close()
    again = await Database.open(database.url)
    assert await urls(again) == ["a"]
    await again.close()


async def test_a_transaction_whose_caller_is_cancelled_inside_leaves_nothing(database: Database) -> None:
    begun = asyncio.Event()

    async def slowly() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "a")
            begun.set()
            await asyncio.sleep(60)

    for _ in range(10):  # more than there are connections
        begun.clear()
        task = asyncio.ensure_future(slowly())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await urls(database) == []


async def test_everything_is_sealed_anew_with_the_first_key(postgresql: str) -> None:
    new, old = bytes([9]) * 32, STORE_KEYS[0]
    store, vault = await PostgresqlStore.open(postgresql, [old]), PostgresqlVault(postgresql, [old])
    for number in range(5):
        await store.save_pairing(pairing(number), token(str(number)))
    await asyncio.to_thread(vault.put, "a", b"secret")
    await store.close()
    vault.close()
    with pytest.raises(StorageUnavailable, match="which was not given"):
        await reseal(postgresql, [new])
    assert await reseal(postgresql, [new, old]) == 6
    assert await reseal(postgresql, [new, old]) == 0
    store, vault = await PostgresqlStore.open(postgresql, [new]), PostgresqlVault(postgresql, [new])
    for number in range(5):
        assert await store.candidate_tokens(pairing(number)) == [token(str(number))]
    assert await asyncio.to_thread(vault.get, "a") == b"secret"
    await store.close()
    vault.close()


async def test_no_secret_is_in_the_database_in_the_clear(postgresql: str) -> None:
    store, vault = await PostgresqlStore.open(postgresql, STORE_KEYS), PostgresqlVault(postgresql, STORE_KEYS)
    await store.save_pairing(pairing(1), token("client"))
    await store.save_pairing(pairing(2, SERVER), token("server"))
    await asyncio.to_thread(vault.put, "a", b"very secret")
    async with store.database.transaction() as transaction:
        tables = [
            row["tablename"]
            for row in await transaction.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
        found = [await transaction.rows(f"SELECT t::text FROM {table} t") for table in tables]
    text = str(found)
    assert "Grünstrom".encode().hex() in text, "the search finds what is not secret"
    for secret in (token("client").reveal(), token("server").reveal(), "very secret"):
        assert secret not in text
        assert secret.encode().hex() not in text
    await store.close()
    vault.close()


@pytest.mark.parametrize(
    ("said", "reason", "hint"),
    [
        ("session is read-only", "none of its hosts is a primary", "Promote the synchronous standby"),
        ("server does not support SSL, but SSL was required", "does not support SSL", "ssl = on"),
        ('FATAL:  database "s2" does not exist', 'database "s2" does not exist', "createdb"),
        ("Connection refused", "Connection refused", "Check that the database runs"),
    ],
)
def test_a_connection_that_failed_is_said_with_its_reason_and_what_helps(said: str, reason: str, hint: str) -> None:
    error = psycopg.OperationalError(f'connection to server at "192.0.2.21", port 5432 failed: {said}')
    found = unavailable("open", "postgresql://s2:secret@192.0.2.21/s2", error)
    assert found.what.startswith("Could not open postgresql://s2@192.0.2.21/s2: ")
    assert reason in found.what
    assert hint in (found.hint or "")


async def test_whoever_is_cancelled_while_a_transaction_is_rolled_back_keeps_no_connection(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(postgresql, size=1)
    begun = asyncio.Event()

    async def rolls_back_for_ever(_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def fail() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "a")
            raise ValueError

    with monkeypatch.context() as patched:
        patched.setattr(psycopg.AsyncConnection, "rollback", rolls_back_for_ever)
        failing = asyncio.create_task(fail())
        await begun.wait()
        failing.cancel()
        await asyncio.wait([failing])
        assert failing.cancelled()
    assert await urls(database) == []
    await database.close()
