"""Transactions in few round trips: nothing is half done, and the error is that of the statement that failed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

pytest.importorskip("psycopg")

from s2connect.errors import StorageUnavailable
from s2connect.store.postgresql.database import Connection, Database, Transaction
from s2connect.store.postgresql.transaction import NUMBER_IF_USED
from tests.store.postgresql_wire import Wire, wire

ADD = "INSERT INTO refused_server (url) VALUES (%s)"


@pytest.fixture
async def between(postgresql: str) -> AsyncIterator[Wire]:
    async with wire(postgresql) as made:
        yield made


@pytest.fixture
async def database(between: Wire) -> AsyncIterator[Database]:
    opened = await Database.open(between.through)
    await urls(opened)  # with the connection that they go on with
    between.trips()
    yield opened
    await opened.close()


async def urls(database: Database) -> list[str]:
    async def read(connection: Connection) -> list[str]:
        cursor = await connection.execute("SELECT url FROM refused_server ORDER BY sequence")
        return [row["url"] for row in await cursor.fetchall()]

    return await database.read("read", read)


async def test_statements_go_together(between: Wire, database: Database) -> None:
    between.trips()
    async with database.transaction() as transaction:
        one, two = await transaction.together(("SELECT 1 AS found", None), ("SELECT %s AS found", (2,)))
        assert (await one.fetchall(), await two.fetchall()) == ([{"found": 1}], [{"found": 2}])
        assert transaction.number
        assert transaction.now > 1e9
        transaction.last(ADD, ("a",))
        transaction.last(ADD, ("b",))
        assert [len(trip) for trip in between.trips()] == [4], "with BEGIN, and its number"
    assert [len(trip) for trip in between.trips()] == [3], "with COMMIT"
    assert await urls(database) == ["a", "b"]


async def test_a_transaction_without_statements_makes_no_round_trip(between: Wire, database: Database) -> None:
    between.trips()
    async with database.transaction():
        pass
    assert not between.trips()
    async with database.transaction() as transaction:
        transaction.last(ADD, ("a",))
    assert len(between.trips()) == 2
    assert await urls(database) == ["a"]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("when", ["first", "later", "last"])
async def test_the_error_is_that_of_the_statement_that_failed(database: Database, when: str, place: int) -> None:
    statements: list[tuple[str, tuple[object]]] = [(ADD, (str(number),)) for number in range(3)]
    statements[place] = ("SELECT %s / 0", (1,))

    async def failing() -> None:
        async with database.transaction() as transaction:
            if when != "first":
                await transaction.execute(ADD, ("before",))
            if when == "last":
                for statement in statements:
                    transaction.last(*statement)
            else:
                await transaction.together(*statements)

    with pytest.raises(StorageUnavailable, match="DivisionByZero"):
        await failing()
    assert await urls(database) == []
    async with database.transaction() as transaction:
        await transaction.execute(ADD, ("after",))
    assert await urls(database) == ["after"]


async def test_an_operation_inside_is_whole_or_not_at_all(database: Database) -> None:
    async def two(transaction: Transaction) -> None:
        transaction.last(ADD, ("last",))
        await transaction.execute(ADD, ("one",))
        await transaction.execute("SELECT 1 / 0")

    async def early(transaction: Transaction) -> None:
        transaction.last(ADD, ("last",))
        raise ZeroDivisionError

    async def well(transaction: Transaction) -> None:
        await transaction.execute(ADD, ("well",))
        transaction.last(ADD, ("well, last",))

    for first in (True, False):
        async with database.transaction() as transaction:
            if not first:
                await transaction.execute(ADD, ("before",))
            with pytest.raises(StorageUnavailable):
                await database.run("write", two)
            with pytest.raises(ZeroDivisionError):
                await database.run("write", early)
            await database.run("write", well)
            with pytest.raises(StorageUnavailable):
                await database.run("write", two)
        assert await urls(database) == ([] if first else ["before"]) + ["well", "well, last"]
        async with database.transaction() as transaction:
            await transaction.execute("DELETE FROM refused_server")


async def test_what_goes_with_a_commit_whose_answer_is_lost_is_done_once(between: Wire, database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(ADD, ("a",))
        transaction.last(ADD, ("b",))
        between.cut_at, between.after = b"COMMIT", True
    assert between.seen == 1
    assert await urls(database) == ["a", "b"]


async def test_a_transaction_that_finds_nothing_takes_no_number(between: Wire, database: Database) -> None:
    """Numbers are a resource of the whole cluster, which strangers must not use up."""

    async def number() -> int:
        async with database.transaction() as transaction:
            await transaction.execute("SELECT 1")
            return int(transaction.number or "")

    found = "SELECT url FROM refused_server WHERE url = %s FOR UPDATE"
    lock = f"WITH found AS MATERIALIZED ({found}) SELECT url, {NUMBER_IF_USED} FROM found"
    beside = f"SELECT url, {NUMBER_IF_USED} FROM refused_server WHERE url = %s FOR UPDATE"
    before = await number()
    for _ in range(5):
        async with database.transaction() as transaction:
            assert await transaction.first(lock, ("a",)) == []
            assert transaction.number == ""
    assert await number() == before + 1
    async with database.transaction() as transaction:
        await transaction.execute(ADD, ("a",))
    between.cut_at, between.after, between.times = b"COMMIT", True, 0
    for statement, trips in (lock, 1), (beside, 2):
        between.trips()
        async with database.transaction() as transaction:
            assert await transaction.first(statement, ("a",))
            assert transaction.number
            assert len(between.trips()) == trips
            transaction.last("UPDATE refused_server SET url = url")
            between.times += 1
    assert between.seen == 2, "and it is looked up"
