"""Checks of the database that keeps an endpoint's state: reachable, of this version, readable with the key, durable."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from s2connect.diagnostics.findings import Check, Finding
from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.storage import key_file, store_url
from s2connect.errors import S2ConnectError
from s2connect.store.base import Pairing
from s2connect.store.postgresql.address import require_extra, shown

NO_STANDBY = (
    "A failover to another standby than a synchronous one (synchronous_standby_names) loses tokens that were "
    "acknowledged, and locks devices out."
)


MAX_EXAMINED: Final = 1000
"""Pairings in the database that are examined, the newest of very many."""


async def check_shared(check: Check, config: EndpointConfig) -> tuple[list[Finding], Sequence[Pairing]]:
    """Open the database as an instance does, and read its settings; return the pairings in it, too."""
    try:
        require_extra()
        url = store_url(config)
        assert url is not None
        return await _check(check, url, config)
    except S2ConnectError as error:
        return [check.error(error)], []


async def _check(check: Check, url: str, config: EndpointConfig) -> tuple[list[Finding], Sequence[Pairing]]:
    from s2connect.store.postgresql.database import Connection
    from s2connect.store.postgresql.sealing import read_keys
    from s2connect.store.postgresql.store import PostgresqlStore

    async def settings(connection: Connection) -> dict[str, str]:
        names = ["fsync", "synchronous_commit", "synchronous_standby_names"]
        cursor = await connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (names,))
        return {row["name"]: row["setting"] for row in await cursor.fetchall()}

    keys = await asyncio.to_thread(read_keys, key_file(config))
    store = await PostgresqlStore.open(url, keys, instance="doctor")
    try:
        pairings = await store.pairings(newest=MAX_EXAMINED)
        unconfirmed = len(await store.pairings(confirmed=False, newest=MAX_EXAMINED))
        confirmed = sum((await store.counts()).values()) - unconfirmed
        values = await store.database.read("read the settings of", settings)
    finally:
        await store.close()
    held = "1 pairing" if confirmed == 1 else f"{confirmed or 'no'} pairings"
    found = [check.ok(f"{shown(url)} can be read and holds {held}.")]
    found += [
        check.fail(f"{shown(url)} may lose what it has confirmed: {name} is off.", f"Set {name} = on there.")
        for name in ("fsync", "synchronous_commit")
        if values.get(name) == "off"
    ]
    if not values.get("synchronous_standby_names"):
        found.append(check.warn(f"{shown(url)} has no synchronous standby.", NO_STANDBY))
    return found, pairings


def read_secrets(config: EndpointConfig, limit: int) -> str:
    """Open secrets in the database, at most so many, and return a sentence about that. Blocks."""
    from s2connect.store.postgresql.sealing import read_keys
    from s2connect.store.postgresql.vault import PostgresqlVault

    url = store_url(config)
    assert url is not None
    vault = PostgresqlVault(url, read_keys(key_file(config)), instance="doctor")
    try:
        names = vault.listed()
        for name in names[:limit]:
            vault.get(name)
    finally:
        vault.close()
    entries = "1 entry" if len(names) == 1 else f"{len(names)} entries"
    return f"The secrets in the database can be opened with the key: {entries}."
