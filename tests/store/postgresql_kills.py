"""Steps on a store in PostgreSQL, by processes that are killed at each statement: before it, or once it is done.

Prints a line for each: how many steps it had been told were done, and what ``repr`` of the state is left. Argument: the
URL of a database, which is emptied before each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from functools import partial
from typing import Any

import psycopg
from psycopg import AsyncConnection

from s2connect.store.postgresql.store import PostgresqlStore
from tests.killed import killed_at_each_step
from tests.postgresql import STORE_KEYS
from tests.store.power_cut_child import STEPS, before
from tests.store.store_examples import contents, key

KEYS = [key(number) for number in range(1, 5)]
EMPTIED = ("pairing", "tombstone", "refused_server")


async def steps(url: str, kill_at: int, after: bool, told: int) -> None:
    """Do all steps; the statement number ``kill_at`` from the first step on is the last."""
    store = await PostgresqlStore.open(url, STORE_KEYS)
    count, execute = 0, AsyncConnection.execute

    async def counted(connection: Any, *arguments: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == kill_at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = await execute(connection, *arguments, **more)
        if count == kill_at and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(AsyncConnection, "execute", counted)  # noqa: B010 - with fewer types
    for step in STEPS:
        await step(store)
        os.write(told, b".")
    setattr(AsyncConnection, "execute", execute)  # noqa: B010
    await store.close()


async def prepare(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for table in EMPTIED:
            await connection.execute(f"DELETE FROM {table}".encode())
    store = await PostgresqlStore.open(url, STORE_KEYS)
    await before(store)
    await store.close()


async def left(url: str) -> str:
    store = await PostgresqlStore.open(url, STORE_KEYS)
    try:
        return repr(await contents(store, KEYS))
    finally:
        await store.close()


def main(url: str) -> None:
    for killed in killed_at_each_step(partial(prepare, url), partial(steps, url)):
        print(json.dumps([len(killed.done), asyncio.run(left(url))]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
