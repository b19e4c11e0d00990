"""Endpoint whose state is in PostgreSQL: pairings, secrets and nodes outlive it, and no state directory is written."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from s2connect import Endpoint, EndpointConfig, Home, NodeConfig, Role, create_home, supervisor
from s2connect.errors import ConfigurationError, InstanceRuns, UsageError
from s2connect.store.postgresql import instances
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from s2connect.store.postgresql.store import PostgresqlStore
from tests.endpoint.conftest import Wan
from tests.postgresql import STORE_KEYS
from tests.waits import until, within

Settings = Callable[..., EndpointConfig]


@pytest.fixture
def settings(wan: Wan, postgresql: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of one and the same WAN endpoint on the database."""
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    made = wan.config(Role.CEM, "localhost", store=postgresql, instance="one")
    return lambda **more: EndpointConfig.model_validate(made.model_dump() | more)


async def take_sessions(endpoint: Endpoint) -> None:
    async for session in endpoint.node().sessions():
        async for _ in session:
            pass


async def test_an_endpoint_goes_on_where_it_was(settings: Settings, wan: Wan) -> None:
    async with within(20), Endpoint.open(config=wan.config(Role.RM, "localhost")) as rm:
        async with Endpoint.open(config=settings()) as cem:
            port = cem.pairing_url.port
            await rm.node().pair(cem.pairing_url, await cem.node().new_pairing_code())
            static = await cem.node().set_static_code()
            before = await cem.pairings()
            assert [pairing.key.remote for pairing in before] == list(rm.nodes)
        async with Endpoint.open(config=settings(port=port)) as cem:
            assert await cem.pairings() == before
            assert await cem.node().current_pairing_code() == static
            tasks = [asyncio.ensure_future(take_sessions(endpoint)) for endpoint in (rm, cem)]
            await until(lambda: cem.connected() and rm.connected())
            await cem.node().unpair(before[0].key.remote)
            assert await cem.pairings() == []
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def test_nodes_are_in_the_database(settings: Settings) -> None:
    config = settings(nodes=[NodeConfig(role=Role.CEM, alias="1")])
    async with Endpoint.open(config=config, serve=False) as endpoint:
        (first,) = endpoint.nodes
        added = await endpoint.create_node(NodeConfig(role=Role.RM, alias="two"))
        assert list(endpoint.nodes) == [first, added.id]
    async with Endpoint.open(config=settings(nodes=()), serve=False) as endpoint:
        assert list(endpoint.nodes) == [first, added.id]
        await endpoint.remove_node(first)
        with pytest.raises(ConfigurationError, match="alias TWO is taken"):
            await endpoint.create_node(NodeConfig(role=Role.RM, alias="TWO"))
    async with Endpoint.open(config=config, serve=False) as endpoint:
        assert list(endpoint.nodes) == [added.id], "settings that still name a node do not bring it back"


async def test_a_node_without_an_id_in_the_settings_is_one_and_the_same(settings: Settings, tmp_path: Path) -> None:
    """As a person writes a config.json: each reading of it gives the node another id."""
    home = Home.create(tmp_path / "home")
    written = settings(nodes=()).model_dump(mode="json", exclude_none=True) | {"nodes": [{"role": "CEM"}]}
    home.write_private("config.json", json.dumps(written).encode())
    ids = []
    for _ in range(2):
        async with Endpoint.open(home.path, serve=False) as endpoint:
            ids.append(list(endpoint.nodes))
    assert ids[0] == ids[1]


async def test_a_home_beside_a_database_is_only_read(settings: Settings, tmp_path: Path) -> None:
    home = tmp_path / "home"
    create_home(home, settings(vault="files"))
    files = sorted(path.name for path in home.rglob("*"))
    async with Endpoint.open(home, serve=False) as one, Endpoint.open(home, serve=False) as other:
        assert list(one.nodes) == list(other.nodes)
        await one.create_node(NodeConfig(role=Role.RM))
        with pytest.raises(UsageError, match="read only"):
            await one.change_settings(lambda config: config)
        with pytest.raises(UsageError, match="not in a state directory"):
            await one.backup("a long passphrase")
    assert sorted(path.name for path in home.rglob("*")) == files


async def test_the_environment_names_a_database_with_its_password(
    settings: Settings, postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    create_home(home, settings(vault="files", store=None))
    monkeypatch.setenv("S2CONNECT_STORE", postgresql.replace("postgres@", "postgres:hunter2@"))
    async with Endpoint.open(home, serve=False) as endpoint:
        assert endpoint.config.store == postgresql
        assert "hunter2" not in repr(endpoint.config)
        assert isinstance(endpoint._state.store, PostgresqlStore)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"store": "postgresql://u:secret@h/db"}, "environment variable S2CONNECT_STORE"),
        ({"store": "mysql://u@h/db"}, "no URL of a PostgreSQL database"),
        ({"deployment": "LAN"}, "deployment WAN"),
        ({"certificate": None, "private_key": None}, "deployment WAN and a certificate"),
    ],
)
def test_settings_that_do_not_go_with_a_database_are_refused(
    settings: Settings, wrong: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        settings(**wrong)
    assert "secret" not in str(refused.value)


async def test_without_a_key_nothing_is_opened(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(ConfigurationError, match="s2connect store key"):
        async with Endpoint.open(config=settings()):
            pass


async def test_an_endpoint_is_one_instance_and_stays_it_after_an_error(
    settings: Settings, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(instances, "SEEN_EVERY", 0.02)
    renew, renewed = instances.Presence._renew, []

    async def fails_once(presence: instances.Presence) -> None:
        renewed.append(presence.name)
        if len(renewed) == 1:
            raise ZeroDivisionError
        await renew(presence)

    monkeypatch.setattr(instances.Presence, "_renew", fails_once)
    async with Endpoint.open(config=settings(port=0)) as endpoint:
        with pytest.raises(InstanceRuns, match="The instance one runs already"):
            async with Endpoint.open(config=settings(port=0)):
                pass
        async with Endpoint.open(config=settings(), serve=False):
            pass  # a command beside the service
        await until(lambda: len(renewed) > 2)
        assert endpoint.supervisor.failures.counts["presence"] == 1
        async with Endpoint.open(config=settings(port=0, instance="two")):
            pass
    async with Endpoint.open(config=settings(port=0)):
        pass


async def test_an_instance_shows_the_state_of_all_as_metrics(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prometheus_client")
    from s2connect.web import observation as module
    from s2connect.web.metrics import Monitoring

    monkeypatch.setattr(module, "CLUSTER_EVERY", 0.02)
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.01)
    async with Endpoint.open(config=settings(port=0)) as endpoint:
        observation = module.Observation(endpoint)
        monitoring = Monitoring(observation)

        def number(name: str) -> float | None:
            body = monitoring.metrics().body
            assert isinstance(body, bytes)
            lines = dict(line.rpartition(" ")[::2] for line in body.decode().splitlines() if line[:1] != "#")
            return float(lines[f"s2connect_{name}"]) if f"s2connect_{name}" in lines else None

        assert number('instance_info{name="one"}') == 1
        assert (number("database_reached"), number('instances{state="alive"}')) == (0, None)
        asked = endpoint.cluster
        failures = [ZeroDivisionError()]

        async def fails_once() -> object:
            if failures:
                raise failures.pop()
            return await asked()

        monkeypatch.setattr(endpoint, "cluster", fails_once)
        endpoint.supervisor.keep(observation.follow_cluster, "cluster")
        await until(lambda: number("database_reached") == 1)
        assert endpoint.supervisor.failures.counts["cluster"] == 1
        assert (number('instances{state="alive"}'), number('instances{state="dead"}')) == (1, 0)
        assert (number("orphaned_pairings"), number("leases_over"), number("links_held")) == (0, 0, 0)
        assert number("replication_synchronous") == 0
