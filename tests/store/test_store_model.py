"""Any sequence of operations: the store on disk tells what the store in memory tells, also after reopening."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.errors import NotPaired
from s2connect.store.base import Store, token_digest
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.store.sqlite import SqliteStore
from tests.store.store_examples import CLIENT, SERVER, contents, key, pairing, token

KEYS = [key(number) for number in range(3)]
Operation = Callable[[Store], Awaitable[object]]

numbers = st.integers(0, 2)
booleans = st.booleans()
tokens = st.sampled_from("abcdefghijkl").map(token)
others = st.lists(numbers.map(key), max_size=2)
operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(
        lambda n, role, t, r: lambda s: s.save_pairing(pairing(n, role), t, replaces=r),
        numbers,
        st.sampled_from([CLIENT, SERVER]),
        tokens,
        others,
    ),
    st.builds(
        lambda n, role, t: lambda s: s.save_pairing(pairing(n, role, confirmed=False), t),
        numbers,
        st.sampled_from([CLIENT, SERVER]),
        tokens,
    ),
    st.builds(lambda n, r: lambda s: s.confirm_pairing(key(n), replaces=r), numbers, others),
    st.builds(lambda n: lambda s: s.drop_unconfirmed(key(n)), numbers),
    st.builds(lambda n, t, c: lambda s: s.add_pending_token(key(n), t, confirmed=c), numbers, tokens, booleans),
    st.builds(lambda n, t, c: lambda s: s.keep_token(key(n), t, confirmed=c), numbers, tokens, booleans),
    st.builds(
        lambda n, t, c: lambda s: s.activate_token(key(n), token_digest(t), confirmed=c), numbers, tokens, booleans
    ),
    st.builds(lambda n, t: lambda s: s.remove_pairing(key(n), tombstone=t), numbers, booleans),
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
        model = MemoryStore(max_tombstones=2)
        store = await SqliteStore.open(directory / "state.db", vault, max_tombstones=2)
        try:
            for operation in sequence:
                assert await outcome(operation, store) == await outcome(operation, model)
            assert await contents(store, KEYS) == await contents(model, KEYS)
            await store.close()
            store = await SqliteStore.open(directory / "state.db", vault, max_tombstones=2)
            assert await contents(store, KEYS) == await contents(model, KEYS)
        finally:
            await store.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(compare(Path(directory)))
