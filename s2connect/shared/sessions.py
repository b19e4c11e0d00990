"""Pending tokens and offers of connections in PostgreSQL, for the communication servers of several instances.

Locks are taken in one order, so that confirmations, pairings and unpairings never wait for each other in a circle: the
rows of a pair's pairings, then its pending tokens by their expiry, then its offer.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from s2connect.model.common import WEBSOCKET, NodeId
from s2connect.model.secret import TOKEN_BYTES, AccessToken, CommunicationToken
from s2connect.model.session_init import CommunicationDetails, WebSocketCommunicationDetails
from s2connect.model.url import WebSocketUrl
from s2connect.session.ownership import Claim
from s2connect.session.server_core import VERSION, Activation, SessionServer
from s2connect.shared.ownership import claimed
from s2connect.shared.pairing import CLOCK, swept
from s2connect.store.base import Pairing, PairKey, token_digest
from s2connect.store.effects import held_back
from s2connect.store.postgresql.database import Connection, Database, Row, Transaction
from s2connect.store.postgresql.instances import ALIVE
from s2connect.store.postgresql.rows import PAIR, SAME, PairingRows, pair_values
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.offers import OFFER_LIFETIME, digest

_log = logging.getLogger(__name__)

MAX_SHARED_PENDING: Final = 500_000
"""Pending tokens of all instances together: the sweep counts them."""

_LOCK_PENDING: Final = f"""
    SELECT *, owner = '' OR owner = %s OR EXISTS (SELECT FROM instance WHERE name = owner AND {ALIVE}) AS is_held
    FROM pending_token WHERE {PAIR} ORDER BY expires, digest FOR UPDATE
"""  # noqa: S608

_READ_PENDING: Final = f"""
    SELECT {CLOCK} AS now, pending_token.*
    FROM (SELECT) AS always LEFT JOIN pending_token ON {PAIR} ORDER BY expires, digest
"""  # noqa: S608

_ADD_OFFER: Final = f"""
    WITH former AS (DELETE FROM offer WHERE local = %(local)s AND remote = %(remote)s)
    INSERT INTO offer (digest, local, remote, paired_at, s2_version, address, owner, expires)
    VALUES (
        %(digest)s, %(local)s, %(remote)s, %(paired_at)s, %(s2_version)s, %(address)s, %(owner)s, {CLOCK} + %(lifetime)s
    )
"""  # noqa: S608
"""Connections of earlier offers would displace the session that comes of this one."""


class _Used(Exception):
    """Others have used the offer, or ended its pairing, while it was taken: nothing of that stays."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Offer that was used up: the connection to accept, the pairing it is for, and who owns its session then."""

    info: ConnectionInfo
    pairing: Pairing
    claim: Claim | None


class PostgresqlSessions:
    """The contract of :class:`~s2connect.session.shared.SharedSessions` for several instances.

    Args:
        database: The database.
        rows: The pairings in the same database.
        websocket_url: Returns the URL at which the balancer, or this instance, takes WebSocket connections.
    """

    def __init__(
        self,
        database: Database,
        rows: PairingRows,
        websocket_url: Callable[[], WebSocketUrl],
    ) -> None:
        self._database = database
        self._rows = rows
        self._websocket_url = websocket_url
        self._too_many = False

    # Pending tokens

    @contextlib.asynccontextmanager
    async def issuing(self, key: PairKey) -> AsyncIterator[tuple[SessionServer, float]]:
        async def read(connection: Connection) -> list[Row]:
            return await (await connection.execute(_READ_PENDING, pair_values(key))).fetchall()

        # Without a transaction: nobody else changes what is added here.
        rows = await self._database.read("read", read)
        pending = [row for row in rows if row["digest"] is not None]
        core = await self._core(key, pending)
        core.is_full = self._too_many
        yield core, rows[0]["now"]
        before = {row["digest"] for row in pending}
        after = {bytes.fromhex(one["digest"]): one for one in core.dump()["pending"]}
        for name in after.keys() - before:
            await self._database.once("write", _insertion(name, after[name]))
        if gone := [name for name in before if name not in after]:
            await self._database.read("write", swept("pending_token", "digest", "digest = ANY(%s)", (gone,)))

    async def _core(self, key: PairKey, pending: list[Row]) -> SessionServer:
        if not pending:
            return SessionServer()

        async def read(connection: Connection) -> list[Row]:
            return await self._rows.select(connection, f"WHERE {PAIR}", pair_values(key))

        return _core_of(key, pending, await self._database.read("read", read))

    @contextlib.asynccontextmanager
    async def confirming(self, token: AccessToken | None) -> AsyncIterator[tuple[SessionServer, float]]:
        key = await self._pair_of(token)
        if key is None:
            yield SessionServer(), 0.0  # which knows no token
            return
        with held_back() as effects:
            async with self._database.transaction() as within:
                lock = f"WHERE {PAIR} ORDER BY sequence FOR UPDATE"
                pairings = await self._rows.select(within.connection, lock, pair_values(key))
                pending = await within.rows(_LOCK_PENDING, (self._database.instance, *pair_values(key)))
                core = _core_of(key, [self._held(row) for row in pending], pairings)
                yield core, within.now
                left = {bytes.fromhex(one["digest"]) for one in core.dump()["pending"]}
                if gone := [row["digest"] for row in pending if row["digest"] not in left]:
                    await within.execute("DELETE FROM pending_token WHERE digest = ANY(%s)", (gone,))
        for effect in effects:
            effect()

    @staticmethod
    def _held(row: Row) -> Row:
        """Return the row of a pending token, without the URL of its holder where that is dead."""
        return row if row["is_held"] else {**row, "url": ""}

    async def _pair_of(self, token: AccessToken | None) -> PairKey | None:
        if token is None:
            return None

        async def find(connection: Connection) -> Row | None:
            found = f"SELECT local, remote FROM pending_token WHERE digest = %s AND expires > {CLOCK}"  # noqa: S608 - constants
            return await (await connection.execute(found.encode(), (token_digest(token),))).fetchone()

        row = await self._database.read("read", find)
        return None if row is None else PairKey(NodeId(row["local"]), NodeId(row["remote"]))

    async def forget(self, key: PairKey) -> None:
        async def forget(within: Transaction) -> None:
            await within.execute(_LOCK_PENDING, (self._database.instance, *pair_values(key)))
            for table in ("pending_token", "offer"):
                await within.execute(f"DELETE FROM {table} WHERE {PAIR}", pair_values(key))  # noqa: S608 - constants

        await self._database.run("write", forget)

    # Offers

    async def offer(self, activation: Activation, info: ConnectionInfo) -> CommunicationDetails | None:
        if activation.protocol != WEBSOCKET:
            return None  # the connection comes over this instance's broker, and what was prepared elsewhere stays there
        token = CommunicationToken.from_bytes(secrets.token_bytes(TOKEN_BYTES))
        key, holder = activation.pairing.key, activation.holder
        values = {
            "digest": digest(token.reveal()),
            "local": key.local,
            "remote": key.remote,
            "paired_at": activation.pairing.paired_at,
            "s2_version": info.s2_version,
            "address": info.peer_address,
            "owner": "" if holder is None else holder.name,
            "lifetime": OFFER_LIFETIME,
        }

        async def add(connection: Connection) -> None:
            await connection.execute(_ADD_OFFER, values)

        await self._database.once("write", add)
        return WebSocketCommunicationDetails(
            communication_protocol=WEBSOCKET,
            websocket_token=token,
            websocket_url=WebSocketUrl(holder.url) if holder is not None and holder.url else self._websocket_url(),
        )

    async def is_open(self, key: str) -> bool:
        """Return whether an offer waits under a key; changes nothing (WS-02)."""

        async def find(connection: Connection) -> bool:
            found = f"SELECT 1 FROM offer WHERE digest = %s AND expires > {CLOCK}"  # noqa: S608 - constants
            return await (await connection.execute(found.encode(), (digest(key),))).fetchone() is not None

        return await self._database.read("read", find)

    async def open_offers(self, until: float | None) -> tuple[int, float]:
        """See :meth:`SharedOfferingSessions.open_offers`. Times are those of the database."""

        async def count(connection: Connection) -> tuple[int, float]:
            waiting = (
                f"SELECT count(*) FILTER (WHERE expires <= %s) AS count, {CLOCK} + {OFFER_LIFETIME} AS until"  # noqa: S608 - constants
                f" FROM offer WHERE expires > {CLOCK}"
            )
            row = await (await connection.execute(waiting.encode(), (until,))).fetchone()
            return (0, 0.0) if row is None else (row["count"], row["until"])

        return await self._database.read("read", count)

    async def held_elsewhere(self, key: str) -> tuple[Pairing, str] | None:
        async def find(connection: Connection) -> Row | None:
            found = f"SELECT * FROM offer WHERE digest = %s AND owner NOT IN ('', %s) AND expires > {CLOCK}"  # noqa: S608 - constants
            return await (await connection.execute(found.encode(), (digest(key), self._database.instance))).fetchone()

        if (row := await self._database.read("read", find)) is None:
            return None
        values = (*pair_values(PairKey(NodeId(row["local"]), NodeId(row["remote"]))), row["paired_at"])

        async def read(connection: Connection) -> list[Row]:
            return await self._rows.select(connection, f"WHERE {SAME}", values)

        standing = await self._database.read("read", read)
        return (standing[0]["pairing"], row["s2_version"]) if standing else None

    async def take(self, key: str, *, also_of_others: bool = False) -> Taken | None:
        try:
            return await self._take(key, also_of_others)
        except _Used:
            return None

    async def _take(self, key: str, also_of_others: bool) -> Taken | None:
        """Use an offer up, at one instance only, which owns the session from then on.

        None where there is none (any more), or its pairing has ended.
        """
        open_offer = f"FROM offer WHERE digest = %s AND expires > {CLOCK}"
        async with self._database.transaction() as within:
            row = await within.row(f"SELECT * {open_offer}", (digest(key),))
            if row is None or not (also_of_others or row["owner"] in ("", self._database.instance)):
                return None
            pair = PairKey(NodeId(row["local"]), NodeId(row["remote"]))
            owned = await claimed(within.connection, pair, row["paired_at"], self._database.instance)
            standing = await self._rows.select(
                within.connection, f"WHERE {SAME}", (*pair_values(pair), row["paired_at"])
            )
            used = await within.row(f"DELETE {open_offer} RETURNING 1 AS used", (digest(key),))
            if owned is None or not standing or used is None:
                raise _Used
            claim = Claim(pair, row["paired_at"], self._database.instance, owned["generation"])
        info = ConnectionInfo(WEBSOCKET, pair.local, pair.remote, row["s2_version"], row["address"])
        return Taken(info, standing[0]["pairing"], claim)

    # Expiry

    async def sweep(self) -> None:
        """Forget what has expired. Each instance does it."""

        async def count(connection: Connection) -> bool:
            row = await (await connection.execute("SELECT count(*) AS count FROM pending_token")).fetchone()
            return row is not None and row["count"] >= MAX_SHARED_PENDING

        for table in ("pending_token", "offer"):
            await self._database.read("write", swept(table, "digest", f"expires <= {CLOCK}"))
        self._too_many = await self._database.read("read", count)


def _core_of(key: PairKey, pending: list[Row], pairings: list[Row]) -> SessionServer:
    """Return a core with the pending tokens of a pair."""
    standing: dict[float, Pairing] = {row["paired_at"]: row["pairing"] for row in pairings}
    value = {
        "version": VERSION,
        "pending": [
            {
                "digest": row["digest"].hex(),
                "expires_at": row["expires"],
                "local": str(key.local),
                "remote": str(key.remote),
                "paired_at": row["paired_at"],
                "protocol": row["protocol"],
                "s2_version": row["s2_version"],
                "holder": {"name": row["owner"], "url": row["url"]} if row["owner"] else None,
            }
            for row in pending
        ],
    }
    return SessionServer.load(value, lambda _, paired_at: standing.get(paired_at))


def _insertion(name: bytes, one: Mapping[str, Any]) -> Callable[[Connection], Awaitable[None]]:
    holder = one["holder"] or {"name": "", "url": ""}
    values = (
        name,
        one["local"],
        one["remote"],
        one["paired_at"],
        one["protocol"],
        one["s2_version"],
        one["expires_at"],
        holder["name"],
        holder["url"],
    )

    async def insert(connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO pending_token (digest, local, remote, paired_at, protocol, s2_version, expires, owner, url)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            values,
        )

    return insert
