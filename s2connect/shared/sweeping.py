"""Sweeps: rows of the shared state that count no more are deleted by whichever instance looks first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from s2connect.store.postgresql.database import Connection, Database, Row

CLOCK: Final = "extract(epoch FROM clock_timestamp())::float8"
"""Time of the database, in seconds since the epoch."""

SWEPT_AT_ONCE: Final = 2000
"""Most rows that one statement of a sweep deletes."""

SWEEP_S: Final = 3.0
"""Seconds after which a sweep of one table begins no further statement."""


async def swept_tables(database: Database, tables: Sequence[tuple[str, str, str]], more: str) -> Row:
    """Delete the rows that are over, of those tables that have any: with one statement, where none has.

    Returns a row with ``more`` columns.
    """
    looks = (f"EXISTS (SELECT FROM {table} WHERE {over}) AS {table}" for table, _, over in tables)
    statement = f"SELECT {', '.join(looks)}, {more}"

    async def look(connection: Connection) -> Row | None:
        return await (await connection.execute(statement.encode())).fetchone()

    row = await database.read("read", look)
    assert row is not None
    for table, key, over in tables:
        if row[table]:
            await database.read("write", swept(table, key, over))
    return row


def swept(table: str, key: str, over: str, values: Sequence[object] = ()) -> Callable[[Connection], Awaitable[None]]:
    """Return the work that deletes the rows that are ``over``, without waiting for those in use.

    Of very many it deletes some, so that it is done in time: the rest goes with the next sweep.
    """
    some = f"SELECT {key} FROM {table} WHERE {over} LIMIT {SWEPT_AT_ONCE} FOR UPDATE SKIP LOCKED"  # noqa: S608 - constants
    statement = f"DELETE FROM {table} WHERE ({key}) IN ({some})"  # noqa: S608 - constants

    async def sweep(connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SWEEP_S
        while (await connection.execute(statement.encode(), values)).rowcount == SWEPT_AT_ONCE and loop.time() < until:
            pass

    return sweep
