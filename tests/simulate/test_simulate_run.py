"""Simulated devices and energy managers in real sessions: TLS on loopback, two endpoints, a clock that runs fast."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from s2connect import Endpoint, EndpointConfig, Role
from s2connect.errors import UsageError
from s2connect.messages.catalogue import BETA
from s2connect.messages.general import ControlType
from s2connect.simulate.cem import EnergyManager
from s2connect.simulate.devices.base import Basics, Device
from s2connect.simulate.devices.kinds import make_device
from s2connect.simulate.run import Clock, DeviceRunner, ManagerRunner, Report, node_config
from s2connect.simulate.site import PlannedDevice, fleet_config, pair_fleet, run_fleet
from tests.waits import within

SPEED = 3600.0


class Told:
    """Reports of runners; can be waited for."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._news = asyncio.Event()

    def __call__(self, report: Report) -> None:
        self.reports.append(report)
        self._news.set()

    def events(self, name: str | None = None) -> list[str]:
        return [report.event for report in self.reports if name is None or report.name == name]

    async def of(self, event: str, *, count: int = 1) -> None:
        async with within(15):
            while self.events().count(event) < count:
                self._news.clear()
                await self._news.wait()


def on_loopback(role: Role, kind: str, **more: object) -> EndpointConfig:
    settings = {"host": "127.0.0.1", "bind": "127.0.0.1", "port": 0, "nodes": (node_config(role, kind, None),), **more}
    return EndpointConfig.model_validate(settings)


@contextlib.asynccontextmanager
async def running_manager(clock: Clock, told: Told) -> AsyncIterator[Endpoint]:
    async with Endpoint.open(config=on_loopback(Role.CEM, "cem")) as endpoint:
        runner = ManagerRunner(EnergyManager(now=clock.now()), clock, told)
        running = asyncio.create_task(runner.run(endpoint.node().sessions()), name="test-manager")
        try:
            yield endpoint
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def running_device(endpoint: Endpoint, device: Device, clock: Clock, told: Told) -> AsyncIterator[None]:
    runner = DeviceRunner(device, clock, told)
    running = asyncio.create_task(runner.run(endpoint.node().sessions()), name="test-device")
    try:
        yield
    finally:
        running.cancel()
        results = await asyncio.gather(running, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


def a_simulated(kind: str, clock: Clock) -> Device:
    return make_device(kind, Basics(f"{kind}-1", random.Random(1), clock.now()))


@pytest.mark.parametrize("kind", ["ev-charger", "water-heater"])
async def test_a_device_is_paired_controlled_and_alone_again(kind: str) -> None:
    clock, at_cem, at_rm = Clock(SPEED), Told(), Told()
    device = a_simulated(kind, clock)
    async with running_manager(clock, at_cem) as cem:
        async with Endpoint.open(config=on_loopback(Role.RM, kind, server=False)) as rm:
            await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
            async with running_device(rm, device, clock, at_rm):
                await at_cem.of("instructed")
                await at_rm.of("state", count=3)
                assert device.control_type is not None
        await at_cem.of("disconnected")
    assert device.control_type is None
    assert "failed" not in at_rm.events() + at_cem.events()
    assert at_rm.events()[0] == "connected"
    assert at_rm.events()[-1] == "disconnected"


async def test_a_session_in_the_older_data_model_is_held_as_well() -> None:
    clock, at_cem, at_rm = Clock(SPEED), Told(), Told()
    basics = Basics("hybrid-1", random.Random(1), clock.now(), only=ControlType.DEMAND_DRIVEN_BASED_CONTROL)
    demand = make_device("heat-pump", basics)
    versions = {"s2_versions": (BETA,)}
    node = node_config(Role.RM, "heat-pump", None).model_copy(update=versions)
    manager = node_config(Role.CEM, "cem", None).model_copy(update=versions)
    async with (
        Endpoint.open(config=on_loopback(Role.CEM, "cem", nodes=(manager,))) as cem,
        Endpoint.open(config=on_loopback(Role.RM, "x", server=False, nodes=(node,))) as rm,
    ):
        await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
        runner = ManagerRunner(EnergyManager(now=clock.now()), clock, at_cem)
        running = asyncio.create_task(runner.run(cem.node().sessions()), name="test-manager")
        async with running_device(rm, demand, clock, at_rm):
            await at_cem.of("instructed")
            await at_rm.of("state", count=2)
            assert demand.version == BETA
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert "failed" not in at_rm.events() + at_cem.events()


async def test_devices_of_a_site_are_nodes_of_one_endpoint_and_pair_with_one_code(tmp_path: Path) -> None:
    plan = [
        PlannedDevice("battery-1", "battery", "Cellar", "Here", {"capacity": 5000.0}, 1),
        PlannedDevice("pv-2", "pv", "Roof", "Here", {}, 2),
    ]
    clock, at_cem, at_site = Clock(SPEED), Told(), Told()
    async with (
        running_manager(clock, at_cem) as cem,
        Endpoint.open(config=fleet_config(plan, host="localhost")) as fleet,
    ):
        code = await cem.node().set_static_code()
        await pair_fleet(fleet, str(cem.pairing_url), code, clock, at_site)
        await pair_fleet(fleet, str(cem.pairing_url), code, clock, at_site)  # nothing is left to be paired
        assert [report.values["paired"] for report in at_site.reports] == [1, 2]
        at_site.reports.clear()
        running = asyncio.create_task(run_fleet(fleet, plan, clock, at_site), name="test-fleet")
        await at_cem.of("connected", count=2)
        await at_site.of("state", count=2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert {report.name for report in at_site.reports} == {"Cellar", "Roof"}
    assert [device.alias for device in plan] == ["D1", "D2"]


async def test_an_endpoint_that_was_made_for_another_table_is_refused() -> None:
    here = [PlannedDevice("pv-1", "pv", "Roof", "Here", {}, 1)]
    there = [PlannedDevice("pv-7", "pv", "Roof", "There", {}, 7)]
    async with Endpoint.open(config=fleet_config(here, host="localhost")) as endpoint:
        with pytest.raises(UsageError, match="D7"):
            await run_fleet(endpoint, there, Clock(), Told())


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), 1e9])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(UsageError):
        Clock(speed)


def test_two_clocks_of_one_speed_agree_and_run_as_fast_as_they_say() -> None:
    one, other = Clock(SPEED), Clock(SPEED)
    assert abs((one.now() - other.now()).total_seconds()) < SPEED
    assert one.seconds_until(one.now()) == 0.0
    before = one.now()
    assert one.now() >= before
