"""The whole state of an endpoint, into a database and out of it, each in one transaction."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from s2connect.errors import StorageUnavailable, UsageError
from s2connect.store.postgresql import rows, vault
from s2connect.store.postgresql.address import shown
from s2connect.store.postgresql.database import parameters
from s2connect.store.postgresql.failures import unavailable
from s2connect.store.postgresql.key_check import seal_check
from s2connect.store.postgresql.migrating import gone_in_time
from s2connect.store.postgresql.pool import Connection
from s2connect.store.postgresql.schema import APPLICATION, MIGRATION_LOCK, MIGRATIONS, READ_TABLES
from s2connect.store.postgresql.sealing import Sealer
from s2connect.store.sqlite import IN_MEMORY, PAIRED, TOKENS
from s2connect.store.sqlite_rows import MIGRATIONS as SQLITE_MIGRATIONS
from s2connect.store.sqlite_rows import SCHEMA, columns
from s2connect.store.sqlite_rows import pairing_of as pairing_of_sqlite

__all__ = ["State", "read", "write"]

TABLES = ("pairing", "tombstone", "refused_server", "secret", "node", "document")
"""Tables with the state of an endpoint, which a copy fills."""


@dataclass(frozen=True, slots=True)
class State:
    """State of an endpoint in the form of a home. Holds secrets, which its repr does not show.

    Attributes:
        database: Content of the SQLite database; empty where there is none.
        secrets: Entries of the vault, by name.
        nodes: Settings of the nodes, in JSON, by id and oldest first.
        documents: Files of an application that all instances share, by name.
    """

    database: bytes = field(repr=False)
    secrets: Mapping[str, bytes] = field(repr=False)
    nodes: Mapping[uuid.UUID, bytes] = field(repr=False)
    documents: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@contextlib.asynccontextmanager
async def _alone(url: str) -> AsyncIterator[tuple[Connection, str, str]]:
    """Connection in one transaction while no instance runs, and where the state has come from and gone to."""
    options = "-c statement_timeout=0 -c lock_timeout=3s"
    try:
        async with (
            await Connection.connect(**(parameters(url, "copy") | {"options": options})) as connection,
            connection.transaction(),
        ):
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            tables = await (await connection.execute(READ_TABLES)).fetchone()
            if tables is None or not tables["contracted"] <= len(MIGRATIONS) <= tables["expanded"]:
                raise StorageUnavailable(
                    f"The tables in {shown(url)} are not those of this program.", hint="First: s2connect store migrate"
                )
            if names := await gone_in_time(connection, lambda: _connected(connection)):
                raise UsageError(
                    f"Instances are connected to {shown(url)}: {', '.join(names)}.",
                    hint="Stop every one of them first.",
                )
            yield connection, tables["copied_from"] or "", tables["moved_to"] or ""
    except psycopg.Error as error:
        raise unavailable("copy", url, error) from None


async def _connected(connection: Connection) -> list[str]:
    """Return the names of instances and commands of this program that are connected."""
    cursor = await connection.execute(
        "SELECT DISTINCT coalesce(nullif(split_part(application_name, ' ', 2), ''), application_name) AS name"
        " FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND application_name ~ %s ORDER BY 1",
        (f"^{APPLICATION}/",),
    )
    return [row["name"] for row in await cursor.fetchall()]


async def write(url: str, keys: Sequence[bytes], state: State, home: str, *, again: bool) -> int:
    """Put a state into a database that has none; return the number of pairings in it.

    Args:
        url: The database.
        keys: The first seals the secrets.
        state: What is put there.
        home: Where it comes from, and where it may have gone to before.
        again: Whether this may have been done already, and only its end was not seen.

    Raises:
        UsageError: The database has pairings of another endpoint, or instances are connected to it.
        StorageUnavailable: It cannot be written; or it was cut off, and may be done again.
    """
    sealer = Sealer(keys)
    async with _alone(url) as (connection, copied_from, moved_to):
        if again and copied_from == home and not moved_to:
            return await _count(connection, "pairing")
        await _check_empty(connection, url, home, moved_to)
        for table in TABLES:
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
        number = await _fill(connection, sealer, state)
        await seal_check(connection, sealer)
        await connection.execute("UPDATE s2connect_schema SET copied_from = %s, moved_to = NULL", (home,))
    return number


async def check_target(url: str, home: str) -> None:
    """Raise what :func:`write` would raise, before anything is sealed."""
    async with _alone(url) as (connection, _, moved_to):
        await _check_empty(connection, url, home, moved_to)


async def _check_empty(connection: Connection, url: str, home: str, moved_to: str) -> None:
    """Refuse a database with a state, unless it is what was moved to this home before."""
    if moved_to and moved_to != home:
        raise UsageError(f"The state in {shown(url)} was moved into {moved_to}.", hint="Name an empty database.")
    if not moved_to and (await _count(connection, "pairing") or await _count(connection, "node")):
        raise UsageError(f"{shown(url)} has nodes or pairings already.", hint="Name an empty database.")


async def _count(connection: Connection, table: str) -> int:
    row = await (await connection.execute(f"SELECT count(*) AS number FROM {table}")).fetchone()  # noqa: S608 - constants
    return int(row["number"]) if row is not None else 0


async def _fill(connection: Connection, sealer: Sealer, state: State) -> int:
    pairings: list[tuple[Any, ...]] = []
    with contextlib.closing(_opened(state.database)) as source:
        for row in source.execute("SELECT * FROM pairing ORDER BY sequence"):
            pairing = pairing_of_sqlite(row)
            tokens = state.secrets.get(row["vault_name"]) if row["vault_name"] is not None else None
            sealed = None if tokens is None else sealer.seal(rows.sealed_name(pairing), tokens)
            pairings.append((*rows.columns(pairing), sealed, row["active_digest"], row["token_issued_at"]))
        tombstones = [
            (uuid.UUID(bytes=row["local"]), uuid.UUID(bytes=row["remote"]))
            for row in source.execute("SELECT local, remote FROM tombstone ORDER BY sequence")
        ]
        refused = [(row["url"],) for row in source.execute("SELECT url FROM refused_server ORDER BY sequence")]
    secrets = [
        (name, sealer.seal(vault.sealed_name(name), secret))
        for name, secret in state.secrets.items()
        if not name.startswith(TOKENS) and name != PAIRED
    ]
    async with connection.cursor() as cursor:
        await cursor.executemany(rows.INSERT_PAIRING, pairings)
        await cursor.executemany("INSERT INTO tombstone (local, remote) VALUES (%s, %s)", tombstones)
        await cursor.executemany("INSERT INTO refused_server (url) VALUES (%s)", refused)
        await cursor.executemany("INSERT INTO secret (name, sealed) VALUES (%s, %s)", secrets)
        await cursor.executemany("INSERT INTO node (id, settings) VALUES (%s, %s)", list(state.nodes.items()))
        documents = list(state.documents.items())
        await cursor.executemany("INSERT INTO document (name, content) VALUES (%s, %s)", documents)
    return len(pairings)


async def read(url: str, keys: Sequence[bytes], home: str) -> State:
    """Return the state in a database and seal it, durably: no instance starts there any more.

    Raises:
        UsageError: It was moved elsewhere before, or instances are connected.
        StorageUnavailable: It cannot be read, or a key is missing.
    """
    sealer = Sealer(keys)
    async with _alone(url) as (connection, _, moved_to):
        if moved_to and moved_to != home:
            raise UsageError(f"The state in {shown(url)} was moved into {moved_to}.")
        state = await _taken(connection, sealer)
        await connection.execute("UPDATE s2connect_schema SET moved_to = %s", (home,))
    return state


async def _taken(connection: Connection, sealer: Sealer) -> State:
    secrets: dict[str, bytes] = {}
    with contextlib.closing(_opened(b"")) as target:
        for row in await (await connection.execute("SELECT * FROM pairing ORDER BY sequence")).fetchall():
            pairing = rows.pairing_of(row)
            made = columns(pairing) | {
                "vault_name": None,
                "active_digest": row["active_digest"],
                "token_issued_at": row["token_issued_at"],
            }
            if row["tokens"] is not None:
                made["vault_name"] = name = f"{TOKENS}{uuid.uuid4().hex}"
                secrets[name] = sealer.open(rows.sealed_name(pairing), row["tokens"])
            target.execute(f"INSERT INTO pairing ({', '.join(made)}) VALUES (:{', :'.join(made)})", made)  # noqa: S608 - constants
            secrets[PAIRED] = b"yes"
        for row in await (await connection.execute("SELECT * FROM tombstone ORDER BY sequence")).fetchall():
            values = row["local"].bytes, row["remote"].bytes
            target.execute("INSERT INTO tombstone (local, remote) VALUES (?, ?)", values)
        for row in await (await connection.execute("SELECT url FROM refused_server ORDER BY sequence")).fetchall():
            target.execute("INSERT INTO refused_server (url) VALUES (?)", (row["url"],))
        target.commit()
        content = target.serialize()
    for row in await (await connection.execute("SELECT name, sealed FROM secret")).fetchall():
        secrets[row["name"]] = sealer.open(vault.sealed_name(row["name"]), row["sealed"])
    nodes = await (
        await connection.execute("SELECT * FROM node WHERE settings IS NOT NULL ORDER BY sequence")
    ).fetchall()
    documents = await (await connection.execute("SELECT name, content FROM document")).fetchall()
    return State(
        content,
        secrets,
        {row["id"]: row["settings"] for row in nodes},
        {row["name"]: row["content"] for row in documents},
    )


def _opened(content: bytes) -> sqlite3.Connection:
    """Return a database in memory with this content, or an empty one, with the tables of this version."""
    database = sqlite3.connect(IN_MEMORY)
    database.row_factory = sqlite3.Row
    if not content:
        statements: Sequence[str] = SCHEMA
    else:
        # A database in memory has no log of writes: without this SQLite does not open one that had one.
        database.deserialize(content[:18] + b"\1\1" + content[20:])
        (version,) = database.execute("PRAGMA user_version").fetchone()
        statements = SQLITE_MIGRATIONS.get(version, ())
    for statement in statements:
        database.execute(statement)
    return database
