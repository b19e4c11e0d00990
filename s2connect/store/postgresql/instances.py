"""Instances that are alive: a row for each, renewed every few seconds, and a lock that ends with its process.

The row says what an instance does; it counts as dead when it was not seen for :data:`DEAD_AFTER`, by the clock of the
database. The lock is PostgreSQL's, of a connection that is there for nothing else: with the process it ends at once, so
that a process that was killed does not keep its name for those seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

import psycopg

from s2connect.errors import InstanceRuns, StorageUnavailable
from s2connect.model.text import for_display
from s2connect.store.postgresql import pool
from s2connect.store.postgresql.database import Connection, Database
from s2connect.store.postgresql.failures import unavailable
from s2connect.store.postgresql.schema import MIGRATIONS

T = TypeVar("T")

SEEN_EVERY: Final = 5.0
"""Seconds between two renewals of an instance's row."""

DEAD_AFTER: Final = 15.0
"""Seconds after which an instance that was not seen counts as dead, by the database's clock."""

ASK_S: Final = 6.0
"""Seconds for one renewal, a new connection included."""

TAKE_S: Final = 3.0
"""Seconds in which a name has to come free whose former process is gone."""

ENDS_WITHIN_S: Final = 0.5
"""Seconds in which the end of a process that was killed is known to the database."""

TAKE_EVERY: Final = 0.1
"""Seconds between two looks whether it is."""

MAX_DIFFERENCE: Final = 5.0
"""Seconds by which our clock may differ from that of the database, a slow answer included."""

LOCKS: Final = 0x5332_494E
"""First half of the advisory locks on names of instances."""

ALIVE: Final = f"seen > clock_timestamp() - interval '{DEAD_AFTER:g} seconds'"
"""Condition on a row of ``instance``."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance, as it was seen last.

    Attributes:
        name: Its name.
        started: When its process began.
        seen: When it was seen last.
        age: Seconds since then.
        version: Version of s2connect that it runs.
        schema: Number of migrations that it knows.
        address: Machine and port.
        host: Host of its URLs, to which its proofs in pairing are bound (HMAC-02).
        sessions: Open sessions.
        draining: Whether it takes no new sessions because it is about to end.
        alive: Whether it was seen within :data:`DEAD_AFTER`.
    """

    name: str
    started: datetime
    seen: datetime
    age: float
    version: str
    schema: int
    address: str
    host: str
    sessions: int
    draining: bool
    alive: bool


async def is_alive(connection: Connection, name: str) -> bool:
    """Return whether the instance of a name was seen of late. On any connection, also within a transaction."""
    found = f"SELECT 1 FROM instance WHERE name = %s AND {ALIVE}"  # noqa: S608 - constants
    cursor = await connection.execute(found.encode(), (name,))
    return await cursor.fetchone() is not None


async def instances(connection: Connection) -> list[Instance]:
    """Return all instances that have not ended in order, by name."""
    all_of_them = (
        "SELECT name, started, seen, greatest(extract(epoch FROM clock_timestamp() - seen), 0)::float8 AS age, version,"  # noqa: S608 - constants
        f" schema, address, host, sessions, draining, {ALIVE} AS alive FROM instance ORDER BY name"
    )
    cursor = await connection.execute(all_of_them.encode())
    return [Instance(**row) for row in await cursor.fetchall()]


class Presence:
    """This process as the instance of a name: claimed, renewed, and given back at the end.

    Args:
        database: The database.
        name: Name of the instance.
        version: Version of this program.
        sessions: Returns the number of open sessions.
        on_lost: Called once with an error where another process has become the instance of this name, while the
            database could not be reached from here. This one has to end.

    Attributes:
        address: Machine and port, for people.
        host: Host of our URLs.
        draining: Whether it takes no new sessions; see :meth:`drain`.
        is_lost: Whether another process has the name.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        *,
        version: str,
        sessions: Callable[[], int] = lambda: 0,
        on_lost: Callable[[InstanceRuns], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.address = self.host = ""
        self.draining = False
        self.is_lost = False
        self._database = database
        self._version = version
        self.sessions = sessions
        self.on_lost = on_lost
        self._incarnation = uuid.uuid4()
        self._started = datetime.now(UTC)
        self._connection: pool.Connection | None = None
        self._now = asyncio.Event()
        self._clock_differs = False

    async def claim(self) -> None:
        """Become the instance of the name, before anything is served.

        Raises:
            InstanceRuns: Another process is it, and was seen of late.
            StorageUnavailable: The database cannot be reached.
        """
        with self._translated("register an instance in"):
            await self._claim()

    async def keep(self) -> None:
        """Renew the row until cancelled, or until another process has the name. For a supervisor."""
        silent = False
        while not self.is_lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEEN_EVERY * random.uniform(0.9, 1.0)):  # noqa: S311 - no secret
                    await self._now.wait()
            self._now.clear()
            try:
                with self._translated("renew an instance in"):
                    await self._renew()
                silent = False
            except InstanceRuns as error:
                self.is_lost = True
                _log.error("%s", error)
                self.on_lost(error)
            except StorageUnavailable as error:
                if not silent:
                    _log.warning("This instance does not show as alive now: %s", error)
                silent = True
                await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - no secret
                self._now.set()

    def drain(self) -> None:
        """Show at once that this instance takes no new sessions."""
        self.draining = True
        self._now.set()

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run work that reads from the database. Raises StorageUnavailable."""
        return await self._database.read("read", work)

    async def others_known_as(self) -> list[str]:
        """Return the hosts of the URLs of living instances, where they are others than ours."""
        return sorted({one.host for one in await self.others() if one.host} - {self.host})

    async def others(self) -> list[Instance]:
        """Return the other instances that live."""
        return [one for one in await self.read(instances) if one.alive and one.name != self.name]

    async def leave(self) -> None:
        """Give the name back. Idempotent; where the database is away, the row counts as dead after a while."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(ASK_S):
                await connection.execute(
                    "DELETE FROM instance WHERE name = %s AND incarnation = %s", (self.name, self._incarnation)
                )
        except (psycopg.Error, TimeoutError):
            _log.debug("the row of this instance stays")
        finally:
            connection.pgconn.finish()

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, TimeoutError) as error:
            raise unavailable(doing, self._database.url, error) from None

    async def _renew(self) -> None:
        if self._connection is None:
            await self._claim()
            return
        try:
            async with asyncio.timeout(ASK_S):
                written = await self._write(self._connection)
        except BaseException:
            self._connection.pgconn.finish()
            self._connection = None
            raise
        if not written:
            raise _runs(self.name)

    async def _claim(self) -> None:
        connection = await self._database.connect(doing="register an instance in")
        try:
            waited = 0.0
            while not await self._lock(connection):
                await self._dismiss(connection, waited)
                await asyncio.sleep(TAKE_EVERY)
                waited += TAKE_EVERY
            if not await self._write(connection, claims=True):
                raise _runs(self.name)
        except BaseException:
            connection.pgconn.finish()
            raise
        self._connection = connection

    async def _lock(self, connection: Connection) -> bool:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s, %s) AS got", (LOCKS, _key(self.name)))
        row = await cursor.fetchone()
        return row is not None and bool(row["got"])

    async def _dismiss(self, connection: Connection, waited: float) -> None:
        """End the connection that holds the lock, if whoever made it is dead, or was this process.

        The end of a process that was killed comes to the database some milliseconds later: that is waited for.

        Raises:
            InstanceRuns: It is alive.
        """
        found = f"SELECT incarnation, address, {ALIVE} AS alive FROM instance WHERE name = %s"  # noqa: S608 - constants
        row = await (await connection.execute(found.encode(), (self.name,))).fetchone()
        ours = row is not None and row["incarnation"] == self._incarnation
        stands = row is not None and row["alive"] and not ours
        if waited > (ENDS_WITHIN_S if stands else TAKE_S):
            raise _runs(self.name, "" if row is None else row["address"])
        if row is not None and not stands:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                " AND classid = %s AND objid = %s AND objsubid = 2",
                (LOCKS, _key(self.name)),
            )

    async def _write(self, connection: Connection, *, claims: bool = False) -> bool:
        """Write the row; False if it is another process's. ``claims`` takes it over, with the lock."""
        # A database that has crashed has lost the row, not the lock of a connection made since.
        cursor = await connection.execute(
            "INSERT INTO instance AS i (name, incarnation, started, seen, version, schema, address, host, sessions,"
            " draining) VALUES (%(name)s, %(me)s, %(started)s, clock_timestamp(), %(version)s, %(schema)s, %(address)s,"
            " %(host)s, %(sessions)s, %(draining)s)"
            " ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation, started = excluded.started,"
            " seen = excluded.seen, version = excluded.version, schema = excluded.schema,"
            " address = excluded.address, host = excluded.host, sessions = excluded.sessions,"
            " draining = excluded.draining WHERE %(claims)s OR i.incarnation = excluded.incarnation"
            " RETURNING extract(epoch FROM clock_timestamp())::float8 AS now",
            {
                "name": self.name,
                "me": self._incarnation,
                "started": self._started,
                "version": self._version,
                "schema": len(MIGRATIONS),
                "address": self.address,
                "host": self.host,
                "sessions": self.sessions(),
                "draining": self.draining,
                "claims": claims,
            },
        )
        row = await cursor.fetchone()
        if row is not None:
            self._compare_clocks(time.time() - row["now"])
        return row is not None

    def _compare_clocks(self, ahead: float) -> None:
        """Report once that our clock and that of the database differ, by which all instances go."""
        differs = abs(ahead) > MAX_DIFFERENCE
        if differs and not self._clock_differs:
            how = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of the database"
            _log.error(
                "The clock of this machine is %s: what is logged and shown here has other times. Set both by NTP.", how
            )
        self._clock_differs = differs


def _key(name: str) -> int:
    """Return the second half of the advisory lock on a name: not negative, as pg_locks shows it."""
    return zlib.crc32(name.encode()) & 0x7FFF_FFFF


def _runs(name: str, address: str = "") -> InstanceRuns:
    where = f" at {for_display(address, 80)}" if address else ""
    return InstanceRuns(f"The instance {name} runs already{where}.")
