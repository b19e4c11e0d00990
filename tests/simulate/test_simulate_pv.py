"""A simulated photovoltaic system: produces by day, and no more than it is allowed."""

from __future__ import annotations

import pytest

from s2connect.messages import pebc
from s2connect.messages.general import ControlType, InstructionStatus, PowerForecast, PowerMeasurement
from tests.simulate.simulate_fixtures import (
    DAY,
    HOUR,
    MIDNIGHT,
    NOON,
    REFUSED,
    TAKEN,
    a_device,
    of,
    pebc_instruction,
    select,
    statuses,
)

PEBC = ControlType.POWER_ENVELOPE_BASED_CONTROL


def test_it_produces_by_day_and_never_at_night_or_more_than_its_peak() -> None:
    roof = a_device("pv")
    measured = of(PowerMeasurement, roof.advance(MIDNIGHT + DAY))
    for message in measured:
        power, hour = message.values[0].value, message.measurement_timestamp.hour
        assert -roof.peak <= power <= 0.0
        if hour < 6 or hour >= 20:
            assert power == 0.0
    assert min(message.values[0].value for message in measured) < -0.5 * roof.peak


def test_its_forecast_is_about_what_comes() -> None:
    roof = a_device("pv")
    (forecast,) = of(PowerForecast, select(roof, PEBC, MIDNIGHT))
    expected = sum(element.power_values[0].value_expected for element in forecast.elements)
    produced = sum(m.values[0].value for m in of(PowerMeasurement, roof.advance(MIDNIGHT + DAY))) / 60
    assert len(forecast.elements) == 24
    assert produced == pytest.approx(expected, rel=0.2)


def test_it_is_curtailed_and_free_again_when_the_limit_ends() -> None:
    roof = a_device("pv", now=NOON)
    (constraints,) = of(pebc.PowerConstraints, select(roof, PEBC, NOON))
    free = roof.power
    said = roof.instructed(pebc_instruction(constraints, -1000.0, 0.0, HOUR, NOON), NOON)
    assert statuses(said) == TAKEN[:3]
    assert roof.power == -1000.0
    said = roof.advance(NOON + HOUR)
    assert all(m.values[0].value >= -1000.0 for m in of(PowerMeasurement, said)[:-1])
    assert statuses(said) == [InstructionStatus.SUCCEEDED]
    assert roof.power == pytest.approx(free, rel=0.3)


def test_a_limit_changes_with_the_elements_of_its_envelope() -> None:
    roof = a_device("pv", now=NOON)
    (constraints,) = of(pebc.PowerConstraints, select(roof, PEBC, NOON))
    instruction = pebc_instruction(constraints, -1000.0, 0.0, HOUR, NOON)
    envelope = instruction.power_envelopes[0]
    first = envelope.power_envelope_elements[0]
    steps = [first, first.replace(lower_limit=-500.0)]
    envelope = envelope.replace(power_envelope_elements=steps)
    roof.instructed(instruction.replace(power_envelopes=[envelope]), NOON)
    roof.advance(NOON + HOUR)
    assert roof.power == -500.0
    assert roof.next_due <= NOON + 2 * HOUR


@pytest.mark.parametrize(("lower", "upper"), [(-7000.0, 0.0), (-1000.0, 10.0), (0.0, -10.0)])
def test_limits_that_it_did_not_allow_are_refused(lower: float, upper: float) -> None:
    roof = a_device("pv", now=NOON)
    (constraints,) = of(pebc.PowerConstraints, select(roof, PEBC, NOON))
    assert statuses(roof.instructed(pebc_instruction(constraints, lower, upper, HOUR, NOON), NOON)) == REFUSED


def test_it_is_free_when_the_session_has_ended() -> None:
    roof = a_device("pv", now=NOON)
    (constraints,) = of(pebc.PowerConstraints, select(roof, PEBC, NOON))
    roof.instructed(pebc_instruction(constraints, 0.0, 0.0, HOUR, NOON), NOON)
    assert roof.power == 0.0
    roof.disconnected(NOON)
    assert roof.power < -1000.0
