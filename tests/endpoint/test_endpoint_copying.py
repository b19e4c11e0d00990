"""A home goes into a database and comes back: nothing is lost, nothing goes on twice, also where it is cut off."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from s2connect import Endpoint, EndpointConfig, Home, NodeConfig, Role, create_home
from s2connect.endpoint.copying import copy_to_database, copy_to_home
from s2connect.errors import ConfigurationError, HomeMoved, StorageUnavailable, UsageError
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from s2connect.store.postgresql.store import PostgresqlStore
from tests.endpoint.conftest import Wan, lan_config
from tests.endpoint.copying_program import fill, of_database, of_home
from tests.postgresql import STORE_KEYS, Cluster
from tests.store.store_examples import pairing, token
from tests.waits import patience


@pytest.fixture
def url(postgresql_cluster: Cluster) -> str:
    return postgresql_cluster.new_database()


@pytest.fixture
def config(wan: Wan) -> EndpointConfig:
    return wan.config(Role.CEM, "localhost", vault="files")


@pytest.fixture
async def home(config: EndpointConfig, tmp_path: Path) -> Path:
    made = tmp_path / "home"
    create_home(made, config)
    await fill(made)
    return made


async def test_a_home_goes_there_and_back_with_everything(home: Path, url: str) -> None:
    before = await of_home(home)
    for _ in range(2):  # the second time, what is there is that of before, and goes
        assert await copy_to_database(home, url, STORE_KEYS, None) == 3
        assert await of_database(url) == before
        with pytest.raises(HomeMoved, match="into the database"), Home.open(home).lock():
            pass
        assert await copy_to_home(home, url, STORE_KEYS) == 3
        assert await of_home(home) == before
        with pytest.raises(StorageUnavailable, match="moved into the home"):
            await PostgresqlStore.open(url, STORE_KEYS)


async def test_an_endpoint_goes_on_in_the_database_and_then_in_the_home(
    home: Path, url: str, monkeypatch: pytest.MonkeyPatch, config: EndpointConfig
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    await copy_to_database(home, url, STORE_KEYS, None)
    async with Endpoint.open(home, serve=False) as endpoint:
        assert endpoint.config.store == url
        assert [node.id for node in endpoint.config.nodes] == [node.id for node in config.nodes]
        added = await endpoint.create_node(NodeConfig(role=Role.CEM))
        pairings = [pairing for pairing in await endpoint.pairings() if pairing.confirmed]  # others are settled
        with pytest.raises(UsageError, match=r"Instances are connected to \S+: [^s]"):
            await copy_to_home(home, url, STORE_KEYS)
    await copy_to_home(home, url, STORE_KEYS)
    async with Endpoint.open(home, serve=False) as endpoint:
        assert endpoint.config.store is None
        assert added.id in endpoint.nodes
        assert [pairing for pairing in await endpoint.pairings() if pairing.confirmed] == pairings


async def test_a_database_with_pairings_is_not_overwritten(home: Path, url: str, tmp_path: Path) -> None:
    store = await PostgresqlStore.open(url, STORE_KEYS)
    await store.save_pairing(pairing(9), token("a"))
    await store.close()
    with pytest.raises(UsageError, match="has nodes or pairings already"):
        await copy_to_database(home, url, STORE_KEYS, None)
    assert await of_home(home) is not None, "it is not sealed"
    with pytest.raises(UsageError, match="has pairings already"):
        await copy_to_home(home, url, STORE_KEYS)
    assert await of_database(url) is not None


async def test_an_endpoint_of_the_local_network_stays_where_it_is(url: str, tmp_path: Path) -> None:
    create_home(tmp_path / "lan", lan_config(Role.CEM, vault="files"))
    with pytest.raises(ConfigurationError, match="deployment WAN"):
        await copy_to_database(tmp_path / "lan", url, STORE_KEYS, None)
    assert Home.open(tmp_path / "lan").moved() is None


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_copy_that_is_killed_anywhere_is_finished_by_the_next(
    config: EndpointConfig, url: str, tmp_path: Path
) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.endpoint.copying_program", str(tmp_path / "home"), url],
        input=config.to_json(),
        capture_output=True,
        timeout=patience(90),
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) > 20
