"""A simulated water heater: hot water, disinfection, and a job that has to be done in time."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from s2connect.messages import ombc, ppbc
from s2connect.messages.base import S2Message, new_id
from s2connect.messages.general import ControlType, InstructionStatus, PowerMeasurement, RevokableObjects, RevokeObject
from s2connect.messages.ppbc import PowerSequenceStatus
from s2connect.simulate.devices.tank import ROOM, Tank
from s2connect.simulate.devices.water_heater import COMFORT, DISINFECT_EVERY, DISINFECTED
from tests.simulate.simulate_fixtures import HOUR, MIDNIGHT, MINUTE, REFUSED, TAKEN, a_device, of, select, statuses

OMBC = ControlType.OPERATION_MODE_BASED_CONTROL
PPBC = ControlType.POWER_PROFILE_BASED_CONTROL


def to_mode(mode: str, now: datetime, *, abnormal: bool = False) -> ombc.Instruction:
    return ombc.Instruction(
        id=new_id(),
        execution_time=now,
        operation_mode_id=mode,
        operation_mode_factor=0.0,
        abnormal_condition=abnormal,
    )


def about(kind: type, profile: ppbc.PowerProfileDefinition, now: datetime, sequence: str = "fast") -> S2Message:
    """A schedule or an interruption of the only container of a profile."""
    message: S2Message = kind(
        id=new_id(),
        power_profile_id=profile.id,
        sequence_container_id=profile.power_sequences_containers[0].id,
        power_sequence_id=sequence,
        execution_time=now,
        abnormal_condition=False,
    )
    return message


def courses(messages: list[S2Message]) -> list[PowerSequenceStatus]:
    return [message.sequence_container_status[0].status for message in of(ppbc.PowerProfileStatus, messages)]


def test_heat_that_comes_in_is_stored_lost_or_used() -> None:
    tank = Tank(100.0, 60.0, loss=2.0)
    tank.step(900.0, heat=1000.0, draw=600.0)
    assert (tank.temperature - 60.0) * tank.capacity == pytest.approx((1000.0 - 600.0 - 2.0 * (60.0 - ROOM)) / 4)
    for _ in range(24):
        tank.step(3600.0, heat=0.0, draw=10_000.0)
    assert tank.temperature == pytest.approx(ROOM), "colder water than that gives nothing"


def test_disinfection_is_for_abnormal_conditions_only() -> None:
    heater = a_device("water-heater")
    select(heater, OMBC, MIDNIGHT)
    assert statuses(heater.instructed(to_mode("disinfect", MIDNIGHT), MIDNIGHT)) == REFUSED
    assert statuses(heater.instructed(to_mode("disinfect", MIDNIGHT, abnormal=True), MIDNIGHT)) == TAKEN
    assert statuses(heater.instructed(to_mode("off", MIDNIGHT), MIDNIGHT)) == REFUSED
    said = heater.advance(MIDNIGHT + 4 * HOUR)
    assert of(ombc.Status, said)[0].previous_operation_mode_id == "disinfect"
    assert of(ombc.Status, said)[0].active_operation_mode_id == "off"


def test_it_disinfects_once_a_week_by_itself_and_never_becomes_hotter() -> None:
    heater = a_device("water-heater")
    select(heater, OMBC, MIDNIGHT)
    hottest, now = 0.0, MIDNIGHT
    while now < MIDNIGHT + DISINFECT_EVERY:
        now += 5 * MINUTE
        heater.advance(now)
        hottest = max(hottest, heater.tank.temperature)
    assert DISINFECTED <= hottest < DISINFECTED + 1


def test_its_user_wants_the_water_neither_cold_nor_too_hot() -> None:
    heater = a_device("water-heater")
    select(heater, OMBC, MIDNIGHT)
    now = MIDNIGHT
    while heater.tank.temperature > COMFORT[0]:
        now += MINUTE
        heater.advance(now)
    heater.advance(now + MINUTE)
    assert statuses(heater.instructed(to_mode("off", now), now + MINUTE)) == REFUSED
    heater.tank.temperature = COMFORT[1] + 1
    assert statuses(heater.instructed(to_mode("heat", now), now + MINUTE)) == REFUSED


def test_a_job_runs_when_it_is_scheduled_and_then_there_is_another() -> None:
    heater = a_device("water-heater")
    said = select(heater, PPBC, MIDNIGHT)
    (profile,) = of(ppbc.PowerProfileDefinition, said)
    assert courses(said) == [PowerSequenceStatus.NOT_SCHEDULED]
    said = heater.instructed(about(ppbc.ScheduleInstruction, profile, MIDNIGHT + HOUR), MIDNIGHT)
    assert statuses(said) == TAKEN[:2]
    assert courses(said) == [PowerSequenceStatus.SCHEDULED]
    heater.advance(MIDNIGHT + HOUR - MINUTE)
    assert heater.power == 0.0
    said = heater.advance(MIDNIGHT + HOUR)
    assert statuses(said) == [InstructionStatus.STARTED]
    assert courses(said) == [PowerSequenceStatus.EXECUTING]
    assert heater.power == heater.max_power
    said = heater.advance(MIDNIGHT + 6 * HOUR)
    assert statuses(said) == [InstructionStatus.SUCCEEDED]
    assert courses(said) == [PowerSequenceStatus.FINISHED, PowerSequenceStatus.NOT_SCHEDULED]
    (another,) = of(ppbc.PowerProfileDefinition, said)
    assert another.id != profile.id
    assert heater.power == 0.0


def test_between_jobs_it_stands_still_even_if_it_was_heating_when_they_began() -> None:
    heater = a_device("water-heater")
    heater.tank.temperature = COMFORT[0]
    heater.advance(MIDNIGHT + MINUTE)
    assert heater.power == heater.max_power, "alone it heats"
    (profile,) = of(ppbc.PowerProfileDefinition, select(heater, PPBC, MIDNIGHT + MINUTE))
    heater.instructed(about(ppbc.ScheduleInstruction, profile, MIDNIGHT + MINUTE), MIDNIGHT + MINUTE)
    assert PowerSequenceStatus.FINISHED in courses(heater.advance(MIDNIGHT + 8 * HOUR))
    assert heater.power == 0.0


def test_the_energy_is_that_of_the_sequence() -> None:
    heater = a_device("water-heater")
    (profile,) = of(ppbc.PowerProfileDefinition, select(heater, PPBC, MIDNIGHT))
    slow = next(s for s in profile.power_sequences_containers[0].power_sequences if s.id == "slow")
    energy = sum(e.duration / 3_600_000 * e.power_values[0].value_expected for e in slow.elements)
    heater.instructed(about(ppbc.ScheduleInstruction, profile, MIDNIGHT, "slow"), MIDNIGHT)
    measured = of(PowerMeasurement, heater.advance(MIDNIGHT + 5 * HOUR))
    assert sum(message.values[0].value for message in measured) / 60 == pytest.approx(energy, rel=0.02)


def test_it_can_be_interrupted_and_goes_on() -> None:
    heater = a_device("water-heater")
    (profile,) = of(ppbc.PowerProfileDefinition, select(heater, PPBC, MIDNIGHT))
    heater.instructed(about(ppbc.ScheduleInstruction, profile, MIDNIGHT), MIDNIGHT)
    now = MIDNIGHT + 10 * MINUTE
    heater.advance(now)
    said = heater.instructed(about(ppbc.StartInterruptionInstruction, profile, now), now)
    assert statuses(said) == TAKEN
    assert courses(said) == [PowerSequenceStatus.INTERRUPTED]
    assert of(ppbc.PowerProfileStatus, said)[0].sequence_container_status[0].progress == 600_000
    assert heater.power == 0.0
    assert statuses(heater.instructed(about(ppbc.StartInterruptionInstruction, profile, now), now)) == REFUSED
    heater.advance(now + HOUR)
    said = heater.instructed(about(ppbc.EndInterruptionInstruction, profile, now + HOUR), now + HOUR)
    assert courses(said) == [PowerSequenceStatus.EXECUTING]
    assert of(ppbc.PowerProfileStatus, said)[0].sequence_container_status[0].progress == 600_000


@pytest.mark.parametrize("interrupt", [False, True])
def test_a_job_is_done_in_time_even_if_nobody_schedules_it_or_goes_on(interrupt: bool) -> None:
    heater = a_device("water-heater")
    (profile,) = of(ppbc.PowerProfileDefinition, select(heater, PPBC, MIDNIGHT))
    if interrupt:
        heater.instructed(about(ppbc.ScheduleInstruction, profile, MIDNIGHT), MIDNIGHT)
        heater.advance(MIDNIGHT + MINUTE)
        now = MIDNIGHT + MINUTE
        heater.instructed(about(ppbc.StartInterruptionInstruction, profile, now), now)
    said = heater.advance(profile.end_time + timedelta(seconds=1))
    assert PowerSequenceStatus.FINISHED in courses(said)


def test_what_would_not_be_done_in_time_or_is_not_offered_is_refused() -> None:
    heater = a_device("water-heater")
    (profile,) = of(ppbc.PowerProfileDefinition, select(heater, PPBC, MIDNIGHT))
    refused = [
        about(ppbc.ScheduleInstruction, profile, profile.end_time - MINUTE),
        about(ppbc.ScheduleInstruction, profile.replace(id="another"), MIDNIGHT),
        about(ppbc.ScheduleInstruction, profile, MIDNIGHT, "never"),
        about(ppbc.EndInterruptionInstruction, profile, MIDNIGHT),
    ]
    for instruction in refused:
        assert statuses(heater.instructed(instruction, MIDNIGHT)) == REFUSED


def test_a_schedule_can_be_taken_back() -> None:
    heater = a_device("water-heater")
    (profile,) = of(ppbc.PowerProfileDefinition, select(heater, PPBC, MIDNIGHT))
    schedule = about(ppbc.ScheduleInstruction, profile, MIDNIGHT + HOUR)
    heater.instructed(schedule, MIDNIGHT)
    second = heater.instructed(about(ppbc.ScheduleInstruction, profile, MIDNIGHT + 2 * HOUR), MIDNIGHT)
    assert statuses(second) == REFUSED, "it is scheduled already"
    assert isinstance(schedule, ppbc.ScheduleInstruction)
    revoke = RevokeObject(object_type=RevokableObjects.PPBC_SCHEDULEINSTRUCTION, object_id=schedule.id)
    said = heater.instructed(revoke, MIDNIGHT)
    assert statuses(said) == [InstructionStatus.REVOKED]
    assert courses(said) == [PowerSequenceStatus.NOT_SCHEDULED]
