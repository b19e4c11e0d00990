"""A sequence of operations on a store, run as a process that is killed or meets a full disk.

Prints the number of each operation that is done. Arguments: home, and ``retry`` or ``stop`` for what to do
on failure, or ``open`` to open and close only.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from s2connect.errors import StorageUnavailable
from s2connect.store.base import Store
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import FileVault
from tests.store.store_examples import SERVER, pairing, token

# Doing one of them twice is the same as once.
STEPS: list[Callable[[Store], Awaitable[object]]] = [
    lambda store: store.add_pending_token(pairing(1), token("second")),
    lambda store: store.keep_token(pairing(1), token("second")),
    lambda store: store.save_pairing(pairing(1), token("third")),
    lambda store: store.confirm_pairing(pairing(3, confirmed=False), alone=True),
    lambda store: store.save_pairing(pairing(4, SERVER), token("fourth")),
    lambda store: store.activate_token(pairing(4, SERVER), bytes(32), 1e9),
    lambda store: store.save_pairing(pairing(5), token("fifth"), alone=True),
    lambda store: store.remove_pairing(pairing(5), tombstone=True),
]


async def before(store: Store) -> None:
    """State before the first step."""
    await store.save_pairing(pairing(1), token("first"))
    await store.save_pairing(pairing(2), token("other"))
    await store.save_pairing(pairing(3, confirmed=False), token("unconfirmed"))


async def open_store(home: Path) -> SqliteStore:
    """Blocks for a moment, which nobody minds here."""
    return await SqliteStore.open(home / "state.db", FileVault(home / "vault"))


async def main(home: Path, mode: str) -> None:
    try:
        store = await open_store(home)
    except StorageUnavailable:
        return
    for number, step in enumerate(STEPS if mode != "open" else [], 1):
        try:
            await step(store)
        except StorageUnavailable:
            if mode == "stop":
                break
            await step(store)
        os.writev(1, [f"{number}\n".encode()])
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
