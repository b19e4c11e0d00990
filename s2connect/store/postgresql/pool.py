"""Pool: a bounded number of connections to one database, made when they are needed.

It tells at once, and with the reason, that the database cannot be reached. The pool of psycopg would let every caller
wait until its patience ends, and then say only that.

A connection is lent for a bounded time. A server that stands still, on a machine that does not, keeps its connections
open and says nothing: whoever waits for it would wait for ever, and soon all connections would be lent to such.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, pq

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql.address import shown
from s2connect.store.postgresql.failures import unavailable

Row = dict[str, Any]


class Connection(AsyncConnection[Row]):
    """Connection to the database.

    Attributes:
        epoch: Time without a crash or failover of the database that it belongs to; empty outside of the pool.
    """

    epoch: str = ""


MAX_WAITING: Final = 1000
"""Callers that may wait for a connection; more are refused at once."""

WAIT_S: Final = 4.0
"""Seconds for which a caller waits for a connection."""

LENT_S: Final = 16.0
"""Seconds for which a connection is lent: more than an operation may take, with its COMMIT."""


class Pool:
    """Connections to one database, of which the one used last is given out first.

    Args:
        url: The database, for texts.
        connect: Makes a connection with ``autocommit``.
        size: Connections at most.
    """

    def __init__(self, url: str, connect: Callable[[], Awaitable[Connection]], size: int) -> None:
        self._url = url
        self._connect = connect
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._lent: dict[Connection, asyncio.TimerHandle] = {}
        self._waiting = 0
        self._closed = False

    async def take(self) -> Connection:
        """Return a connection, idle and for this caller alone until :meth:`give`.

        Raises:
            StorageUnavailable: None can be made, too many callers wait, or none came free in time.
        """
        if self._closed:
            raise StorageUnavailable(f"The store {shown(self._url)} is closed.", hint="")
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()
        try:
            while self._idle:
                connection = self._idle.pop()
                if _still_there(connection):
                    return self._lend(connection)
                await connection.close()
            return self._lend(await self._connect())
        except psycopg.Error as error:
            self._free.release()
            raise unavailable("reach", self._url, error) from None
        except BaseException:
            self._free.release()
            raise

    def _lend(self, connection: Connection) -> Connection:
        self._lent[connection] = asyncio.get_running_loop().call_later(LENT_S, self._end, connection)
        return connection

    def _end(self, connection: Connection) -> None:
        """End a connection that is not given back, and those beside it: they lead to the same silent server."""
        cut(connection)
        while self._idle:
            self._idle.pop().pgconn.finish()

    def _returned(self, connection: Connection) -> None:
        self._lent.pop(connection).cancel()

    async def _wait(self) -> None:
        busy = StorageUnavailable(
            f"Could not use {shown(self._url)}: too many operations wait for it.",
            hint="Look what keeps the database busy: pg_stat_activity.",
        )
        if self._waiting >= MAX_WAITING:
            raise busy
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_S):
                await self._free.acquire()
        except TimeoutError:
            raise busy from None
        finally:
            self._waiting -= 1

    async def give(self, connection: Connection) -> None:
        """Take a connection back. One that is not idle, or has ended, is closed."""
        self._returned(connection)
        try:
            if self._closed or connection.info.transaction_status is not pq.TransactionStatus.IDLE:
                await connection.close()
            else:
                self._idle.append(connection)
        finally:
            self._free.release()

    def discard(self, connection: Connection) -> None:
        """Close a connection in whatever state it is, without waiting. The server rolls back what was begun on it."""
        self._returned(connection)
        connection.pgconn.finish()
        self._free.release()

    async def forget(self) -> None:
        """Close what is idle: all of it leads to a server that is not the primary any more."""
        while self._idle:
            await self._idle.pop().close()

    async def close(self) -> None:
        """Close what is idle now, and the rest when it is given back. Idempotent."""
        self._closed = True
        await self.forget()


def cut(connection: psycopg.BaseConnection[Any]) -> None:
    """End a connection under whoever waits on it, without asking the server to cancel."""
    with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as shut:
        shut.shutdown(socket.SHUT_RDWR)


def _still_there(connection: Connection) -> bool:
    """Return whether the server has not ended the connection meanwhile. Asks nothing: reads what has arrived."""
    try:
        for _ in range(2):  # the server's last words, and then the end
            connection.pgconn.consume_input()
    except psycopg.Error:
        return False
    return connection.pgconn.status == pq.ConnStatus.OK
