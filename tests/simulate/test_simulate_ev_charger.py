"""A simulated charging station: the car is ready when it leaves, whatever the energy manager wants."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.messages import frbc, pebc
from s2connect.messages.general import ControlType, InstructionStatus
from s2connect.simulate.devices.ev_charger import WANTED
from tests.simulate.simulate_fixtures import (
    DAY,
    EVENING,
    HOUR,
    MIDNIGHT,
    MINUTE,
    NOON,
    REFUSED,
    TAKEN,
    a_device,
    frbc_instruction,
    of,
    pebc_instruction,
    select,
    statuses,
)

FRBC = ControlType.FILL_RATE_BASED_CONTROL
PEBC = ControlType.POWER_ENVELOPE_BASED_CONTROL


def test_it_says_until_when_the_car_has_to_be_how_full() -> None:
    charger = a_device("ev-charger", now=EVENING)
    (profile,) = of(frbc.FillLevelTargetProfile, select(charger, FRBC, EVENING))
    until = EVENING + sum(element.duration for element in profile.elements) * MINUTE / 60_000
    assert abs((until - charger.departure(EVENING)).total_seconds()) < 0.01
    assert profile.elements[-1].fill_level_range.start_of_range == WANTED


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(0, 1000))
def test_the_car_is_ready_whatever_the_energy_manager_wants(wants: list[tuple[float, bool]], seed: int) -> None:
    charger = a_device("ev-charger", seed=seed, now=EVENING)
    select(charger, FRBC, EVENING)
    now = EVENING
    while not charger.departures:
        factor, off = wants[int((now - EVENING) / (15 * MINUTE)) % len(wants)]
        mode, factor = ("off", 0.0) if off else ("charge", factor)
        charger.instructed(frbc_instruction("outlet", mode, factor, now), now)
        now += 15 * MINUTE
        charger.advance(now)
        assert charger.level <= 100.0
    assert charger.departures[0] >= WANTED


def test_to_wait_is_fine_in_the_evening_and_refused_when_the_car_would_not_be_ready() -> None:
    charger = a_device("ev-charger", now=EVENING)
    select(charger, FRBC, EVENING)
    assert statuses(charger.instructed(frbc_instruction("outlet", "off", 0.0, EVENING), EVENING)) == TAKEN
    late = charger.departure(EVENING) - HOUR
    charger.advance(late)
    assert charger.power == charger.max_power, "it began by itself"
    assert statuses(charger.instructed(frbc_instruction("outlet", "off", 0.0, late), late)) == REFUSED
    emergency = frbc_instruction("outlet", "off", 0.0, late, abnormal=True)
    assert statuses(charger.instructed(emergency, late)) == TAKEN


def test_without_a_car_nothing_can_be_charged() -> None:
    charger = a_device("ev-charger", now=NOON)
    select(charger, FRBC, NOON)
    assert statuses(charger.instructed(frbc_instruction("outlet", "charge", 1.0, NOON), NOON)) == REFUSED
    assert "no car" in charger.state()


def test_what_it_forecast_is_told_anew_when_the_car_comes() -> None:
    charger = a_device("ev-charger", now=NOON)
    select(charger, FRBC, NOON)
    said = charger.advance(NOON + 8 * HOUR)
    assert any("arrive" in note for note in charger.notes)
    arrived = [p for p in of(frbc.FillLevelTargetProfile, said) if p.elements[-1].fill_level_range.start_of_range > 0]
    assert (arrived[0].start_time - NOON) < (charger.arrival - 12) * HOUR + 2 * MINUTE


def test_limits_are_kept_for_as_long_as_they_hold() -> None:
    charger = a_device("ev-charger", now=EVENING)
    said = select(charger, PEBC, EVENING)
    (constraints,), (need,) = of(pebc.PowerConstraints, said), of(pebc.EnergyConstraint, said)
    assert 0 < need.lower_average_power < need.upper_average_power <= charger.max_power
    assert need.valid_until == charger.departure(EVENING)
    assert charger.power == charger.max_power
    taken = charger.instructed(pebc_instruction(constraints, 0.0, 3000.0, HOUR, EVENING), EVENING)
    assert statuses(taken) == TAKEN[:3]
    assert charger.power == 3000.0
    assert statuses(charger.advance(EVENING + HOUR)) == [InstructionStatus.SUCCEEDED]
    assert charger.power == charger.max_power


def test_another_limit_takes_the_place_of_the_one_before() -> None:
    charger = a_device("ev-charger", now=EVENING)
    (constraints,) = of(pebc.PowerConstraints, select(charger, PEBC, EVENING))
    charger.instructed(pebc_instruction(constraints, 0.0, 3000.0, HOUR, EVENING), EVENING)
    said = charger.instructed(pebc_instruction(constraints, 0.0, 1000.0, HOUR, EVENING), EVENING)
    assert statuses(said) == [*TAKEN[:2], InstructionStatus.ABORTED, InstructionStatus.STARTED]
    assert charger.power == 0.0, "a car cannot charge with so little"


@pytest.mark.parametrize(
    ("lower", "upper", "hours"), [(0.0, 9000.0, 1), (-1.0, 3000.0, 1), (0.0, 0.0, 14), (0.0, 1500.0, 14)]
)
def test_limits_that_it_did_not_allow_or_that_its_user_would_not_want_are_refused(
    lower: float, upper: float, hours: int
) -> None:
    charger = a_device("ev-charger", now=EVENING)
    (constraints,) = of(pebc.PowerConstraints, select(charger, PEBC, EVENING))
    instruction = pebc_instruction(constraints, lower, upper, hours * HOUR, EVENING)
    assert statuses(charger.instructed(instruction, EVENING)) == REFUSED


def test_constraints_that_are_not_in_force_bind_nobody() -> None:
    charger = a_device("ev-charger", now=EVENING)
    (old,) = of(pebc.PowerConstraints, select(charger, PEBC, EVENING))
    select(charger, PEBC, EVENING)
    assert statuses(charger.instructed(pebc_instruction(old, 0.0, 3000.0, HOUR, EVENING), EVENING)) == REFUSED


@pytest.mark.parametrize("seed", range(5))
def test_alone_it_charges_at_once_and_the_car_leaves_full_each_day(seed: int) -> None:
    charger = a_device("ev-charger", seed=seed)
    charger.advance(MIDNIGHT + 3 * DAY)
    assert len(charger.departures) == 3
    assert all(level >= WANTED for level in charger.departures[1:])
