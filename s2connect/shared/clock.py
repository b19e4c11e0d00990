"""Clock of the database, which all instances go by: those of their machines may differ."""

from __future__ import annotations

import time
from typing import Final

from s2connect.shared.sweeping import CLOCK
from s2connect.store.postgresql.database import Connection, Database

SLOW_S: Final = 1.0
"""Seconds after which an answer says too little about the time."""


class DatabaseClock:
    """Time of the database, as it was read last, by a clock of this process that is never set."""

    def __init__(self) -> None:
        self._ahead: float | None = None

    def time(self) -> float:
        """Return seconds since the epoch: by the clock of this machine until the database was asked."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead

    async def read(self, database: Database) -> None:
        """Ask the database. Raises StorageUnavailable."""

        async def ask(connection: Connection) -> None:
            asked_at = time.monotonic()
            row = await (await connection.execute(f"SELECT {CLOCK} AS now".encode())).fetchone()
            assert row is not None
            took = time.monotonic() - asked_at
            if took <= SLOW_S or self._ahead is None:
                self._ahead = row["now"] - asked_at - took / 2

        await database.read("reach", ask)
