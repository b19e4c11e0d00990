"""Store in PostgreSQL: the contract of a store, for one instance or for several on the same database."""

from __future__ import annotations

from collections.abc import Sequence

from s2connect.model.common import EndpointDescription, NodeDescription, NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.store.base import MAX_FOUND, Page, Pairing, PairKey, Pin, Record, Replaced, ids_beginning_with
from s2connect.store.postgresql.database import Connection, Database, Row
from s2connect.store.postgresql.rows import PAIR, PairingRows, pair_values
from s2connect.store.postgresql.sealing import Sealer

__all__ = ["PostgresqlStore"]


class PostgresqlStore:
    """The contract of :class:`~s2connect.store.base.Store`, in a PostgreSQL database.

    Several may use the same database. Each write is one transaction with the secrets that belong to it, and goes on to
    its end where its caller is cancelled. Where a connection is lost in a commit, the store finds out how it ended.

    Attributes:
        database: Where it is, for what else has to be in the same transaction.
        rows: The operations inside of such a transaction.
    """

    def __init__(self, database: Database, sealer: Sealer) -> None:
        """Take an open database, which :meth:`close` closes."""
        self.database = database
        self.rows = PairingRows(sealer, database.shown)

    @classmethod
    async def open(cls, url: str, keys: Sequence[bytes], *, instance: str = "") -> PostgresqlStore:
        """Open the database; ``keys`` seal what is secret. Raises as :meth:`Database.open`."""
        return cls(await Database.open(url, instance=instance), Sealer(keys))

    async def pairings(
        self,
        local: NodeId | None = None,
        *,
        role: CommunicationRole | None = None,
        confirmed: bool | None = None,
        newest: int | None = None,
    ) -> list[Pairing]:
        wanted: dict[str, object] = {
            "local = %s": local,
            "communication_role = %s": None if role is None else role.value,
        }
        wanted = {condition: value for condition, value in wanted.items() if value is not None}
        # Not as a value: there is an index of those that are not.
        conditions = [*wanted, *([] if confirmed is None else ["confirmed" if confirmed else "NOT confirmed"])]
        which = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        order = "ORDER BY sequence" if newest is None else f"ORDER BY sequence DESC LIMIT {newest:d}"
        found = await self._pairings(f"{which}{order}", tuple(wanted.values()))
        return found if newest is None else found[::-1]

    async def page(self, most: int, *, local: NodeId | None = None, before: int | None = None) -> Page:
        wanted = {"local = %s": local, "sequence < %s": before}
        wanted = {condition: value for condition, value in wanted.items() if value is not None}
        which = f"WHERE {' AND '.join(wanted)} " if wanted else ""
        rows = await self._rows(f"{which}ORDER BY sequence DESC LIMIT {most + 1:d}", tuple(wanted.values()))
        found = [row["pairing"] for row in rows[:most]]
        return Page(found[::-1], rows[most - 1]["sequence"] if len(rows) > most else None)

    async def counts(self) -> dict[NodeId, int]:
        async def read(connection: Connection) -> dict[NodeId, int]:
            cursor = await connection.execute("SELECT local, count(*) AS count FROM pairing GROUP BY local")
            return {NodeId(row["local"]): row["count"] for row in await cursor.fetchall()}

        return await self.database.read("read", read)

    async def beginning_with(self, beginning: str, *, local: NodeId | None = None) -> list[Pairing]:
        if (ids := ids_beginning_with(beginning)) is None:
            return []
        ours, values = ("", ids) if local is None else ("AND local = %s ", (*ids, local))
        return await self._pairings(f"WHERE remote BETWEEN %s AND %s {ours}ORDER BY remote LIMIT {MAX_FOUND}", values)

    async def pairings_of(self, key: PairKey) -> list[Pairing]:
        return await self._pairings(f"WHERE {PAIR} ORDER BY confirmed DESC", pair_values(key))

    async def _pairings(self, which: str, values: Sequence[object]) -> list[Pairing]:
        return [row["pairing"] for row in await self._rows(which, values)]

    async def _rows(self, which: str, values: Sequence[object]) -> list[Row]:
        return await self.database.read("read", lambda connection: self.rows.select(connection, which, values))

    async def save_pairing(
        self, pairing: Pairing, token: AccessToken, *further: AccessToken, alone: bool = False
    ) -> list[Replaced]:
        return await self.database.run(
            "write", lambda within: self.rows.save(within, pairing, [token, *further], alone=alone)
        )

    async def confirm_pairing(self, pairing: Pairing, *, alone: bool = False) -> list[Replaced] | None:
        return await self.database.run("write", lambda within: self.rows.confirm(within, pairing, alone=alone))

    async def drop_unconfirmed(self, pairing: Pairing) -> bool:
        return await self.database.run("write", lambda within: self.rows.remove(within, pairing, unconfirmed_only=True))

    async def remove_pairing(self, pairing: Pairing, *, tombstone: bool) -> bool:
        return await self.database.run("write", lambda within: self.rows.remove(within, pairing, tombstone=tombstone))

    async def candidate_tokens(self, pairing: Pairing) -> list[AccessToken]:
        return await self.database.read("read", lambda connection: self.rows.candidate_tokens(connection, pairing))

    async def add_pending_token(self, pairing: Pairing, token: AccessToken) -> None:
        await self.database.run("write", lambda within: self.rows.add_pending_token(within, pairing, token))

    async def keep_token(self, pairing: Pairing, token: AccessToken) -> None:
        await self.database.run("write", lambda within: self.rows.keep_tokens(within, pairing, [token]))

    async def record(self, key: PairKey) -> Record:
        return await self.database.read("read", lambda connection: self.rows.record(connection, key))

    async def activate_token(self, pairing: Pairing, digest: bytes, issued_at: float) -> bool:
        # Once only: where its answer was lost, another instance may have activated a later token meanwhile.
        return await self.database.once(
            "write", lambda connection: self.rows.activate_token(connection, pairing, digest, issued_at)
        )

    async def update_descriptions(
        self, key: PairKey, *, node: NodeDescription | None, endpoint: EndpointDescription | None
    ) -> None:
        await self.database.run(
            "write", lambda within: self.rows.update_descriptions(within, key, node=node, endpoint=endpoint)
        )

    async def set_pin(self, pairing: Pairing, pin: Pin) -> None:
        await self.database.run("write", lambda within: self.rows.set_pin(within, pairing, pin))

    async def refuse_server(self, url: BaseUrl) -> None:
        await self.database.run("write", lambda within: self.rows.refuse_server(within, url))

    async def refused_servers(self) -> list[BaseUrl]:
        async def read(connection: Connection) -> list[BaseUrl]:
            cursor = await connection.execute("SELECT url FROM refused_server ORDER BY sequence")
            return [BaseUrl(row["url"]) for row in await cursor.fetchall()]

        return await self.database.read("read", read)

    async def close(self) -> None:
        await self.database.close()
