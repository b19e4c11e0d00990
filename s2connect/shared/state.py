"""State that several instances share in one PostgreSQL database."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from s2connect.errors import StorageUnavailable
from s2connect.model.secret import AccessToken
from s2connect.model.url import WebSocketUrl
from s2connect.pairing.interface import PairingServerEvent
from s2connect.pairing.server_core import PairingServer
from s2connect.shared.clock import DatabaseClock
from s2connect.shared.ownership import PostgresqlOwners
from s2connect.shared.pairing import PostgresqlPairing, StaticToken
from s2connect.shared.sessions import PostgresqlSessions
from s2connect.store.base import Pairing
from s2connect.store.postgresql.database import Database
from s2connect.store.postgresql.rows import PairingRows
from s2connect.store.postgresql.sealing import Sealer
from s2connect.supervisor import Supervisor

_log = logging.getLogger(__name__)

SWEEP_EVERY: Final = 5.0
"""Seconds between two sweeps of an instance; the first to come has the work, the others find nothing."""


class PostgresqlShared:
    """The contract of :class:`~s2connect.endpoint.state.SharedState` in PostgreSQL.

    Args:
        database: The database, which is that of the store; its owner closes it.
        sealer: Seals what is secret.
    """

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._rows = PairingRows(sealer, database.shown)
        self._clock = DatabaseClock()

    def pairing(
        self,
        core: PairingServer,
        *,
        report: Callable[[PairingServerEvent], None],
        static_token: StaticToken,
        supervisor: Supervisor,
    ) -> PostgresqlPairing:
        """Return the attempts and codes of all instances; a task of the supervisor ends what expires."""
        shared = PostgresqlPairing(
            core, self._database, self._sealer, report=report, static_token=static_token, supervisor=supervisor
        )
        supervisor.keep(lambda: _keep_swept(shared.sweep), "shared-sweep")
        return shared

    def sessions(
        self,
        websocket_url: Callable[[], WebSocketUrl],
        supervisor: Supervisor,
    ) -> PostgresqlSessions:
        """Return the pending tokens and offers of all instances; likewise."""
        shared = PostgresqlSessions(self._database, self._rows, websocket_url)
        supervisor.keep(lambda: _keep_swept(shared.sweep), "shared-sweep")
        return shared

    def wall_time(self) -> float:
        """Return the time of the database, in seconds since the epoch."""
        return self._clock.time()

    async def read_clock(self) -> None:
        """Ask the database for its time. Raises StorageUnavailable."""
        await self._clock.read(self._database)

    async def accept_token(self, pairing: Pairing, token: AccessToken) -> None:
        """As communication client: forget the tokens before one that the server has accepted."""
        await self._database.run("write", lambda within: self._rows.accept_token(within, pairing, token))

    def owners(self) -> PostgresqlOwners:
        """Return the owners of sessions and links."""
        return PostgresqlOwners(self._database, self._database.instance, self._clock)


async def _keep_swept(sweep: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(SWEEP_EVERY * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        try:
            await sweep()
        except StorageUnavailable as error:  # reported once, by the task that probes the database
            _log.debug("what has expired is forgotten later: %s", error)
