"""Instances that are alive: one process for each name, dead in time, and back at once after a kill."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

pytest.importorskip("psycopg")

from s2connect.errors import InstanceRuns
from s2connect.store.postgresql import instances as module
from s2connect.store.postgresql.database import Database
from s2connect.store.postgresql.instances import Instance, Presence, instances, is_alive
from tests.postgresql import Cluster
from tests.waits import patience, within

HOLDER = """
import asyncio, sys
from s2connect.store.postgresql.database import Database
from s2connect.store.postgresql.instances import Presence

async def main():
    presence = Presence(await Database.open(sys.argv[1]), "one", version="1")
    await presence.claim()
    print("claimed", flush=True)
    await presence.keep()

asyncio.run(main())
"""


@pytest.fixture
async def database(postgresql: str) -> AsyncIterator[Database]:
    opened = await Database.open(postgresql)
    yield opened
    await opened.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEEN_EVERY", 0.05)


@contextlib.contextmanager
def holder(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that is the instance ``one``."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "claimed\n"
            yield process
        finally:
            process.kill()


async def shown(database: Database) -> list[Instance]:
    return await database.read("read", instances)


async def test_an_instance_shows_what_it_is_until_it_leaves(database: Database, quick: None) -> None:
    presence = Presence(database, "one", version="1.2", sessions=lambda: 7)
    presence.address = "machine:8443"
    await presence.claim()
    (one,) = await shown(database)
    assert (one.name, one.version, one.address, one.sessions) == ("one", "1.2", "machine:8443", 7)
    assert one.alive
    assert not one.draining
    keeping = asyncio.ensure_future(presence.keep())
    presence.drain()
    async with within(5):
        while not (await shown(database))[0].draining:
            await asyncio.sleep(0.02)
    assert (await shown(database))[0].seen > one.seen
    keeping.cancel()
    await presence.leave()
    assert await shown(database) == []
    await presence.leave()


async def test_a_second_process_of_a_name_is_refused_while_the_first_lives(database: Database) -> None:
    first, second = (Presence(database, "one", version="1") for _ in range(2))
    await first.claim()
    with pytest.raises(InstanceRuns, match=r"The instance one runs already.*--instance NAME"):
        await second.claim()
    other = Presence(database, "two", version="1")
    await other.claim()
    assert [one.name for one in await shown(database)] == ["one", "two"]
    await first.leave()
    await second.claim()
    for presence in (second, other):
        await presence.leave()


async def test_a_name_is_free_at_once_after_a_kill(database: Database, postgresql: str) -> None:
    with holder(postgresql):
        pass
    assert (await shown(database))[0].alive, "it was seen a moment ago"
    presence = Presence(database, "one", version="2")
    await presence.claim()
    assert (await shown(database))[0].version == "2"
    await presence.leave()


async def test_a_process_that_was_stopped_loses_its_name_and_learns_so(database: Database, postgresql: str) -> None:
    with holder(postgresql) as process:
        process.send_signal(signal.SIGSTOP)
        late = "UPDATE instance SET seen = seen - interval '16 seconds'"
        await database.run("write", lambda transaction: transaction.execute(late))
        assert not await database.read("read", lambda connection: is_alive(connection, "one"))
        presence = Presence(database, "one", version="2")
        await presence.claim()
        assert await database.read("read", lambda connection: is_alive(connection, "one"))
        process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(process.wait, patience(15)) == 0, "keep() returns"
    assert (await shown(database))[0].version == "2"
    await presence.leave()


async def test_an_instance_whose_connection_is_cut_comes_back(
    database: Database, quick: None, postgresql: str, postgresql_cluster: Cluster
) -> None:
    lost: list[InstanceRuns] = []
    presence = Presence(database, "one", version="1", on_lost=lost.append)
    await presence.claim()
    keeping = asyncio.ensure_future(presence.keep())
    name = postgresql.partition("@/")[2].partition("?")[0]
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    await asyncio.to_thread(postgresql_cluster.sql, cut)
    await database.run("write", lambda transaction: transaction.execute("DELETE FROM instance"))  # as a crash does
    async with within(10):
        while not await shown(database):
            await asyncio.sleep(0.05)
    with pytest.raises(InstanceRuns):
        await Presence(database, "one", version="1").claim()
    assert not lost
    assert not keeping.done()
    keeping.cancel()
    await presence.leave()


async def test_an_instance_that_was_replaced_while_it_was_cut_off_ends(database: Database, quick: None) -> None:
    lost: list[InstanceRuns] = []
    first = Presence(database, "one", version="1", on_lost=lost.append)
    await first.claim()
    assert first._connection is not None
    first._connection.pgconn.finish()
    second = Presence(database, "one", version="2")
    await second.claim()
    await first.keep()
    assert [error.kind for error in lost] == ["instance_runs"]
    assert first.is_lost
    assert [one.version for one in await shown(database)] == ["2"]
    await second.leave()


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
async def test_an_instance_whose_clock_differs_from_that_of_the_database_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ahead: float
) -> None:
    presence = Presence(database, "one", version="1")
    await presence.claim()
    assert not caplog.records
    real = time.time
    monkeypatch.setattr("s2connect.store.postgresql.instances.time.time", lambda: real() + ahead)
    for _ in range(2):
        await presence._renew()
    (record,) = caplog.records
    assert f"3600 s {'ahead of' if ahead > 0 else 'behind'} that of the database" in record.getMessage()
    monkeypatch.undo()
    await presence._renew()
    await presence.leave()
