"""Status of all instances on one database: who is alive, what belongs to whom, and what a failover would lose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from s2connect.store.postgresql.database import Connection
from s2connect.store.postgresql.instances import ALIVE, Instance, instances
from s2connect.store.postgresql.pool import Row
from s2connect.store.postgresql.schema import MIGRATIONS, READ_TABLES

MAX_NAMED: Final = 10
"""Owners of orphaned pairings that are named, at most."""

LAGS: Final = 10.0
"""Seconds by which a standby may be behind before that is worth a sentence."""

SILENT: Final = 25.0
"""Seconds after which a standby that has not answered stands still: by default it does every ten."""

WAITS: Final = 1.0
"""Seconds for which a commit may wait for a standby before that is worth a sentence."""

_OWNERS: Final = f"""
    SELECT owner, count(*) AS count, owner IN (SELECT name FROM instance WHERE {ALIVE}) AS alive
    FROM pairing WHERE owner IS NOT NULL GROUP BY owner ORDER BY owner
"""  # noqa: S608 - constants

_DEAD_OWNERS: Final = f"""
    WITH RECURSIVE named AS (
        (SELECT owner FROM pairing WHERE owner IS NOT NULL ORDER BY owner LIMIT 1)
        UNION ALL
        SELECT (SELECT pairing.owner FROM pairing WHERE pairing.owner > named.owner ORDER BY pairing.owner LIMIT 1)
        FROM named WHERE named.owner IS NOT NULL
    )
    SELECT owner, (SELECT count(*) FROM pairing WHERE pairing.owner = named.owner) AS count, false AS alive
    FROM named WHERE owner IS NOT NULL AND owner NOT IN (SELECT name FROM instance WHERE {ALIVE})
"""  # noqa: S608 - constants
"""Goes through the index from one owner to the next, and counts only what belongs to dead ones."""

# Later, it is a link of a bridge that a peer has to take, whose row stays.
_LEASES: Final = """
    SELECT owner, count(*) FILTER (WHERE until > clock_timestamp()) AS held,
        count(*) FILTER (WHERE until <= clock_timestamp() AND until > clock_timestamp() - interval '2 minutes') AS over
    FROM link GROUP BY owner ORDER BY owner
"""

_SERVER: Final = """
    SELECT current_setting('synchronous_standby_names') AS names, current_setting('synchronous_commit') AS commits,
        pg_is_in_recovery() AS is_standby, current_user AS role,
        pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS may_read
"""

_STANDBYS: Final = """
    SELECT application_name AS name, state, sync_state AS kind,
        extract(epoch FROM replay_lag)::float8 AS lag_seconds,
        greatest(extract(epoch FROM clock_timestamp() - reply_time), 0)::float8 AS silent_seconds,
        pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint AS lag_bytes
    FROM pg_stat_replication ORDER BY application_name
"""


_WAITING: Final = """
    SELECT max(extract(epoch FROM clock_timestamp() - state_change))::float8 AS seconds
    FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'
"""
"""Commits of other roles are seen by members of ``pg_monitor`` only, those of our own by everybody."""


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby of the database.

    Attributes:
        name: Its ``application_name``.
        state: ``streaming`` where all is well.
        kind: ``sync`` or ``quorum`` where commits wait for it, ``potential`` or ``async`` otherwise.
        lag_seconds: Seconds by which it is behind; None where nothing has been written of late.
        silent_seconds: Seconds since its last answer. Without one PostgreSQL drops it after a minute.
        lag_bytes: Bytes by which it is behind.
    """

    name: str
    state: str
    kind: str
    lag_seconds: float | None
    silent_seconds: float | None
    lag_bytes: int | None

    @property
    def is_silent(self) -> bool:
        """True if it has not answered for long, although there is something that it does not have."""
        return bool(self.lag_bytes) and (self.silent_seconds or 0.0) > SILENT


@dataclass(frozen=True, slots=True)
class Replication:
    """Replication of the database.

    Attributes:
        synchronous: Whether a commit waits for a standby that is connected; None where the role may not see that.
        names: ``synchronous_standby_names``.
        commits: ``synchronous_commit``.
        may_read: Whether our role may read who the standbys are.
        role: Our role.
        standbys: The standbys that are connected.
        waiting_seconds: Seconds for which a commit has been waiting for a standby; None where none does.
    """

    synchronous: bool | None
    names: str
    commits: str
    may_read: bool
    role: str
    standbys: list[Standby]
    waiting_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Status of the instances on one database.

    Attributes:
        schema: Numbers of migrations: ``known`` to this program, ``expanded`` and ``contracted`` in the database.
        instances: The instances that have not ended in order.
        owned: Number of sessions by the living instance to which they belong in the database, where it was asked for.
        links: Number of links held, by instance: connections of which we are the client, and links of a bridge.
        pairings: Number of pairings.
        orphaned: Number of pairings by the name of the dead instance to which their session still belongs. The next
            connection of the peer takes each over.
        leases_over: Number of leases of links that have run out, and that nobody has taken yet.
        replication: Replication.
    """

    schema: dict[str, int]
    instances: list[Instance]
    pairings: int
    owned: dict[str, int] = field(default_factory=dict)
    links: dict[str, int] = field(default_factory=dict)
    orphaned: dict[str, int] = field(default_factory=dict)
    leases_over: int = 0
    replication: Replication | None = None

    @property
    def troubles(self) -> list[str]:
        """Sentences about what a person should look at; none where all is well."""
        return list(_troubles(self))


async def cluster_of(connection: Connection, *, with_owned: bool = True) -> Cluster:
    """Return the status of the instances on the database of a connection. Raises psycopg.Error.

    Without ``owned``, which takes half a second of the database for a million sessions, it may be asked for often.
    """

    async def rows(statement: str) -> list[Row]:
        return await (await connection.execute(statement.encode())).fetchall()

    tables = (await rows(READ_TABLES))[0]
    found = await instances(connection)
    owners = await rows(_OWNERS if with_owned else _DEAD_OWNERS)
    leases = await rows(_LEASES)
    return Cluster(
        schema={"known": len(MIGRATIONS), "expanded": tables["expanded"], "contracted": tables["contracted"]},
        instances=found,
        pairings=(await rows("SELECT count(*) AS count FROM pairing"))[0]["count"],
        owned={row["owner"]: row["count"] for row in owners if row["alive"]},
        links={row["owner"]: row["held"] for row in leases if row["held"]},
        orphaned={row["owner"]: row["count"] for row in owners if not row["alive"]},
        leases_over=sum(row["over"] for row in leases),
        replication=_replication((await rows(_SERVER))[0], await rows(_STANDBYS), (await rows(_WAITING))[0]["seconds"]),
    )


def _replication(server: Row, standbys: list[dict[str, Any]], waiting: float | None) -> Replication:
    may_read = server["may_read"]
    known = [Standby(**row) for row in standbys if row["state"] is not None]
    asked = bool(server["names"]) and server["commits"] not in ("off", "local")
    waits = asked and any(
        one.kind in ("sync", "quorum") and one.state == "streaming" and not one.is_silent for one in known
    )
    return Replication(
        synchronous=waits if may_read or not asked else None,
        names=server["names"],
        commits=server["commits"],
        may_read=may_read,
        role=server["role"],
        standbys=known,
        waiting_seconds=waiting,
    )


def _troubles(cluster: Cluster) -> Iterator[str]:
    alive = [one for one in cluster.instances if one.alive]
    if not alive:
        yield "No instance is alive. Start one: s2connect serve, or s2connect bridge run FILE"
    for one in cluster.instances:
        if not one.alive:
            yield f"{one.name} was not seen for {one.age:.0f} s, and counts as dead."
    if len(hosts := {one.host for one in alive if one.host}) > 1:
        yield (
            f"The instances name different hosts: {', '.join(sorted(hosts)[:MAX_NAMED])}. A pairing that begins at one "
            "fails at another: give all the same host."
        )
    expanded, contracted = cluster.schema["expanded"], cluster.schema["contracted"]
    if len({one.version for one in alive}) > 1:
        yield "The instances run different versions. Update all, then: s2connect store migrate --contract"
    elif behind := [one.name for one in alive if one.schema < expanded]:
        names = ", ".join(behind[:MAX_NAMED])
        yield f"Of an earlier version than the tables: {names}. Update all, then: s2connect store migrate --contract"
    elif contracted < expanded:
        yield "The tables still have what only earlier versions need. Remove it: s2connect store migrate --contract"
    if number := sum(cluster.orphaned.values()):
        names = ", ".join(list(cluster.orphaned)[:MAX_NAMED])
        yield f"Pairings whose session was at an instance that is dead ({names}): {number}. Their peers connect again."
    if cluster.leases_over:
        yield f"Leases of links that have run out: {cluster.leases_over}. A living instance takes them in some seconds."
    if cluster.replication is not None:
        yield from _of_replication(cluster.replication)


def _of_replication(found: Replication) -> Iterator[str]:
    if found.commits in ("off", "local"):
        yield f"synchronous_commit is {found.commits}: a failover loses tokens, and locks devices out."
    elif not found.names:
        yield "synchronous_standby_names is empty: a failover loses tokens, and locks devices out."
    elif not found.may_read:
        yield f"The role {found.role} may not see the standbys. As superuser: GRANT pg_monitor TO {found.role}"
    elif not found.synchronous:
        yield "No synchronous standby is connected: commits wait for it, and time out."
    if (waiting := found.waiting_seconds) is not None and waiting > WAITS:
        yield f"A commit has been waiting for a standby for {waiting:.0f} s. Until then nothing new is taken."
    for one in found.standbys:
        if one.is_silent:
            yield f"The standby {one.name} has not answered for {one.silent_seconds:.0f} s."
        if one.state != "streaming":
            yield f"The standby {one.name} does not stream ({one.state})."
        elif one.lag_seconds is not None and one.lag_seconds > LAGS:
            yield f"The standby {one.name} is {one.lag_seconds:.0f} s behind."
