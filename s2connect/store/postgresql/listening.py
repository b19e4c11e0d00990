"""Receiver of hints of other instances (LISTEN), on a connection of its own.

A hint may be lost, come late or twice: the rows are the truth. So whoever listens reads what belongs to it again
whenever the connection is there anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

import psycopg
from psycopg import sql

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql.database import Database, Transaction
from s2connect.store.postgresql.pool import Connection

CHANNEL: Final = "s2connect"
"""Channel of hints for all instances."""

FIRST_PAUSE: Final = 0.2
"""Seconds, at most, before LISTEN is tried again; doubled with every failure that follows."""

LONGEST_PAUSE: Final = 10.0
"""The longest such pause in seconds."""

CHECK_EVERY: Final = 0.3
"""Seconds between two trials of the connection: nobody knows otherwise whether no hint has come because it is cut."""

CHECK_WITHIN: Final = 10.0
"""Seconds without an answer after which it is given up."""

_log = logging.getLogger(__name__)


def channel_of(instance: str) -> str:
    """Return the channel of hints for one instance."""
    return f"{CHANNEL}:{instance}"


async def notify(transaction: Transaction, channel: str, hint: str) -> None:
    """Send a hint, once the transaction is durable."""
    await transaction.execute("SELECT pg_notify(%s, %s)", (channel, hint))


async def listen(
    database: Database,
    channels: Sequence[str],
    on_hint: Callable[[str], None],
    on_connected: Callable[[], None],
    on_heard: Callable[[float], None],
) -> None:
    """Call ``on_hint`` with every hint until cancelled, and ``on_connected`` each time that hints come from then on.

    ``on_heard`` is called with a time of the event loop, when all hints have come of what was committed before it.
    """
    failures = 0
    while True:
        try:
            connection = await database.connect(doing="listen to")
        except StorageUnavailable as error:
            level = logging.DEBUG if failures else logging.WARNING
            _log.log(level, "no hints of other instances meanwhile: %s", error)
        else:
            try:
                for channel in channels:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                failures = 0
                on_connected()
                await _receive(connection, on_hint, on_heard)
            except (psycopg.Error, TimeoutError) as error:
                _log.warning("no hints of other instances meanwhile: LISTEN has ended (%s)", type(error).__name__)
            finally:
                connection.pgconn.finish()  # without waiting for a server that may be gone
        failures += 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 16))
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing


async def _receive(connection: Connection, on_hint: Callable[[str], None], on_heard: Callable[[float], None]) -> None:
    now = asyncio.get_running_loop().time
    while True:
        asked_at = now()
        async with asyncio.timeout(CHECK_WITHIN):
            await connection.execute("SELECT 1")
        async for hint in connection.notifies(timeout=0):  # those that have come before the answer
            on_hint(hint.payload)
        on_heard(asked_at)
        async for hint in connection.notifies(timeout=CHECK_EVERY):
            on_hint(hint.payload)
