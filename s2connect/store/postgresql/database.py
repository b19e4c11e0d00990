"""Database: a bounded pool of connections to PostgreSQL, transactions on them, and what to do when one fails.

Bounds of waiting
-----------------
Every wait is bounded, at the server and here, because a database that is gone often says nothing: connecting, a
statement, a lock, a COMMIT and a whole operation. What does not come in time is StorageUnavailable.

A COMMIT whose answer is lost
-----------------------------
Each transaction knows its number. Where the connection is cut in a COMMIT, the number is looked up: committed, aborted,
or still under way. The lookup commits something itself, so that with synchronous replication a "committed" is on the
standby, too. After a crash or a failover it says nothing: numbers of which the log has no trace are given again, and a
"committed" may be that of another transaction. So each connection knows its epoch, the row of a table that PostgreSQL
empties then. Where the epoch is another one, or the database stays away, the caller does not know, and may repeat the
operation.

A COMMIT is never cancelled: PostgreSQL would answer it as done although the standby does not have it. Nor is a
statement that is a transaction of its own, for the same reason. What follows: see
:mod:`~s2connect.store.postgresql.confirming`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncCursor, conninfo, errors, pq
from psycopg.rows import dict_row

from s2connect.errors import ConfigurationError, StorageUnavailable
from s2connect.store.postgresql import pool
from s2connect.store.postgresql.address import check_url, shown
from s2connect.store.postgresql.confirming import EMPTY_RECORD, WRITE_NOTHING, Confirmation
from s2connect.store.postgresql.failures import TRANSIENT, is_lost, unavailable
from s2connect.store.postgresql.pool import Pool, Row
from s2connect.store.postgresql.schema import (
    APPLICATION,
    BEGIN_EPOCH,
    MIGRATION_LOCK,
    MIGRATIONS,
    READ_EPOCH,
    READ_TABLES,
)
from s2connect.store.postgresql.transaction import (
    BEGIN,
    COMMIT,
    Block,
    Connection,
    Statement,
    Transaction,
    Values,
    together,
)
from s2connect.supervisor import FailureLog, Supervisor

__all__ = ["Connection", "Database", "Row", "Statement", "Transaction"]

T = TypeVar("T")

POOL_SIZE: Final = 8
"""Connections of one instance at most, beside that of LISTEN."""

CONNECT_S: Final = 3
"""Seconds for a new connection, for each host of the URL."""

LOCK_S: Final = 3
"""Seconds for which a statement waits for a lock."""

STATEMENT_S: Final = 5
"""Seconds that a statement may take."""

IDLE_S: Final = 10
"""Seconds after which the server ends a transaction in which nothing happens: whoever had begun it is gone."""

COMMIT_S: Final = 5.0
"""Seconds for the answer to a COMMIT, which with synchronous replication is that of the standby."""

ANSWER_S: Final = STATEMENT_S + 1.0
"""Seconds for the answer to a statement that is a transaction of its own."""

ON_ITS_WAY_S: Final = 1.0
"""Seconds in which a COMMIT that was given up may still reach the server, before it counts as one that waits."""

OPERATION_S: Final = 10.0
"""Seconds for one operation, with everything that is tried again."""

MAX_TRIES: Final = 5
"""Times that a transaction is tried which others disturb, or whose connection is lost before its end."""

_log = logging.getLogger(__name__)


class Database:
    """One database, with a bounded pool of connections. Its tables are those of :data:`MIGRATIONS`."""

    def __init__(self, url: str, *, instance: str = "", size: int = POOL_SIZE) -> None:
        """Use :meth:`open` instead."""
        self.url = check_url(url)
        self.shown = shown(url)
        self.instance = instance
        self._parameters = parameters(url, instance)
        self.failures = FailureLog()
        self._tasks = Supervisor("s2connect", self.failures)
        self._closed = False
        self._pool = Pool(url, self._connect, size)
        self._confirmation = Confirmation(url, self.connect, self._tasks)

    @classmethod
    async def open(cls, url: str, *, instance: str = "", size: int = POOL_SIZE) -> Database:
        """Connect, and see whether the tables are those of this program. ``instance`` shows in pg_stat_activity.

        Raises:
            ConfigurationError: It is no URL of a database.
            StorageUnavailable: It cannot be reached, refuses us, or its tables are too old or too new.
        """
        database = cls(url, instance=instance, size=size)
        try:
            await database._check_tables()
        except BaseException:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        """Let operations that have begun end, even of cancelled callers, and close all connections. Idempotent."""
        self._closed = True
        self._confirmation.close()
        await self._tasks.close(grace=OPERATION_S)
        await self._pool.close()

    @property
    def confirms(self) -> bool:
        """True if it confirms what is written, as far as is known; if not, every write is refused at once."""
        return not self._confirmation.is_missing

    async def check_confirms(self) -> None:
        """Find out whether it confirms what is written, by a record without content.

        Raises nothing, and waits a bounded time. An instance that writes nothing asks so: devices would be sent to it,
        and fail.
        """
        if self._closed or self._confirmation.is_missing:
            return
        try:
            connection = await self._pool.take()
        except StorageUnavailable:
            return  # whoever reads finds that out
        task = self._tasks.spawn(self._record_of_nothing(connection), "database-confirmation", expected=logging.DEBUG)
        try:
            await asyncio.wait([task], timeout=COMMIT_S)
            if not task.done():
                self._confirmation.late()
        finally:
            task.cancel()  # at the server, too: this record has nothing to show

    async def _record_of_nothing(self, connection: pool.Connection) -> None:
        try:
            await connection.execute(WRITE_NOTHING.encode())
        except BaseException:
            self._pool.discard(connection)
            raise
        await self._pool.give(connection)

    # Connections

    async def connect(self, *, doing: str = "connect to") -> pool.Connection:
        """Return a connection beside the pool, with ``autocommit``, for LISTEN. The caller closes it."""
        try:
            return await pool.Connection.connect(**self._parameters)
        except psycopg.Error as error:
            raise unavailable(doing, self.url, error) from None

    async def _connect(self) -> pool.Connection:
        """Return a connection for the pool. Raises psycopg.Error."""
        connection = await pool.Connection.connect(**self._parameters)
        try:
            *_, found = await together(connection, [(BEGIN_EPOCH, None), (READ_EPOCH, None)])
            row = await found.fetchone()
        except errors.InsufficientPrivilege:
            return connection  # of someone who may only look, and has nothing to commit
        except BaseException:
            connection.pgconn.finish()
            raise
        connection.epoch = "" if row is None else str(row["id"])
        return connection

    async def _check_tables(self) -> None:
        """Compare the tables with those that this program knows, while no migration is under way."""
        connection = await self.connect(doing="open")
        known = len(MIGRATIONS)
        try:
            async with connection:
                # Held to the end of the connection. A migration waits for it, and then sees this instance's pool.
                await connection.execute("SELECT pg_advisory_lock_shared(%s)", (MIGRATION_LOCK,))
                found = await (await connection.execute(READ_TABLES)).fetchone()
        except psycopg.Error as error:
            raise unavailable("open", self.url, error) from None
        if found is None or found["expanded"] < known:
            raise StorageUnavailable(
                f"The tables in {self.shown} are older than this program.",
                hint="Migrate them with: s2connect store migrate",
            )
        if found["moved_to"]:
            raise StorageUnavailable(
                f"The state in {self.shown} was moved into the home {found['moved_to']}; no instance starts here now.",
                hint="Back again: s2connect store copy --to URL --home HOME",
            )
        if found["contracted"] > known:
            raise StorageUnavailable(
                f"The tables in {self.shown} are those of a later version of s2connect "
                f"({found['contracted']}, known {known}).",
                hint="Update s2connect on this machine.",
            )

    # Operations

    @contextlib.asynccontextmanager
    async def transaction(self, doing: str = "write") -> AsyncIterator[Transaction]:
        """Transaction, READ COMMITTED: what is inside is durable when it has ended, or nothing of it.

        An exception inside rolls back. A caller that is cancelled inside, too; during the COMMIT it does not know.
        Nothing is tried again once it has begun: :meth:`run` does that. All operations on this database inside, also
        in tasks begun there, are part of it, each whole or not at all.

        Raises:
            StorageUnavailable: "Could not <doing> <database>": gone, too slow, or others were in the way.
        """
        outer = self._outer()
        with self._translated(doing):
            if outer is not None:
                async with outer.part() as transaction:
                    yield transaction
                return
            async with self._transaction() as transaction:
                with Block(self, transaction).inside():
                    yield transaction

    async def run(self, doing: str, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run work in one transaction, and again where others disturbed it or the connection was lost before its end.

        It goes on to its end where the caller is cancelled. ``work`` may run several times. Raises what ``work``
        raises, and StorageUnavailable as :meth:`transaction`.
        """
        if (outer := self._outer()) is not None:
            with self._translated(doing):
                async with outer.part() as transaction:
                    return await work(transaction)
        return await self._bounded(doing, lambda: self._in_transactions(work))

    async def read(self, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run one statement outside of a transaction that changes nothing, or may be repeated: it is tried again.

        What it changes is in UNLOGGED tables only, so that nobody has to confirm it.
        """
        return await self._single(doing, work, writes=False, again_if_lost=True)

    async def write(self, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run one statement that is a transaction of its own and may be repeated: it is tried again."""
        return await self._single(doing, work, writes=True, again_if_lost=True)

    async def once(self, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run one statement that is a transaction of its own, in one round trip.

        Where the connection is lost it is not tried again, and the caller does not know whether it happened.
        """
        return await self._single(doing, work, writes=True, again_if_lost=False)

    async def _single(
        self, doing: str, work: Callable[[Connection], Awaitable[T]], *, writes: bool, again_if_lost: bool
    ) -> T:
        if (outer := self._outer()) is not None:
            with self._translated(doing):
                return await outer.statement(work)
        until = asyncio.get_running_loop().time() + OPERATION_S

        async def attempts() -> T:
            return await self._on_connections(work, until, writes=writes, again_if_lost=again_if_lost)

        return await self._bounded(doing, attempts, cancel=not writes)

    def last(self, statement: str, values: Values | None = None) -> None:
        """Within a transaction: run a statement that changes something at its end, with the COMMIT."""
        outer = self._outer()
        assert outer is not None, "there is no transaction"
        outer.last(statement, values)

    def _outer(self) -> Block | None:
        """Return the transaction that the caller is in."""
        return Block.around(self)

    async def _bounded(self, doing: str, work: Callable[[], Awaitable[T]], *, cancel: bool = True) -> T:
        async def operation() -> T:
            with self._translated(doing):
                return await work()

        if self._closed:
            raise StorageUnavailable(f"The store {self.shown} is closed.", hint="")
        task = self._tasks.spawn(operation(), "database-operation", expected=logging.DEBUG)
        try:
            async with asyncio.timeout(OPERATION_S):
                return await asyncio.shield(task)
        except TimeoutError:
            if cancel:
                task.cancel()  # which may last, where the server is silent
            raise unavailable(doing, self.url, None) from None

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Any:
        try:
            yield
        except psycopg.Error as error:
            raise unavailable(doing, self.url, error) from None

    async def _on_connections(
        self, work: Callable[[Connection], Awaitable[T]], until: float, *, writes: bool, again_if_lost: bool
    ) -> T:
        loop, tries, late = asyncio.get_running_loop(), 0, None
        while True:
            tries += 1
            connection = await self._taken() if writes else await self._pool.take()
            try:
                if writes:
                    late = loop.call_later(ANSWER_S, self._give_up, connection)
                return await work(connection)
            except psycopg.Error as error:
                if writes and is_lost(error):
                    self._confirmation.require()
                if (is_lost(error) and not again_if_lost) or loop.time() > until:
                    raise
                if not await self._may_try_again(error, tries):
                    raise
            finally:
                if late is not None:
                    late.cancel()
                await self._pool.give(connection)

    async def _taken(self) -> pool.Connection:
        """Return a connection for a transaction. Raises StorageUnavailable also where none is confirmed."""
        self._confirmation.require()
        connection = await self._pool.take()
        try:
            self._confirmation.require()  # found out while this one waited
        except StorageUnavailable:
            await self._pool.give(connection)
            raise
        return connection

    async def _in_transactions(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        tries = 0
        while True:
            tries += 1
            try:
                async with self._transaction() as transaction:
                    return await work(transaction)
            except psycopg.Error as error:
                if not await self._may_try_again(error, tries):
                    raise

    async def _may_try_again(self, error: psycopg.Error, tries: int) -> bool:
        """Return whether the same work may succeed now, after a pause that differs from that of others."""
        if isinstance(error, errors.ReadOnlySqlTransaction):
            await self._pool.forget()  # the primary has become a standby
        elif not is_lost(error) and not isinstance(error, TRANSIENT):
            return False
        await asyncio.sleep(random.uniform(0, 0.01 * 2**tries))  # noqa: S311 - no secret
        return tries < MAX_TRIES

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Transaction]:
        """Transaction that raises psycopg.Error: StorageUnavailable only where nobody knows how it ended."""
        transaction = Transaction(self._begin)
        try:
            yield transaction
            if transaction.connection is None and transaction.ending:
                await transaction.together()
        except BaseException as error:
            if transaction.connection is not None:
                if isinstance(error, Exception):
                    await self._roll_back(transaction.connection)
                else:
                    self._pool.discard(transaction.connection)  # at once: whoever was cancelled does not wait
            raise
        if transaction.connection is not None:
            # Not in the caller's task: cancelling it must not cancel a COMMIT.
            work = self._tasks.spawn(self._committed(transaction), "database-commit", expected=logging.DEBUG)
            if (failure := await asyncio.shield(work)) is not None:
                raise failure

    async def _begin(self, transaction: Transaction, statements: Sequence[Statement]) -> list[AsyncCursor[Row]]:
        """Begin a transaction with its first statements: again, where the connection is lost then."""
        tries = 0
        while True:
            tries += 1
            connection = await self._taken()
            try:
                _, *cursors = await together(connection, [(BEGIN, None), *statements])
            except psycopg.Error as error:
                if connection.info.transaction_status is pq.TransactionStatus.INERROR:
                    transaction.connection = connection  # it has begun
                    raise
                await self._roll_back(connection)
                if tries >= MAX_TRIES or not is_lost(error):
                    raise
            except BaseException:
                self._pool.discard(connection)
                raise
            else:
                transaction.connection = connection
                return cursors

    async def _roll_back(self, connection: pool.Connection) -> None:
        try:
            await connection.rollback()
        except psycopg.Error:
            pass
        except BaseException:
            self._pool.discard(connection)  # as a transaction of someone who is cancelled
            raise
        await self._pool.give(connection)

    async def _committed(self, transaction: Transaction) -> psycopg.Error | None:
        """Commit; return why it was rolled back instead."""
        try:
            await self._commit(transaction)
        except psycopg.Error as error:
            return error
        return None

    async def _commit(self, transaction: Transaction) -> None:
        connection = transaction.connection
        assert connection is not None
        failed = errors.InFailedSqlTransaction("a statement of this transaction had failed")
        if connection.info.transaction_status is pq.TransactionStatus.INERROR:
            # A statement failed and somebody went on: COMMIT would roll back, and say so in a word only.
            await self._roll_back(connection)
            raise failed
        try:
            self._confirmation.require()
        except StorageUnavailable:  # found out since it has begun; it may be over when this one is rolled back
            await self._roll_back(connection)
            raise
        within = COMMIT_S + LOCK_S if transaction.ending else COMMIT_S
        late = asyncio.get_running_loop().call_later(within, self._give_up, connection)
        try:
            *_, done = await together(connection, [*transaction.ending, (COMMIT, None)])
            if done.statusmessage != COMMIT:
                raise failed
            return
        except psycopg.Error as error:
            if not connection.closed and not is_lost(error):
                raise
        finally:
            late.cancel()
            await self._pool.give(connection)
        await self._settle(transaction.number, connection.epoch)

    async def _settle(self, number: str | None, epoch: str) -> None:
        """Find out how a transaction ended whose COMMIT got no answer. Return where it is durable.

        One that waits for a standby is not waited for again. In another epoch the number may be that of another
        transaction; only one that was rolled back is told then: had this one been kept, no other had its number.

        Raises:
            OperationalError: It was rolled back.
            StorageUnavailable: Nobody knows.
        """
        unknown = StorageUnavailable(
            f"The connection to {self.shown} was lost in a commit, and whether it happened is not known.",
            hint="It is safe to do the same again.",
        )
        if not number or not epoch:
            raise unknown
        clock = asyncio.get_running_loop().time
        until = clock() + ON_ITS_WAY_S
        try:
            async with asyncio.timeout(COMMIT_S):
                while (found := await self._status(number)) != ("committed", epoch):
                    status, _ = found
                    if status == "committed":  # in another epoch
                        raise unknown
                    if status == "aborted":
                        raise psycopg.OperationalError("the transaction was rolled back")
                    if status == "in progress" and self._confirmation.is_missing and clock() > until:
                        raise unknown
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise unknown from None
        self._confirmation.confirmed()

    async def _status(self, number: str) -> tuple[str, str]:
        """Return how a transaction stands, once this is as durable as a commit is, and the epoch that says so.

        Both are empty where it cannot be seen now.
        """
        try:
            connection = await self._pool.take()
        except StorageUnavailable:
            return "", ""
        try:
            cursor = await connection.execute(
                f"SELECT status, CASE status WHEN 'committed' THEN {EMPTY_RECORD} END"  # noqa: S608 - constants
                " FROM (SELECT pg_xact_status(%s::xid8) AS status OFFSET 0) AS found",
                (number,),
            )
            row = await cursor.fetchone()
        except psycopg.Error:
            return "", ""
        finally:
            await self._pool.give(connection)
        return ("", "") if row is None else (str(row["status"]), connection.epoch)

    def _give_up(self, connection: pool.Connection) -> None:
        """Stop waiting for the answer of a transaction that may be committed already."""
        self._confirmation.late()
        pool.cut(connection)


def parameters(url: str, instance: str = "") -> dict[str, Any]:
    """Return the parameters of a connection; those of the URL go first. Raises ConfigurationError."""
    try:
        given = conninfo.conninfo_to_dict(check_url(url))
    except psycopg.Error:  # whose text repeats parts of the URL
        raise ConfigurationError(
            f"The URL of the database {shown(url)} has a parameter that PostgreSQL does not know, or a bad escape.",
            hint="What it may have is in PostgreSQL's manual: Connection Strings. % in a password is written %25.",
        ) from None
    seconds = {"statement_timeout": STATEMENT_S, "lock_timeout": LOCK_S, "idle_in_transaction_session_timeout": IDLE_S}
    options = " ".join(f"-c {name}={value}s" for name, value in seconds.items())
    options += " -c jit=off"  # to compile a statement over many pairings takes longer than to run it
    usual: dict[str, Any] = {
        "connect_timeout": CONNECT_S,
        "application_name": f"{APPLICATION}/{len(MIGRATIONS)} {instance}".rstrip()[:63],
        # The primary, where the URL names several hosts.
        "target_session_attrs": "read-write",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    extra = {"options": f"{options} {given.pop('options', '') or ''}".rstrip()}
    return {**usual, **given, **extra, "autocommit": True, "row_factory": dict_row}
