"""A simulated battery: energy goes nowhere, limits are kept."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.errors import UsageError
from s2connect.messages import frbc
from s2connect.messages.base import S2Message
from s2connect.messages.general import (
    ControlType,
    InstructionStatus,
    InstructionStatusUpdate,
    PowerMeasurement,
    RevokableObjects,
    RevokeObject,
    SelectControlType,
)
from s2connect.simulate.devices.battery import EFFICIENCY, RESERVE
from s2connect.simulate.devices.kinds import KINDS
from tests.simulate.simulate_fixtures import (
    HOUR,
    MIDNIGHT,
    MINUTE,
    REFUSED,
    TAKEN,
    a_device,
    frbc_instruction,
    of,
    select,
    statuses,
)

FRBC = ControlType.FILL_RATE_BASED_CONTROL


def energy(messages: list[S2Message]) -> float:
    """Wh that the measurements of every minute add up to."""
    return sum(message.values[0].value for message in of(PowerMeasurement, messages)) / 60


@pytest.mark.parametrize(("mode", "part"), [("charge", EFFICIENCY), ("discharge", 1 / EFFICIENCY)])
def test_the_fill_level_is_the_energy_that_was_measured_but_for_the_losses(mode: str, part: float) -> None:
    battery = a_device("battery")
    select(battery, FRBC, MIDNIGHT)
    before = battery.level
    said = battery.instructed(frbc_instruction("inverter", mode, 0.5, MIDNIGHT), MIDNIGHT)
    assert statuses(said) == TAKEN
    said = battery.advance(MIDNIGHT + HOUR / 2)
    assert energy(said) == pytest.approx(1250 if mode == "charge" else -1250)
    assert (battery.level - before) / 100 * battery.capacity == pytest.approx(energy(said) * part)


def test_it_stops_by_itself_when_it_is_full_and_says_so() -> None:
    battery = a_device("battery")
    select(battery, FRBC, MIDNIGHT)
    battery.instructed(frbc_instruction("inverter", "charge", 1.0, MIDNIGHT), MIDNIGHT)
    said = battery.advance(MIDNIGHT + 4 * HOUR)
    assert battery.level == 100.0
    assert of(frbc.ActuatorStatus, said)[-1].active_operation_mode_id == "idle"
    assert of(frbc.StorageStatus, said)[-1].present_fill_level == 100.0
    assert of(PowerMeasurement, said)[-1].values[0].value == 0.0
    refused = battery.instructed(frbc_instruction("inverter", "charge", 1.0, MIDNIGHT), MIDNIGHT + 4 * HOUR)
    assert statuses(refused) == REFUSED
    assert any("It is full." in note for note in battery.notes)


def test_it_keeps_the_reserve_of_its_user() -> None:
    battery = a_device("battery")
    select(battery, FRBC, MIDNIGHT)
    battery.instructed(frbc_instruction("inverter", "discharge", 1.0, MIDNIGHT), MIDNIGHT)
    battery.advance(MIDNIGHT + 4 * HOUR)
    assert battery.level == RESERVE
    later = MIDNIGHT + 4 * HOUR
    assert statuses(battery.instructed(frbc_instruction("inverter", "discharge", 1.0, later), later)) == REFUSED


@pytest.mark.parametrize(
    ("actuator", "mode", "factor"),
    [("inverter", "fly", 0.5), ("inverter", "charge", 1.5), ("inverter", "charge", -0.1), ("nobody", "charge", 0.5)],
)
def test_instructions_beyond_what_it_described_are_refused(actuator: str, mode: str, factor: float) -> None:
    battery = a_device("battery")
    select(battery, FRBC, MIDNIGHT)
    assert statuses(battery.instructed(frbc_instruction(actuator, mode, factor, MIDNIGHT), MIDNIGHT)) == REFUSED
    assert battery.power == 0.0


def test_an_instruction_waits_for_its_time() -> None:
    battery = a_device("battery")
    select(battery, FRBC, MIDNIGHT)
    later = MIDNIGHT + 10 * MINUTE + timedelta(seconds=7)
    assert statuses(battery.instructed(frbc_instruction("inverter", "charge", 1.0, later), MIDNIGHT)) == TAKEN[:2]
    assert not statuses(battery.advance(MIDNIGHT + 10 * MINUTE))
    assert battery.next_due == later
    said = battery.advance(later)
    assert statuses(said) == TAKEN[2:]
    assert of(InstructionStatusUpdate, said)[0].timestamp == later
    assert battery.power > 0


def test_an_instruction_that_waits_can_be_taken_back_and_no_more_wait_than_can_be_remembered() -> None:
    battery = a_device("battery")
    select(battery, FRBC, MIDNIGHT)
    waiting = [frbc_instruction("inverter", "charge", 1.0, MIDNIGHT + HOUR) for _ in range(17)]
    said = [statuses(battery.instructed(instruction, MIDNIGHT)) for instruction in waiting]
    assert said == [TAKEN[:2]] * 16 + [REFUSED]
    for instruction in waiting:
        revoke = RevokeObject(object_type=RevokableObjects.FRBC_INSTRUCTION, object_id=instruction.id)
        battery.instructed(revoke, MIDNIGHT)
    assert not statuses(battery.advance(MIDNIGHT + 2 * HOUR))
    assert battery.power == 0.0


def test_what_the_time_has_made_impossible_is_given_up() -> None:
    battery = a_device("battery")
    select(battery, FRBC, MIDNIGHT)
    battery.instructed(frbc_instruction("inverter", "charge", 1.0, MIDNIGHT), MIDNIGHT)
    battery.instructed(frbc_instruction("inverter", "charge", 0.5, MIDNIGHT + 5 * HOUR), MIDNIGHT)
    said = battery.advance(MIDNIGHT + 5 * HOUR)
    assert statuses(said) == [InstructionStatus.ABORTED]


def test_it_is_idle_when_nobody_controls_it_any_more() -> None:
    battery = a_device("battery")
    select(battery, FRBC, MIDNIGHT)
    battery.instructed(frbc_instruction("inverter", "charge", 1.0, MIDNIGHT), MIDNIGHT)
    battery.disconnected(MIDNIGHT)
    said = battery.advance(MIDNIGHT + HOUR)
    assert battery.power == 0.0
    assert {type(message) for message in said} == {PowerMeasurement}


def test_without_a_selection_it_only_measures() -> None:
    battery = a_device("battery")
    said = battery.instructed(SelectControlType(control_type=ControlType.NO_SELECTION), MIDNIGHT)
    assert [type(message) for message in said] == [PowerMeasurement]
    assert not battery.instructed(frbc_instruction("inverter", "charge", 1.0, MIDNIGHT), MIDNIGHT)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["idle", "charge", "discharge"]),
            st.floats(0, 1),
            st.integers(1, 300),
        ),
        max_size=20,
    ),
    st.integers(0, 1000),
)
def test_whatever_it_is_told_it_stays_between_empty_and_full(steps: list[tuple[str, float, int]], seed: int) -> None:
    battery = a_device("battery", seed=seed)
    select(battery, FRBC, MIDNIGHT)
    now = MIDNIGHT
    for mode, factor, minutes in steps:
        battery.instructed(frbc_instruction("inverter", mode, factor, now), now)
        assert -5000.0 <= battery.power <= 5000.0
        now += minutes * MINUTE
        battery.advance(now)
        assert RESERVE <= battery.level <= 100.0


def test_the_same_chance_makes_the_same_device() -> None:
    assert a_device("battery", seed=5).level == a_device("battery", seed=5).level
    assert a_device("battery", seed=5).level != a_device("battery", seed=6).level


def test_a_kind_or_a_control_that_is_not_there_is_refused() -> None:
    assert set(KINDS) == {"battery", "ev-charger", "pv", "heat-pump", "water-heater"}
    with pytest.raises(UsageError, match="battery"):
        a_device("toaster")
    with pytest.raises(UsageError, match="frbc"):
        a_device("battery", control_type=ControlType.POWER_PROFILE_BASED_CONTROL)
