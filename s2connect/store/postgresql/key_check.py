"""Check that an instance has the key of the database: another one would seal what no other instance can open."""

from __future__ import annotations

from typing import Final

from s2connect.errors import ConfigurationError, StorageUnavailable
from s2connect.store.postgresql.database import Connection
from s2connect.store.postgresql.sealing import Sealer

__all__ = ["check_key", "seal_check"]

NAME: Final = "check of the key"
CONTENT: Final = b"s2connect"


async def check_key(connection: Connection, sealer: Sealer, shown: str) -> None:
    """See whether our key, or one of them, is that of the database; the first that comes makes it that.

    Raises:
        ConfigurationError: It is another one.
    """
    cursor = await connection.execute("SELECT sealed FROM key_check")
    if (row := await cursor.fetchone()) is None:
        await connection.execute(
            "INSERT INTO key_check (sealed) VALUES (%s) ON CONFLICT DO NOTHING", (_sealed(sealer),)
        )
        cursor = await connection.execute("SELECT sealed FROM key_check")  # which another instance may have made
        row = await cursor.fetchone()
    try:
        if row is not None:
            sealer.open(NAME, row["sealed"])
    except StorageUnavailable:
        raise ConfigurationError(
            f"The key given here is not that with which the secrets in {shown} are sealed.",
            hint="Every instance needs the same key: bring the key file (store_key_file, S2CONNECT_STORE_KEY) here.",
        ) from None


async def seal_check(connection: Connection, sealer: Sealer) -> None:
    """Make our first key that of the database, in a transaction in which all else is sealed with it, or will be."""
    await connection.execute("DELETE FROM key_check")
    await connection.execute("INSERT INTO key_check (sealed) VALUES (%s)", (_sealed(sealer),))


def _sealed(sealer: Sealer) -> bytes:
    return sealer.seal(NAME, CONTENT)
