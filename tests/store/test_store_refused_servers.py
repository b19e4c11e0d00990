"""Servers with which long-polling is over survive a restart (LP-06)."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2connect.model.url import BaseUrl
from s2connect.store.base import MAX_REFUSED_SERVERS
from s2connect.store.memory import MemoryStore, MemoryVault
from s2connect.store.sqlite import SqliteStore

A, B = BaseUrl("https://a.local/pairing/"), BaseUrl("https://b.local/pairing/")


@pytest.mark.rule("LP-06")
async def test_a_refused_server_is_remembered_once_and_over_a_restart(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "state.sqlite", MemoryVault())
    for url in (A, B, A):
        await store.refuse_server(url)
    await store.close()
    store = await SqliteStore.open(tmp_path / "state.sqlite", MemoryVault())
    assert await store.refused_servers() == [B, A]
    await store.close()


async def test_their_number_is_bounded() -> None:
    store = MemoryStore()
    for number in range(MAX_REFUSED_SERVERS + 5):
        await store.refuse_server(BaseUrl(f"https://s{number}.local/pairing/"))
    kept = await store.refused_servers()
    assert len(kept) == MAX_REFUSED_SERVERS
    assert kept[0] == "https://s5.local/pairing/"
