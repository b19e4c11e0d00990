"""The energy manager and all kinds of devices, for a simulated day and without a network."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from s2connect.messages import ddbc, frbc, ombc, pebc, ppbc
from s2connect.messages.catalogue import BETA, V1
from s2connect.messages.general import (
    ControlType,
    InstructionStatus,
    InstructionStatusUpdate,
    PowerMeasurement,
    SelectControlType,
)
from s2connect.simulate.cem import EnergyManager
from s2connect.simulate.devices.battery import Battery
from s2connect.simulate.devices.ev_charger import WANTED
from s2connect.simulate.devices.kinds import CONTROL_TYPES
from tests.simulate.simulate_fixtures import DAY, EVENING, HOUR, MIDNIGHT, MINUTE, NOON, Site, a_device, of, statuses

VARIANTS = [
    ("battery", "frbc", frbc.Instruction),
    ("ev-charger", "frbc", frbc.Instruction),
    ("ev-charger", "pebc", pebc.Instruction),
    ("heat-pump", "frbc", frbc.Instruction),
    ("heat-pump", "ombc", ombc.Instruction),
    ("heat-pump", "ddbc", ddbc.Instruction),
    ("water-heater", "ombc", ombc.Instruction),
    ("water-heater", "ppbc", ppbc.ScheduleInstruction),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "control", "instruction", "version"),
    [*((*variant, V1) for variant in VARIANTS), ("heat-pump", "ddbc", ddbc.Instruction, BETA)],
)
def test_a_device_follows_the_sun_for_a_day_and_every_message_keeps_the_rules(
    kind: str, control: str, instruction: type, version: str
) -> None:
    control_type = CONTROL_TYPES[control]
    device = a_device(kind, control_type=control_type)
    site = Site([device, a_device("pv")], version=version)
    began = time.process_time()
    site.run(DAY)
    assert device.control_type is control_type
    told = site.sessions[device.resource_id]
    instructions: list[Any] = of(instruction, told.from_cem())
    assert instructions
    assert len(instructions) < 1000, "it is not instructed for every flicker of the sun"
    said = statuses(told.from_rm())
    assert said.count(InstructionStatus.STARTED) >= 1
    assert said.count(InstructionStatus.REJECTED) < 48, "it does not insist"
    assert len(of(PowerMeasurement, told.from_rm())) >= 24 * 60 - 1
    assert time.process_time() - began < 20, "it is about a second"


def site_of_everything(now: datetime = MIDNIGHT) -> Site:
    kinds = ("pv", "battery", "heat-pump", "ev-charger", "water-heater")
    return Site([a_device(kind, now=now) for kind in kinds], now=now)


def test_all_kinds_together_for_a_day_keep_every_rule_and_the_fuse() -> None:
    site = site_of_everything()
    site.run(DAY)
    assert all(-site.manager.fuse_limit <= power <= site.manager.fuse_limit for power in site.powers)
    assert site.manager.power == pytest.approx(site.powers[-1], abs=500)


def test_the_battery_takes_what_the_sun_gives_and_gives_it_back_in_the_evening() -> None:
    site = Site([a_device("pv"), a_device("battery"), a_device("heat-pump")])
    battery = site.devices["battery-1"]
    assert isinstance(battery, Battery)
    site.run(17 * HOUR)
    by_day = battery.level
    assert by_day > 90
    site.run(7 * HOUR)
    assert battery.level < by_day - 5


def test_more_sun_than_the_fuse_stands_is_curtailed_within_a_minute() -> None:
    site = Site([a_device("pv", peak=20_000.0), a_device("battery")], fuse_limit=5_000.0)
    site.run(DAY)
    too_much = [power for power in site.powers if power < -5_500.0]
    assert len(too_much) <= 3, "the sun comes before the limit"
    assert min(site.powers) < -4_500.0, "no more is curtailed than has to be"
    assert of(pebc.Instruction, site.sessions["pv-1"].from_cem())


@pytest.mark.parametrize("control", ["frbc", "pebc"])
def test_three_cars_on_a_small_fuse_are_ready_in_the_morning(control: str) -> None:
    cars = [a_device("ev-charger", seed=n, now=EVENING, control_type=CONTROL_TYPES[control]) for n in (1, 2, 3)]
    site = Site(cars, now=EVENING, fuse_limit=10_000.0)
    site.run(14 * HOUR)
    assert max(site.powers) <= 10_000.0 * 1.05
    assert all(car.departures[0] >= WANTED for car in cars)


def test_a_device_that_refuses_is_left_alone_for_a_while() -> None:
    manager = EnergyManager(now=NOON)
    battery, sun = a_device("battery", now=NOON), a_device("pv", now=NOON)
    for name, device in (("battery", battery), ("sun", sun)):
        manager.connected(name)
        for _, selection in manager.received(name, device.details(), NOON):
            for message in device.instructed(selection, NOON):
                manager.received(name, message, NOON)
    sent: list[datetime] = []
    for minute in range(1, 200):
        now = NOON + minute * MINUTE
        for name, message in manager.advance(now):
            if name == "battery" and isinstance(message, frbc.Instruction):
                sent.append(now)
                refused = InstructionStatusUpdate(
                    instruction_id=message.id, status_type=InstructionStatus.REJECTED, timestamp=now
                )
                manager.received("battery", refused, now)
    waits = [(later - earlier) / MINUTE for earlier, later in pairwise(sent)]
    assert waits == [10, 20, 40, 80]


def test_a_control_type_is_selected_once_for_details_that_come_twice() -> None:
    manager, battery = EnergyManager(now=NOON), a_device("battery", now=NOON)
    manager.connected("one")
    ((_, first),) = manager.received("one", battery.details(), NOON)
    assert isinstance(first, SelectControlType)
    assert first.control_type is ControlType.FILL_RATE_BASED_CONTROL
    assert not manager.received("one", battery.details(), NOON)


def test_devices_that_cannot_be_controlled_count_and_are_not_instructed() -> None:
    manager, battery = EnergyManager(now=NOON), a_device("battery", now=NOON)
    details = battery.details().replace(available_control_types=[ControlType.NOT_CONTROLLABLE])
    manager.connected("one")
    assert not manager.received("one", details, NOON)
    for message in battery.advance(NOON + MINUTE):
        manager.received("one", message, NOON)
    assert not manager.advance(NOON + MINUTE)


def test_who_has_gone_is_forgotten_and_strangers_are_passed_over() -> None:
    manager, roof = EnergyManager(now=NOON), a_device("pv", now=NOON)
    manager.connected("one")
    for message in [roof.details(), *roof.advance(NOON + MINUTE)]:
        manager.received("one", message, NOON)
    assert manager.power < 0
    manager.disconnected("one")
    assert manager.power == 0
    assert not manager.received("one", roof.details(), NOON)


def test_periods_that_have_passed_count_once() -> None:
    manager = EnergyManager(now=NOON)
    manager.advance(NOON + DAY)
    assert manager.next_due >= NOON + DAY
