"""A primary whose synchronous standby is gone: it reads, and confirms nothing that is written."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest

pytest.importorskip("psycopg")

from s2connect.errors import StorageUnavailable
from s2connect.store.base import token_digest
from s2connect.store.postgresql import confirming
from s2connect.store.postgresql import database as module
from s2connect.store.postgresql.database import POOL_SIZE, Transaction
from s2connect.store.postgresql.store import PostgresqlStore
from tests.postgresql import STORE_KEYS, Cluster
from tests.store.store_examples import SERVER, pairing, token
from tests.waits import until, within

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture
def unconfirmed(postgresql: str, postgresql_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database that confirms nothing until :func:`confirm`, and gives up waiting for that soon."""
    monkeypatch.setattr(module, "COMMIT_S", 0.4)
    monkeypatch.setattr(module, "ANSWER_S", 0.4)
    monkeypatch.setattr(confirming, "CONFIRM_S", 0.4)
    monkeypatch.setattr(confirming, "TRY_EVERY", 0.1)
    postgresql_cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
    try:
        postgresql_cluster.sql("SELECT pg_reload_conf()")
        yield postgresql
    finally:
        confirm(postgresql_cluster)


def confirm(cluster: Cluster) -> None:
    cluster.sql("ALTER SYSTEM RESET synchronous_standby_names")
    cluster.sql("SELECT pg_reload_conf()")


@contextlib.asynccontextmanager
async def opened(cluster: Cluster, url: str) -> AsyncIterator[PostgresqlStore]:
    """A store, from when its database asks for a standby."""
    await until(lambda: cluster.sql("SHOW synchronous_standby_names") == [("missing",)])
    store = await PostgresqlStore.open(url, STORE_KEYS)
    try:
        yield store
    finally:
        await store.close()


async def add(transaction: Transaction, url: str) -> None:
    await transaction.execute("INSERT INTO refused_server (url) VALUES (%s)", (url,))


async def test_what_waits_for_a_standby_does_not_fill_the_database(
    unconfirmed: str, postgresql_cluster: Cluster
) -> None:
    """A COMMIT that waits keeps its connection at the server, also when nobody waits for its answer any more."""
    async with opened(postgresql_cluster, unconfirmed) as store, within(30):
        database = store.database
        written = [database.run("write", partial(add, url=str(number))) for number in range(60)]
        done = await asyncio.gather(*written, return_exceptions=True)
        assert all(isinstance(one, StorageUnavailable) for one in done), done
        waiting = postgresql_cluster.sql(WAITING)[0][0]
        assert 0 < waiting <= POOL_SIZE + 1
        for _ in range(20):  # later ones are refused at once, and nothing waits for them
            began = time.monotonic()
            with pytest.raises(StorageUnavailable, match="does not confirm what is written"):
                await database.run("write", partial(add, url="later"))
            assert time.monotonic() - began < 2
        assert postgresql_cluster.sql(WAITING)[0][0] <= waiting + 1
        assert await store.refused_servers() == [], "what is not confirmed shows to nobody"
        confirm(postgresql_cluster)
        async with within(20):
            while True:
                with contextlib.suppress(StorageUnavailable):
                    await database.run("write", partial(add, url="back"))
                    break
                await asyncio.sleep(0.05)
        await until(lambda: postgresql_cluster.sql(WAITING) == [(0,)])


async def test_a_transaction_is_rolled_back_also_where_it_is_confirmed_again_meanwhile(postgresql: str) -> None:
    """Its connection is somebody else's by then, and a COMMIT on it would say that all is well."""
    store = await PostgresqlStore.open(postgresql, STORE_KEYS)
    database, loop = store.database, asyncio.get_running_loop()

    async def found_unconfirmed() -> None:
        async with database.transaction() as transaction:
            await add(transaction, "https://rolled-back.example/")
            database._confirmation.late()
            loop.call_soon(loop.call_soon, database._confirmation.confirmed)

    try:
        async with within(30):
            with pytest.raises(StorageUnavailable, match="does not confirm what is written"):
                await found_unconfirmed()
            assert database.confirms
            assert await store.refused_servers() == []
            written = [
                database.run("write", partial(add, url=f"https://h{number}.example/"))
                for number in range(POOL_SIZE + 1)
            ]
            await asyncio.gather(*written)
            assert len(await store.refused_servers()) == POOL_SIZE + 1
    finally:
        await store.close()


@pytest.mark.rule("SES-03")
async def test_an_activation_that_is_not_confirmed_is_not_acknowledged_and_not_shown(
    unconfirmed: str, postgresql_cluster: Cluster
) -> None:
    """Giving it up must not make the database show what the standby does not have."""
    confirm(postgresql_cluster)
    first = await PostgresqlStore.open(unconfirmed, STORE_KEYS)
    await first.save_pairing(pairing(1, SERVER), token("a"))
    await first.close()
    postgresql_cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
    postgresql_cluster.sql("SELECT pg_reload_conf()")
    async with opened(postgresql_cluster, unconfirmed) as store, within(30):
        with pytest.raises(StorageUnavailable, match="does not confirm what is written"):
            await store.activate_token(pairing(1, SERVER), token_digest(token("b")), 1e9)
        record = await store.record(pairing(1).key)
        assert record.confirmed is not None
        assert record.confirmed[1] == token_digest(token("a"))
        confirm(postgresql_cluster)

        async def activated() -> bytes | None:
            confirmed = (await store.record(pairing(1).key)).confirmed
            return None if confirmed is None else confirmed[1]

        while await activated() != token_digest(token("b")):
            await asyncio.sleep(0.02)


async def test_an_error_of_this_program_does_not_end_the_trying(
    unconfirmed: str, postgresql_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(postgresql_cluster, unconfirmed) as store, within(30):
        with monkeypatch.context() as patched:
            patched.setattr(confirming.Confirmation, "_try", None)
            with pytest.raises(StorageUnavailable):
                await store.database.run("write", partial(add, url="a"))
            await until(lambda: store.database.failures.counts["database-confirmation"])
        confirm(postgresql_cluster)
        await until(lambda: store.database.confirms)


@pytest.mark.long
@pytest.mark.rule("SES-03")
async def test_what_was_lost_with_a_primary_is_not_taken_for_the_transaction_that_has_its_number_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The promoted standby gives the numbers again that it has never heard of."""
    for patience in ("COMMIT_S", "ANSWER_S", "OPERATION_S"):
        monkeypatch.setattr(module, patience, 40.0)
    primary = await asyncio.to_thread(Cluster)
    clusters = [primary]
    try:
        await asyncio.to_thread(primary.make_template)
        name = primary.new_database().partition("@/")[2].partition("?")[0]
        clusters.append(standby := await asyncio.to_thread(primary.standby))
        url = f"postgresql://postgres@/{name}?host={primary.directory},{standby.directory}"
        async with within(60):
            store = await PostgresqlStore.open(url, STORE_KEYS)
            await store.save_pairing(pairing(1, SERVER), token("a"))
            await asyncio.to_thread(standby.stop)
            activation = asyncio.create_task(store.activate_token(pairing(1, SERVER), token_digest(token("b")), 1e9))
            urls = [f"https://lost{number}.example/" for number in range(3)]
            others = [asyncio.create_task(store.database.run("write", partial(add, url=url))) for url in urls]
            while primary.sql(WAITING)[0][0] < 4:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(primary.stop)
            await asyncio.to_thread(standby.start)
            await asyncio.to_thread(standby.promote)
            for number in range(20):
                standby.sql(f"INSERT INTO refused_server (url) VALUES ('https://{number}.example/')", name)
            done = await asyncio.gather(activation, *others, return_exceptions=True)
            confirmed = (await store.record(pairing(1).key)).confirmed
            assert confirmed is not None
            assert (confirmed[1] == token_digest(token("b"))) is (done[0] is None), done
            there = await store.refused_servers()
            assert [one in there for one in urls] == [one is None for one in done[1:]], done
            await store.close()
    finally:
        for cluster in clusters:
            await asyncio.to_thread(cluster.close)


async def test_whoever_writes_nothing_finds_out_that_nothing_is_confirmed(
    unconfirmed: str, postgresql_cluster: Cluster
) -> None:
    """Within a bounded time, and without a connection that goes on waiting at the server."""
    async with opened(postgresql_cluster, unconfirmed) as store, within(30):
        database = store.database
        assert database.confirms
        await database.check_confirms()
        assert not database.confirms
        assert await store.refused_servers() == [], "reading goes on"
        for _ in range(3):
            await database.check_confirms()
        assert postgresql_cluster.sql(WAITING)[0][0] <= 2, "that one, and the one that tries again"
        confirm(postgresql_cluster)
        await until(lambda: database.confirms)
        await until(lambda: postgresql_cluster.sql(WAITING) == [(0,)])
        await database.check_confirms()
        assert database.confirms


async def test_whoever_is_cancelled_while_it_asks_leaves_nothing_that_waits(
    unconfirmed: str, postgresql_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an instance that ends: it would wait for that, until its connection has been lent for too long."""
    monkeypatch.setattr(module, "COMMIT_S", 60)
    async with opened(postgresql_cluster, unconfirmed) as store:
        asking = asyncio.create_task(store.database.check_confirms())
        await until(lambda: postgresql_cluster.sql(WAITING) == [(1,)])
        asking.cancel()
        async with within(5):
            await until(lambda: postgresql_cluster.sql(WAITING) == [(0,)])
            await store.close()
        assert store.database.confirms, "nobody knows better"


async def test_a_silent_database_does_not_hold_up_whoever_asks_whether_it_confirms(
    postgresql: str, postgresql_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT_S", 0.4)
    store = await PostgresqlStore.open(postgresql, STORE_KEYS)
    await store.refused_servers()
    postgresql_cluster.signal(signal.SIGSTOP)
    try:
        async with within(10):
            await store.database.check_confirms()
        assert not store.database.confirms
    finally:
        postgresql_cluster.signal(signal.SIGCONT)
    await until(lambda: store.database.confirms)
    await store.close()
