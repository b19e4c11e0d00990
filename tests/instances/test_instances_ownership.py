"""A session belongs to one of several instances: whoever takes it, the others close theirs."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection

from s2connect.endpoint import holding, ownership
from s2connect.errors import StorageUnavailable
from s2connect.messages.enums import Check
from s2connect.messages.envelope import Message
from s2connect.model.common import DEFAULT_S2_VERSION
from s2connect.session.ownership import Claim
from s2connect.session.session import Session
from s2connect.shared.ownership import PostgresqlOwners
from s2connect.store.base import PairKey
from s2connect.store.postgresql import listening
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.memory import MEMORY, memory_pair
from tests.instances.instances import NODES, Instance, instances
from tests.instances.test_instances_at_once import pair
from tests.instances.test_instances_offers import CLIENT, come, offered, served
from tests.session.session_fixtures import pairing, token
from tests.waits import patience, until, within

KEY = PairKey(NODES[0], CLIENT)

LISTENS = "(query LIKE 'LISTEN %' OR query = 'SELECT 1')"
"""Of a connection that listens: by what it has asked last."""


def follow(several: Sequence[Instance]) -> None:
    """Let instances follow each other's changes."""
    for one in several:
        assert one.pairings.ownership is not None
        one.pairings.ownership.start()


async def listening_all(url: str, count: int) -> None:
    """Wait until so many instances listen."""
    with psycopg.connect(url, autocommit=True) as connection:

        def listeners() -> int:
            row = connection.execute(
                f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {LISTENS}"
            ).fetchone()
            return 0 if row is None else int(row[0])

        await until(lambda: listeners() >= count)


def holders(several: Sequence[Instance]) -> list[int]:
    return [number for number, one in enumerate(several) if CLIENT in one.connections[NODES[0]].peers()]


async def connected(several: Sequence[Instance], port: int, access: str) -> tuple[ClientConnection, str]:
    token, access = await offered(several, access)
    client = await come(port, token)
    assert isinstance(client, ClientConnection)
    return client, access


async def until_closed(client: ClientConnection) -> None:
    """Wait for the end of a connection."""
    async with within(10):
        async for _ in client:
            pass


@pytest.mark.rule("WS-06")
async def test_a_session_at_another_instance_ends_the_former_one_at_once(postgresql: str) -> None:
    async with served(postgresql) as (several, ports, access):
        follow(several)
        await listening_all(postgresql, 3)
        first, access = await connected(several, ports[0], access)
        await until(lambda: holders(several) == [0])
        second, access = await connected(several, ports[1], access)
        began = time.monotonic()
        await until_closed(first)
        assert time.monotonic() - began < patience(0.4), "by a hint, and not at the next look"
        assert first.close_reason == "the session goes on at another instance"
        await until(lambda: holders(several) == [1])
        third, access = await connected(several, ports[1], access)
        await until_closed(second)
        assert second.close_reason == "replaced by a new session"
        assert holders(several) == [1]
        await third.close()
        await until(lambda: holders(several) == [])


async def test_without_hints_it_ends_when_the_rows_are_read_again(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(*_: object) -> None:
        await asyncio.Event().wait()

    async with served(postgresql) as (several, ports, access):
        for one in several:
            assert one.pairings.ownership is not None
            monkeypatch.setattr(one.pairings.ownership._shared, "listen", deaf)
        first, access = await connected(several, ports[0], access)
        await until(lambda: holders(several) == [0])
        second, access = await connected(several, ports[1], access)
        await until(lambda: holders(several) == [0, 1])
        monkeypatch.setattr(ownership, "RESYNC_EVERY", 0.2)
        follow(several)
        await until_closed(first)
        assert holders(several) == [1]
        await several[2].pairings.unpair(NODES[0], CLIENT)
        await until_closed(second)


@pytest.mark.rule("WS-06")
@pytest.mark.parametrize("is_deaf", [False, True])
async def test_what_comes_in_a_session_is_delivered_when_the_instance_that_had_it_has_ended_its_or_had_the_time(
    postgresql: str, monkeypatch: pytest.MonkeyPatch, is_deaf: bool
) -> None:
    async def deaf(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ownership, "HANDOVER_WITHIN", 0.3 if is_deaf else 1000.0)
    async with served(postgresql) as (several, ports, access), within(20):
        owners = [one.pairings.ownership for one in several]
        assert owners[0] is not None
        assert owners[1] is not None
        if is_deaf:
            monkeypatch.setattr(owners[0]._shared, "listen", deaf)
        follow(several)
        await listening_all(postgresql, 2 if is_deaf else 3)
        first, access = await connected(several, ports[0], access)
        former = await several[0].connections[NODES[0]].next_session(None, Check.ENVELOPE, None)
        began = time.monotonic()
        second, access = await connected(several, ports[1], access)
        session = await several[1].connections[NODES[0]].next_session(None, Check.ENVELOPE, None)
        await second.send('{"message_type": "PowerMeasurement", "message_id": "new", "values": []}')
        assert (await session.receive()).id == "new"
        assert not owners[1]._handovers
        if is_deaf:
            assert time.monotonic() - began >= 0.3
        else:
            await former.wait_closed()
        await first.close()
        await second.close()


@pytest.mark.rule("WS-06")
@pytest.mark.parametrize("taken", [True, False])
async def test_an_instance_that_stood_still_delivers_nothing_of_a_session_that_was_taken_over_meanwhile(
    postgresql: str, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """Messages that came meanwhile are read before any hint, before or after those of the new session."""
    asked: list[str | None] = []

    def note(_: Session, message: Message) -> None:
        asked.append(message.id)

    async def deaf(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ownership, "BEAT_EVERY", 1000.0)
    async with served(postgresql) as (several, ports, access), within(20):
        owners = several[0].pairings.ownership
        assert owners is not None
        monkeypatch.setattr(owners._shared, "listen", deaf)
        follow(several)
        first, access = await connected(several, ports[0], access)
        session = await several[0].connections[NODES[0]].next_session(None, Check.ENVELOPE, note)
        if taken:
            second, access = await connected(several, ports[1], access)
            await until(lambda: holders(several) == [0, 1])
        now = owners._now
        monkeypatch.setattr(owners, "_now", lambda: now() + 30.0)  # it stood still so long
        await first.send('{"message_type": "PowerMeasurement", "message_id": "late", "values": []}')
        if taken:
            await until_closed(first)
            assert first.close_reason == "the session goes on at another instance"
            assert asked == []
            await second.close()
        else:
            assert '"OK"' in str(await first.recv())
            assert (await session.receive()).id == "late"
            assert asked == ["late"]
            await first.close()


@pytest.mark.rule("UNP-02")
async def test_unpairing_at_one_instance_ends_the_session_at_another(postgresql: str) -> None:
    async with served(postgresql) as (several, ports, access):
        follow(several)
        await listening_all(postgresql, 3)
        client, _ = await connected(several, ports[0], access)
        live = await several[0].connections[NODES[0]].next(connect=False)
        assert live.claim is not None
        began = time.monotonic()
        await several[1].pairings.unpair(NODES[0], CLIENT)
        await until_closed(client)
        assert time.monotonic() - began < patience(0.4)
        assert client.close_reason == "unpaired"


async def test_pairing_anew_at_one_instance_ends_the_session_at_another(postgresql: str) -> None:
    async with served(postgresql) as (several, ports, access):
        follow(several)
        await listening_all(postgresql, 3)
        client, _ = await connected(several, ports[0], access)
        await until(lambda: holders(several) == [0])
        access = await pair(several[1:2], 1)
        await until_closed(client)
        assert client.close_reason == "paired anew"
        again, _ = await connected(several, ports[2], access)
        await until(lambda: holders(several) == [2])
        await again.close()


async def test_a_lost_listen_begins_again_and_what_was_missed_is_read(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "FIRST_PAUSE", 0.05)
    async with served(postgresql) as (several, ports, access):
        follow(several)
        await listening_all(postgresql, 3)
        client, _ = await connected(several, ports[0], access)
        await until(lambda: holders(several) == [0])
        with psycopg.connect(postgresql, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                f" AND {LISTENS}"
            )
            connection.execute("DELETE FROM pairing")  # without a hint
        async with within(5):
            await until_closed(client)
        assert client.close_reason == "unpaired"


async def _take_over(several: Sequence[Instance], ports: Sequence[int], access: str, rounds: int) -> None:
    """Come to all instances within a moment, with offers of which each later one voids those before."""
    clients: list[ClientConnection] = []

    async def one(port: int, token: str) -> None:
        await asyncio.sleep(random.random() * 0.05)
        client = await come(port, token)
        if isinstance(client, ClientConnection):
            clients.append(client)

    for _ in range(rounds):
        coming = []
        for port in random.sample(list(ports), len(ports)):
            token, access = await offered(several, access)
            coming.append(asyncio.create_task(one(port, token)))
            await asyncio.sleep(random.random() * 0.03)
        await asyncio.gather(*coming)
        await until(lambda: len(holders(several)) == 1)
        rows = await several[0].pairings.ownership._shared.rows([KEY])  # type: ignore[union-attr]
        (row,) = rows[KEY]
        assert [several[number].store.database.instance for number in holders(several)] == [row.owner]  # type: ignore[attr-defined]
        await until(lambda: sum(client.state.name == "OPEN" for client in clients) == 1)
    for client in clients:
        await client.close()


async def test_after_takeovers_at_once_a_pair_has_one_session(postgresql: str) -> None:
    async with served(postgresql) as (several, ports, access):
        follow(several)
        await _take_over(several, ports, access, 3)


@pytest.mark.long
async def test_after_hundreds_of_takeovers_at_once_a_pair_has_one_session(postgresql: str) -> None:
    async with served(postgresql) as (several, ports, access):
        follow(several)
        await _take_over(several, ports, access, 100)


async def test_the_sessions_of_other_living_instances_are_known(postgresql: str) -> None:
    async with served(postgresql) as (several, ports, access):
        client, _ = await connected(several, ports[0], access)
        await until(lambda: holders(several) == [0])
        here, there = (one.pairings.ownership for one in several[:2])
        assert here is not None
        assert there is not None
        assert await there.elsewhere() == {}, "nobody has seen the other one alive"
        with psycopg.connect(postgresql, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO instance (name, incarnation, started, seen, version, schema, address)"
                " VALUES ('i0', gen_random_uuid(), now(), now(), '', 0, '')"
            )
        assert await there.elsewhere() == {KEY: "i0"}
        assert await here.elsewhere() == {}
        await client.close()


async def test_what_no_session_belongs_to_any_more_is_given_up(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(postgresql) as (several, ports, access):
        client, _ = await connected(several, ports[0], access)
        owners = several[0].pairings.ownership
        assert owners is not None
        await until(lambda: holders(several) == [0])
        await owners._read_all()
        assert len(await owners._shared.owned()) == 1
        await client.close()
        await until(lambda: holders(several) == [])
        await owners._read_all()
        await owners._read_all()
        assert await owners._shared.owned() == []


async def test_thousands_of_rows_are_read_again_in_parts(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number = 1050
    async with instances(postgresql) as (one,):
        owners = one.pairings.ownership
        assert owners is not None
        manager = one.connections[NODES[0]]
        some = [replace(pairing(n), key=PairKey(NODES[0], pairing(n).key.remote)) for n in range(number)]
        await one.store.save_pairing(some[0], token("first"))
        with psycopg.connect(postgresql, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO pairing (local, remote, confirmed, token_issued_at, peer, peer_endpoint, paired_at,"
                " communication_role, active_digest)"
                " SELECT local, other, confirmed, token_issued_at, peer, peer_endpoint, paired_at, communication_role,"
                " sha256(other::text::bytea) FROM pairing, unnest(%s::uuid[]) AS other",
                ([str(known.key.remote) for known in some[1:]],),
            )
            connection.execute("UPDATE pairing SET owner = 'i0', generation = 1")
            for known in some:
                ends = (known.key.local, known.key.remote), (known.key.remote, known.key.local)
                side, _ = memory_pair(*(ConnectionInfo(MEMORY, *pair, DEFAULT_S2_VERSION) for pair in ends))
                manager.attach(side, known, queue=False, claim=Claim(known.key, known.paired_at, "i0", 1))
            asked: dict[str, list[int]] = {"rows": [], "disown": []}

            def count(name: str) -> None:
                work = getattr(owners._shared, name)

                def counted(of: Any) -> Any:
                    asked[name].append(len(of))
                    return work(of)

                monkeypatch.setattr(owners._shared, name, counted)

            count("rows")
            count("disown")
            connection.execute("DELETE FROM pairing WHERE remote IN (SELECT remote FROM pairing LIMIT 50)")
            await owners._read_all()
            assert len(manager.peers()) == number - 50
            assert asked == {"rows": [200] * 5 + [50], "disown": []}
            for remote in list(manager.peers())[:900]:
                await manager.end(remote, "test")
            await owners._read_all()
            await owners._read_all()
            assert asked["disown"] == [200] * 4 + [100]
            left = connection.execute("SELECT count(*) FROM pairing WHERE owner = 'i0'").fetchone()
            assert left == (100,)


async def test_the_tasks_of_an_instance_go_on_after_an_error(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROBE_EVERY", "RESYNC_EVERY", "CLAIM_EVERY", "AGAIN_AFTER"):
        monkeypatch.setattr(ownership, name, 0.05)
    calls: Counter[str] = Counter()
    async with instances(postgresql) as (one,):
        owners = one.pairings.ownership
        assert owners is not None

        def fail_once(task: str, of: object, name: str) -> None:
            work = getattr(of, name)

            def fails(*arguments: Any, **more: Any) -> Any:
                calls[task] += 1
                if calls[task] == 1:
                    raise RuntimeError("an error in this program")
                return work(*arguments, **more)

            monkeypatch.setattr(of, name, fails)

        follow([one])
        for task, of, name in (
            ("instance-hints", owners._shared, "listen"),
            ("instance-review", owners, "_review"),
            ("instance-resync", owners, "_read_all"),
            ("instance-nodes", owners, "_on_nodes"),
            ("instance-links", owners, "_claim_links"),
            ("instance-beat", owners._standstill, "beat"),
            ("instance-standstill", owners, "_review_all"),
            ("instance-leases", owners._leases, "expired"),
            ("instance-probe", owners._shared, "probe"),
        ):
            fail_once(task, of, name)
        async with within(10):
            while len(calls) < 9 or min(calls.values()) < 2:
                owners._look_at([KEY])
                owners._stood_still.set()
                await asyncio.sleep(0.02)
        assert {one.state.supervisor.failures.counts[task] for task in calls} == {1}


async def test_a_link_that_is_wanted_while_the_database_is_away_is_taken_when_it_is_back(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "AGAIN_AFTER", 0.05)
    monkeypatch.setattr(ownership, "CLAIM_EVERY", 0.1)
    asked: list[PairKey] = []
    claim_link = PostgresqlOwners.claim_link

    async def away_at_first(shared: PostgresqlOwners, key: PairKey) -> bool:
        asked.append(key)
        if len(asked) == 1:
            raise StorageUnavailable("It is away.", hint="")
        return await claim_link(shared, key)

    monkeypatch.setattr(PostgresqlOwners, "claim_link", away_at_first)
    async with instances(postgresql) as (one,):
        owners = one.pairings.ownership
        assert owners is not None
        owners.start()
        owners.want(KEY)
        await until(lambda: owners.holds(KEY))


@pytest.mark.rule("WS-06")
async def test_a_session_that_follows_one_taken_from_another_instance_waits_for_that_one_as_well(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "HANDOVER_WITHIN", 0.3)
    async with instances(postgresql) as (one,), within(20):
        owners = one.pairings.ownership
        assert owners is not None
        guards = [owners.guard(Claim(KEY, 0.0, "i0", 2, "i1")), owners.guard(Claim(KEY, 0.0, "i0", 3, "i0"))]
        assert [guard.may_deliver() for guard in guards] == [False, False]
        await until(lambda: all(guard.may_deliver() for guard in guards))
        assert owners.guard(Claim(KEY, 0.0, "i0", 4, "i0")).may_deliver()


@pytest.mark.rule("WS-06")
async def test_what_comes_on_a_link_that_another_instance_had_is_delivered_when_that_had_the_time_to_end_it(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "HANDOVER_WITHIN", 0.3)
    async with instances(postgresql, 2) as several, within(20):
        key = PairKey(NODES[1], CLIENT)
        one, other = (each.pairings.ownership.app_links.add(key) for each in several if each.pairings.ownership)
        for _ in range(2):
            await one.take()
            assert one.guard.may_deliver(), "nobody else had it"
        began = time.monotonic()
        for _ in range(2):
            await other.take()
            assert not other.guard.may_deliver(), "also if it takes it once more meanwhile"
        delivers = asyncio.Event()
        other.guard.when_it_may(delivers.set)
        await delivers.wait()
        assert time.monotonic() - began >= 0.29
        assert other.guard.may_deliver()
        other.let_go()
        await other._holds._releases.ended(key)
        await one.take()
        assert one.guard.may_deliver(), "it was given up before"


async def test_a_link_that_is_taken_again_while_it_is_given_up_is_held(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release of the former hold reached the database behind the claim of the next one, and ended that."""
    release = PostgresqlOwners.release_links

    async def late(shared: PostgresqlOwners, keys: Collection[PairKey]) -> None:
        await asyncio.sleep(0.3)
        await release(shared, keys)

    monkeypatch.setattr(PostgresqlOwners, "release_links", late)

    def held_by(key: PairKey) -> list[str]:
        with psycopg.connect(postgresql, autocommit=True) as connection:
            rows = connection.execute("SELECT owner FROM link WHERE remote = %s", (UUID(bytes=key.remote.bytes),))
            return [owner for (owner,) in rows.fetchall()]

    async with instances(postgresql, 2) as (one, other):
        assert one.pairings.ownership is not None
        assert other.pairings.ownership is not None
        assert await one.pairings.ownership.acquire(KEY)
        one.pairings.ownership.let_go(KEY)
        assert await one.pairings.ownership.acquire(KEY)
        await asyncio.sleep(0.5)
        assert held_by(KEY) == ["i0"]
        assert not await other.pairings.ownership.acquire(KEY), "there are no two holders"

        handing = asyncio.create_task(one.pairings.ownership._give_up(KEY), name="test-hand-over")
        await until(lambda: not one.pairings.ownership.holds(KEY))  # type: ignore[union-attr]
        assert await one.pairings.ownership.acquire(KEY)
        await handing
        await asyncio.sleep(0.5)
        assert held_by(KEY) == ["i0"]

        of_application = PairKey(NODES[1], CLIENT)
        hold = one.pairings.ownership.app_links.add(of_application)
        await hold.take()
        hold.let_go()
        await hold.take()
        await asyncio.sleep(0.5)
        assert hold.is_held
        assert sorted(held_by(of_application)) == ["i0", "i0"]


async def test_pairings_are_known_to_have_changed_without_a_hint_and_without_a_look_at_all_of_them(
    postgresql: str,
) -> None:
    """By what costs little: sessions that come and go change nothing of it."""
    async with instances(postgresql) as (one,):
        assert one.pairings.ownership is not None
        store, shared = one.state.store, one.pairings.ownership._shared
        marks = await shared.marks_of_pairings()

        async def changed() -> None:
            nonlocal marks
            async with within(30):  # the counters of the database rise a while after the COMMIT
                while (now := await shared.marks_of_pairings()) == marks:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(2)
            marks = await shared.marks_of_pairings()
            assert now

        unconfirmed = pairing(7, confirmed=False)
        await store.save_pairing(unconfirmed, token("a"))
        await changed()
        await store.confirm_pairing(unconfirmed)
        await changed()
        await shared.claim(replace(unconfirmed, confirmed=True))
        await asyncio.sleep(2)
        assert await shared.marks_of_pairings() == marks
        await store.remove_pairing(replace(unconfirmed, confirmed=True), tombstone=False)
        await changed()
