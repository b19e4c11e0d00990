"""Pairings as rows in PostgreSQL: what each operation of the store does inside of a transaction.

The operations are here without a transaction of their own, so that others can be made durable together with them.

A pair of nodes is changed by one transaction at a time: what makes or confirms a pairing locks our node first. Rows of
pairings are locked before anything else that belongs to them, and several in the order of their sequence.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Sequence
from typing import Any

from s2connect.errors import NotPaired, StorageError, StorageUnavailable
from s2connect.model.common import EndpointDescription, MalformedMessage, NodeDescription, NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from s2connect.store.base import (
    GONE,
    MAX_REFUSED_SERVERS,
    Pairing,
    PairKey,
    Pin,
    Record,
    Replaced,
    token_digest,
    with_candidate,
)
from s2connect.store.columns import read_endpoint, read_tokens, write_tokens
from s2connect.store.postgresql.database import Connection, Statement, Transaction
from s2connect.store.postgresql.listening import channel_of
from s2connect.store.postgresql.pool import Row
from s2connect.store.postgresql.sealing import Sealer

__all__ = ["PairingRows"]

_log = logging.getLogger(__name__)

PAIR = "local = %s AND remote = %s"
"""SQL condition for a pair of nodes, with the values of :func:`pair_values`."""

SAME = f"{PAIR} AND paired_at = %s"
"""SQL condition for one pairing, with the values of :func:`same_values`."""

INSERT_PAIRING = """
    INSERT INTO pairing (local, remote, confirmed, communication_role, peer, peer_endpoint, initiate_session_url,
        ca_fingerprint, ca_der, paired_at, tokens, active_digest, token_issued_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""

READ_RECORD = f"""
    SELECT pairing.*, EXISTS (SELECT FROM tombstone WHERE {PAIR}) AS unpaired
    FROM (SELECT) AS always LEFT JOIN pairing ON {PAIR}
"""  # noqa: S608 - constants

MAX_TOMBSTONES = 200_000
"""Tombstones of all instances, in some 30 MB; to find the oldest takes some 20 ms of an unpairing."""

FORGET_TOMBSTONES = """
    DELETE FROM tombstone WHERE sequence IN (
        SELECT sequence FROM tombstone
        WHERE sequence <= (SELECT sequence FROM tombstone ORDER BY sequence DESC OFFSET %s LIMIT 1)
        ORDER BY sequence FOR UPDATE SKIP LOCKED
    )
"""

FORGET_REFUSED_SERVERS = """
    DELETE FROM refused_server WHERE sequence IN (
        SELECT sequence FROM refused_server
        WHERE sequence <= (SELECT sequence FROM refused_server ORDER BY sequence DESC OFFSET %s LIMIT 1)
        ORDER BY sequence FOR UPDATE SKIP LOCKED
    )
"""


def pair_values(key: PairKey) -> tuple[uuid.UUID, uuid.UUID]:
    """Return the values for :data:`PAIR`."""
    return uuid.UUID(bytes=key.local.bytes), uuid.UUID(bytes=key.remote.bytes)


def same_values(pairing: Pairing) -> tuple[uuid.UUID, uuid.UUID, float]:
    """Return the values for :data:`SAME`."""
    return *pair_values(pairing.key), pairing.paired_at


class PairingRows:
    """The operations on pairings, each inside of a transaction. Raises psycopg.Error beside what the store raises.

    Args:
        sealer: Seals the access tokens of the communication client.
        shown: The database for texts.
    """

    def __init__(self, sealer: Sealer, shown: str) -> None:
        self._sealer = sealer
        self._shown = shown

    # Reading

    async def select(self, connection: Connection, which: str, values: Sequence[object]) -> list[Row]:
        """Return rows of pairings, each with its ``pairing``."""
        rows = await (await connection.execute(f"SELECT * FROM pairing {which}", values)).fetchall()  # noqa: S608 - constants
        return self.understood(rows)

    def understood(self, rows: Sequence[Row]) -> list[Row]:
        """Return rows of pairings, each with its ``pairing``."""
        return [row | {"pairing": self._pairing_of(row)} for row in rows]

    def _pairing_of(self, row: Row) -> Pairing:
        try:
            return pairing_of(row)
        except (ValueError, TypeError, MalformedMessage) as error:
            raise StorageUnavailable(
                f"A pairing in {self._shown} cannot be understood: {error}.",
                hint="Restore the database from a backup, or unpair the two.",
            ) from error

    async def record(self, connection: Connection, key: PairKey) -> Record:
        """See :meth:`Store.record`. One statement, hence one moment."""
        rows = await (await connection.execute(READ_RECORD, (*pair_values(key), *pair_values(key)))).fetchall()
        found = {row["confirmed"]: row for row in rows if row["sequence"] is not None}
        entries = {confirmed: (self._pairing_of(row), row["active_digest"]) for confirmed, row in found.items()}
        issued_at = found[True]["token_issued_at"] if True in found else None
        return Record(entries.get(True), entries.get(False), rows[0]["unpaired"], issued_at)

    # Making and removing

    async def save(
        self, transaction: Transaction, pairing: Pairing, tokens: Sequence[AccessToken], *, alone: bool = False
    ) -> list[Replaced]:
        """See :meth:`Store.save_pairing`."""
        if alone and not pairing.confirmed:
            raise ValueError("an unconfirmed pairing replaces no other pair before it is confirmed")
        sealed = digest = issued_at = None
        if pairing.communication_role is CommunicationRole.SERVER:
            digest, issued_at = token_digest(tokens[0]), pairing.paired_at
        else:
            sealed = self._seal(pairing, tokens)
        former = _deletion(f"{PAIR} AND confirmed = %s", (*pair_values(pairing.key), pairing.confirmed))
        insertion = INSERT_PAIRING, (*columns(pairing), sealed, digest, issued_at)
        if not alone:
            further = _superseding(pairing.key, []) if pairing.confirmed else []
            await transaction.together(_locking(pairing.key), former, *further, insertion)
            return []
        _, found = await transaction.together(_locking(pairing.key), _locking_rows(pairing.key, others=True))
        replaced = self._replaced(pairing.key, await found.fetchall())
        await transaction.together(former, *_superseding(pairing.key, replaced), insertion)
        return replaced

    async def confirm(
        self, transaction: Transaction, pairing: Pairing, *, alone: bool = False
    ) -> list[Replaced] | None:
        """See :meth:`Store.confirm_pairing`."""
        _, found = await transaction.together(_locking(pairing.key), _locking_rows(pairing.key, others=alone))
        rows, same = await found.fetchall(), same_values(pairing)
        row = next((row for row in rows if (row["local"], row["remote"], row["paired_at"]) == same), None)
        if row is None:
            raise NotPaired(GONE)
        if row["confirmed"]:
            return None
        replaced = self._replaced(pairing.key, rows)
        await transaction.together(
            _deletion(f"{PAIR} AND confirmed", pair_values(pairing.key)),
            (f"UPDATE pairing SET confirmed = true WHERE {SAME}", same_values(pairing)),  # noqa: S608 - constants
            *_superseding(pairing.key, replaced),
        )
        return replaced

    async def remove(
        self, transaction: Transaction, pairing: Pairing, *, tombstone: bool = False, unconfirmed_only: bool = False
    ) -> bool:
        """See :meth:`Store.remove_pairing` and :meth:`Store.drop_unconfirmed`."""
        only = " AND NOT confirmed" if unconfirmed_only else ""
        row = await transaction.row(*_deletion(f"{SAME}{only}", same_values(pairing)))
        removed = row is not None and row["count"] > 0
        if removed and tombstone:
            for statement in _burying([pairing.key]):
                transaction.last(*statement)
        return removed

    def _replaced(self, key: PairKey, rows: Sequence[Row]) -> list[Replaced]:
        """Return the pairings with others of :func:`_locking_rows`, and their tokens that can still be opened."""
        _, remote = pair_values(key)
        others = self.understood([row for row in rows if row["remote"] != remote])
        return [Replaced(row["pairing"], self._last_tokens(row)) for row in others]

    def _last_tokens(self, row: Row) -> tuple[AccessToken, ...]:
        try:
            return tuple(self._open(row["pairing"], row["tokens"])) if row["tokens"] is not None else ()
        except StorageError as error:
            _log.warning("The server of a replaced pairing cannot be notified: %s", error)
            return ()

    # Details

    async def update_descriptions(
        self,
        transaction: Transaction,
        key: PairKey,
        *,
        node: NodeDescription | None,
        endpoint: EndpointDescription | None,
    ) -> None:
        """See :meth:`Store.update_descriptions`."""
        await transaction.execute(
            f"WITH its AS MATERIALIZED (SELECT sequence FROM pairing WHERE {PAIR} ORDER BY sequence FOR UPDATE)"  # noqa: S608 - constants
            " UPDATE pairing SET peer = coalesce(%s, peer), peer_endpoint = coalesce(%s, peer_endpoint)"
            " FROM its WHERE pairing.sequence = its.sequence",
            (*pair_values(key), node and node.to_json(), endpoint and endpoint.to_json()),
        )

    async def set_pin(self, transaction: Transaction, pairing: Pairing, pin: Pin) -> None:
        """See :meth:`Store.set_pin`."""
        await transaction.execute(
            f"UPDATE pairing SET ca_fingerprint = %s, ca_der = %s WHERE {SAME}",  # noqa: S608 - constants
            (pin.ca_fingerprint, pin.ca_der, *same_values(pairing)),
        )

    async def refuse_server(self, transaction: Transaction, url: BaseUrl) -> None:
        """See :meth:`Store.refuse_server`."""
        await transaction.execute(
            "INSERT INTO refused_server (url) VALUES (%s) ON CONFLICT (url) DO UPDATE SET sequence = DEFAULT",
            (str(url),),
        )
        await transaction.execute(FORGET_REFUSED_SERVERS, (MAX_REFUSED_SERVERS,))

    # Access tokens

    async def candidate_tokens(
        self, connection: Connection, pairing: Pairing, *, lock: bool = False
    ) -> list[AccessToken]:
        """See :meth:`Store.candidate_tokens`; with ``lock`` the row stays locked until the transaction ends."""
        cursor = await connection.execute(
            f"SELECT communication_role, tokens FROM pairing WHERE {SAME}{' FOR UPDATE' if lock else ''}",  # noqa: S608 - constants
            same_values(pairing),
        )
        row = await cursor.fetchone()
        if row is None or row["communication_role"] != CommunicationRole.CLIENT.value:
            raise NotPaired(GONE)
        if row["tokens"] is None:
            _log.warning("%s holds no tokens for a pairing; it has to be paired again", self._shown)
            return []
        return self._open(pairing, row["tokens"])

    async def add_pending_token(self, transaction: Transaction, pairing: Pairing, token: AccessToken) -> None:
        """See :meth:`Store.add_pending_token`."""
        tokens = await self.candidate_tokens(transaction, pairing, lock=True)
        transaction.last(*self._keeping(pairing, with_candidate(tokens, token)))

    async def accept_token(self, transaction: Transaction, pairing: Pairing, token: AccessToken) -> None:
        """Forget the candidates that are older than one that the server has accepted. Raises NotPaired.

        Newer ones stay, because another instance may have them confirmed at this moment. A token that is no candidate
        any more is the last one to be tried: that instance was ahead, or its server is not that of the standard.
        """
        tokens = await self.candidate_tokens(transaction, pairing, lock=True)
        left = tokens[tokens.index(token) :] if token in tokens else with_candidate(tokens, token)
        if left != tokens:
            transaction.last(*self._keeping(pairing, left))

    async def keep_tokens(self, transaction: Transaction, pairing: Pairing, tokens: Sequence[AccessToken]) -> None:
        """Make these the only candidates. Raises NotPaired as :meth:`candidate_tokens`."""
        cursor = await transaction.execute(*self._keeping(pairing, tokens))
        if cursor.rowcount == 0:
            raise NotPaired(GONE)

    def _keeping(self, pairing: Pairing, tokens: Sequence[AccessToken]) -> Statement:
        return (
            f"UPDATE pairing SET tokens = %s WHERE {SAME} AND communication_role = %s",  # noqa: S608 - constants
            (self._seal(pairing, tokens), *same_values(pairing), CommunicationRole.CLIENT.value),
        )

    async def activate_token(self, connection: Connection, pairing: Pairing, digest: bytes, issued_at: float) -> bool:
        """See :meth:`Store.activate_token`. One statement."""
        cursor = await connection.execute(
            f"UPDATE pairing SET active_digest = %s, token_issued_at = %s WHERE {SAME} AND communication_role = %s",  # noqa: S608 - constants
            (digest, issued_at, *same_values(pairing), CommunicationRole.SERVER.value),
        )
        return cursor.rowcount > 0

    def _seal(self, pairing: Pairing, tokens: Sequence[AccessToken]) -> bytes:
        return self._sealer.seal(sealed_name(pairing), write_tokens(tokens))

    def _open(self, pairing: Pairing, sealed: bytes) -> list[AccessToken]:
        content = self._sealer.open(sealed_name(pairing), sealed)
        try:
            return read_tokens(content)
        except ValueError:
            raise StorageUnavailable(
                f"The tokens of a pairing in {self._shown} are damaged.", hint="Unpair and pair the two again."
            ) from None


def _locking(key: PairKey) -> Statement:
    """Let one transaction at a time make pairings of our node."""
    return "SELECT pg_advisory_xact_lock(hashtextextended(%s, 2))", (str(key.local),)


def _locking_rows(key: PairKey, *, others: bool) -> Statement:
    """Lock the pairings of a pair, and those of our node with ``others``, in their order, and return them."""
    local, remote = pair_values(key)
    if others:
        return "SELECT * FROM pairing WHERE local = %s ORDER BY sequence FOR UPDATE", (local,)
    return f"SELECT * FROM pairing WHERE {PAIR} ORDER BY sequence FOR UPDATE", (local, remote)  # noqa: S608 - constants


def _deletion(which: str, values: Sequence[object]) -> Statement:
    """Delete pairings, and hint at that to the owners of their sessions. Return the ``count``."""
    return (
        f"WITH gone AS (DELETE FROM pairing WHERE {which} RETURNING local, remote, owner)"  # noqa: S608 - constants
        " SELECT count(*) AS count, count(CASE WHEN owner IS NOT NULL THEN"
        " pg_notify(%s || owner, concat_ws(' ', 'pairing', local, remote))::text END) AS hints FROM gone",
        (*values, channel_of("")),
    )


def _superseding(key: PairKey, replaced: Sequence[Replaced]) -> list[Statement]:
    """Remove what a pairing replaces."""
    return [
        (f"DELETE FROM tombstone WHERE {PAIR}", pair_values(key)),  # noqa: S608 - constants
        *(_deletion(SAME, same_values(other.pairing)) for other in replaced),
        *_burying([other.pairing.key for other in replaced]),
    ]


def _burying(keys: Sequence[PairKey]) -> list[Statement]:
    insertion = (
        "INSERT INTO tombstone (local, remote) VALUES (%s, %s)"
        " ON CONFLICT (local, remote) DO UPDATE SET sequence = DEFAULT"
    )
    forgetting: list[Statement] = [(FORGET_TOMBSTONES, (MAX_TOMBSTONES,))] if keys else []
    return [*((insertion, pair_values(key)) for key in keys), *forgetting]


def sealed_name(pairing: Pairing) -> str:
    """Return the name under which the tokens of a pairing are sealed, which is that of no other pairing."""
    return f"tokens of {pairing.key.local} {pairing.key.remote} {pairing.paired_at!r}"


def columns(pairing: Pairing) -> tuple[Any, ...]:
    """Return the values of a pairing's columns, except for those about tokens, in the order of INSERT_PAIRING."""
    url, pin = pairing.initiate_session_url, pairing.pin
    return (
        *pair_values(pairing.key),
        pairing.confirmed,
        pairing.communication_role.value,
        pairing.peer.to_json(),
        pairing.peer_endpoint.to_json(),
        None if url is None else str(url),
        None if pin is None else pin.ca_fingerprint,
        None if pin is None else pin.ca_der,
        pairing.paired_at,
    )


@functools.lru_cache(maxsize=256)
def _own_node(data: uuid.UUID) -> NodeId:
    return NodeId(data)


def pairing_of(row: Row) -> Pairing:
    """Return the pairing of a row; ValueError, TypeError or MalformedMessage if it is none."""
    url, fingerprint = row["initiate_session_url"], row["ca_fingerprint"]
    return Pairing(
        key=PairKey(_own_node(row["local"]), NodeId(row["remote"])),
        communication_role=CommunicationRole(row["communication_role"]),
        peer=NodeDescription.from_own_json(row["peer"]),
        peer_endpoint=read_endpoint(row["peer_endpoint"]),
        initiate_session_url=None if url is None else BaseUrl(url),
        pin=None if fingerprint is None else Pin(fingerprint, row["ca_der"]),
        paired_at=row["paired_at"],
        confirmed=row["confirmed"],
    )
