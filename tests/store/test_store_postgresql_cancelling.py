"""Whoever is cancelled while the database is asked ends: also where an answer or an error comes at the same moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("psycopg")

from s2connect.store.postgresql import instances as module
from s2connect.store.postgresql import pool
from s2connect.store.postgresql.database import Connection, Database
from s2connect.store.postgresql.instances import Presence
from s2connect.store.postgresql.listening import listen
from tests.waits import patience, slowed, within

ANSWERED = 0.005
"""Seconds in which the database answers, while the event loop stands still: the answer and the end come together."""

BEFORE = range(24)
"""Steps of the event loop until it stands still: at each, another statement is under way, or another part of one."""

AFTER = range(2, 7)
"""Steps from then on until the task is cancelled: at each, the answer has come to another place on its way."""

Work = Callable[[], Awaitable[None]]


@pytest.fixture
async def database(postgresql: str) -> AsyncIterator[Database]:
    opened = await Database.open(postgresql)
    yield opened
    await opened.close()


@pytest.fixture
async def presence(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Presence]:
    monkeypatch.setattr(module, "SEEN_EVERY", 0.0)
    presence = Presence(database, "one", version="1")
    await presence.claim()
    yield presence
    await presence.leave()


async def ended(task: asyncio.Future[Any]) -> bool:
    """Return whether a task that was cancelled has ended so; end it where it has not."""
    done, _ = await asyncio.wait({task}, timeout=patience(1))
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    return bool(done) and task.cancelled()


async def ends_whenever_it_is_cancelled(work: Work) -> None:
    """Cancel work that never ends by itself at many moments."""
    for before in BEFORE:
        for after in AFTER:
            task = asyncio.ensure_future(work())
            for _ in range(before):
                await asyncio.sleep(0)
            time.sleep(slowed(ANSWERED))
            for _ in range(after):
                await asyncio.sleep(0)
            task.cancel()
            assert await ended(task), (before, after)


async def test_an_instance_that_is_cancelled_while_it_shows_that_it_is_alive_ends(presence: Presence) -> None:
    await ends_whenever_it_is_cancelled(presence.keep)


async def test_whoever_listens_ends_when_cancelled(database: Database) -> None:
    await ends_whenever_it_is_cancelled(
        lambda: listen(database, ["a"], lambda _: None, lambda: None, lambda _: None),
    )


async def test_whoever_is_cancelled_in_a_transaction_ends(database: Database) -> None:
    async def forever() -> None:
        while True:
            async with database.transaction() as transaction:
                await transaction.execute("SELECT 1")
                await transaction.together(("SELECT 2", None), ("SELECT 3", None))

    await ends_whenever_it_is_cancelled(forever)


async def test_whoever_is_cancelled_while_the_connection_is_lost_ends(database: Database) -> None:
    """As at the stop of a service whose database has just gone: the error must not stand for the cancellation."""

    async def sleeps(connection: Connection) -> bool:
        cursor = await connection.execute("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        return await cursor.fetchone() is not None

    for after in AFTER:
        connection = await database.connect()
        task = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        async with within(5):
            while not await database.read("read", sleeps):
                await asyncio.sleep(0.01)
        task.cancel()
        for _ in range(after):
            await asyncio.sleep(0)
        pool.cut(connection)
        assert await ended(task), after
        connection.pgconn.finish()
