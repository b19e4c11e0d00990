"""Tasks behind the state that instances share: what they do, and what comes of an error in them."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from unittest.mock import ANY

import psycopg
import pytest

from s2connect.errors import StorageUnavailable
from s2connect.events import PairingFailed, PairingsChanged
from s2connect.model.common import NodeId
from s2connect.pairing.code import PairingToken
from s2connect.pairing.server_core import Asked, Queued
from s2connect.shared import state as shared_state
from s2connect.shared import sweeping
from s2connect.shared.ownership import PostgresqlOwners
from s2connect.shared.pairing import PostgresqlPairing
from s2connect.shared.sessions import PostgresqlSessions
from s2connect.store.base import PairKey
from tests.instances.instances import (
    NODES,
    TOKEN,
    Instance,
    b64,
    client_id,
    instances,
    pairing_request,
    session_request,
)
from tests.instances.test_instances_at_once import issue, pair
from tests.postgresql import Cluster
from tests.waits import until, within

TABLES = ("pairing_attempt", "pairing_proof", "pairing_turn", "pairing_source", "pending_token", "offer")


def run(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def asked(instance: Instance, number: int, address: str = "192.0.2.1") -> Asked:
    challenge = b64(hashlib.sha256(b"%d" % number).digest())
    found = instance.pairing.server.check(
        pairing_request(number, challenge), binding=b"x", address=address, ready=True, now=0.0
    )
    assert isinstance(found, Asked)
    return found


@pytest.mark.parametrize(
    ("error", "reported"), [(StorageUnavailable("the database is away", hint=""), 0), (RuntimeError("a mistake"), 1)]
)
async def test_the_sweep_goes_on_after_an_error(
    postgresql: str, monkeypatch: pytest.MonkeyPatch, error: Exception, reported: int
) -> None:
    monkeypatch.setattr(shared_state, "SWEEP_EVERY", 0.05)
    swept: list[str] = []
    sweep = PostgresqlPairing.sweep

    async def fails_once(shared: PostgresqlPairing) -> None:
        swept.append("pairing")
        if len(swept) == 1:
            raise error
        await sweep(shared)

    monkeypatch.setattr(PostgresqlPairing, "sweep", fails_once)
    async with instances(postgresql) as (one,):
        await until(lambda: len(swept) > 2)
        assert one.state.supervisor.failures.counts["shared-sweep"] == reported


async def test_of_very_much_that_is_over_a_sweep_forgets_some(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "SWEPT_AT_ONCE", 10)
    monkeypatch.setattr(shared_state, "SWEEP_EVERY", 1e6)

    def left() -> int:
        return int(run(postgresql, "SELECT count(*) FROM pending_token")[0][0])

    async with instances(postgresql) as (one,):
        run(
            postgresql,
            "INSERT INTO pending_token (digest, local, remote, paired_at, protocol, s2_version, expires)"
            " SELECT decode(md5(n::text), 'hex'), gen_random_uuid(), gen_random_uuid(), 0, 'WebSocket', 'v1.0.0', 1"
            " FROM generate_series(1, 45) AS n",
        )
        assert isinstance(one.pairings.shared, PostgresqlSessions)
        monkeypatch.setattr(sweeping, "SWEEP_S", 0.0)
        await one.pairings.shared.sweep()
        assert left() == 35, "one statement, which a time-out of the database does not undo with all the rest"
        monkeypatch.setattr(sweeping, "SWEEP_S", 10.0)
        await one.pairings.shared.sweep()
        assert left() == 0


async def test_what_is_over_is_forgotten_and_what_is_not_stays(postgresql: str) -> None:
    async with instances(postgresql) as (one,):
        assert isinstance(one.pairing.shared, PostgresqlPairing)
        assert isinstance(one.pairings.shared, PostgresqlSessions)
        for number, late in enumerate(("0", "extract(epoch FROM clock_timestamp()) + 60")):
            node = NODES[number]
            for statement in (
                f"INSERT INTO pairing_attempt VALUES ('{number}', 'r', '{node}', 's', true, {late}, 'c')",
                f"INSERT INTO pairing_proof VALUES ('{number}', {late})",
                f"INSERT INTO pairing_turn VALUES ('{number}', '{node}', 's', 0, 0, {late})",
                f"INSERT INTO pairing_source (node, source, served) VALUES ('{node}', 's', {late})",
                f"INSERT INTO pending_token VALUES ('{number}', '{node}', '{node}', 0, 'WebSocket', 'v1', {late})",
                f"INSERT INTO offer VALUES ('{number}', '{node}', '{node}', 0, 'v1', '', '', {late})",
            ):
                run(postgresql, statement)
        await one.pairing.shared.sweep()
        await one.pairings.shared.sweep()
        for table in TABLES:
            assert run(postgresql, f"SELECT count(*) FROM {table}") == [(1,)], table


async def test_a_request_that_is_given_up_leaves_the_queue_also_where_that_fails_at_first(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with instances(postgresql) as (one,):
        shared = one.pairing.shared
        assert isinstance(shared, PostgresqlPairing)
        queued = await shared.queue(asked(one, 1))
        assert isinstance(queued, Queued)
        database, failing = shared._database, True
        read = database.read

        async def fails(*arguments: Any) -> Any:
            if failing:
                raise StorageUnavailable("the database is away", hint="")
            return await read(*arguments)

        monkeypatch.setattr(database, "read", fails)
        shared.abandon(queued)
        await until(lambda: one.state.supervisor.failures.counts["abandon-turn"] == 1)
        assert run(postgresql, "SELECT count(*) FROM pairing_turn") == [(1,)]
        failing = False
        shared.abandon(queued)
        await until(lambda: not run(postgresql, "SELECT 1 FROM pairing_turn"))


def _expire(url: str, instance: Instance) -> None:
    """Put the end of all attempts, in their sealed content too, into the past."""
    shared = instance.pairing.shared
    assert isinstance(shared, PostgresqlPairing)
    with psycopg.connect(url, autocommit=True) as connection:
        for digest, sealed in connection.execute("SELECT id, content FROM pairing_attempt").fetchall():
            name = f"attempt {digest.hex()}"
            content = json.loads(shared._sealer.open(name, sealed)) | {"expires_at": 1.0}
            connection.execute(
                "UPDATE pairing_attempt SET expires = 1, content = %s WHERE id = %s",
                (shared._sealer.seal(name, json.dumps(content).encode()), digest),
            )


@pytest.mark.rule("PAIR-04")
async def test_attempts_whose_time_is_over_fail_once_whichever_instance_sees_it(postgresql: str) -> None:
    async with instances(postgresql, 3) as several:
        local = several[0].state.local.nodes[NODES[0]]
        await several[0].pairing.new_code(local, PairingToken(TOKEN))
        for number in range(3):
            begun = await several[number].ask("pairing/requestPairing", pairing_request(number, b64(bytes(32))))
            assert begun.status == 200
        _expire(postgresql, several[0])
        for one in several:
            assert isinstance(one.pairing.shared, PostgresqlPairing)
            await one.pairing.shared.sweep()
        told = [event for one in several for event in one.happened if isinstance(event, PairingFailed)]
        assert [event.reason for event in told] == ["expired"] * 3
        assert {NodeId(event.peer.id) for event in told if event.peer is not None} != {NODES[0]}
        assert not run(postgresql, "SELECT 1 FROM pairing_attempt")
        assert run(postgresql, "SELECT sum(failures)::integer FROM pairing_source") == [(3,)]


async def test_what_a_lost_key_has_sealed_is_over_and_a_new_code_can_be_made(postgresql: str) -> None:
    async with instances(postgresql) as (one,):
        local = one.state.local.nodes[NODES[0]]
        await one.pairing.new_code(local, PairingToken(TOKEN))
        begun = await one.ask("pairing/requestPairing", pairing_request(1, b64(bytes(32))))
        assert begun.status == 200
        run(postgresql, "UPDATE pairing_attempt SET content = 'nonsense'")
        run(postgresql, "UPDATE pairing_node SET codes = 'nonsense'")
        attempt = begun.body["pairingAttemptId"]
        assert (await one.ask("pairing/finalizePairing", b'{"success": true}', attempt)).status == 401
        assert (await one.pairing.code_statuses([local]))[local.id].code is None
        await one.pairing.new_code(local, PairingToken(TOKEN))
        assert (await one.ask("pairing/requestPairing", pairing_request(1, b64(bytes(32))))).status == 200


@pytest.mark.rule("TOK-02")
async def test_after_a_crash_of_the_database_static_codes_count_and_dynamic_ones_do_not(postgresql: str) -> None:
    """UNLOGGED tables are empty then."""
    async with instances(postgresql, 2, nodes=2) as several:
        first, second = several[0].state.local.nodes.values()
        for instance in several:
            instance.state.vault = several[0].state.vault  # it is in the database, too
        static = await several[0].pairing.set_static_code(first, None)
        await several[0].pairing.new_code(second, PairingToken(TOKEN))
        run(postgresql, "TRUNCATE pairing_node, pairing_attempt, pairing_turn, pairing_proof, pairing_source")
        status = await several[1].pairing.code_statuses([first, second])
        assert (status[first.id].code, status[second.id].code) == (static, None)
        assert (await several[0].pairing.code_statuses([first]))[first.id].code == static


async def test_without_the_database_nothing_new_is_taken_and_then_all_goes_on(
    postgresql_cluster: Cluster, postgresql: str
) -> None:
    name = postgresql.partition("@/")[2].partition("?")[0]
    async with instances(postgresql, 2) as several:
        local = several[0].state.local.nodes[NODES[0]]
        await several[0].pairing.new_code(local, PairingToken(TOKEN))
        access = await pair(several, 1)
        pending = await several[0].ask("session/initiateSession", session_request(1), access)
        postgresql_cluster.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgresql_cluster.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        refused = [
            await one.ask(path, body, bearer)
            for one in several
            for path, body, bearer in (
                ("pairing/requestPairing", pairing_request(2, b64(bytes(32))), None),
                ("pairing/requestConnectionDetails", b"{}", "x" * 32),
                ("pairing/finalizePairing", b"{}", "x" * 32),
                ("session/initiateSession", session_request(1), access),
                ("session/confirmAccessToken", b"", pending.body["accessToken"]),
            )
        ]
        assert [one.status for one in refused] == [503] * 10
        postgresql_cluster.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert (await several[1].ask("session/confirmAccessToken", b"", pending.body["accessToken"])).status == 200


async def test_a_pairing_at_one_instance_is_announced_to_the_others_and_what_no_hint_told_is_found(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with instances(postgresql, 2) as (one, other):
        for instance in (one, other):
            assert instance.pairings.ownership is not None
            instance.pairings.ownership.exchanges = True
            instance.pairings.ownership.start()
        await until(lambda: any(isinstance(event, PairingsChanged) for event in other.happened))  # the first look
        other.happened.clear()
        await issue(one, 0, None)
        await pair([one], 1)
        peer = NodeId(client_id(1))
        await until(lambda: PairingsChanged(node=NODES[0], peer=peer, at=ANY) in other.happened)
        assert not [e for e in one.happened if isinstance(e, PairingsChanged) and e.node is not None]

        async def fails(owners: PostgresqlOwners, key: PairKey) -> None:
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(PostgresqlOwners, "announce_pairings", fails)
        other.happened.clear()
        await pair([one], 2)
        await until(lambda: one.state.supervisor.failures.counts["announce"] == 1)
        assert other.pairings.ownership is not None
        await other.pairings.ownership._read_all()
        assert PairingsChanged(node=None, peer=None, at=ANY) in other.happened


@pytest.mark.rule("PAIR-02")
async def test_a_clock_of_the_database_that_is_set_back_blocks_no_pairing(postgresql: str) -> None:
    """Times of turns that are an hour ahead would keep every node that was used of late waiting for that hour."""
    async with instances(postgresql) as (one,):
        await issue(one, 0, None)
        await pair([one], 1)
        run(postgresql, "UPDATE pairing_node SET free_at = free_at + 3600")
        run(
            postgresql,
            "UPDATE pairing_source SET served = served + 3600, failures = 9, failed = served + 3600,"
            " not_before = served + 3600",
        )
        async with within(20):
            await pair([one], 2)
