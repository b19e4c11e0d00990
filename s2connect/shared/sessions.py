"""Pending tokens and offers of connections in PostgreSQL, for the communication servers of several instances.

Locks are taken in one order, so that confirmations, pairings and unpairings never wait for each other in a circle: the
rows of a pair's pairings, then its pending tokens by their expiry, then its offer.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from s2connect.model.common import WEBSOCKET, NodeId
from s2connect.model.secret import TOKEN_BYTES, AccessToken, CommunicationToken
from s2connect.model.session_init import CommunicationDetails, WebSocketCommunicationDetails
from s2connect.model.url import WebSocketUrl
from s2connect.session.server_core import VERSION, Activation, SessionServer
from s2connect.shared.pairing import CLOCK, swept
from s2connect.store.base import Pairing, PairKey, token_digest
from s2connect.store.effects import held_back
from s2connect.store.postgresql.database import Connection, Database, Row, Transaction
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.offers import OFFER_LIFETIME, digest

_log = logging.getLogger(__name__)

MAX_SHARED_PENDING: Final = 500_000
"""Pending tokens of all instances together: the sweep counts them."""

_PAIR: Final = "local = %s AND remote = %s"

_LOCK_PENDING: Final = f"SELECT * FROM pending_token WHERE {_PAIR} ORDER BY expires, digest FOR UPDATE"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Taken:
    """Offer that was used up: the connection to accept, and the pairing it is for."""

    info: ConnectionInfo
    pairing: Pairing


class PostgresqlSessions:
    """The contract of :class:`~s2connect.session.shared.SharedSessions` for several instances.

    Args:
        database: The database.
        pairings_of: Returns the pairings of a pair from the same database.
        websocket_url: Returns the URL at which the balancer, or this instance, takes WebSocket connections.
    """

    def __init__(
        self,
        database: Database,
        pairings_of: Callable[[PairKey], Awaitable[list[Pairing]]],
        websocket_url: Callable[[], WebSocketUrl],
    ) -> None:
        self._database = database
        self._pairings_of = pairings_of
        self._websocket_url = websocket_url
        self._too_many = False

    # Pending tokens

    @contextlib.asynccontextmanager
    async def issuing(self, key: PairKey) -> AsyncIterator[tuple[SessionServer, float]]:
        async with self._database.transaction() as within:
            core, before = await self._load(within, key)
            core.is_full = self._too_many
            yield core, within.now
            await self._save(within, core, before)

    @contextlib.asynccontextmanager
    async def confirming(self, token: AccessToken | None) -> AsyncIterator[tuple[SessionServer, float]]:
        key = await self._pair_of(token)
        if key is None:
            yield SessionServer(), 0.0  # which knows no token
            return
        with held_back() as effects:
            async with self._database.transaction() as within:
                pair = (key.local, key.remote)
                await within.execute(f"SELECT 1 FROM pairing WHERE {_PAIR} ORDER BY sequence FOR UPDATE", pair)  # noqa: S608 - constants
                core, before = await self._load(within, key)
                yield core, within.now
                await self._save(within, core, before)
        for effect in effects:
            effect()

    async def _pair_of(self, token: AccessToken | None) -> PairKey | None:
        if token is None:
            return None

        async def find(connection: Connection) -> Row | None:
            found = f"SELECT local, remote FROM pending_token WHERE digest = %s AND expires > {CLOCK}"  # noqa: S608 - constants
            return await (await connection.execute(found.encode(), (token_digest(token),))).fetchone()

        row = await self._database.read("read", find)
        return None if row is None else PairKey(NodeId(row["local"]), NodeId(row["remote"]))

    async def _load(self, within: Transaction, key: PairKey) -> tuple[SessionServer, set[bytes]]:
        rows = await within.rows(_LOCK_PENDING, (key.local, key.remote))
        standing = {p.paired_at: p for p in await self._pairings_of(key)} if rows else {}
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
                }
                for row in rows
            ],
        }
        core = SessionServer.load(value, lambda _, paired_at: standing.get(paired_at))
        return core, {row["digest"] for row in rows}

    async def _save(self, within: Transaction, core: SessionServer, before: set[bytes]) -> None:
        after = {bytes.fromhex(one["digest"]): one for one in core.dump()["pending"]}
        if gone := [name for name in before if name not in after]:
            await within.execute("DELETE FROM pending_token WHERE digest = ANY(%s)", (gone,))
        for name, one in after.items():
            if name not in before:
                await within.execute(
                    "INSERT INTO pending_token (digest, local, remote, paired_at, protocol, s2_version, expires)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    (
                        name,
                        one["local"],
                        one["remote"],
                        one["paired_at"],
                        one["protocol"],
                        one["s2_version"],
                        one["expires_at"],
                    ),
                )

    async def forget(self, key: PairKey) -> None:
        async def forget(within: Transaction) -> None:
            pair = (key.local, key.remote)
            await within.execute(_LOCK_PENDING, pair)
            for table in ("pending_token", "offer"):
                await within.execute(f"DELETE FROM {table} WHERE {_PAIR}", pair)  # noqa: S608 - constants

        await self._database.run("write", forget)

    # Offers

    async def offer(self, activation: Activation, info: ConnectionInfo) -> CommunicationDetails | None:
        if activation.protocol != WEBSOCKET:
            return None  # the connection comes over this instance's broker
        token = CommunicationToken.from_bytes(secrets.token_bytes(TOKEN_BYTES))
        key = activation.pairing.key

        async def add(within: Transaction) -> None:
            # Connections of earlier offers would displace the session that comes of this one.
            await within.execute(f"DELETE FROM offer WHERE {_PAIR}", (key.local, key.remote))  # noqa: S608 - constants
            await within.execute(
                "INSERT INTO offer (digest, local, remote, paired_at, s2_version, address, expires)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (
                    digest(token.reveal()),
                    key.local,
                    key.remote,
                    activation.pairing.paired_at,
                    info.s2_version,
                    info.peer_address,
                    within.now + OFFER_LIFETIME,
                ),
            )

        await self._database.run("write", add)
        return WebSocketCommunicationDetails(
            communication_protocol=WEBSOCKET, websocket_token=token, websocket_url=self._websocket_url()
        )

    async def is_open(self, key: str) -> bool:
        """Return whether an offer waits under a key; changes nothing (WS-02)."""

        async def find(connection: Connection) -> bool:
            found = f"SELECT 1 FROM offer WHERE digest = %s AND expires > {CLOCK}"  # noqa: S608 - constants
            return await (await connection.execute(found.encode(), (digest(key),))).fetchone() is not None

        return await self._database.read("read", find)

    async def take(self, key: str) -> Taken | None:
        """Use an offer up, at one instance only. None where there is none (any more), or its pairing has ended."""
        async with self._database.transaction() as within:
            row = await within.row(
                f"DELETE FROM offer WHERE digest = %s AND expires > {CLOCK} RETURNING *",  # noqa: S608 - constants
                (digest(key),),
            )
            if row is None:
                return None
            pair = PairKey(NodeId(row["local"]), NodeId(row["remote"]))
            pairing = next((p for p in await self._pairings_of(pair) if p.paired_at == row["paired_at"]), None)
        if pairing is None:
            return None
        return Taken(ConnectionInfo(WEBSOCKET, pair.local, pair.remote, row["s2_version"], row["address"]), pairing)

    # Expiry

    async def sweep(self) -> None:
        """Forget what has expired. Each instance does it."""

        async def count(connection: Connection) -> bool:
            row = await (await connection.execute("SELECT count(*) AS count FROM pending_token")).fetchone()
            return row is not None and row["count"] >= MAX_SHARED_PENDING

        for table in ("pending_token", "offer"):
            await self._database.read("write", swept(table, "digest", f"expires <= {CLOCK}"))
        self._too_many = await self._database.read("read", count)
