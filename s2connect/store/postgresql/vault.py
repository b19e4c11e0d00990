"""Vault in PostgreSQL: secrets as sealed rows."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row

from s2connect.store.postgresql.database import STATEMENT_S, parameters
from s2connect.store.postgresql.failures import unavailable
from s2connect.store.postgresql.pool import cut
from s2connect.store.postgresql.sealing import Sealer
from s2connect.store.vault import check_entry

__all__ = ["PostgresqlVault"]

ANSWER_S: Final = STATEMENT_S + 1.0
"""Seconds for an answer, which a server that stands still does not give: then the connection is cut."""


class PostgresqlVault:
    """The contract of :class:`~s2connect.store.base.Vault`, in the database of a PostgresqlStore.

    Its methods block. It has one connection of its own, made with the first of them.
    """

    def __init__(self, url: str, keys: Sequence[bytes], *, instance: str = "") -> None:
        """Take the database, whose tables exist, and the keys. ``instance`` is whose connection it is for others.

        Raises ConfigurationError for what is no URL.
        """
        self._url = url
        self._sealer = Sealer(keys)
        self._parameters = parameters(url, instance) | {"row_factory": tuple_row}
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def get(self, name: str) -> bytes | None:
        check_entry(name)
        rows = self._run("read", "SELECT sealed FROM secret WHERE name = %s", (name,))
        return self._sealer.open(sealed_name(name), rows[0][0]) if rows else None

    def put(self, name: str, secret: bytes) -> None:
        check_entry(name, secret)
        self._run("write", PUT_SECRET, (name, self._sealer.seal(sealed_name(name), secret)))

    def delete(self, name: str) -> None:
        check_entry(name)
        self._run("write", "DELETE FROM secret WHERE name = %s", (name,))

    def listed(self) -> list[str]:
        return [name for (name,) in self._run("read", "SELECT name FROM secret ORDER BY name", ())]

    def close(self) -> None:
        """Close the connection; the next method makes a new one."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _run(self, doing: str, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                try:
                    return self._execute(statement, values)
                except psycopg.OperationalError:
                    self._drop()  # it may have ended meanwhile, and each statement can be done again
                    return self._execute(statement, values)
            except psycopg.Error as error:
                self._drop()
                raise unavailable(f"{doing} a secret in", self._url, error) from None

    def _execute(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = psycopg.connect(**self._parameters)
        late = threading.Timer(ANSWER_S, cut, (self._connection,))
        late.start()
        try:
            cursor = self._connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []
        finally:
            late.cancel()


PUT_SECRET = (
    "INSERT INTO secret (name, sealed) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed"
)


def sealed_name(name: str) -> str:
    """Return the name under which a secret is sealed."""
    return f"secret {name}"
