"""Attempts, codes, turns and proofs in PostgreSQL, for the pairing servers of several instances.

The rules are those of the core. An operation locks the row of its node, makes a core of the rows that it needs, lets
that decide, and writes what has changed: one transaction. As all that belongs to a node happens under the lock of its
row, instances take turns at each node, and do not disturb each other elsewhere. Times are those of the database.

What is secret is sealed; attempts are found by digests. The tables are UNLOGGED: after a crash of the database they are
empty, attempts have ended (errata S2C-49), and codes have to be made anew, but for static ones, which the vault keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from s2connect.errors import StorageUnavailable
from s2connect.https.rate import network_of
from s2connect.model.common import NodeId
from s2connect.model.pairing import PairingErrorReason
from s2connect.model.reply import BUSY, Reply
from s2connect.model.secret import HmacChallengeResponse, PairingAttemptId
from s2connect.pairing.attempt import Attempt, State
from s2connect.pairing.challenge import LiveProofs
from s2connect.pairing.code import PairingToken, TokenTable
from s2connect.pairing.interface import PairingServerEvent
from s2connect.pairing.rate_limiter import FAILURES_KEPT_FOR, SLOWED_DELAY, VERSION, NodeRateLimiter, Turn
from s2connect.pairing.refusals import refusal
from s2connect.pairing.server_core import ATTEMPT_LIFETIME, Asked, Elsewhere, PairingServer, Queued
from s2connect.shared.sweeping import CLOCK, swept_tables
from s2connect.store.effects import held_back
from s2connect.store.postgresql.database import Connection, Database, Row, Statement, Transaction
from s2connect.store.postgresql.pool import WAIT_S
from s2connect.store.postgresql.sealing import Sealer
from s2connect.supervisor import Supervisor

_log = logging.getLogger(__name__)

UNSEEN: Final = 5.0
"""Seconds after which a queued request counts as given up, whose instance asks for its turn once a second."""

LONGEST_PATIENCE: Final = 3.0
"""Most seconds for which a request does not ask for its turn, however many are before it."""

NODES_IN_BOUNDS: Final = 100
"""Nodes for which the bounds of PAIR-12 hold. They grow with more: an attack on some leaves the others theirs."""

FORMER_TOKENS: Final = ATTEMPT_LIFETIME + 5.0
"""Seconds for which a replaced code is kept for the attempts that began with it."""

CLOCK_SLACK: Final = 1.0
"""Seconds by which a stored time may be further ahead than it can be."""

T = TypeVar("T")

StaticToken = Callable[[NodeId], Awaitable[PairingToken | None]]


class PostgresqlProofs(LiveProofs):
    """Proofs that the live attempts of all instances accept, within one transaction."""

    def __init__(self, within: Transaction) -> None:
        super().__init__()
        self._within = within

    async def claim(
        self, sent: HmacChallengeResponse, expected: HmacChallengeResponse, *, now: float, lifetime: float
    ) -> bool:
        """See :meth:`LiveProofs.claim`. A challenge that is reflected was answered before, so its proof stands here."""
        ours, accepted = (hashlib.sha256(response.raw).digest() for response in (sent, expected))
        if ours == accepted:
            return False
        claimed = await self._within.execute(
            "INSERT INTO pairing_proof (digest, expires) SELECT %(accepted)s, %(until)s"
            " WHERE NOT EXISTS (SELECT 1 FROM pairing_proof WHERE digest = %(ours)s AND expires > %(now)s)"
            " ON CONFLICT (digest) DO UPDATE SET expires = excluded.expires",
            {"accepted": accepted, "ours": ours, "until": now + lifetime, "now": now},
        )
        return claimed.rowcount == 1


@dataclass(slots=True)
class _Part:
    """Part of the shared state, as it was loaded under the lock of its node."""

    node: NodeId
    now: float
    tokens: TokenTable
    was: dict[str, Any]
    limiter: NodeRateLimiter = field(default_factory=NodeRateLimiter)
    sources: dict[str, Any] = field(default_factory=dict)
    attempts: dict[PairingAttemptId, dict[str, Any]] = field(default_factory=dict)
    core: PairingServer = field(init=False)


class PostgresqlPairing:
    """The contract of :class:`~s2connect.pairing.shared.SharedPairing` for several instances.

    Args:
        core: Server without state of its own, whose settings count.
        database: The database.
        sealer: Seals codes and attempts.
        report: Called with events, once what they report is durable.
        static_token: Returns the static code of a node from the vault.
        supervisor: Owns what goes on behind the requests.
    """

    def __init__(
        self,
        core: PairingServer,
        database: Database,
        sealer: Sealer,
        *,
        report: Callable[[PairingServerEvent], None],
        static_token: StaticToken,
        supervisor: Supervisor,
    ) -> None:
        self.core = core
        self._database = database
        self._sealer = sealer
        self._report = report
        self._static_token = static_token
        self._supervisor = supervisor
        self._locks: WeakValueDictionary[NodeId, asyncio.Lock] = WeakValueDictionary()

    # The turns (PAIR-02)

    async def queue(self, asked: Asked) -> Queued | Reply:
        source = network_of(asked.address)
        node, scale = asked.node.id, max(1, -(-self.core.number_of_nodes() // NODES_IN_BOUNDS))
        async with self._part(node, _turns(node), _elsewhere(source)) as (within, part, (turns, (known,))):
            before = self._load_limiter(part, turns)
            in_flight, mine = known["live"] + known["queued"], known["mine"] + known["mine_queued"]
            part.core.elsewhere = Elsewhere(in_flight, mine, known["kept"], scale)
            queued = part.core.queue(asked, now=part.now)
            if isinstance(queued, Queued):
                queued.turn.id = uuid.uuid4().hex
                queued.turn.ask_at = self._ask_at(part.limiter, queued.turn, part.now)
                self._save_limiter(within, part, before)
        return queued

    async def wait(self, queued: Queued) -> float | Reply | None:
        if self.core.is_removed(queued.node):
            return refusal(PairingErrorReason.NODE_NOT_FOUND, "There is no such node here.")

        async def seen(connection: Connection) -> Row | None:
            cursor = await connection.execute(
                f"UPDATE pairing_turn SET seen = clock.now FROM (SELECT {CLOCK} AS now) AS clock WHERE id = %s"  # noqa: S608 - constants
                " RETURNING clock.now, ready_at,"
                " (SELECT free_at FROM pairing_node WHERE pairing_node.node = pairing_turn.node) AS free_at,"
                " NOT EXISTS (SELECT FROM pairing_turn AS other WHERE other.node = pairing_turn.node"
                " AND other.id != pairing_turn.id) AS alone",
                (queued.turn.id,),
            )
            return await cursor.fetchone()

        row = await self._database.read("wait for a turn in", seen)
        if row is None:
            return BUSY  # displaced by a request of another source, or forgotten by a database that has crashed
        now, delay = row["now"], self.core.delay
        ready_at, ask_at = _near(row["ready_at"], now, delay), _near(queued.turn.ask_at, now, LONGEST_PATIENCE)
        at = max(_near(row["free_at"] or ready_at, now, delay), ready_at, ask_at)
        if at > now:
            return float(at - now)
        if not row["alone"] and (pause := await self._next_look(queued, now)):
            return pause
        return await self._take_turn(queued)

    async def _next_look(self, queued: Queued, now: float) -> float | None:
        """Return the seconds until it may be this request's turn, looked at without the lock; None if it may be now."""

        async def read(connection: Connection) -> list[Row]:
            return await (await connection.execute(*_turns(queued.node.id))).fetchall()

        delay = self.core.delay
        limiter = NodeRateLimiter.load(_waiting(await self._database.read("read", read), now, delay), delay=delay)
        turn = limiter.turn(queued.turn.id)
        at = limiter.wait(turn, now=now) if turn is not None else None
        if turn is None or at is None:
            return None
        queued.turn.ask_at = self._ask_at(limiter, turn, now)
        return max(at, queued.turn.ask_at) - now

    async def _take_turn(self, queued: Queued) -> float | Reply | None:
        async with self._part(queued.node.id, _turns(queued.node.id)) as (within, part, (turns,)):
            before = self._load_limiter(part, turns)
            turn = part.limiter.turn(queued.turn.id)
            if turn is None:
                return BUSY
            at = part.limiter.wait(turn, now=part.now)
            if at is None:
                self._save_limiter(within, part, before)
        return at if at is None else at - part.now

    def _ask_at(self, limiter: NodeRateLimiter, turn: Turn, now: float) -> float:
        """Return when to ask for a turn, so that few ask at a time: half of those before it may leave meanwhile."""
        return now + min(limiter.ahead(turn) * self.core.delay / 2, LONGEST_PATIENCE)

    def abandon(self, queued: Queued) -> None:
        """See :meth:`SharedPairing.abandon`. Where that fails, the others pass it over after some seconds."""

        async def leave() -> None:
            async def forget(connection: Connection) -> None:
                await connection.execute("DELETE FROM pairing_turn WHERE id = %s", (queued.turn.id,))

            await self._database.read("write", forget)

        self._supervisor.spawn(leave(), "abandon-turn", expected=logging.DEBUG)

    # Attempts

    @contextlib.asynccontextmanager
    async def begin(self, queued: Queued) -> AsyncIterator[tuple[PairingServer, float]]:
        wanted = _attempts(queued.node.id, "request = %s", queued.digest)
        async with self._part(queued.node.id, *wanted) as (within, part, (attempts, sources)):
            self._load_attempts(within, part, attempts, sources)
            part.core.proofs = PostgresqlProofs(within)
            yield part.core, part.now

    @contextlib.asynccontextmanager
    async def attempt(self, attempt_id: PairingAttemptId) -> AsyncIterator[tuple[PairingServer, float]]:
        digest = digest_of(attempt_id)

        async def find(connection: Connection) -> Row | None:
            found = f"SELECT node FROM pairing_attempt WHERE id = %s AND expires > {CLOCK}"  # noqa: S608 - constants
            return await (await connection.execute(found.encode(), (digest,))).fetchone()

        row = await self._database.read("read", find)
        if row is None:
            yield self.core.part(), 0.0  # which knows no attempt
            return
        with held_back() as effects:
            node = NodeId(row["node"])
            async with self._part(node, *_attempts(node, "id = %s", digest)) as (within, part, (attempts, sources)):
                self._load_attempts(within, part, attempts, sources)
                yield part.core, part.now
        for effect in effects:
            effect()

    # Codes

    @contextlib.asynccontextmanager
    async def codes(self, node: NodeId) -> AsyncIterator[tuple[TokenTable, float]]:
        async with self._part(node) as (_, part, _):
            yield part.tokens, part.now

    async def tables(self, nodes: Collection[NodeId]) -> tuple[Mapping[NodeId, TokenTable], float]:
        async def read(connection: Connection) -> tuple[list[Row], float]:
            cursor = await connection.execute(
                "SELECT node, codes FROM pairing_node WHERE node = ANY(%s) AND codes IS NOT NULL", (list(nodes),)
            )
            rows = await cursor.fetchall()
            clock = await (await connection.execute(f"SELECT {CLOCK} AS now".encode())).fetchone()
            return rows, clock["now"] if clock is not None else 0.0

        rows, now = await self._database.read("read", read)
        read_tables = {NodeId(row["node"]): self._table(NodeId(row["node"]), row["codes"]) for row in rows}
        found = {node: table for node, table in read_tables.items() if table is not None}
        for node in nodes:
            if node not in found:  # nobody has used it since the database was started
                async with self.codes(node) as (found[node], now):
                    pass
        return found, now

    async def forget(self, node: NodeId) -> None:
        async with self._part(node, *_attempts(node, "node = %s", node)) as (within, part, (attempts, sources)):
            self._load_attempts(within, part, attempts, sources)
            part.core.forget(node)
            self._save_attempts(within, part)
            for table in ("pairing_turn", "pairing_source", "pairing_node"):
                within.last(f"DELETE FROM {table} WHERE node = %s", (node,))  # noqa: S608 - constants
            part.was = part.tokens.dump(now=part.now, keep=FORMER_TOKENS)

    # Expiry

    async def sweep(self) -> None:
        """End the attempts whose 15 seconds are over, and forget what counts no more. Each instance does it."""
        row = await swept_tables(self._database, _OVER, _UNENDED)
        for name in row["nodes"]:
            node = NodeId(name)
            async with self._part(node, *_attempts(node, "false")) as (within, part, (attempts, sources)):
                self._load_attempts(within, part, attempts, sources)
                part.core.expire(now=part.now)

    # Rows

    @contextlib.asynccontextmanager
    async def _part(
        self, node: NodeId, *further: Statement
    ) -> AsyncIterator[tuple[Transaction, _Part, list[list[Row]]]]:
        """Lock a node, and give a core with its codes; write what changes, and report once that is durable.

        Also gives the rows of ``further`` statements, which are read under the lock.
        """
        # One connection at a time waits for the lock of a node, so that the others stay free for other nodes.
        async with self._alone(node), self._database.transaction() as within:
            part, rows = await self._locked(within, node, further)
            yield within, part, rows
            self._save_codes(within, part)
            self._save_attempts(within, part)
        for event in part.core.events:
            self._report(event)

    @contextlib.asynccontextmanager
    async def _alone(self, node: NodeId) -> AsyncIterator[None]:
        """Let one task of this process use a node, and the others wait for a bounded time."""
        lock = self._locks.setdefault(node, asyncio.Lock())
        try:
            async with asyncio.timeout(WAIT_S):
                await lock.acquire()
        except TimeoutError:
            raise StorageUnavailable(
                f"Could not use {self._database.shown}: too many requests wait for the node {node}.",
                hint="Look what keeps the database busy: pg_stat_activity.",
            ) from None
        try:
            yield
        finally:
            lock.release()

    async def _locked(
        self, within: Transaction, node: NodeId, further: Sequence[Statement]
    ) -> tuple[_Part, list[list[Row]]]:
        # The time is that after the lock was there.
        lock = (
            "WITH locked AS MATERIALIZED (SELECT codes FROM pairing_node WHERE node = %s FOR UPDATE)"  # noqa: S608 - constants
            f" SELECT codes, {CLOCK} AS now FROM locked"
        )
        while not (found := [await one.fetchall() for one in await within.together((lock, (node,)), *further)])[0]:
            await within.execute("INSERT INTO pairing_node (node) VALUES (%s) ON CONFLICT DO NOTHING", (node,))
        row, now = found[0][0], found[0][0]["now"]
        tokens, was = self._table(node, row["codes"]), {}
        if tokens is not None:
            was = tokens.dump(now=now, keep=FORMER_TOKENS)
        else:
            tokens = TokenTable()
            if (static := await self._static_token(node)) is not None:
                tokens.issue(static, now=now, lifetime=None)
        part = _Part(node, now, tokens, was)
        part.core = self.core.part()
        part.core.take(node, tokens, part.limiter)
        return part, found[1:]

    def _table(self, node: NodeId, sealed: bytes | None) -> TokenTable | None:
        return self._read(_name_of_codes(node), sealed, TokenTable.load)

    def _read(self, name: str, sealed: bytes | None, load: Callable[[dict[str, Any]], T]) -> T | None:
        """Return what a row holds; None where it is empty, or of a key or version that is not known here.

        Then it is as after a crash of the database: a code is made anew, an attempt begun anew.
        """
        if sealed is None:
            return None
        try:
            return load(json.loads(self._sealer.open(name, sealed)))
        except (StorageUnavailable, ValueError, KeyError, TypeError):
            _log.warning("what another instance has written of %s is not understood here, and is over", name)
            return None

    def _save_codes(self, within: Transaction, part: _Part) -> None:
        value = part.tokens.dump(now=part.now, keep=FORMER_TOKENS)
        if value != part.was:
            sealed = self._sealer.seal(_name_of_codes(part.node), _json(value))
            within.last("UPDATE pairing_node SET codes = %s WHERE node = %s", (sealed, part.node))

    def _load_attempts(self, within: Transaction, part: _Part, rows: Sequence[Row], sources: Sequence[Row]) -> None:
        """Load attempts of the node, and what is known of their sources: the rows of :func:`_attempts`."""
        found: list[Attempt] = []

        def load(value: dict[str, Any]) -> Attempt:
            return Attempt.load(value, part.tokens.issued)

        for row in rows:
            attempt = self._read(_name_of_attempt(row["id"]), row["content"], load)
            if attempt is None:
                within.last("DELETE FROM pairing_attempt WHERE id = %s", (row["id"],))
                continue
            part.attempts[attempt.id] = attempt.dump()
            found.append(attempt)
        self._use_limiter(part, _sources(sources, part.now))
        part.core.take(part.node, part.tokens, part.limiter, found)

    def _save_attempts(self, within: Transaction, part: _Part) -> None:
        attempts = part.core.attempts()
        for attempt_id, was in list(part.attempts.items()):
            if attempt_id not in attempts:
                within.last("DELETE FROM pairing_attempt WHERE id = %s", (digest_of(attempt_id),))
            elif (content := attempts[attempt_id].dump()) != was:
                self._write(within, attempts[attempt_id], content)
        for attempt_id, attempt in attempts.items():
            if attempt_id not in part.attempts:
                self._write(within, attempt, attempt.dump())
        part.attempts = {attempt_id: attempt.dump() for attempt_id, attempt in attempts.items()}
        self._save_sources(within, part, part.limiter.dump())

    def _write(self, within: Transaction, attempt: Attempt, content: dict[str, Any]) -> None:
        digest = digest_of(attempt.id)
        within.last(
            "INSERT INTO pairing_attempt (id, request, node, source, ended, expires, content)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, content = excluded.content",
            (
                digest,
                attempt.request,
                attempt.node,
                attempt.source,
                attempt.state is State.ENDED,
                attempt.expires_at,
                self._sealer.seal(_name_of_attempt(digest), _json(content)),
            ),
        )

    # Rows of the rate limiter

    def _load_limiter(self, part: _Part, rows: Sequence[Row]) -> list[str]:
        """Load the queue of a node, and what is known of the sources in it; return the names of the requests."""
        self._use_limiter(part, _waiting(rows, part.now, self.core.delay))
        return [row["id"] for row in rows]

    def _use_limiter(self, part: _Part, value: dict[str, Any]) -> None:
        part.limiter = NodeRateLimiter.load(value, delay=self.core.delay)
        part.sources = part.limiter.dump()
        part.core.take(part.node, part.tokens, part.limiter)

    def _save_limiter(self, within: Transaction, part: _Part, before: list[str]) -> None:
        value = part.limiter.dump()
        if value["free_at"] != part.sources["free_at"]:
            within.last("UPDATE pairing_node SET free_at = %s WHERE node = %s", (value["free_at"], part.node))
        after = {turn[0]: (source, turn[1]) for source, turns in value["waiting"] for turn in turns}
        if gone := [name for name in before if name not in after]:
            within.last("DELETE FROM pairing_turn WHERE id = ANY(%s)", (gone,))
        for name in after.keys() - set(before):
            source, ready_at = after[name]
            within.last(
                "INSERT INTO pairing_turn (id, node, source, place, ready_at, seen)"
                " SELECT %(id)s, %(node)s, %(source)s, coalesce(max(place) FILTER (WHERE source = %(source)s),"
                " max(place) + 1, 0), %(ready_at)s, %(seen)s FROM pairing_turn WHERE node = %(node)s",
                {"id": name, "node": part.node, "source": source, "ready_at": ready_at, "seen": part.now},
            )
        was = [source for source, _ in part.sources["waiting"]]
        order = [source for source, _ in value["waiting"]]
        if order and order != was and order[-1] in was:  # it had its turn, and goes to the end
            within.last(
                "UPDATE pairing_turn SET place = (SELECT max(place) + 1 FROM pairing_turn WHERE node = %(node)s)"
                " WHERE node = %(node)s AND source = %(source)s",
                {"node": part.node, "source": order[-1]},
            )
        self._save_sources(within, part, value)

    def _save_sources(self, within: Transaction, part: _Part, value: dict[str, Any]) -> None:
        was = part.sources or {"served": {}, "failures": {}}
        for source in value["served"].keys() | value["failures"].keys():
            served, failures = value["served"].get(source), value["failures"].get(source)
            if (served, failures) != (was["served"].get(source), was["failures"].get(source)):
                count, last, not_before = failures or (0, 0.0, 0.0)
                within.last(
                    "INSERT INTO pairing_source (node, source, served, failures, failed, not_before)"
                    " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (node, source) DO UPDATE SET"
                    " served = excluded.served, failures = excluded.failures, failed = excluded.failed,"
                    " not_before = excluded.not_before",
                    (part.node, source, served, count, last, not_before),
                )
        part.sources = value


_READ_TURNS: Final = f"""
    SELECT pairing_turn.id, source, ready_at, free_at, served, failures, failed, not_before
    FROM pairing_turn JOIN pairing_node USING (node) LEFT JOIN pairing_source USING (node, source)
    WHERE node = %s AND seen > {CLOCK} - {UNSEEN} ORDER BY place, ready_at
"""  # noqa: S608

_READ_ELSEWHERE: Final = f"""
    SELECT count(*) AS kept, count(*) FILTER (WHERE NOT ended) AS live,
        count(*) FILTER (WHERE NOT ended AND source = %(source)s) AS mine,
        (SELECT count(*) FROM pairing_turn WHERE seen > {CLOCK} - {UNSEEN}) AS queued,
        (SELECT count(*) FROM pairing_turn WHERE seen > {CLOCK} - {UNSEEN} AND source = %(source)s) AS mine_queued
    FROM pairing_attempt WHERE expires > {CLOCK}
"""  # noqa: S608
"""Numbers for the bounds of PAIR-12."""


def _turns(node: NodeId) -> Statement:
    return _READ_TURNS, (node,)


def _elsewhere(source: str) -> Statement:
    return _READ_ELSEWHERE, {"source": source}


def _attempts(node: NodeId, which: str, *values: object) -> tuple[Statement, Statement]:
    """Return the statements that read the attempts of a node that fit or whose time is over, and their sources."""
    wanted = f"FROM pairing_attempt WHERE node = %s AND ({which} OR (NOT ended AND expires <= {CLOCK}))"
    return (
        (f"SELECT id, content {wanted} ORDER BY expires", (node, *values)),
        (
            f"SELECT * FROM pairing_source WHERE node = %s AND source IN (SELECT source {wanted})",  # noqa: S608
            (node, node, *values),
        ),
    )


def _near(at: float, now: float, most: float) -> float:
    """Return a time that is at most so many seconds ahead: one beyond that is of before the clock was set back."""
    return at if at <= now + most + CLOCK_SLACK else now


def _sources(rows: Iterable[Row], now: float) -> dict[str, Any]:
    """Return the state of a rate limiter with nobody in its queue."""
    known = {row["source"]: row for row in rows}
    return {
        "version": VERSION,
        "free_at": None,
        "waiting": [],
        "served": {source: row["served"] for source, row in known.items() if row["served"] is not None},
        "failures": {
            source: [row["failures"], _near(row["failed"], now, 0.0), _near(row["not_before"], now, SLOWED_DELAY)]
            for source, row in known.items()
            if row["failures"]
        },
    }


def _waiting(rows: Sequence[Row], now: float, delay: float) -> dict[str, Any]:
    """Return the state of a rate limiter with the queue of :data:`_READ_TURNS`."""
    turns: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        turns.setdefault(row["source"], []).append((row["id"], _near(row["ready_at"], now, delay)))
    free_at = rows[0]["free_at"] if rows else None
    free_at = None if free_at is None else _near(free_at, now, delay)
    return _sources(rows, now) | {"free_at": free_at, "waiting": list(turns.items())}


def digest_of(attempt_id: PairingAttemptId) -> bytes:
    """Return the digest by which an attempt is found."""
    return hashlib.sha256(attempt_id.reveal().encode("ascii")).digest()


def _name_of_codes(node: NodeId) -> str:
    return f"codes {node}"


def _name_of_attempt(digest: bytes) -> str:
    return f"attempt {digest.hex()}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("utf-8")


_OVER: Final = (
    ("pairing_attempt", "id", f"ended AND expires <= {CLOCK}"),
    ("pairing_proof", "digest", f"expires <= {CLOCK}"),
    ("pairing_turn", "id", f"seen <= {CLOCK} - {UNSEEN}"),
    ("pairing_source", "node, source", f"greatest(served, failed) <= {CLOCK} - {FAILURES_KEPT_FOR}"),
)
"""Tables, their keys, and the rows that count no more."""

_UNENDED: Final = f"ARRAY(SELECT DISTINCT node FROM pairing_attempt WHERE NOT ended AND expires <= {CLOCK}) AS nodes"  # noqa: S608
