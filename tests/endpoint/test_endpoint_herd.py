"""A herd of paired devices that all come at the same moment."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from benchmarks import herd as crowd
from benchmarks.harness import workspace
from s2connect import EndpointConfig, NodeConfig, Role, Session
from tests.endpoint.conftest import OpenEndpoint, lan_config
from tests.endpoint.test_endpoint_fleet import introduce
from tests.waits import Deadline, within

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


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.rule("SEC-03")
def test_a_service_with_a_thousand_sessions_collects_garbage_in_short_pieces(tmp_path: Path) -> None:
    """And all can go at once. The numbers are printed, for whoever looks; ``python -m benchmarks herd`` has more."""
    number, deadline, pauses = 1000, Deadline(400), []
    with workspace() as directory, crowd.herd(directory, number) as devices:
        devices.ask(do="come")
        while (seen := devices.server.ask())["connected"] < number:
            assert deadline.left() > 0, seen
            pauses.append(seen)
            time.sleep(0.5)
        pauses.append(seen)
        devices.vanish()
        gone = devices.server.ask(until_connected=0, seconds=60.0)
    assert gone["connected"] == 0
    eldest = sum(seen["gc_runs"][2] for seen in pauses)
    longest, held_up = max(seen["gc_max"] for seen in pauses), gone["lag_max"]
    report = f"longest collection {longest:.3f} s of {eldest} full ones; held up by their end {held_up:.3f} s"
    print(report, file=sys.stderr)
    assert eldest > 0, "what survives is left out again and again"
