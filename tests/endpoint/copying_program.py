"""Copies of a home into a database and back, by processes that are killed at each statement and change of files.

Arguments: home, URL. Prints a line when all kills are through; raises where a kill left two that go on, or lost
something.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection

from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.copying import copy_to_database, copy_to_home
from s2connect.endpoint.offline import create_home
from s2connect.errors import HomeMoved, StorageError
from s2connect.model.url import BaseUrl
from s2connect.store.base import Store
from s2connect.store.home import Home
from s2connect.store.postgresql.store import PostgresqlStore
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import FileVault
from tests.postgresql import STORE_KEYS
from tests.store.store_examples import CLIENT, SERVER, contents, key, pairing, token

KEYS = [key(number) for number in range(6)]


async def fill(home: Path) -> None:
    """Put something of each kind into a home."""
    vault = FileVault(home / "secrets")
    vault.put("static-code", b"1234")
    store = await SqliteStore.open(home / "state.sqlite", vault)
    await store.save_pairing(pairing(1, CLIENT), token("a"), token("b"))
    await store.save_pairing(pairing(2, SERVER), token("c"))
    await store.activate_token(pairing(2, SERVER), bytes(32), 1.5e9)
    await store.save_pairing(pairing(2, SERVER, confirmed=False), token("d"))
    for number in (4, 3):
        await store.save_pairing(pairing(number, SERVER), token("e"))
        await store.remove_pairing(pairing(number, SERVER), tombstone=True)
    await store.refuse_server(BaseUrl("https://one.example/pairing/"))
    await store.refuse_server(BaseUrl("https://two.example/pairing/"))
    await store.close()


async def state(store: Store) -> object:
    return await contents(store, KEYS), await store.refused_servers()


async def of_home(home: Path) -> object | None:
    """State of a home, None where it is sealed. Does not lock it: a kill may have left it between two."""
    opened = Home.open(home)
    try:
        with opened.lock():
            vault = FileVault(home / "secrets")
            store = await SqliteStore.open(home / "state.sqlite", vault)
            found = await state(store), vault.get("static-code")
            await store.close()
            return found
    except HomeMoved:
        return None


async def of_database(url: str) -> object | None:
    """State of a database, None where it is sealed or empty."""
    from s2connect.store.postgresql.vault import PostgresqlVault

    try:
        store = await PostgresqlStore.open(url, STORE_KEYS)
    except StorageError:
        return None
    try:
        if not await store.pairings():
            return None
        vault = PostgresqlVault(url, STORE_KEYS)
        secret = await asyncio.to_thread(vault.get, "static-code")
        vault.close()
        return await state(store), secret
    finally:
        await store.close()


def killing(kill_at: int) -> None:
    """Kill this process before its n-th statement, or change of a directory."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(holder: Any, name: str) -> None:
        original = getattr(holder, name)

        def wrapped(*arguments: Any, **more: Any) -> Any:
            step()
            return original(*arguments, **more)

        setattr(holder, name, wrapped)

    before(AsyncConnection, "execute")
    before(AsyncConnection, "transaction")
    for name in ("replace", "rename", "unlink"):
        before(os, name)
        before(Path, name)
    commit = psycopg.AsyncTransaction.__aexit__

    async def committed(*arguments: Any) -> Any:
        step()
        done = await commit(*arguments)
        step()
        return done

    setattr(psycopg.AsyncTransaction, "__aexit__", committed)  # noqa: B010


def run_killed(work: Callable[[], Awaitable[object]], kill_at: int) -> bool:
    """Return whether the work, in a process of its own, was killed."""
    child = os.fork()
    if not child:
        killing(kill_at)

        async def do() -> None:
            await work()

        with contextlib.suppress(BaseException):
            asyncio.run(do())
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the copy failed"
    return os.WIFSIGNALED(status)


def main(home: Path, url: str, config: bytes) -> None:
    settings = EndpointConfig.from_json(config)
    create_home(home, settings)
    asyncio.run(fill(home))
    before = asyncio.run(of_home(home))
    assert before is not None
    ways: list[tuple[Callable[[], Awaitable[object]], bool]] = [
        (lambda: copy_to_database(home, url, STORE_KEYS, None), True),
        (lambda: copy_to_home(home, url, STORE_KEYS), False),
    ]
    kills = 0
    for kill_at in range(1, 200):
        killed = False
        for work, there in ways:
            killed |= run_killed(work, kill_at)
            found = [one for one in (asyncio.run(of_home(home)), asyncio.run(of_database(url))) if one is not None]
            assert len(found) <= 1, f"two go on after a kill at step {kill_at}"
            assert all(one == before for one in found)
            kills += 1

            async def again(work: Callable[[], Awaitable[object]] = work) -> None:
                await work()

            if not found or (asyncio.run(of_database(url)) is not None) is not there:
                asyncio.run(again())
            assert asyncio.run(of_database(url)) == (before if there else None)
            assert asyncio.run(of_home(home)) == (None if there else before)
        if not killed:
            print(kills)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.stdin.buffer.read())
