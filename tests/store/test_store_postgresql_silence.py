"""A database that stands still with its connections open: nobody waits for ever, and another one is found."""

from __future__ import annotations

import asyncio
import time

import pytest

pytest.importorskip("psycopg")

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql import pool, vault
from s2connect.store.postgresql.database import POOL_SIZE, Database
from s2connect.store.postgresql.vault import PostgresqlVault
from tests.postgresql import STORE_KEYS
from tests.store.postgresql_wire import wire
from tests.waits import within


async def test_transactions_on_a_silent_database_end_and_leave_the_pool_whole(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "LENT_S", 0.5)
    async with wire(postgresql) as between:
        database = await Database.open(between.through)

        async def transact(silent: bool = False) -> None:
            async with database.transaction() as transaction:
                between.silent = between.silent or silent
                await transaction.execute("SELECT 1")

        await asyncio.gather(*(transact() for _ in range(POOL_SIZE)))  # so many connections wait for their use
        tasks = [asyncio.create_task(transact(silent=True)) for _ in range(POOL_SIZE)]
        async with within(30):
            for task in tasks:
                with pytest.raises(StorageUnavailable):
                    await task
        between.silent = False  # in truth another server, to which new connections lead
        async with within(10):
            await asyncio.gather(*(transact() for _ in range(POOL_SIZE)))
        await database.close()


async def test_a_secret_of_a_silent_database_is_not_waited_for(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "ANSWER_S", 0.5)
    async with wire(postgresql) as between:
        secrets = PostgresqlVault(between.through + "&connect_timeout=2", STORE_KEYS)
        await asyncio.to_thread(secrets.put, "static-code", b"1234")
        between.silent = True
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await asyncio.to_thread(secrets.get, "static-code")
        assert time.monotonic() - began < 8
        between.silent = False
        assert await asyncio.to_thread(secrets.get, "static-code") == b"1234"
        secrets.close()
