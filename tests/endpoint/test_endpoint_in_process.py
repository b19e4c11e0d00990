"""Nodes of one process: joined in memory, without sockets."""

from __future__ import annotations

import asyncio

import pytest

from s2connect import Endpoint, EndpointConfig, Handlers, NodeConfig, Role, Session, join_nodes
from s2connect.errors import UsageError
from tests.endpoint.conftest import MEASUREMENT, OpenEndpoint, lan_config
from tests.waits import until, within


def modules(**device: object) -> EndpointConfig:
    common = {"brand": "Test", "type": "Thing", "model_name": "One"}
    nodes = ({"role": "CEM", "alias": "M", **common}, {"role": "RM", "alias": "D", **common, **device})
    return lan_config(Role.RM, nodes=tuple(NodeConfig.model_validate(node) for node in nodes))


@pytest.fixture
async def endpoint(open_endpoint: OpenEndpoint) -> Endpoint:
    opened = await open_endpoint(modules(), serve=False)
    assert opened._server is None
    return opened


class Sessions:
    """Handlers that keep what they have seen."""

    def __init__(self) -> None:
        self.open: list[Session] = []
        self.handlers = Handlers()
        self.handlers.on_open(self.open.append)


async def test_modules_of_one_process_exchange_messages_and_come_back(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2connect.transports.backoff.BASE_DELAY", 0.01)
    manager, device = endpoint.node(role=Role.CEM), endpoint.node(role=Role.RM)
    theirs, ours = Sessions(), Sessions()
    join_nodes(manager, device)
    device.handle(ours.handlers)
    await asyncio.sleep(0)
    assert not ours.open, "nothing is opened before both take sessions"
    manager.handle(theirs.handlers)
    async with within(10):
        await until(lambda: len(ours.open) == len(theirs.open) == 1)
        (session,) = ours.open
        assert (session.info.protocol, session.peer.id) == ("Memory", manager.id)
        await session.send(MEASUREMENT)
        await theirs.open[0].close()
        await until(lambda: len(ours.open) == len(theirs.open) == 2)
        await ours.open[1].send(MEASUREMENT)
        assert len(endpoint.connected()) == 2
        assert await endpoint.pairings() == []


async def test_nodes_of_two_endpoints_are_joined_until_one_closes(open_endpoint: OpenEndpoint) -> None:
    ours, theirs = Sessions(), Sessions()
    device = (await open_endpoint(lan_config(Role.RM), serve=False)).node()
    async with within(10):
        async with Endpoint.open(config=lan_config(Role.CEM), serve=False) as system:
            device.handle(ours.handlers)
            system.node().handle(theirs.handlers)
            task = join_nodes(system.node(), device)
            await until(lambda: bool(ours.open))
        await ours.open[0].wait_closed()
        await task


async def test_it_is_refused_where_it_could_never_work(endpoint: Endpoint, open_endpoint: OpenEndpoint) -> None:
    manager, device = endpoint.node(role=Role.CEM), endpoint.node(role=Role.RM)
    with pytest.raises(UsageError, match="in this order"):
        join_nodes(device, manager)
    old = await open_endpoint(modules(s2_versions=("0.0.2-beta",)), serve=False)
    with pytest.raises(UsageError, match="no version"):
        join_nodes(manager, old.node(role=Role.RM))
