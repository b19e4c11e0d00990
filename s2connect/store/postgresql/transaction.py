"""Transaction: statements that are durable together, in few round trips.

A round trip costs more than most statements. So a transaction begins together with its first statement, statements that
do not need each other's results go together, and writes whose results nobody needs go with the COMMIT. PostgreSQL runs
them in their order, each with a view of its own (READ COMMITTED), as if they had come one by one; after one that fails
it runs none that was sent with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import psycopg
from psycopg import AsyncCursor

from s2connect.store.postgresql import pool
from s2connect.store.postgresql.pool import Row

__all__ = ["Block", "Connection", "Statement", "Transaction", "Values", "together"]

T = TypeVar("T")
Values = Sequence[object] | Mapping[str, object]
Statement = tuple[str, Values | None]

BEGIN: Final = "BEGIN"
COMMIT: Final = "COMMIT"
SAVEPOINT: Final = "SAVEPOINT part"
RELEASE: Final = "RELEASE part"
UNDO: Final = "ROLLBACK TO part"

NUMBER: Final = "SELECT pg_current_xact_id()::text AS number, extract(epoch FROM now())::float8 AS now"
"""Gives the transaction a number."""

NUMBER_IF_USED: Final = "pg_current_xact_id_if_assigned()::text AS number, extract(epoch FROM now())::float8 AS now"
"""Columns with the number, which a transaction has that has changed or locked something."""


class Connection(Protocol):
    """Runner of statements: a connection of psycopg, or a transaction."""

    async def execute(self, statement: str | bytes, values: Values | None = None, /) -> AsyncCursor[Row]:
        """Run one statement."""


@dataclass(slots=True, eq=False)
class Transaction:
    """One transaction: its statements are durable at its end, or none. It begins with the first of them.

    Attributes:
        connection: The connection, for nobody else meanwhile; None before the first statement.
        number: Number of the transaction in the database. None before the first statement; empty where that has
            neither changed nor locked anything, see :meth:`first`.
        now: Time of the database when it began, in seconds since the epoch.
        ending: Statements that go with the COMMIT.
    """

    _begin: Callable[[Transaction, Sequence[Statement]], Awaitable[list[AsyncCursor[Row]]]]
    connection: pool.Connection | None = None
    number: str | None = None
    now: float = 0.0
    ending: list[Statement] = field(default_factory=list)
    _before: list[str] = field(default_factory=list)

    async def execute(self, statement: str | bytes, values: Values | None = None, /) -> AsyncCursor[Row]:
        """Run one statement. Raises psycopg.Error, which :meth:`Database.transaction` translates."""
        text = statement if isinstance(statement, str) else statement.decode()
        return (await self.together((text, values)))[0]

    async def row(self, statement: str, values: Values | None = None) -> Row | None:
        """Run a statement and return its first row."""
        return await (await self.execute(statement, values)).fetchone()

    async def rows(self, statement: str, values: Values | None = None) -> list[Row]:
        """Run a statement and return its rows."""
        return await (await self.execute(statement, values)).fetchall()

    async def first(self, statement: str, values: Values) -> list[Row]:
        """Run the first statement, which locks or changes what it returns, with :data:`NUMBER_IF_USED` in each row.

        These columns have to come from around what locks, such as a WITH: those beside FOR UPDATE are made before.
        Where there are no rows, the transaction must not go on; it has cost little then.
        """
        self.number = ""  # it is not asked for
        rows = await self.rows(statement, values)
        if rows:
            self.number, self.now = rows[0]["number"], rows[0]["now"]
            if self.number is None:
                await self.together()
        return rows

    async def together(self, *statements: Statement) -> list[AsyncCursor[Row]]:
        """Run statements one after the other in one round trip. Raises as :meth:`execute`."""
        before: list[Statement] = [(one, None) for one in self._before]
        after: list[Statement] = [(NUMBER, None)] if self.number is None else []
        self._before.clear()
        sent = [*before, *statements, *after]
        cursors = await (self._begin(self, sent) if self.connection is None else together(self.connection, sent))
        if after:
            row = await cursors[-1].fetchone()
            assert row is not None
            self.number, self.now = row["number"], row["now"]
        return cursors[len(before) : len(before) + len(statements)]

    def last(self, statement: str, values: Values | None = None) -> None:
        """Run a statement that changes something at the end, with the COMMIT: what follows here does not see it yet."""
        self.ending.append((statement, values))

    @contextlib.asynccontextmanager
    async def part(self) -> AsyncIterator[None]:
        """Part of the transaction, none inside of another: what is inside is undone where it raises."""
        ending = len(self.ending)
        self._before.append(SAVEPOINT)
        try:
            yield
        except BaseException:
            del self.ending[ending:]
            if not self._is_unused() and self.connection is not None:
                with contextlib.suppress(psycopg.Error):  # the COMMIT sees it
                    await self.connection.execute(UNDO.encode(), prepare=False)
                self._before.append(RELEASE)
            raise
        if not self._is_unused():
            self._before.append(RELEASE)

    def _is_unused(self) -> bool:
        """Return whether no statement has run in a part, which then never began."""
        if unused := self._before[-1:] == [SAVEPOINT]:
            self._before.pop()
        return unused


async def together(connection: pool.Connection, statements: Sequence[Statement]) -> list[AsyncCursor[Row]]:
    """Run statements one after the other in one round trip. Raises the psycopg.Error of the first that fails."""
    if len(statements) == 1:
        return [await _sent(connection, *statements[0])]
    cursors: list[AsyncCursor[Row]] = []
    failure: psycopg.Error | None = None
    try:
        async with connection.pipeline():
            try:
                for statement, values in statements:
                    cursors.append(await _sent(connection, statement, values))
            except psycopg.Error as error:
                failure = error  # psycopg would log what follows from it
    except psycopg.Error as error:
        failure = failure or _first(error)
    if failure is not None:
        raise failure
    return cursors


async def _sent(connection: pool.Connection, statement: str, values: Values | None) -> AsyncCursor[Row]:
    prepare = False if statement in (BEGIN, SAVEPOINT, RELEASE, COMMIT) else None
    return await connection.execute(statement.encode(), values, prepare=prepare)


def _first(error: psycopg.Error) -> psycopg.Error:
    """Return the error of the statement that failed, instead of that of those after it."""
    found: BaseException | None = error
    while isinstance(found, psycopg.errors.PipelineAborted):
        found = found.__context__
    return found if isinstance(found, psycopg.Error) else error


class Block:
    """Transaction that is under way, for the operations inside of it: one after the other, each whole or not at all."""

    def __init__(self, database: object, transaction: Transaction) -> None:
        self.database = database
        self.open = True
        self._transaction = transaction
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def part(self) -> AsyncIterator[Transaction]:
        """Part of the transaction: what is inside is undone where it raises."""
        async with self._lock, self._transaction.part():
            yield self._transaction

    async def statement(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run one statement, without whose success there is no COMMIT of the transaction either."""
        async with self._lock:
            return await work(self._transaction)

    def last(self, statement: str, values: Values | None = None) -> None:
        """See :meth:`Transaction.last`."""
        self._transaction.last(statement, values)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Context whose operations on the database are part of the transaction."""
        token = _block.set(self)
        try:
            yield
        finally:
            self.open = False
            _block.reset(token)

    @staticmethod
    def around(database: object) -> Block | None:
        """Return the transaction on a database that the caller is in."""
        block = _block.get()
        return block if block is not None and block.open and block.database is database else None


_block: ContextVar[Block | None] = ContextVar("s2connect_transaction", default=None)
