"""The database of several instances: transactions that are whole or not at all, bounded waits, and migrations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.waits import until

pytest.importorskip("psycopg")

import psycopg

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql.database import Database, Transaction


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
