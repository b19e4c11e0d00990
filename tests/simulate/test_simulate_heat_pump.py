"""Simulated heat pumps: heat goes nowhere, the house stays warm, and the compressor is spared."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.messages import ddbc, frbc, ombc
from s2connect.messages.base import new_id
from s2connect.messages.catalogue import BETA, V1
from s2connect.messages.general import CommodityQuantity, ControlType, PowerMeasurement
from s2connect.simulate.devices.heat_pump import COMFORT, COP, HOTTEST, MINIMUM_PAUSE, MINIMUM_RUN
from s2connect.simulate.devices.tank import ROOM
from tests.simulate.simulate_fixtures import (
    DAY,
    HOUR,
    MIDNIGHT,
    MINUTE,
    REFUSED,
    TAKEN,
    CheckedSession,
    a_device,
    frbc_instruction,
    of,
    select,
    statuses,
)

FRBC = ControlType.FILL_RATE_BASED_CONTROL
OMBC = ControlType.OPERATION_MODE_BASED_CONTROL
DDBC = ControlType.DEMAND_DRIVEN_BASED_CONTROL


def ddbc_instruction(actuator: str, mode: str, factor: float, now: datetime = MIDNIGHT) -> ddbc.Instruction:
    return ddbc.Instruction(
        id=new_id(),
        actuator_id=actuator,
        operation_mode_id=mode,
        operation_mode_factor=factor,
        execution_time=now,
        abnormal_condition=False,
    )


def test_heat_that_comes_in_is_stored_lost_or_used() -> None:
    pump = a_device("heat-pump")
    before = pump.tank.temperature
    measured = of(PowerMeasurement, pump.advance(MIDNIGHT + DAY))
    heated = COP * sum(m.values[0].value for m in measured) / 60
    stored = (pump.tank.temperature - before) * pump.tank.capacity
    least, most = (24 * (pump.need + pump.tank.loss * (end - ROOM)) for end in COMFORT)
    assert 0.98 * least < heated - stored < 1.02 * most


def test_it_cools_as_fast_as_it_said_it_would() -> None:
    pump = a_device("heat-pump")
    said = select(pump, FRBC, MIDNIGHT)
    (leakage,), (usage,) = of(frbc.LeakageBehaviour, said), of(frbc.UsageForecast, said)
    before = pump.level
    (losing,) = [
        e for e in leakage.elements if e.fill_level_range.start_of_range <= before < e.fill_level_range.end_of_range
    ]
    expected = (losing.leakage_rate + usage.elements[0].usage_rate_expected) * 1800
    pump.advance(MIDNIGHT + HOUR / 2)
    assert before - pump.level == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("control_type", [FRBC, OMBC])
def test_switching_too_soon_is_refused(control_type: ControlType) -> None:
    pump = a_device("heat-pump")
    select(pump, control_type, MIDNIGHT)

    def instruct(mode: str, minutes: float) -> Sequence[object]:
        now = MIDNIGHT + minutes * MINUTE
        pump.advance(now)
        if control_type is FRBC:
            message: Any = frbc_instruction("compressor", mode, 0.5, now)
        else:
            message = ombc.Instruction(
                id=new_id(),
                execution_time=now,
                operation_mode_id=mode,
                operation_mode_factor=0.5,
                abnormal_condition=False,
            )
        return statuses(pump.instructed(message, now))

    run, pause = MINIMUM_RUN / MINUTE, MINIMUM_PAUSE / MINUTE
    assert instruct("heat", 0) == TAKEN
    assert instruct("off", run - 1) == REFUSED
    assert instruct("heat", run - 1) == TAKEN, "the same mode is no switching"
    assert instruct("off", run) == TAKEN
    assert instruct("heat", run + pause - 1) == REFUSED
    assert instruct("heat", run + pause) == TAKEN


def test_it_tells_when_its_timers_end() -> None:
    pump = a_device("heat-pump")
    select(pump, FRBC, MIDNIGHT)
    said = pump.instructed(frbc_instruction("compressor", "heat", 1.0, MIDNIGHT), MIDNIGHT)
    (timer,) = of(frbc.TimerStatus, said)
    assert timer.finished_at == MIDNIGHT + MINIMUM_RUN


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.integers(0, 1000))
def test_the_house_stays_warm_and_the_buffer_cool_enough_whatever_is_wanted(wants: list[float], seed: int) -> None:
    pump = a_device("heat-pump", seed=seed)
    select(pump, FRBC, MIDNIGHT)
    now = MIDNIGHT
    for turn in range(96):
        factor = wants[turn % len(wants)]
        mode = "heat" if factor > 0.5 else "off"
        pump.instructed(frbc_instruction("compressor", mode, factor, now), now)
        now += 15 * MINUTE
        pump.advance(now)
        assert COMFORT[0] - 3 < pump.tank.temperature < HOTTEST + 1


def test_the_hybrid_meets_the_demand_whatever_the_heat_pump_does() -> None:
    hybrid = a_device("heat-pump", control_type=DDBC)
    select(hybrid, DDBC, MIDNIGHT)
    hybrid.instructed(ddbc_instruction("compressor", "heat", 0.2), MIDNIGHT)
    supplied, said = 0.0, []
    for minute in range(1, 24 * 60 + 1):
        now = MIDNIGHT + minute * MINUTE
        said = hybrid.advance(now)
        if minute == 6 * 60:
            hybrid.instructed(ddbc_instruction("compressor", "off", 0.0, now), now)
        supplied += sum(actuator.rate for actuator in hybrid.actuators.values()) / hybrid.demand(now)
    assert supplied / (24 * 60) == pytest.approx(1.0, rel=0.05)
    gas = [m.values[1] for m in of(PowerMeasurement, said)]
    assert gas[0].commodity_quantity is CommodityQuantity.NATURAL_GAS_FLOW_RATE
    assert gas[-1].value > 0


def test_the_boiler_is_not_turned_off_while_it_is_needed() -> None:
    hybrid = a_device("heat-pump", control_type=DDBC)
    select(hybrid, DDBC, MIDNIGHT)
    hybrid.advance(MIDNIGHT + 5 * MINUTE)
    assert statuses(hybrid.instructed(ddbc_instruction("boiler", "off", 0.0), MIDNIGHT + 5 * MINUTE)) == REFUSED


def test_the_demand_is_told_as_the_data_model_has_it() -> None:
    hybrid = a_device("heat-pump", control_type=DDBC)
    hybrid.version = V1
    assert of(ddbc.PresentDemandStatus, select(hybrid, DDBC, MIDNIGHT))
    hybrid.disconnected(MIDNIGHT)
    hybrid.version = BETA
    said = select(hybrid, DDBC, MIDNIGHT, CheckedSession(BETA)) + hybrid.advance(MIDNIGHT + HOUR)
    assert not of(ddbc.PresentDemandStatus, said)
    demands = {message.present_demand_rate.end_of_range for message in of(ddbc.BetaSystemDescription, said)}
    assert len(demands) > 5
