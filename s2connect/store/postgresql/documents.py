"""Documents in PostgreSQL: small files of an application that all instances share."""

from __future__ import annotations

from collections.abc import Callable

from s2connect.store.postgresql.database import Database, Transaction

__all__ = ["DocumentRows"]


class DocumentRows:
    """The table of documents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def change(self, name: str, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """Replace a document by what ``change`` makes of it, one instance at a time; return what is there then.

        ``change`` gets and may return None for no document. It may run several times. What it raises changes nothing.
        Raises StorageUnavailable.
        """

        async def within(transaction: Transaction) -> bytes | None:
            await transaction.execute("LOCK TABLE document IN SHARE ROW EXCLUSIVE MODE")
            row = await transaction.row("SELECT content FROM document WHERE name = %s", (name,))
            before: bytes | None = None if row is None else row["content"]
            content = change(before)
            if content is None and before is not None:
                await transaction.execute("DELETE FROM document WHERE name = %s", (name,))
            elif content is not None and content != before:
                await transaction.execute(
                    "INSERT INTO document (name, content) VALUES (%s, %s)"
                    " ON CONFLICT (name) DO UPDATE SET content = excluded.content",
                    (name, content),
                )
            return content

        return await self._database.run("write", within)
