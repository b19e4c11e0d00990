"""A bridge between a device and an energy manager, all three real endpoints on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role, Session
from s2connect.bridge.config import VERSIONS
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.nodes import NodeDevicesSide, NodeManagerSide
from s2connect.bridge.relay import Policy
from s2connect.bridge.route import Route
from s2connect.messages import general
from s2connect.messages.enums import Check
from s2connect.model.common import NodeId
from tests.waits import until, within


def details() -> general.ResourceManagerDetails:
    return general.ResourceManagerDetails(
        resource_id="battery-1",
        roles=[general.Role(role=general.RoleType.ENERGY_STORAGE, commodity=general.Commodity.ELECTRICITY)],
        instruction_processing_delay=100,
        available_control_types=[general.ControlType.FILL_RATE_BASED_CONTROL],
        provides_forecast=False,
        provides_power_measurement_types=[general.CommodityQuantity.ELECTRIC_POWER_L1],
    )


def config(*nodes: NodeConfig) -> EndpointConfig:
    return EndpointConfig(host="127.0.0.1", bind="127.0.0.1", port=0, nodes=nodes)


@contextlib.asynccontextmanager
async def bridge(check: Check = Check.RULES) -> AsyncIterator[tuple[Endpoint, Route, NodeManagerSide]]:
    towards_devices = NodeConfig(role=Role.CEM, alias="devices", s2_versions=VERSIONS)
    async with Endpoint.open(config=config(towards_devices)) as endpoint:
        manager = NodeManagerSide(endpoint, NodeId(uuid4()), ("WebSocket",))
        devices = NodeDevicesSide(endpoint, endpoint.node(role=Role.CEM))
        route = Route("house", devices, manager, Policy(check=check))
        await route.start()
        try:
            yield endpoint, route, manager
        finally:
            await route.close()


async def test_a_device_and_an_energy_manager_meet_through_the_bridge() -> None:
    async with (
        Endpoint.open(config=config(NodeConfig(role=Role.RM))) as rm,
        Endpoint.open(config=config(NodeConfig(role=Role.CEM))) as cem,
        bridge() as (endpoint, route, manager),
    ):
        code = endpoint.node(role=Role.CEM).issue_pairing_code()
        await rm.node().pair(endpoint.pairing_url, code)
        key = str(rm.node().id)
        await until(lambda: key in route.links)
        representative = manager._sides[key].node
        assert representative is not None
        await representative.pair(cem.pairing_url, cem.node().issue_pairing_code())
        rm_sessions, cem_sessions = rm.node().sessions(), cem.node().sessions()
        async with within(10):
            there: Session
            here, there = await asyncio.gather(anext(rm_sessions), anext(cem_sessions))
            await here.send(details())
            message = await anext(there)
            assert message.parsed.message_type == "ResourceManagerDetails"
            await there.send(general.SelectControlType(control_type=general.ControlType.FILL_RATE_BASED_CONTROL))
            assert (await anext(here)).type == "SelectControlType"
        link = route.links[key]
        assert link.status().state is LinkState.UP
        assert link.status().counts[Role.RM]["forwarded"] == 1
        await there.close()
        async with within(15):
            await here.wait_closed()
            here, there = await asyncio.gather(anext(rm_sessions), anext(cem_sessions))
            await here.send(details())
        assert link.status().times_up == 2
