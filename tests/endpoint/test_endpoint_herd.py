"""A herd of paired devices that all come at the same moment."""

from __future__ import annotations

import asyncio
import resource
from contextlib import AsyncExitStack

import pytest

from s2connect import EndpointConfig, NodeConfig, Role, Session
from tests.endpoint.conftest import OpenEndpoint, lan_config
from tests.endpoint.test_endpoint_fleet import introduce
from tests.waits import within

HERD = 300


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.rule("SEC-03", "REC-02")
async def test_all_devices_that_come_at_once_are_connected_and_none_is_starved(open_endpoint: OpenEndpoint) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    cem = await open_endpoint(lan_config(Role.CEM))
    devices = tuple(NodeConfig(role=Role.RM, alias=f"D{number}") for number in range(HERD))
    fleet = await open_endpoint(EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=0, nodes=devices), serve=False)
    await introduce(cem, fleet)
    held: list[Session] = []

    async def take() -> None:
        async for session in cem.node().sessions():
            held.append(session)  # noqa: PERF401 - as they come

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(take(), name="test-take")
        stack.callback(taking.cancel)
        coming = [tasks.create_task(anext(node.sessions()), name="test-come") for node in fleet.nodes.values()]
        async with within(80):
            await asyncio.gather(*coming)
            while len(cem.connected()) < HERD or len(held) < HERD:
                await asyncio.sleep(0.1)
        assert {session.peer.id for session in held} == set(fleet.nodes)
        taking.cancel()
