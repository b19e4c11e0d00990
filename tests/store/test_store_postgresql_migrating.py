"""Migrations: instances of two versions beside each other, one migration at a time, each whole or not at all."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("psycopg")

import psycopg

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql import database, migrating
from s2connect.store.postgresql.database import Database
from s2connect.store.postgresql.migrating import Tables, contract, expand
from s2connect.store.postgresql.schema import MIGRATION_LOCK, MIGRATIONS, Migration
from s2connect.store.postgresql.vault import PostgresqlVault
from tests.postgresql import STORE_KEYS, Cluster

NOW = len(MIGRATIONS)
LATER = (
    *MIGRATIONS,
    Migration(
        expand=("ALTER TABLE refused_server ADD COLUMN since double precision",),
        contract=("ALTER TABLE refused_server DROP COLUMN sequence",),
    ),
)


@pytest.fixture
def url(postgresql_cluster: Cluster) -> str:
    return postgresql_cluster.new_database()


async def refuse(url: str) -> None:
    await Database.open(url, instance="one")


async def test_an_instance_works_beside_one_of_the_next_version(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await Database.open(url, instance="one")
    assert await expand(url, LATER) == (Tables(NOW, NOW), Tables(NOW + 1, NOW))
    await old.run("write", lambda within: within.execute("INSERT INTO refused_server (url) VALUES ('a')"))
    with pytest.raises(StorageUnavailable, match=r"earlier version still use .*: one"):
        await contract(url, LATER)
    again = await Database.open(url, instance="two")  # one that starts again meanwhile
    await again.close()
    await old.close()
    assert await contract(url, LATER) == (Tables(NOW + 1, NOW), Tables(NOW + 1, NOW + 1))
    with pytest.raises(StorageUnavailable, match="later version"):
        await refuse(url)
    monkeypatch.setattr(database, "MIGRATIONS", LATER)
    new = await Database.open(url)
    await new.close()


async def test_an_instance_that_was_seen_a_moment_ago_counts_as_running(url: str) -> None:
    await expand(url, LATER)
    values = f"'gone', clock_timestamp(), clock_timestamp(), '0.1', {NOW}"
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(f"INSERT INTO instance (name, started, seen, version, schema) VALUES ({values})")
    with pytest.raises(StorageUnavailable, match="gone"):
        await contract(url, LATER)


async def test_a_refused_contraction_names_each_instance_once_also_for_the_connection_to_its_secrets(url: str) -> None:
    await expand(url, LATER)
    running = await Database.open(url, instance="one")
    secrets = PostgresqlVault(url, STORE_KEYS, instance="one")
    try:
        await running.read("read", lambda connection: connection.execute("SELECT 1"))
        await asyncio.to_thread(secrets.listed)
        with pytest.raises(StorageUnavailable, match=r"still use \S+: one\. Stop"):
            await contract(url, LATER)
    finally:
        secrets.close()
        await running.close()
    await contract(url, LATER)


async def test_tables_that_are_missing_or_older_are_refused_with_the_command(
    url: str, postgresql_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MIGRATIONS", LATER)
    with pytest.raises(StorageUnavailable, match="s2connect store migrate"):
        await refuse(url)
    with pytest.raises(StorageUnavailable, match="s2connect store migrate"):
        await contract(url, LATER)
    postgresql_cluster.sql("CREATE DATABASE with_nothing")
    with pytest.raises(StorageUnavailable, match="s2connect store migrate"):
        await refuse(postgresql_cluster.url("with_nothing"))


async def test_a_migration_is_whole_or_not_at_all(url: str) -> None:
    broken = (*MIGRATIONS, Migration(expand=("CREATE TABLE half (one int)", "SELECT 1/0")))
    with pytest.raises(StorageUnavailable, match="Could not migrate"):
        await expand(url, broken)
    assert await expand(url, LATER) == (Tables(NOW, NOW), Tables(NOW + 1, NOW))
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await (await connection.execute("SELECT to_regclass('half')")).fetchone()
    assert found == (None,)


async def test_one_migration_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    both = await asyncio.gather(expand(url, LATER), expand(url, LATER))
    assert sorted(before.expanded for before, _ in both) == [NOW, NOW + 1]
    monkeypatch.setattr(migrating, "LOCK_WAIT_S", 1)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        with pytest.raises(StorageUnavailable, match="another migration is under way"):
            await expand(url, LATER)


async def test_an_empty_database_gets_everything_and_a_second_run_changes_nothing(
    postgresql_cluster: Cluster,
) -> None:
    postgresql_cluster.sql("CREATE DATABASE from_nothing")
    url = postgresql_cluster.url("from_nothing")
    assert await expand(url) == (Tables(0, 0), Tables(NOW, NOW))
    assert await expand(url) == (Tables(NOW, NOW), Tables(NOW, NOW))
