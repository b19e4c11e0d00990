"""Sealing anew after a rotation of keys: every secret in the database with the first key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from s2connect.store.postgresql import rows, vault
from s2connect.store.postgresql.database import Database, Transaction
from s2connect.store.postgresql.key_check import check_key, seal_check
from s2connect.store.postgresql.sealing import Sealer

BATCH: Final = 200
"""Rows that one transaction seals anew: instances wait for no more."""


async def reseal(url: str, keys: Sequence[bytes]) -> int:
    """Seal with the first key what is sealed with another one, while instances run; return the number of secrets.

    Raises:
        ConfigurationError: None of the keys is that of the database.
        StorageUnavailable: The database is not there, or a key is missing. What was done until then stands.
    """
    sealer, number = Sealer(keys), 0
    database = await Database.open(url, instance="reseal", size=1)
    try:
        await database.run("write", lambda within: _check(within, sealer))
        for work in (_tokens, _secrets):
            last: object = None
            while True:

                async def batch(within: Transaction, last: object = last) -> tuple[object, int]:
                    return await work(within, sealer, last)  # noqa: B023 - called at once

                last, sealed = await database.run("write", batch)
                number += sealed
                if last is None:
                    break
    finally:
        await database.close()
    return number


async def _check(within: Transaction, sealer: Sealer) -> None:
    await check_key(within, sealer, "the database")
    await seal_check(within, sealer)


async def _tokens(within: Transaction, sealer: Sealer, last: object) -> tuple[object, int]:
    found = await within.rows(
        "SELECT * FROM pairing WHERE tokens IS NOT NULL AND sequence > %s ORDER BY sequence LIMIT %s FOR UPDATE",
        (last or 0, BATCH),
    )
    sealed = 0
    for row in found:
        if not sealer.is_current(row["tokens"]):
            name = rows.sealed_name(rows.pairing_of(row))
            anew = sealer.seal(name, sealer.open(name, row["tokens"]))
            await within.execute("UPDATE pairing SET tokens = %s WHERE sequence = %s", (anew, row["sequence"]))
            sealed += 1
    return (found[-1]["sequence"] if len(found) == BATCH else None), sealed


async def _secrets(within: Transaction, sealer: Sealer, last: object) -> tuple[object, int]:
    found = await within.rows(
        "SELECT name, sealed FROM secret WHERE name > %s ORDER BY name LIMIT %s FOR UPDATE", (last or "", BATCH)
    )
    sealed = 0
    for row in found:
        if not sealer.is_current(row["sealed"]):
            name = vault.sealed_name(row["name"])
            anew = sealer.seal(name, sealer.open(name, row["sealed"]))
            await within.execute("UPDATE secret SET sealed = %s WHERE name = %s", (anew, row["name"]))
            sealed += 1
    return (found[-1]["name"] if len(found) == BATCH else None), sealed
