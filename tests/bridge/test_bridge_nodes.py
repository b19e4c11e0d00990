"""Ports of S2 Connect over their whole life: unpaired and paired again, a route that is closed and opened again."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from s2connect import Role
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.nodes import NodeManagerSide
from s2connect.errors import StorageUnavailable
from tests.bridge.bridge_fixtures import WSS, BridgeSetup, both
from tests.bridge.frbc_texts import FROM_RM_FIRST
from tests.waits import until, within

RM, CEM = Role.RM, Role.CEM


async def close(setup: BridgeSetup) -> None:
    await asyncio.gather(*(live.end("over") for e in (setup.device, setup.manager) for live in e.connected().values()))


@pytest.mark.long
async def test_a_device_that_was_unpaired_can_be_paired_again_and_its_representative_as_well(tmp_path: Path) -> None:
    async with BridgeSetup(tmp_path, WSS, WSS) as setup:
        iterators = {role: setup.sessions(role) for role in Role}
        await both(setup, iterators)
        await setup.device.node().unpair(setup.ids["bridge"])
        await until(lambda: not setup.route.links)
        await until(lambda: not setup.bridge.connected() and not setup.manager.connected())
        async with within(10):
            while await setup.manager.pairings():
                await asyncio.sleep(0.01)
        code = setup.bridge.node(role=CEM).issue_pairing_code()
        await setup.device.node().pair(setup.bridge.pairing_url, code)
        await until(lambda: setup.key in setup.route.links)
        assert setup.link.status().state is LinkState.UNPAIRED
        assert isinstance(setup.route.manager, NodeManagerSide)
        representative = setup.route.manager._sides[setup.key].node
        assert representative is not None
        assert representative.id == setup.ids["representative"], "the same for ever"
        await representative.pair(setup.manager.pairing_url, setup.manager.node().issue_pairing_code())
        sessions = await both(setup, iterators)
        await sessions[RM].send(FROM_RM_FIRST)
        assert (await sessions[CEM].receive()).text == FROM_RM_FIRST
        await close(setup)


async def test_nobody_is_let_in_by_a_route_that_was_closed_and_all_come_back_to_a_new_one(tmp_path: Path) -> None:
    async with BridgeSetup(tmp_path, WSS, WSS) as setup, contextlib.AsyncExitStack() as later:
        iterators = {role: setup.sessions(role) for role in Role}
        await both(setup, iterators)
        await setup.route.close()
        await setup.route.close()
        for _ in range(30):
            assert not setup.bridge.connected()
            await asyncio.sleep(0.05)
        await setup.start_route(later)
        await both(setup, iterators)
        await close(setup)


async def test_a_store_that_fails_once_leaves_a_device_that_is_linked_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 2
    real = NodeManagerSide.represent

    async def represent(self: NodeManagerSide, device: object) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise StorageUnavailable("The disk is full.")
        return await real(self, device)  # type: ignore[arg-type]

    monkeypatch.setattr(NodeManagerSide, "represent", represent)
    async with BridgeSetup(tmp_path, WSS, WSS) as setup:
        assert not setup.route.links
        await both(setup, {role: setup.sessions(role) for role in Role})
        await until(lambda: setup.link.status().state is LinkState.UP)
        await close(setup)
