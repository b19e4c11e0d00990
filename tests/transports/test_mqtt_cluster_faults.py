"""Faults of a real cluster of two brokers beside the loss of a node: one stands still, the link between them is cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from s2connect.https.server import free_port
from s2connect.model.common import Role
from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.parameters import ChannelLimits
from s2connect.transports.mqtt.transport import MqttTransport
from tests.artemis import HOST, ArtemisCluster
from tests.haproxy import EXAMPLES, HAProxy, need_haproxy
from tests.transports.test_mqtt_cluster import SUSPECT_AFTER, USERS, WHERE, Pair, patient, transport
from tests.waits import slowed, within

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

BALANCER = EXAMPLES / "broker-cluster" / "haproxy.cfg"


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtemisCluster]:
    made = ArtemisCluster(tmp_path_factory.mktemp("artemis"), USERS, with_links=True)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def cluster(whole_cluster: ArtemisCluster, monkeypatch: pytest.MonkeyPatch) -> ArtemisCluster:
    """Both nodes, which reach each other."""
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.2)
    await asyncio.to_thread(whole_cluster.start)
    await whole_cluster.formed()
    return whole_cluster


@contextlib.asynccontextmanager
async def pairs_of(cluster: ArtemisCluster) -> AsyncIterator[list[Pair]]:
    """Pairs with their ends at all combinations of nodes, which exchange messages."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for number, (cloud_at, house_at) in enumerate(WHERE):
            cloud, house = [
                await stack.enter_async_context(transport(cluster, f"{name}-{number}", role, node, 1 - node))
                for name, role, node in (("cloud", Role.CEM, cloud_at), ("house", Role.RM, house_at))
            ]
            made.append(Pair(house, cloud, number))
            stack.push_async_callback(made[-1].close)
            await made[-1].start()
        await all_go_on(made)
        yield made


async def all_go_on(pairs: list[Pair]) -> None:
    await asyncio.gather(*(pair.goes_on() for pair in pairs))


def check(pairs: list[Pair]) -> None:
    for pair in pairs:
        pair.up.check()
        pair.down.check()


@pytest.mark.rule("MQ-09", "MQ-10", "MQ-13")
async def test_a_node_that_stands_still_is_left_and_nothing_it_held_comes_late(cluster: ArtemisCluster) -> None:
    """Its connections stay open, and it takes new ones, without a word."""
    async with pairs_of(cluster) as pairs, within(200):
        cluster.freeze(0)
        try:
            await all_go_on(pairs)
            assert {node for pair in pairs for node in (cluster.at(pair.cloud), cluster.at(pair.house))} == {1}
            assert pairs[3].sessions == 1, "both ends are at the other node"
        finally:
            cluster.thaw(0)
        await cluster.formed()
        await all_go_on(pairs)
        check(pairs)


@pytest.mark.rule("MQ-09")
async def test_a_cut_between_the_nodes_ends_sessions_across_it_and_they_begin_again_when_it_heals(
    cluster: ArtemisCluster,
) -> None:
    async with pairs_of(cluster) as pairs, within(200):
        for link in cluster.links:
            link.is_open.clear()
        try:
            here = [pair for pair, (cloud, house) in zip(pairs, WHERE, strict=True) if cloud == house]
            across = [pair for pair in pairs if pair not in here]
            await all_go_on(here)
            assert [pair.sessions for pair in here] == [1, 1]
            answered = [pair.up.answered() for pair in across]
            await asyncio.sleep(slowed(8))  # longer than the nodes wait for each other
            assert all(pair.up.answered() <= before + 2 for pair, before in zip(across, answered, strict=True))
        finally:
            for link in cluster.links:
                link.is_open.set()
        await cluster.formed()
        await all_go_on(pairs)
        check(pairs)


@pytest.mark.rule("MQ-09")
async def test_all_clients_may_come_through_one_address_of_a_balancer(cluster: ArtemisCluster, tmp_path: Path) -> None:
    need_haproxy()
    port = free_port()
    replaced = {
        "0.0.0.0:8883": f"127.0.0.1:{port}",
        "192.0.2.41:8883": f"127.0.0.1:{cluster.ports[0]}",
        "192.0.2.42:8883": f"127.0.0.1:{cluster.ports[1]}",
    }
    url = MqttUrl(f"mqtts://{HOST}:{port}")

    @contextlib.asynccontextmanager
    async def through(user: str, role: Role) -> AsyncIterator[MqttTransport]:
        settings = cluster.settings(user, url=url, urls=None, settle=0.5)
        limits = ChannelLimits(suspect_after=slowed(SUSPECT_AFTER))
        made = MqttTransport(settings, role_of=lambda _: role, limits=limits)
        made.start()
        try:
            await patient(made)
            yield made
        finally:
            await made.close()

    proxy = HAProxy(BALANCER, tmp_path, replaced)
    try:
        async with contextlib.AsyncExitStack() as stack:
            pairs = []
            for number in range(3):
                cloud = await stack.enter_async_context(through(f"cloud-{number}", Role.CEM))
                house = await stack.enter_async_context(through(f"house-{number}", Role.RM))
                pairs.append(Pair(house, cloud, number))
                stack.push_async_callback(pairs[-1].close)
                await pairs[-1].start()
            await stack.enter_async_context(within(120))
            await all_go_on(pairs)
            await asyncio.to_thread(cluster.kill, 1)
            await all_go_on(pairs)
            await asyncio.to_thread(cluster.start)
            await cluster.formed()
            await all_go_on(pairs)
            check(pairs)
    finally:
        proxy.close()
