"""Owners of sessions and links in PostgreSQL, and hints between the instances.

A claim is one statement: generation, owner, and the hint to the former owner become durable together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from s2connect.model.common import NodeId
from s2connect.model.roles import CommunicationRole
from s2connect.session.ownership import LINK_LEASE, Claim, LinkCounts, LinkRow, Meeting, SessionRow
from s2connect.shared.clock import DatabaseClock
from s2connect.store.base import Pairing, PairKey
from s2connect.store.postgresql.database import Connection, Database, Row
from s2connect.store.postgresql.instances import ALIVE
from s2connect.store.postgresql.listening import CHANNEL, channel_of, listen
from s2connect.store.postgresql.rows import SAME, pair_values

MAX_ELSEWHERE: Final = 100_000
"""Most sessions of other instances that are read, for the eyes of people."""

READ_AT_ONCE: Final = 500
"""Rows of a long answer that are read before the event loop has its turn."""

SETTLED_AFTER: Final = 30.0
"""Seconds after which an unconfirmed pairing has no attempt any more, at no instance."""

_CLAIM: Final = f"""
    WITH former AS MATERIALIZED (SELECT sequence, owner FROM pairing WHERE {SAME} FOR UPDATE),
    taken AS (
        UPDATE pairing SET generation = generation + 1, owner = %s FROM former
        WHERE pairing.sequence = former.sequence RETURNING generation, former.owner AS former
    )
    SELECT generation, former, CASE WHEN former != %s THEN pg_notify(%s || former, %s)::text END FROM taken
"""  # noqa: S608 - constants

_PAIRS: Final = "SELECT * FROM unnest(%s::uuid[], %s::uuid[])"

# Whoever writes several rows locks them in one order, so that two never wait for each other in a circle: links by their
# pair, pairings by their sequence.

_RENEW_LINKS: Final = f"""
    WITH mine AS MATERIALIZED (
        SELECT local, remote FROM link WHERE (local, remote) IN ({_PAIRS}) AND owner = %s AND until > clock_timestamp()
        ORDER BY local, remote FOR UPDATE
    )
    UPDATE link SET until = clock_timestamp() + make_interval(secs => %s) FROM mine
    WHERE link.local = mine.local AND link.remote = mine.remote RETURNING link.local, link.remote
"""  # noqa: S608 - constants

_RELEASE_LINKS: Final = f"""
    WITH mine AS MATERIALIZED (
        SELECT local, remote FROM link WHERE (local, remote) IN ({_PAIRS}) AND owner = %s
        ORDER BY local, remote FOR UPDATE
    ), gone AS (
        DELETE FROM link USING mine WHERE link.local = mine.local AND link.remote = mine.remote RETURNING 1
    )
    SELECT pg_notify(%s, 'links') FROM (SELECT count(*) AS count FROM gone) AS released WHERE count > 0
"""  # noqa: S608 - constants

_RENEW_TAKEN: Final = """
    WITH mine AS MATERIALIZED (
        SELECT link.local, link.remote FROM link
        JOIN unnest(%s::uuid[], %s::uuid[], %s::bigint[]) AS taken (local, remote, gen) USING (local, remote)
        WHERE generation = gen AND owner = %s ORDER BY link.local, link.remote FOR UPDATE OF link
    )
    UPDATE link SET until = clock_timestamp() + make_interval(secs => %s) FROM mine
    WHERE link.local = mine.local AND link.remote = mine.remote
"""

_DISOWN: Final = """
    WITH mine AS MATERIALIZED (
        SELECT sequence FROM pairing
        JOIN unnest(%s::uuid[], %s::uuid[], %s::float8[], %s::bigint[]) AS ended (local, remote, paired_at, gen)
        USING (local, remote, paired_at)
        WHERE generation = gen AND owner = %s ORDER BY sequence FOR UPDATE OF pairing
    )
    UPDATE pairing SET owner = NULL FROM mine WHERE pairing.sequence = mine.sequence
"""

_IS_LINK: Final = """
    pairing.communication_role = %(client)s AND (confirmed
        OR paired_at < extract(epoch FROM clock_timestamp()) - %(settled)s
        OR (pairing.local, pairing.remote) IN (SELECT * FROM unnest(%(locals)s::uuid[], %(remotes)s::uuid[])))
"""

_CLAIM_LINKS: Final = f"""
    WITH new AS MATERIALIZED (
        SELECT local, remote FROM (
            SELECT DISTINCT local, remote FROM pairing WHERE local = ANY(%(nodes)s) AND {_IS_LINK}
            AND NOT EXISTS (SELECT FROM link WHERE link.local = pairing.local AND link.remote = pairing.remote)
        ) AS candidate, LATERAL (
            SELECT FROM pairing WHERE local = candidate.local AND remote = candidate.remote AND {_IS_LINK}
            LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS locked LIMIT %(most)s
    ), over AS MATERIALIZED (
        SELECT local, remote FROM link, LATERAL (
            SELECT FROM pairing WHERE pairing.local = link.local AND pairing.remote = link.remote AND {_IS_LINK}
            LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS locked
        WHERE until <= clock_timestamp() AND local = ANY(%(nodes)s)
        LIMIT greatest(0, %(most)s - (SELECT count(*) FROM new))
    )
    INSERT INTO link (local, remote, owner, until)
    SELECT local, remote, %(me)s, clock_timestamp() + make_interval(secs => %(lease)s)
    FROM (SELECT * FROM new UNION ALL SELECT * FROM over) AS free ORDER BY local, remote
    ON CONFLICT (local, remote) DO UPDATE SET owner = excluded.owner, until = excluded.until
    WHERE link.until <= clock_timestamp()
    RETURNING local, remote
"""  # noqa: S608 - constants
"""Finds links without a row by two indexes alone, and reads a pairing only where its link is free: for each instance
looks every few seconds, and mostly all links are held."""

_ELSEWHERE: Final = f"""
    SELECT local, remote, owner FROM pairing WHERE owner != %s AND owner IN (SELECT name FROM instance WHERE {ALIVE})
    LIMIT %s
"""  # noqa: S608 - constants

_ELSEWHERE_OF: Final = f"""
    SELECT local, remote, owner FROM pairing WHERE (local, remote) IN ({_PAIRS}) AND owner != %s
    AND owner IN (SELECT name FROM instance WHERE {ALIVE})
"""  # noqa: S608 - constants

_COUNT_LINKS: Final = f"""
    WITH held AS MATERIALIZED (
        SELECT owner, count(*) AS held FROM link WHERE local = ANY(%(nodes)s) AND until > clock_timestamp()
        AND EXISTS (SELECT FROM pairing WHERE pairing.local = link.local AND pairing.remote = link.remote
            AND communication_role = %(client)s)
        GROUP BY owner
    )
    SELECT links, name, coalesce(held, 0) AS held FROM (
        SELECT count(*) AS links FROM pairing WHERE communication_role = %(client)s AND local = ANY(%(nodes)s)
    ) AS counted LEFT JOIN instance ON {ALIVE} AND NOT draining LEFT JOIN held ON owner = name
"""  # noqa: S608 - constants

_COUNT_HELD: Final = f"""
    SELECT name, count(held.local) AS held FROM instance LEFT JOIN (
        SELECT link.local, owner FROM ({_PAIRS}) AS asked (local, remote) JOIN link USING (local, remote)
        WHERE until > clock_timestamp()
    ) AS held ON owner = name
    WHERE {ALIVE} AND NOT draining GROUP BY name
"""  # noqa: S608 - constants

_TAKE_LINK: Final = f"""
    WITH former AS MATERIALIZED (
        SELECT owner, owner != %(me)s AND awaits = %(party)s AND awaits != '' AND awaits_until > clock_timestamp()
            AND EXISTS (SELECT FROM instance WHERE name = owner AND {ALIVE} AND NOT draining) AS awaits_it
        FROM link WHERE local = %(local)s AND remote = %(remote)s FOR UPDATE
    ), led AS (
        UPDATE link SET awaits = '' WHERE local = %(local)s AND remote = %(remote)s
        AND EXISTS (SELECT FROM former WHERE awaits_it)
        RETURNING owner, generation
    ), taken AS (
        INSERT INTO link (local, remote, owner, until, generation, awaits, awaits_until)
        SELECT %(local)s, %(remote)s, %(me)s, clock_timestamp() + make_interval(secs => %(lease)s), 1,
            %(awaits)s, clock_timestamp() + make_interval(secs => %(within)s)
        WHERE NOT EXISTS (SELECT FROM former WHERE awaits_it)
        ON CONFLICT (local, remote) DO UPDATE
        SET owner = excluded.owner, until = excluded.until, generation = link.generation + 1,
            awaits = excluded.awaits, awaits_until = excluded.awaits_until
        WHERE EXISTS (SELECT FROM former)
        RETURNING owner, generation
    )
    SELECT owner, generation, owner AS former, NULL AS hint FROM led UNION ALL
    SELECT taken.owner, taken.generation, former.owner, CASE
        WHEN former.owner != %(me)s THEN pg_notify(%(channel)s || ':' || former.owner, %(hint)s)::text
    END FROM taken LEFT JOIN former ON true
"""  # noqa: S608 - constants
"""Takes a link, unless another instance awaits this party; once only, because that may be dead without being known to.

Returns no row where another instance has just taken a link that nobody had."""

_CLAIM_FREE: Final = f"""
    WITH free AS MATERIALIZED (
        SELECT local, remote FROM ({_PAIRS}) AS wanted (local, remote) LEFT JOIN link USING (local, remote)
        WHERE link.until IS NULL OR link.until <= clock_timestamp() ORDER BY random() LIMIT %s
    )
    INSERT INTO link (local, remote, owner, until, generation)
    SELECT local, remote, %s, clock_timestamp() + make_interval(secs => %s), 1 FROM free ORDER BY local, remote
    ON CONFLICT (local, remote) DO UPDATE
    SET owner = excluded.owner, until = excluded.until, generation = link.generation + 1
    WHERE link.until <= clock_timestamp()
    RETURNING local, remote
"""  # noqa: S608 - constants
"""Rows are locked in one order, so that two instances never wait for each other in a circle."""

_MARKS: Final = """
    SELECT concat_ws(' ',
        pg_stat_get_tuples_inserted('pairing'::regclass), pg_stat_get_tuples_deleted('pairing'::regclass),
        pg_sequence_last_value(pg_get_serial_sequence('pairing', 'sequence')::regclass),
        (SELECT sum(hashtextextended(sequence::text, 0)) FROM pairing WHERE NOT confirmed)
    ) AS marks
"""
"""The counters of the database, and the few pairings that are not confirmed: a millisecond with 200,000 pairings, where
a digest takes 0.7 s. A counter rises up to some seconds after the COMMIT, so that it is never ahead of the rows."""


class PostgresqlOwners:
    """The contract of :class:`~s2connect.endpoint.state.SharedOwners` in PostgreSQL.

    Args:
        database: The database.
        instance: Name of this instance.
        clock: Clock of the database, which each probe reads.
    """

    def __init__(self, database: Database, instance: str, clock: DatabaseClock) -> None:
        self.instance = instance
        self._database = database
        self._clock = clock

    async def listen(
        self, on_hint: Callable[[str], None], on_connected: Callable[[], None], on_heard: Callable[[float], None]
    ) -> None:
        """Call ``on_hint`` with the hints of other instances until cancelled. See :func:`listen`."""
        await listen(self._database, [CHANNEL, channel_of(self.instance)], on_hint, on_connected, on_heard)

    @property
    def confirms(self) -> bool:
        """True if the database confirms what is written, as far as is known."""
        return self._database.confirms

    async def check_confirms(self) -> None:
        """Find out whether it does. Raises nothing, and waits a bounded time."""
        await self._database.check_confirms()

    async def probe(self) -> None:
        """Raise StorageUnavailable if the database does not answer; note what time it has."""
        await self._clock.read(self._database)

    # Sessions

    async def claim(self, pairing: Pairing) -> Claim | None:
        """Make this instance the owner of a pairing's session; None where the pairing is no more."""

        async def claim(connection: Connection) -> Claim | None:
            return await claimed(connection, pairing.key, pairing.paired_at, self.instance)

        # Once only: where its answer was lost, another instance may have taken the session meanwhile.
        return await self._database.once("write", claim)

    async def hand_over(self, keys: Collection[PairKey]) -> None:
        """Hint to the instances that have the sessions of pairs now that this one delivers nothing of them any more."""

        async def hint(connection: Connection) -> None:
            await connection.execute(
                "SELECT pg_notify(%s || owner, concat_ws(' ', 'left', local, remote, generation)) FROM pairing"  # noqa: S608
                f" WHERE (local, remote) IN ({_PAIRS}) AND owner != %s",
                (channel_of(""), *_columns(keys), self.instance),
            )

        await self._database.read("reach", hint)

    async def rows(self, keys: Collection[PairKey]) -> Mapping[PairKey, Sequence[SessionRow]]:
        """Return the owners of pairs; a pair without a pairing has none."""
        values = _columns(keys)

        async def read(connection: Connection) -> list[Row]:
            cursor = await connection.execute(
                f"SELECT local, remote, paired_at, owner, generation FROM pairing WHERE (local, remote) IN ({_PAIRS})",  # noqa: S608 - constants
                values,
            )
            return await cursor.fetchall()

        found: dict[PairKey, list[SessionRow]] = {}
        for row in await self._database.read("read", read):
            entry = SessionRow(row["paired_at"], row["owner"], row["generation"])
            found.setdefault(_key(row), []).append(entry)
        return found

    async def owned(self) -> list[Claim]:
        """Return the claims of this instance as they are stored, whether it has the sessions or not."""

        async def read(connection: Connection) -> list[Claim]:
            statement = "SELECT local, remote, paired_at, generation FROM pairing WHERE owner = %s"
            cursor, found = await connection.execute(statement, (self.instance,)), list[Claim]()
            while rows := await cursor.fetchmany(READ_AT_ONCE):
                found += [Claim(_key(row), row["paired_at"], self.instance, row["generation"]) for row in rows]
                await asyncio.sleep(0)  # there may be some ten thousand, and others wait for the event loop
            return found

        return await self._database.read("read", read)

    async def elsewhere(self, keys: Collection[PairKey] | None = None) -> Mapping[PairKey, str]:
        """Return the pairs whose session is at another living instance, with its name; of very many, some.

        With ``keys`` they are those among these.
        """
        values: tuple[object, ...]
        statement, values = _ELSEWHERE, (self.instance, MAX_ELSEWHERE)
        if keys is not None:
            statement, values = _ELSEWHERE_OF, (*_columns(keys), self.instance)

        async def read(connection: Connection) -> list[Row]:
            return await (await connection.execute(statement, values)).fetchall()

        return {_key(row): row["owner"] for row in await self._database.read("read", read)}

    async def disown(self, claims: Collection[Claim]) -> None:
        """Note that the sessions of claims have ended, where nobody else has taken them."""
        values = (
            *_columns([claim.key for claim in claims]),
            [claim.paired_at for claim in claims],
            [claim.generation for claim in claims],
            self.instance,
        )

        async def write(connection: Connection) -> None:
            await connection.execute(_DISOWN, values)

        await self._database.write("write", write)

    # Links

    async def claim_links(self, nodes: Collection[NodeId], wanted: Collection[PairKey], most: int) -> list[PairKey]:
        """Take links of nodes that nobody holds; unconfirmed pairings that are young only where they are ``wanted``."""
        locals_, remotes = _columns(wanted)
        values = {
            "client": CommunicationRole.CLIENT.value,
            "nodes": [UUID(bytes=node.bytes) for node in nodes],
            "settled": SETTLED_AFTER,
            "locals": locals_,
            "remotes": remotes,
            "most": most,
            "me": self.instance,
            "lease": LINK_LEASE,
        }

        async def take(connection: Connection) -> list[Row]:
            return await (await connection.execute(_CLAIM_LINKS, values)).fetchall()

        # Not repeated if its answer is lost: the lease runs out, and the link is taken again.
        return [_key(row) for row in await self._database.once("write", take)]

    async def claim_link(self, key: PairKey) -> bool:
        """Take one link, if nobody else holds it."""
        values = (*pair_values(key), self.instance, LINK_LEASE, self.instance)

        async def take(connection: Connection) -> bool:
            cursor = await connection.execute(
                "INSERT INTO link (local, remote, owner, until)"
                " VALUES (%s, %s, %s, clock_timestamp() + make_interval(secs => %s))"
                " ON CONFLICT (local, remote) DO UPDATE SET owner = excluded.owner, until = excluded.until"
                " WHERE link.until <= clock_timestamp() OR link.owner = %s",
                values,
            )
            return cursor.rowcount > 0

        return await self._database.once("write", take)

    async def renew_links(self, keys: Collection[PairKey]) -> set[PairKey]:
        """Lengthen leases that are not over; return those that are lengthened."""

        async def renew(connection: Connection) -> list[Row]:
            return await (
                await connection.execute(_RENEW_LINKS, (*_columns(keys), self.instance, LINK_LEASE))
            ).fetchall()

        return {_key(row) for row in await self._database.write("write", renew)}

    async def release_links(self, keys: Collection[PairKey]) -> None:
        """Give links up, and hint at that."""

        async def release(connection: Connection) -> None:
            await connection.execute(_RELEASE_LINKS, (*_columns(keys), self.instance, CHANNEL))

        await self._database.write("write", release)

    async def count_links(self, nodes: Collection[NodeId]) -> LinkCounts:
        """Return the number of links of nodes, and how many of them each living instance holds."""
        values = {"client": CommunicationRole.CLIENT.value, "nodes": [UUID(bytes=node.bytes) for node in nodes]}

        async def read(connection: Connection) -> list[Row]:
            return await (await connection.execute(_COUNT_LINKS, values)).fetchall()

        rows = await self._database.read("read", read)
        return LinkCounts(rows[0]["links"], {row["name"]: row["held"] for row in rows if row["name"] is not None})

    # Links of an application

    async def take_link(self, key: PairKey, meeting: Meeting | None) -> tuple[LinkRow, str | None]:
        """Take a link, and hint at that to the former owner; or leave it where another instance awaits the party."""
        local, remote = pair_values(key)
        values = {
            "local": local,
            "remote": remote,
            "me": self.instance,
            "lease": LINK_LEASE,
            "party": "" if meeting is None else meeting.party,
            "awaits": "" if meeting is None else meeting.awaits,
            "within": 0.0 if meeting is None else meeting.within,
            "channel": CHANNEL,
            "hint": f"link {key.local} {key.remote}",
        }

        async def take(connection: Connection) -> Row | None:
            return await (await connection.execute(_TAKE_LINK, values)).fetchone()

        # Not repeated if its answer is lost: another instance may have taken it meanwhile.
        while (row := await self._database.once("write", take)) is None:
            pass
        return LinkRow(row["owner"], row["generation"], is_over=False), row["former"]

    async def claim_free_links(self, keys: Collection[PairKey], most: int) -> list[PairKey]:
        """Take some of these links that nobody holds."""
        values = (*_columns(keys), most, self.instance, LINK_LEASE)

        async def take(connection: Connection) -> list[Row]:
            return await (await connection.execute(_CLAIM_FREE, values)).fetchall()

        # Not repeated if its answer is lost: the lease runs out, and the link is taken again.
        return [_key(row) for row in await self._database.once("write", take)]

    async def renew_taken(self, taken: Mapping[PairKey, int]) -> None:
        """Lengthen the leases of links that were taken, and are of these generations still."""
        values = (*_columns(taken), list(taken.values()), self.instance, LINK_LEASE)

        async def renew(connection: Connection) -> None:
            await connection.execute(_RENEW_TAKEN, values)

        await self._database.write("write", renew)

    async def links(self, keys: Collection[PairKey]) -> Mapping[PairKey, LinkRow]:
        """Return the owners of links; one that nobody holds is missing."""
        return await self._links(f"(local, remote) IN ({_PAIRS})", _columns(keys))

    async def links_of(self, nodes: Collection[NodeId]) -> Mapping[PairKey, LinkRow]:
        """Return the owners of all links of nodes; one that nobody holds is missing."""
        return await self._links("local = ANY(%s)", ([UUID(bytes=node.bytes) for node in nodes],))

    async def _links(self, which: str, values: Sequence[object]) -> Mapping[PairKey, LinkRow]:
        async def read(connection: Connection) -> list[Row]:
            statement = (
                "SELECT local, remote, owner, generation, until <= clock_timestamp() AS over FROM link"  # noqa: S608 - constants
                f" WHERE {which}"
            )
            return await (await connection.execute(statement.encode(), values)).fetchall()

        rows = await self._database.read("read", read)
        return {_key(row): LinkRow(row["owner"], row["generation"], row["over"]) for row in rows}

    async def count_held(self, keys: Collection[PairKey]) -> LinkCounts:
        """Return the number of these links, and how many of them each living instance holds."""

        async def read(connection: Connection) -> list[Row]:
            return await (await connection.execute(_COUNT_HELD, _columns(keys))).fetchall()

        rows = await self._database.read("read", read)
        return LinkCounts(len(keys), {row["name"]: row["held"] for row in rows})

    # Pairings

    async def announce_pairings(self, key: PairKey) -> None:
        """Hint to the other instances that pairings of a pair have changed."""
        await self._hint(f"pairings {key.local} {key.remote} {self.instance}")

    async def announce_crossing(self, key: PairKey) -> None:
        """Hint that the other node of a pair is pairing client here, while an instance is its pairing client."""
        await self._hint(f"crossing {key.local} {key.remote}")

    async def _hint(self, hint: str) -> None:
        async def notify(connection: Connection) -> None:
            await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, hint))

        await self._database.read("write", notify)

    async def marks_of_pairings(self) -> str:
        """Return what is another text some seconds after a pairing is made, confirmed or removed."""

        async def read(connection: Connection) -> Row | None:
            return await (await connection.execute(_MARKS)).fetchone()

        row = await self._database.read("read", read)
        return "" if row is None else str(row["marks"])


async def claimed(connection: Connection, key: PairKey, paired_at: float, instance: str) -> Claim | None:
    """Make an instance the owner of a pairing's session, and hint at that to the former one; None without pairing."""
    hint = f"pairing {key.local} {key.remote}"
    values = (*pair_values(key), paired_at, instance, instance, channel_of(""), hint)
    row = await (await connection.execute(_CLAIM, values)).fetchone()
    if row is None:
        return None
    return Claim(key, paired_at, instance, row["generation"], row["former"])


def _columns(keys: Collection[PairKey]) -> tuple[list[UUID], list[UUID]]:
    values = [pair_values(key) for key in keys]
    return [local for local, _ in values], [remote for _, remote in values]


def _key(row: Mapping[str, Any]) -> PairKey:
    return PairKey(NodeId(row["local"]), NodeId(row["remote"]))
