"""Pending tokens and offers of connections in PostgreSQL, for the communication servers of several instances.

Locks are taken in one order, so that confirmations, pairings and unpairings never wait for each other in a circle: the
rows of a pair's pairings, then its pending tokens by their expiry, then its offer.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from s2connect.errors import NotPaired
from s2connect.model.common import WEBSOCKET
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import TOKEN_BYTES, AccessToken, CommunicationToken
from s2connect.model.session_init import CommunicationDetails, WebSocketCommunicationDetails
from s2connect.model.url import WebSocketUrl
from s2connect.session.ownership import Claim
from s2connect.session.server_core import VERSION, Activation, SessionServer, surplus
from s2connect.shared.sweeping import CLOCK, swept, swept_tables
from s2connect.store.base import GONE, Pairing, PairKey, token_digest
from s2connect.store.effects import held_back
from s2connect.store.postgresql.database import Connection, Database, Row, Transaction
from s2connect.store.postgresql.instances import ALIVE
from s2connect.store.postgresql.listening import channel_of
from s2connect.store.postgresql.rows import PAIR, PairingRows, pair_values
from s2connect.store.postgresql.transaction import NUMBER_IF_USED
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.offers import OFFER_LIFETIME, digest

_log = logging.getLogger(__name__)

MAX_SHARED_PENDING: Final = 500_000
"""Pending tokens of all instances together: the sweep counts them."""

_FORGET: Final = (
    f"SELECT FROM pending_token WHERE {PAIR} ORDER BY expires, digest FOR UPDATE",
    f"DELETE FROM pending_token WHERE {PAIR}",  # noqa: S608
    f"DELETE FROM offer WHERE {PAIR}",  # noqa: S608
)

_LOCK_CONFIRMED: Final = f"""
    WITH its AS MATERIALIZED (SELECT local, remote FROM pending_token WHERE digest = %(digest)s AND expires > {CLOCK}),
    locked AS MATERIALIZED (
        SELECT pairing.* FROM pairing JOIN its USING (local, remote) ORDER BY sequence FOR UPDATE OF pairing
    ),
    pending AS MATERIALIZED (
        SELECT pending_token.* FROM pending_token JOIN its USING (local, remote)
        WHERE (SELECT count(*) FROM locked) > 0 ORDER BY expires, digest FOR UPDATE OF pending_token
    )
    SELECT locked.*, pending.digest, pending.protocol, pending.s2_version, pending.expires, {NUMBER_IF_USED},
        pending.owner AS holder, CASE
            WHEN pending.owner = %(me)s
            OR EXISTS (SELECT FROM instance WHERE name = split_part(pending.owner, '~', 1) AND {ALIVE})
            THEN pending.url ELSE '' END AS holder_url
    FROM pending JOIN locked USING (local, remote, paired_at) ORDER BY expires, digest
"""  # noqa: S608
"""Locks the pairings of a token's pair, and then its pending tokens, which it returns with their pairings."""

_ADD_PENDING: Final = f"""
    WITH added AS (
        INSERT INTO pending_token (digest, local, remote, paired_at, protocol, s2_version, owner, url, expires)
        VALUES (
            %(digest)s, %(local)s, %(remote)s, %(paired_at)s, %(protocol)s, %(s2_version)s, %(holder)s, %(url)s,
            {CLOCK} + %(left)s
        )
    )
    SELECT digest FROM pending_token WHERE local = %(local)s AND remote = %(remote)s ORDER BY expires, digest
"""  # noqa: S608
"""Returns those that the pair had before."""

_ACTIVATE: Final = f"""
    WITH activated AS (
        UPDATE pairing SET active_digest = %(active)s, token_issued_at = %(issued_at)s
        WHERE local = %(local)s AND remote = %(remote)s AND paired_at = %(paired_at)s AND communication_role = %(role)s
        RETURNING local, remote, paired_at
    ),
    former AS (
        DELETE FROM offer USING activated
        WHERE %(offer)s::bytea IS NOT NULL AND offer.local = activated.local AND offer.remote = activated.remote
    )
    INSERT INTO offer (digest, local, remote, paired_at, s2_version, address, owner, expires)
    SELECT %(offer)s, local, remote, paired_at, %(s2_version)s, %(address)s, %(holder)s, {CLOCK} + %(lifetime)s
    FROM activated WHERE %(offer)s::bytea IS NOT NULL
"""  # noqa: S608
"""Activates a token and offers a connection: one of an earlier offer would displace it."""

_TAKE: Final = f"""
    WITH waiting AS MATERIALIZED (
        SELECT * FROM offer WHERE digest = %(digest)s AND expires > {CLOCK} AND (%(any)s OR owner IN ('', %(holder)s))
    ),
    former AS MATERIALIZED (
        SELECT pairing.sequence, pairing.owner FROM pairing JOIN waiting USING (local, remote, paired_at)
        FOR UPDATE OF pairing
    ),
    used AS (
        DELETE FROM offer USING former WHERE digest = %(digest)s AND expires > {CLOCK}
        RETURNING former.sequence, former.owner AS former, s2_version, address
    ),
    taken AS (
        UPDATE pairing SET generation = generation + 1, owner = %(me)s FROM used
        WHERE pairing.sequence = used.sequence RETURNING pairing.*, used.former, used.s2_version, used.address
    )
    SELECT *, {NUMBER_IF_USED}, CASE WHEN former != %(me)s THEN
        pg_notify(%(to)s || former, concat_ws(' ', 'pairing', local, remote))::text END
    FROM taken
"""  # noqa: S608
"""Locks the pairing, uses the offer up, and makes this instance the owner of the session: all of it, or nothing."""

_HELD_ELSEWHERE: Final = f"""
    SELECT pairing.*, s2_version FROM offer JOIN pairing USING (local, remote, paired_at)
    WHERE digest = %s AND offer.owner NOT IN ('', %s) AND expires > {CLOCK}
"""  # noqa: S608


_OVER: Final = tuple((table, "digest", f"expires <= {CLOCK}") for table in ("pending_token", "offer"))


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
        self.holder = f"{database.instance}~{secrets.token_hex(4)}"  # no name has this sign
        self._database = database
        self._rows = rows
        self._websocket_url = websocket_url
        self._too_many = False

    # Pending tokens

    @contextlib.asynccontextmanager
    async def issuing(self, key: PairKey) -> AsyncIterator[tuple[SessionServer, float]]:
        core = SessionServer()
        core.is_full = self._too_many
        yield core, 0.0  # a token expires so many seconds after it is stored
        for one in core.dump()["pending"]:
            values = {name: one[name] for name in ("local", "remote", "paired_at", "protocol", "s2_version")}
            holder = one["holder"] or {"name": "", "url": ""}
            values |= {"digest": bytes.fromhex(one["digest"]), "left": one["expires_at"]}
            values |= {"holder": holder["name"], "url": holder["url"]}

            async def add(connection: Connection, values: Mapping[str, object] = values) -> list[Row]:
                return await (await connection.execute(_ADD_PENDING, values)).fetchall()

            # Without a transaction: nobody else changes what is added here.
            before = await self._database.once("write", add)
            if gone := surplus([row["digest"] for row in before]):
                await self._database.read("write", swept("pending_token", "digest", "digest = ANY(%s)", (gone,)))

    @contextlib.asynccontextmanager
    async def confirming(self, token: AccessToken | None) -> AsyncIterator[tuple[SessionServer, float]]:
        if token is None:
            yield SessionServer(), 0.0  # which knows no token
            return
        with held_back() as effects:
            async with self._database.transaction() as within:
                # A token that is unknown locks and writes nothing: a stranger costs two round trips.
                values = {"digest": token_digest(token), "me": self.holder}
                rows = self._rows.understood(await within.first(_LOCK_CONFIRMED, values))
                yield _core_of(rows), rows[0]["now"] if rows else 0.0
                if within.ending:
                    # Only those that are locked: to wait for others now could be to wait in a circle.
                    gone = [row["digest"] for row in rows]
                    within.last("DELETE FROM pending_token WHERE digest = ANY(%s)", (gone,))
        for effect in effects:
            effect()

    async def activate(
        self, activation: Activation, info: ConnectionInfo, issued_at: float
    ) -> CommunicationDetails | None:
        pairing, holder = activation.pairing, activation.holder
        if pairing.communication_role is not CommunicationRole.SERVER:
            raise NotPaired(GONE)
        token = details = None
        # Otherwise the connection comes over this instance's broker, and what was prepared elsewhere stays there.
        if activation.protocol == WEBSOCKET:
            token = CommunicationToken.from_bytes(secrets.token_bytes(TOKEN_BYTES))
            details = WebSocketCommunicationDetails(
                communication_protocol=WEBSOCKET,
                websocket_token=token,
                websocket_url=WebSocketUrl(holder.url) if holder is not None and holder.url else self._websocket_url(),
            )
        # With the COMMIT, and without looking at what it has changed: the row of the pairing is locked.
        self._database.last(
            _ACTIVATE,
            {
                "active": activation.digest,
                "issued_at": issued_at,
                "local": pairing.key.local,
                "remote": pairing.key.remote,
                "paired_at": pairing.paired_at,
                "role": CommunicationRole.SERVER.value,
                "offer": None if token is None else digest(token.reveal()),
                "s2_version": info.s2_version,
                "address": info.peer_address,
                "holder": "" if holder is None else holder.name,
                "lifetime": OFFER_LIFETIME,
            },
        )
        return details

    async def forget(self, key: PairKey) -> None:
        async def forget(within: Transaction) -> None:
            for statement in _FORGET:
                within.last(statement, pair_values(key))

        await self._database.run("write", forget)

    # Offers

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
        async def find(connection: Connection) -> list[Row]:
            return await (await connection.execute(_HELD_ELSEWHERE, (digest(key), self.holder))).fetchall()

        found = self._rows.understood(await self._database.read("read", find))
        return (found[0]["pairing"], found[0]["s2_version"]) if found else None

    async def take(self, key: str, *, also_of_others: bool = False) -> Taken | None:
        """See :meth:`SharedOfferingSessions.take`. This instance owns the session from then on."""
        values = {
            "digest": digest(key),
            "me": self._database.instance,
            "holder": self.holder,
            "any": also_of_others,
            "to": channel_of(""),
        }
        async with self._database.transaction() as within:
            rows = await within.first(_TAKE, values)
        if not rows:
            return None
        row = self._rows.understood(rows)[0]
        pairing: Pairing = row["pairing"]
        info = ConnectionInfo(WEBSOCKET, pairing.key.local, pairing.key.remote, row["s2_version"], row["address"])
        me = self._database.instance
        return Taken(info, pairing, Claim(pairing.key, pairing.paired_at, me, row["generation"], row["former"]))

    # Expiry

    async def sweep(self) -> None:
        """Forget what has expired. Each instance does it."""
        row = await swept_tables(self._database, _OVER, "(SELECT count(*) FROM pending_token) AS count")
        self._too_many = row["count"] >= MAX_SHARED_PENDING


def _core_of(rows: list[Row]) -> SessionServer:
    """Return a core with the pending tokens of a pair, each with its pairing."""
    standing: dict[float, Pairing] = {row["paired_at"]: row["pairing"] for row in rows}
    value = {
        "version": VERSION,
        "pending": [
            {
                "digest": row["digest"].hex(),
                "expires_at": row["expires"],
                "local": str(row["local"]),
                "remote": str(row["remote"]),
                "paired_at": row["paired_at"],
                "protocol": row["protocol"],
                "s2_version": row["s2_version"],
                "holder": {"name": row["holder"], "url": row["holder_url"]} if row["holder"] else None,
            }
            for row in rows
        ],
    }
    return SessionServer.load(value, lambda _, paired_at: standing.get(paired_at))
