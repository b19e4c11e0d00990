"""Any sequence of operations: the store on disk says the same as the one in memory, also after reopening."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.errors import NotPaired
from s2connect.store import sqlite
from s2connect.store.base import Pairing, Store, token_digest
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.store.sqlite import SqliteStore
from tests.store.store_examples import CLIENT, SERVER, contents, key, pairing, token

KEYS = [key(number) for number in range(3)]
Operation = Callable[[Store], Awaitable[object]]


def _made_in_role(made: Pairing) -> Pairing:
    """The pairing, made at a time of its role: no pairing has two."""
    return made if made.communication_role is CLIENT else replace(made, paired_at=made.paired_at + 500)


numbers = st.integers(0, 2)
booleans = st.booleans()
tokens = st.sampled_from("abcdefghijkl").map(token)
pairings = st.builds(
    lambda n, role, confirmed: _made_in_role(pairing(n, role, confirmed=confirmed)),
    numbers,
    st.sampled_from([CLIENT, SERVER]),
    booleans,
)
operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(lambda p, t, a: lambda s: s.save_pairing(p, t, alone=a and p.confirmed), pairings, tokens, booleans),
    st.builds(lambda p, a: lambda s: s.confirm_pairing(p, alone=a), pairings, booleans),
    st.builds(lambda p: lambda s: s.drop_unconfirmed(p), pairings),
    st.builds(lambda p, t: lambda s: s.add_pending_token(p, t), pairings, tokens),
    st.builds(lambda p, t: lambda s: s.keep_token(p, t), pairings, tokens),
    st.builds(lambda p, t: lambda s: s.activate_token(p, token_digest(t), 1e9), pairings, tokens),
    st.builds(lambda p, t: lambda s: s.remove_pairing(p, tombstone=t), pairings, booleans),
)


async def outcome(operation: Operation, store: Store) -> object:
    try:
        return await operation(store)
    except NotPaired as error:
        return type(error)


@settings(max_examples=40, deadline=None)
@given(sequence=st.lists(operations, max_size=12))
def test_disk_and_memory_tell_the_same(sequence: list[Operation]) -> None:
    async def compare(directory: Path) -> None:
        vault = MemoryVault()
        model = MemoryStore()
        store = await SqliteStore.open(directory / "state.db", vault)
        try:
            for operation in sequence:
                assert await outcome(operation, store) == await outcome(operation, model)
            assert await contents(store, KEYS) == await contents(model, KEYS)
            await store.close()
            store = await SqliteStore.open(directory / "state.db", vault)
            assert await contents(store, KEYS) == await contents(model, KEYS)
        finally:
            await store.close()

    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "MAX_TOMBSTONES", 2)
        asyncio.run(compare(Path(directory)))
