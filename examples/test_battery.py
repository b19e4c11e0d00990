"""Tests of the battery as its maker writes them: the energy manager is a session in memory. Run it with ``pytest``."""

import asyncio
from datetime import UTC, datetime

import pytest
from battery import INVERTER, MODE, Battery, handlers_of

from s2connect import errors
from s2connect.messages import frbc, new_id
from s2connect.messages.general import (
    ControlType,
    InstructionStatusUpdate,
    PowerMeasurement,
    ResourceManagerDetails,
    SelectControlType,
)
from s2connect.session import memory_sessions


def instruction(factor: float) -> frbc.Instruction:
    return frbc.Instruction(
        id=new_id(),
        actuator_id=INVERTER,
        operation_mode=MODE,
        operation_mode_factor=factor,
        execution_time=datetime.now(UTC),
        abnormal_condition=False,
    )


async def be_instructed(battery: Battery) -> None:
    manager, device = memory_sessions()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(handlers_of(battery).run(device))
        assert isinstance((await manager.receive()).parsed, ResourceManagerDetails)
        await manager.send(SelectControlType(control_type=ControlType.FILL_RATE_BASED_CONTROL))
        for expected in (frbc.SystemDescription, frbc.ActuatorStatus, frbc.StorageStatus, PowerMeasurement):
            assert isinstance((await manager.receive()).parsed, expected)
        try:
            await manager.send(instruction(1.0))
            progress = []
            while "SUCCEEDED" not in progress:
                message = (await manager.receive()).parsed
                if isinstance(message, InstructionStatusUpdate):
                    progress.append(message.status_type.value)
            assert progress == ["ACCEPTED", "STARTED", "SUCCEEDED"]
            assert battery.power == 5000.0
        finally:
            await manager.close()


def test_the_battery_follows_an_instruction_and_rests_when_the_energy_manager_has_gone() -> None:
    battery = Battery()
    asyncio.run(be_instructed(battery))
    assert battery.power == 0.0


def test_a_locked_battery_refuses_instructions() -> None:
    battery = Battery()
    battery.is_locked = True
    with pytest.raises(BaseExceptionGroup) as failure:
        asyncio.run(be_instructed(battery))
    (refusal,) = failure.value.exceptions
    assert isinstance(refusal, errors.MessageRefused)
    assert refusal.status == "TEMPORARY_ERROR"


def test_a_charging_battery_gets_fuller() -> None:
    battery = Battery()
    battery.factor = 1.0
    battery.advance(3600)
    assert battery.fill_level == 90.0
