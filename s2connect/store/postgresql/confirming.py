"""Confirmation of commits: what is written counts when the synchronous standby has it; without one every COMMIT waits.

A COMMIT that waits keeps its connection at the server and its locks, also when this side has given it up; and it must
not be cancelled, because PostgreSQL would then show what the standby does not have. So after the first that waits too
long nothing more is written, which bounds what waits at the server, until the database has confirmed a record that has
no content. Reading goes on meanwhile.

The first may be such a record, too: an instance that has nothing to write looks every few seconds, so that it does not
count as ready where nothing could be written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import psycopg

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql.address import shown
from s2connect.store.postgresql.pool import Connection
from s2connect.supervisor import Supervisor

CONFIRM_S: Final = 5.0
"""Seconds in which the empty record has to be confirmed."""

TRY_EVERY: Final = 1.0
"""Seconds between two such records."""

EMPTY_RECORD: Final = "pg_logical_emit_message(true, 's2connect', '')"
"""Expression of SQL whose transaction ends when everything before it is on the standby, too."""

WRITE_NOTHING: Final = f"SELECT {EMPTY_RECORD}"
"""Statement that is such a transaction."""

_log = logging.getLogger(__name__)


class Confirmation:
    """Confirmation of one database: the first commit that waits too long stops all writing until one is confirmed.

    Args:
        url: The database, for texts.
        connect: Makes a connection beside the pool.
        supervisor: Runs the task that tries.

    Attributes:
        is_missing: Whether a commit was given up, and none was confirmed since.
    """

    def __init__(self, url: str, connect: Callable[[], Awaitable[Connection]], supervisor: Supervisor) -> None:
        self.is_missing = False
        self._shown = shown(url)
        self._connect = connect
        self._supervisor = supervisor
        self._trying: asyncio.Task[None] | None = None

    def require(self, doing: str = "write") -> None:
        """Raise StorageUnavailable while it confirms nothing."""
        if self.is_missing:
            raise StorageUnavailable(
                f"Could not {doing} {self._shown}: it does not confirm what is written, as where its synchronous "
                "standby is gone.",
                hint="Start the standby again, or make another: s2connect cluster status. Then it goes on by itself.",
            )

    def late(self) -> None:
        """Note that a commit was given up, and try until the database confirms again."""
        if not self.is_missing:
            self.is_missing = True
            _log.error("%s does not confirm what is written; nothing is written until it does", self._shown)
            self._trying = self._supervisor.keep(self._keep_trying, "database-confirmation")

    def close(self) -> None:
        """Try no more."""
        if self._trying is not None:
            self._trying.cancel()

    def confirmed(self) -> None:
        """Note that the database has confirmed something."""
        if self.is_missing:
            self.is_missing = False
            _log.warning("%s confirms again what is written", self._shown)

    async def _keep_trying(self) -> None:
        while self.is_missing:
            await asyncio.sleep(TRY_EVERY)
            try:
                await self._try()
            except (psycopg.Error, StorageUnavailable, TimeoutError):
                continue
            self.confirmed()

    async def _try(self) -> None:
        connection = await self._connect()
        try:
            async with asyncio.timeout(CONFIRM_S):  # cancelled at the server, too: this record has nothing to show
                await connection.execute(WRITE_NOTHING.encode())
        finally:
            connection.pgconn.finish()
