"""Observation for page and metrics where several instances share a database with very many pairings."""

from __future__ import annotations

import asyncio
import base64

import pytest

pytest.importorskip("psycopg")

from s2connect import Endpoint, Role
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from s2connect.web import observation as module
from s2connect.web.observation import Observation
from tests.endpoint.conftest import Wan, wan
from tests.postgresql import STORE_KEYS, Cluster
from tests.store.store_examples import SERVER, pairing, token
from tests.waits import until

__all__ = ["wan"]


async def test_of_very_many_pairings_the_newest_are_read_and_all_are_counted(
    wan: Wan, postgresql: str, postgresql_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    monkeypatch.setattr(module, "MAX_READ", 2)
    monkeypatch.setattr(module, "CLUSTER_PAUSE", 0.05)
    monkeypatch.setattr(module, "CLUSTER_EVERY", 0.1)
    made = [pairing(number, SERVER) for number in range(5)]
    async with Endpoint.open(config=wan.config(Role.CEM, "localhost", store=postgresql)) as endpoint:
        for one in made:
            await endpoint._state.store.save_pairing(one, token("a"))
        seen = Observation(endpoint)
        tasks = [asyncio.create_task(seen.run()), asyncio.create_task(seen.follow_cluster())]
        await until(lambda: seen.snapshot().more_peers == 3)
        assert list(seen.pairings) == [one.key for one in made[-2:]]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
