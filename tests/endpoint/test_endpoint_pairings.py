"""A vendor's pairing arrives at its device: once, twice, late (ROLE-03 a)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from s2connect import Endpoint, events
from s2connect.errors import StorageUnavailable, UsageError
from s2connect.store.base import Pairing, PairKey
from s2connect.store.transfer import PairingTransfer
from s2connect.transports.base import ConnectionInfo
from s2connect.transports.memory import memory_pair
from tests.store.store_examples import pairing, token
from tests.waits import within

pytestmark = pytest.mark.rule("ROLE-03")


def parcel(rm: Endpoint, *names: str, paired_at: float = 1_000.0) -> tuple[Pairing, bytes]:
    made = pairing(1)
    made = replace(made, key=PairKey(rm.node().id, made.key.remote), pin=None, paired_at=paired_at)
    return made, PairingTransfer.of(made, [token(name) for name in names]).to_json()


async def test_the_same_parcel_again_changes_nothing(rm: Endpoint) -> None:
    made, data = parcel(rm, "first")
    news = rm.events()
    assert (await rm.node().import_pairing(data)).is_same(made)
    await rm._state.store.keep_token(made, token("rotated in the first session"))
    assert (await rm.node().import_pairing(data)).is_same(made)
    assert await rm._state.store.candidate_tokens(made) == [token("rotated in the first session")]
    await rm.node().unpair(made.key.remote, forget=True)
    told = [type(await anext(news)) for _ in range(2)]
    assert told == [events.Paired, events.Unpaired], "paired once"


async def test_an_older_parcel_does_not_replace_a_later_one(rm: Endpoint) -> None:
    later, data = parcel(rm, "later", paired_at=2_000.0)
    _, old = parcel(rm, "old", paired_at=1_000.0)
    await rm.node().import_pairing(data)
    with pytest.raises(UsageError, match="later pairing"):
        await rm.node().import_pairing(old)
    assert await rm._state.store.candidate_tokens(later) == [token("later")]
    await rm.node().import_pairing(parcel(rm, "newest", paired_at=3_000.0)[1])
    assert [p.paired_at for p in await rm.pairings()] == [3_000.0]


@pytest.mark.rule("SESC-01")
async def test_all_tokens_of_a_parcel_are_kept_because_any_may_be_the_one_that_counts(rm: Endpoint) -> None:
    made, data = parcel(rm, "active", "pending")
    await rm.node().import_pairing(data)
    assert await rm._state.store.candidate_tokens(made) == [token("active"), token("pending")]


@pytest.mark.rule("SESC-01", "PAIR-10")
async def test_a_parcel_is_stored_with_all_its_tokens_or_not_at_all(
    rm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise StorageUnavailable("The disk is full.")

    made, data = parcel(rm, "active", "pending")
    monkeypatch.setattr(rm._state.store, "add_pending_token", full)
    with contextlib.suppress(StorageUnavailable):
        await rm.node().import_pairing(data)
    monkeypatch.undo()
    await rm.node().import_pairing(data)  # as a vendor does that has not heard that it went well
    assert await rm._state.store.candidate_tokens(made) == [token("active"), token("pending")]


async def test_a_pairing_that_is_discarded_ends_its_session_though_the_caller_is_cancelled(
    rm: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, data = parcel(rm, "first")
    await rm.node().import_pairing(data)
    info = ConnectionInfo("Memory", made.key.local, made.key.remote, "v1.0.0")
    near, _ = memory_pair(info, replace(info, local=info.remote, remote=info.local))
    rm._connections[rm.node().id].attach(near, made)
    remove = rm._state.store.remove_pairing

    async def removed(of: Pairing, *, tombstone: bool) -> bool:
        done = await remove(of, tombstone=tombstone)
        discarding.cancel()
        await asyncio.sleep(0)
        return done

    monkeypatch.setattr(rm._state.store, "remove_pairing", removed)
    discarding = asyncio.create_task(rm.node().discard_pairing(made.key.remote))
    with pytest.raises(asyncio.CancelledError):
        await discarding
    async with within(5):
        await near.wait_closed()
    assert await rm.pairings() == []
