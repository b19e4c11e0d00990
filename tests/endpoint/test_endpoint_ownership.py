"""Instances of one endpoint: the nodes of all, links that one of them opens, and a database that is lost."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import psycopg
import pytest

pytest.importorskip("psycopg")

from s2connect import Endpoint, EndpointConfig, Node, NodeConfig, NodeId, Role
from s2connect.endpoint import ownership
from s2connect.errors import SessionRefused, StorageUnavailable
from s2connect.events import Notice
from s2connect.model.url import BaseUrl
from s2connect.session import ownership as rules
from s2connect.session.ownership import LINK_LEASE
from s2connect.store.base import PairKey
from s2connect.store.postgresql import confirming, database
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from s2connect.web.health import parts_of
from s2connect.web.observation import Observation
from tests.endpoint.conftest import Wan
from tests.postgresql import STORE_KEYS, Cluster
from tests.waits import until, within

Instance = Callable[..., EndpointConfig]


@pytest.fixture
def instance(wan: Wan, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """Make settings of instances of one endpoint."""
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    made: dict[Role, EndpointConfig] = {}

    def config(url: str, name: str, role: Role = Role.CEM, **more: object) -> EndpointConfig:
        known = made.setdefault(role, wan.config(role, "localhost", store=url))
        return EndpointConfig.model_validate(known.model_dump() | {"instance": name, "store": url} | more)

    return config


@contextlib.asynccontextmanager
async def taking(*endpoints: Endpoint | Node) -> AsyncIterator[None]:
    """Take the sessions of nodes, or of the only ones of endpoints."""

    async def take(node: Node) -> None:
        async with asyncio.TaskGroup() as reading:
            async for session in node.sessions():
                reading.create_task(_read(session))

    tasks = [asyncio.ensure_future(take(one.node() if isinstance(one, Endpoint) else one)) for one in endpoints]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(session: object) -> None:
    async for _ in session:  # type: ignore[attr-defined]
        pass


async def test_what_one_instance_changes_of_nodes_counts_at_all(postgresql: str, instance: Instance) -> None:
    async with (
        Endpoint.open(config=instance(postgresql, "one", nodes=[NodeConfig(role=Role.CEM, alias="1")])) as one,
        Endpoint.open(config=instance(postgresql, "two", nodes=())) as two,
    ):
        news: list[list[str]] = []
        two.watch_nodes(lambda added: news.append([str(node.alias) for node in added]))
        first = one.node().id
        added = await one.create_node(NodeConfig(role=Role.RM, alias="two"))
        await until(lambda: list(two.nodes) == [first, added.id] and bool(news))
        assert two.node(alias="TWO").role is Role.RM
        await two.describe_node(two.config.nodes[1].model_copy(update={"alias": "SECOND"}))
        await until(lambda: one.node(added.id).alias == "SECOND")
        code = await one.node(added.id).new_pairing_code()
        assert await two.node(added.id).current_pairing_code() is not None
        assert str(code).startswith("SECOND")
        await one.remove_node(added.id)
        await until(lambda: list(two.nodes) == [first])
        assert news == [["two"], []]


@pytest.mark.rule("REC-01")
async def test_one_of_several_instances_connects_and_another_one_when_it_ends(
    postgresql: str, instance: Instance, wan: Wan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "CLAIM_EVERY", 0.2)
    names = {"localhost": "127.0.0.1", "cem.example": "127.0.0.1"}
    async with (
        within(20),
        Endpoint.open(config=wan.config(Role.CEM, "cem.example"), addresses=names) as cem,
        Endpoint.open(config=instance(postgresql, "two", Role.RM), addresses=names) as two,
    ):
        async with Endpoint.open(config=instance(postgresql, "one", Role.RM), addresses=names) as one:
            pairing = await one.node().pair(cem.pairing_url, await cem.node().new_pairing_code())
            async with taking(cem, one, two):
                await until(lambda: cem.connected() and (one.connected() or two.connected()))
                holder, other = (one, two) if one.connected() else (two, one)
                assert not other.connected()
                with pytest.raises(SessionRefused, match="Another instance"):
                    await other.node().open(pairing.key.remote)
                _show(postgresql, holder.config.instance)
                await asyncio.sleep(0.5)  # nothing comes of it
                assert (len(cem.history()), cem.reconnects, len(other.connected())) == (1, 0, 0)
                # The lease is another's now, as after a stop of the process; which one asks first is by chance.
                shared = holder._pairings.ownership._shared  # type: ignore[union-attr]
                monkeypatch.setattr(shared, "claim_links", _gets_none)
                await shared.release_links([pairing.key])
                await until(lambda: other.connected())
                await until(lambda: not holder.connected())
                assert len(cem.connected()) == 1
        if other is one:  # has closed, and gives its links up at once
            async with taking(cem, two):
                await until(lambda: two.connected())
        await two.node().unpair(pairing.key.remote)
        await until(lambda: not cem.connected())


async def _gets_none(*_: object) -> list[PairKey]:
    return []


def _show(url: str, owner: str | None) -> None:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT owner, until - clock_timestamp() <= make_interval(secs => %s) FROM link", (LINK_LEASE,)
        ).fetchall()
        assert rows == [(owner, True)]
        assert connection.execute("SELECT owner FROM pairing").fetchall() == [(owner,)]


@pytest.mark.long
async def test_links_go_to_an_instance_that_joins_until_both_have_as_many(
    postgresql: str, instance: Instance, wan: Wan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CLAIM_EVERY": 0.2, "LINK_RENEWAL": 0.5}.items():
        monkeypatch.setattr(ownership, name, value)
    for name, value in {"RESYNC_EVERY": 0.5, "FRESH_COUNTS": 0.1, "LEFT_ALONE": 0.5, "FIRST_TURN": 0.2}.items():
        monkeypatch.setattr(rules, name, value)
    names = {"localhost": "127.0.0.1", "cem.example": "127.0.0.1"}
    devices = [NodeConfig(role=Role.RM, alias=f"R{number}") for number in range(6)]
    async with (
        within(60),
        Endpoint.open(config=wan.config(Role.CEM, "cem.example"), addresses=names) as cem,
        Endpoint.open(config=instance(postgresql, "one", Role.RM, nodes=devices), addresses=names) as one,
    ):
        for node in one.nodes.values():
            await node.pair(cem.pairing_url, await cem.node().new_pairing_code())
        async with taking(cem, *one.nodes.values()):
            await until(lambda: len(one.connected()) == len(cem.connected()) == 6)
            async with (
                Endpoint.open(config=instance(postgresql, "two", Role.RM, nodes=()), addresses=names) as two,
                taking(*two.nodes.values()),
            ):
                await until(lambda: (len(one.connected()), len(two.connected())) == (3, 3), 30)
                await until(lambda: len(cem.connected()) == 6)
                assert cem.reconnects == 3, "no more than the excess"
                await asyncio.sleep(2.0)  # nothing comes of it
                assert (len(one.connected()), len(two.connected()), cem.reconnects) == (3, 3, 3)
            await until(lambda: len(one.connected()) == 6, 30)


@pytest.mark.rule("UNP-02")
async def test_unpairing_where_another_instance_is_connected_ends_its_session(
    postgresql: str, instance: Instance, wan: Wan
) -> None:
    names = {"localhost": "127.0.0.1", "cem.example": "127.0.0.1"}
    async with (
        within(20),
        Endpoint.open(config=wan.config(Role.CEM, "cem.example"), addresses=names) as cem,
        Endpoint.open(config=instance(postgresql, "one", Role.RM), addresses=names) as one,
        Endpoint.open(config=instance(postgresql, "two", Role.RM), addresses=names) as two,
    ):
        pairing = await one.node().pair(cem.pairing_url, await cem.node().new_pairing_code())
        async with taking(cem, one):
            await until(lambda: one.connected() and cem.connected())
            await two.node().unpair(pairing.key.remote)
            await until(lambda: not one.connected() and not cem.connected())
            assert await one.pairings() == await cem.pairings() == []


async def test_sessions_outlive_a_lost_database_for_a_while_and_nothing_new_is_taken(
    instance: Instance, wan: Wan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "PROBE_EVERY", 0.1)
    cluster = Cluster()
    try:
        await asyncio.to_thread(cluster.make_template)
        config = instance(await asyncio.to_thread(cluster.new_database), "one", store_outage_limit=1.0)
        async with within(30), Endpoint.open(config=config) as cem:
            happened = cem.events()
            rm_config = wan.config(Role.RM, "127.0.0.1")
            async with Endpoint.open(config=rm_config, addresses={"localhost": "127.0.0.1"}) as rm, taking(cem, rm):
                await rm.node().pair(cem.pairing_url, await cem.node().new_pairing_code())
                await until(lambda: cem.connected() and rm.connected())
                (live,) = cem.connected().values()
                assert cem.sharing is not None
                hold = cem.sharing.link_hold(*(NodeId(uuid4()) for _ in range(2)))
                await hold.take()
                began = asyncio.get_running_loop().time()
                await asyncio.to_thread(cluster.stop)
                await until(lambda: bool(cem.store_trouble))
                assert cem.connected(), "it lives on"
                await until(lambda: not cem.connected() and not hold.is_held)
                assert asyncio.get_running_loop().time() - began >= 0.9
                assert live.session is not None
                # The client was asked to come again, and gets 503 until the database is there.
                await until(lambda: any(one.error == "peer_busy" for one in rm.history().values()))
                await asyncio.to_thread(cluster.start)
                await until(lambda: not cem.store_trouble)
                key = next(iter(rm.history()))
                await until(lambda: rm.try_now(key) or rm.connected())
                await until(lambda: cem.connected() and rm.connected())
            kinds = []
            async for event in happened:
                kinds += [event.kind] if isinstance(event, Notice) else []
                if "store_back" in kinds:
                    break
            assert kinds == ["store_lost", "store_back"]
    finally:
        await asyncio.to_thread(cluster.close)


async def test_a_database_that_confirms_nothing_takes_nothing_new_and_ends_no_session(
    postgresql: str, postgresql_cluster: Cluster, instance: Instance, wan: Wan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its synchronous standby is gone: it reads, and every COMMIT waits. Nobody can take the session over, either."""
    monkeypatch.setattr(ownership, "PROBE_EVERY", 0.1)
    for module, name in ((database, "COMMIT_S"), (database, "ANSWER_S"), (confirming, "CONFIRM_S")):
        monkeypatch.setattr(module, name, 0.5)
    monkeypatch.setattr(confirming, "TRY_EVERY", 0.1)
    async with within(30), Endpoint.open(config=instance(postgresql, "one", store_outage_limit=0.0)) as cem:
        happened = cem.events()
        rm_config = wan.config(Role.RM, "127.0.0.1")
        async with Endpoint.open(config=rm_config, addresses={"localhost": "127.0.0.1"}) as rm, taking(cem, rm):
            await rm.node().pair(cem.pairing_url, await cem.node().new_pairing_code())
            await until(lambda: cem.connected() and rm.connected())
            key = next(iter(rm.history()))
            try:
                postgresql_cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
                postgresql_cluster.sql("SELECT pg_reload_conf()")
                await until(lambda: postgresql_cluster.sql("SHOW synchronous_standby_names") == [("missing",)])
                with pytest.raises(StorageUnavailable):
                    await cem._state.store.refuse_server(BaseUrl("https://localhost/"))
                await until(lambda: cem.store_trouble)
                assert (
                    "does not confirm" in next(p for p in parts_of(Observation(cem)) if p.name == "database").sentence
                )
                await asyncio.sleep(0.5)  # probes
                assert cem.connected()
                assert rm.connected()
                (live,) = rm.connected().values()
                await live.connection.close()
                await until(lambda: any(one.error == "peer_busy" for one in rm.history().values()))
            finally:
                postgresql_cluster.sql("ALTER SYSTEM RESET synchronous_standby_names")
                postgresql_cluster.sql("SELECT pg_reload_conf()")
            await until(lambda: not cem.store_trouble)
            await until(lambda: rm.try_now(key) or rm.connected())
            await until(lambda: cem.connected() and rm.connected())
        kinds = []
        async for event in happened:
            kinds += [event.kind] if isinstance(event, Notice) else []
            if "store_back" in kinds:
                break
        assert kinds == ["store_unconfirmed", "store_back"]
