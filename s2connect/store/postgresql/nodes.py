"""Nodes in PostgreSQL: the settings of each, for all instances.

A node that was removed leaves an empty row, so that an instance whose settings still name it does not bring it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from s2connect.model.common import NodeId
from s2connect.store.postgresql.database import Database, Transaction
from s2connect.store.postgresql.listening import CHANNEL, notify

__all__ = ["NodeRows"]

Nodes = Mapping[NodeId, bytes | None]
"""Settings of nodes by id, oldest first; None where the node was removed."""


class NodeRows:
    """The table of nodes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Nodes:
        """Return all nodes, those that were removed, too. Raises StorageUnavailable."""
        async with self._database.transaction("read") as transaction:
            return await _read(transaction)

    async def change(self, change: Callable[[Nodes], Nodes]) -> Nodes:
        """Replace nodes by what ``change`` makes of them, one instance at a time, and return what is there then.

        ``change`` may run several times. What it raises changes nothing. Rows that it leaves out stay.
        """

        async def within(transaction: Transaction) -> Nodes:
            await transaction.execute("LOCK TABLE node IN SHARE ROW EXCLUSIVE MODE")
            before = await _read(transaction)
            changed = {n: s for n, s in change(before).items() if n not in before or before[n] != s}
            if changed:
                await notify(transaction, CHANNEL, "nodes")
            for node, settings in changed.items():
                await transaction.execute(
                    "INSERT INTO node (id, settings) VALUES (%s, %s)"
                    " ON CONFLICT (id) DO UPDATE SET settings = excluded.settings",
                    (UUID(bytes=node.bytes), settings),
                )
            return await _read(transaction)

        return await self._database.run("write", within)


async def _read(transaction: Transaction) -> Nodes:
    rows: list[dict[str, Any]] = await transaction.rows("SELECT id, settings FROM node ORDER BY sequence")
    return {NodeId(row["id"]): row["settings"] for row in rows}
