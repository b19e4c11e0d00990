"""Migrations of the tables in PostgreSQL: run under a lock, each whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from s2connect.errors import ConfigurationError, StorageUnavailable
from s2connect.store.postgresql.address import shown
from s2connect.store.postgresql.database import parameters
from s2connect.store.postgresql.failures import unavailable
from s2connect.store.postgresql.pool import Connection
from s2connect.store.postgresql.schema import (
    APPLICATION,
    FIRST_ROW,
    FIRST_TABLE,
    MIGRATION_LOCK,
    MIGRATIONS,
    READ_TABLES,
    WRITE_TABLES,
    Migration,
)

__all__ = ["Tables", "contract", "expand"]

ENDING_S: Final = 2.5
"""Seconds for which connections may be seen that have just ended: on a busy machine their processes take a while. Less
than instances wait for the lock of a migration."""

LOCK_WAIT_S: Final = 3
"""Seconds for which a migration waits for another one, and for a table that instances use."""


@dataclass(frozen=True, slots=True)
class Tables:
    """State of the tables of a database, as numbers of migrations."""

    expanded: int
    contracted: int


async def expand(url: str, migrations: Sequence[Migration] = MIGRATIONS) -> tuple[Tables, Tables]:
    """Add what this program needs, beside running instances of the version before. Return before and after.

    A database without tables never had an earlier version, so it gets nothing that only those need.

    Raises:
        ConfigurationError: It is no URL of a database, or the database does not store Unicode.
        StorageUnavailable: It cannot be reached, another migration is under way, or a table stays locked.
    """
    async with _migration(url) as (connection, before):
        for number, migration in enumerate(migrations, 1):
            if number > before.expanded:
                for statement in migration.expand:
                    await connection.execute(statement)
                if before == Tables(0, 0):
                    for statement in migration.contract:
                        await connection.execute(statement)
        known = len(migrations)
        after = Tables(max(before.expanded, known), known if before == Tables(0, 0) else before.contracted)
        await _write(connection, after)
    return before, after


async def contract(url: str, migrations: Sequence[Migration] = MIGRATIONS) -> tuple[Tables, Tables]:
    """Remove what only earlier versions need; refused while an instance of one runs. Return before and after.

    Raises:
        ConfigurationError: As :func:`expand`.
        StorageUnavailable: As :func:`expand`; or an instance of an earlier version is connected, or was a moment ago.
    """
    async with _migration(url) as (connection, before):
        known = len(migrations)
        if before.expanded < known:
            raise StorageUnavailable(
                f"The tables in {shown(url)} are older than this program.", hint="First: s2connect store migrate"
            )
        if old := await gone_in_time(connection, lambda: _of_earlier_versions(connection, known)):
            raise StorageUnavailable(
                f"Instances of an earlier version still use {shown(url)}: {', '.join(old)}.",
                hint="Stop or update them, and try again.",
            )
        for number, migration in enumerate(migrations, 1):
            if number > before.contracted:
                for statement in migration.contract:
                    await connection.execute(statement)
        after = Tables(before.expanded, max(before.contracted, known))
        await _write(connection, after)
    return before, after


@contextlib.asynccontextmanager
async def _migration(url: str) -> AsyncIterator[tuple[Connection, Tables]]:
    """Connection in one transaction that excludes other migrations, and how far the tables are."""
    try:
        # No limit for a statement: a table may be large. For locks there is one, because instances wait behind them.
        options = f"-c statement_timeout=0 -c lock_timeout={LOCK_WAIT_S}s"
        given = parameters(url, "migrate") | {"options": options}
        async with await Connection.connect(**given) as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            encoding = await (await connection.execute("SHOW server_encoding")).fetchone()
            if encoding is None or encoding["server_encoding"] != "UTF8":
                raise ConfigurationError(
                    f"The database {shown(url)} does not store Unicode.", hint="Make it with: createdb -E UTF8 NAME"
                )
            await connection.execute(FIRST_TABLE)
            await connection.execute(FIRST_ROW)
            row = await (await connection.execute(READ_TABLES)).fetchone()
            yield connection, Tables(0, 0) if row is None else Tables(row["expanded"], row["contracted"])
    except psycopg.errors.LockNotAvailable:
        raise StorageUnavailable(
            f"Could not migrate {shown(url)}: another migration is under way, or a table is in use for too long.",
            hint="Nothing was changed. Try again in a moment.",
        ) from None
    except psycopg.Error as error:
        raise unavailable("migrate", url, error) from None


async def _write(connection: Connection, tables: Tables) -> None:
    await connection.execute(WRITE_TABLES, (tables.expanded, tables.contracted))


async def gone_in_time(connection: Connection, find: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """Return who is connected still, in a transaction: whoever has just closed is seen for a moment longer."""
    loop = asyncio.get_running_loop()
    until = loop.time() + ENDING_S
    while (found := await find()) and loop.time() < until:
        await asyncio.sleep(0.05)
        await connection.execute("SELECT pg_stat_clear_snapshot()")
    return found


async def _of_earlier_versions(connection: Connection, known: int) -> list[str]:
    """Return the names of instances that know fewer migrations: what is connected, and what was seen of late."""
    cursor = await connection.execute(
        """
        SELECT DISTINCT coalesce(nullif(split_part(application_name, ' ', 2), ''), application_name) AS name
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name ~ %s
            AND split_part(split_part(application_name, ' ', 1), '/', 2)::integer < %s
        UNION
        SELECT name FROM instance WHERE schema < %s AND seen > clock_timestamp() - interval '15 seconds'
        ORDER BY 1
        """,
        (f"^{APPLICATION}/[0-9]{{1,6}}( |$)", known, known),
    )
    return [str(row["name"]) for row in await cursor.fetchall()]
