"""Any sequence of operations: the store on disk says the same as the one in memory, also after reopening."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2connect.errors import NotPaired
from s2connect.store import sqlite
from s2connect.store.base import Pairing, Store, token_digest
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.store.sqlite import SqliteStore
from tests.postgresql import STORE_KEYS, Cluster
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


@pytest.mark.long
@pytest.mark.timeout(300)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sequence=st.lists(operations, max_size=12))
def test_a_database_and_memory_tell_the_same(postgresql_cluster: Cluster, sequence: list[Operation]) -> None:
    pytest.importorskip("psycopg")
    from s2connect.store.postgresql import rows
    from s2connect.store.postgresql.store import PostgresqlStore

    async def compare(url: str) -> None:
        model = MemoryStore()
        # Each operation by another instance.
        stores = [await PostgresqlStore.open(url, STORE_KEYS), await PostgresqlStore.open(url, STORE_KEYS)]
        try:
            for number, operation in enumerate(sequence):
                assert await outcome(operation, stores[number % 2]) == await outcome(operation, model)
            for store in stores:
                assert await contents(store, KEYS) == await contents(model, KEYS)
        finally:
            for store in stores:
                await store.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "MAX_TOMBSTONES", 2)
        patch.setattr(rows, "MAX_TOMBSTONES", 2)
        asyncio.run(compare(postgresql_cluster.emptied_database()))


@pytest.mark.rule("ROLE-05", "PAIRC-06")
async def test_what_two_instances_do_at_once_is_what_they_do_one_after_the_other(postgresql: str) -> None:
    """Whichever comes first: a node that may have one peer has one, and a pair has one pairing."""
    pytest.importorskip("psycopg")
    from s2connect.store.postgresql.store import PostgresqlStore

    stores = [await PostgresqlStore.open(postgresql, STORE_KEYS) for _ in range(2)]
    for attempt in range(10):
        replaced = await asyncio.gather(
            *(stores[n % 2].save_pairing(pairing(n), token(str(n)), alone=True) for n in range(6)),
            *(stores[n % 2].save_pairing(pairing(n, confirmed=False), token("x")) for n in range(2)),
        )
        confirmed = await stores[attempt % 2].pairings(confirmed=True)
        assert len(confirmed) == 1
        assert await stores[0].candidate_tokens(confirmed[0])
        ended = [one.pairing.key for each in replaced for one in each if one.pairing.confirmed]
        assert len(ended) in (5, 6), "all but the last, and the one of the attempt before, unless it was made again"
        unpaired = [number for number in range(6) if (await stores[1].record(key(number))).unpaired]
        assert confirmed[0].key not in [key(number) for number in unpaired]
    again = await asyncio.gather(
        *(stores[n].confirm_pairing(pairing(1, confirmed=False), alone=True) for n in range(2)), return_exceptions=True
    )
    assert [type(one) for one in again].count(list) <= 1, "one of them has confirmed it"
    for store in stores:
        await store.close()
