"""S2 messages of the demonstration: a home battery under fill rate based control, and its energy manager."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

Message = dict[str, Any]

CAPACITY_WH = 10_000.0
MAX_POWER_W = 5_000.0
CHARGE_W = 3_000.0
FILL_LEVEL_AT_START = 40.0
"""Per cent."""

RESOURCE = "home-battery"
ACTUATOR = "inverter"
CHARGE_OR_DISCHARGE = "charge-or-discharge"
QUANTITY = "ELECTRIC.POWER.L1"
"""Positive is consumption: the battery charges."""


def fill_rate(power_w: float) -> float:
    """Per cent of the fill level per second at a power, without losses."""
    return power_w / 3600 / CAPACITY_WH * 100


def factor(power_w: float) -> float:
    """The operation mode factor of a power: 0 is full discharge, 1 is full charge."""
    return (power_w + MAX_POWER_W) / (2 * MAX_POWER_W)


def resource_manager_details() -> Message:
    """The battery introduces itself."""
    return _message(
        "ResourceManagerDetails",
        resource_id=RESOURCE,
        name="Home battery",
        roles=[{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
        manufacturer="Example",
        model="Battery 10",
        instruction_processing_delay=500,
        available_control_types=["FILL_RATE_BASED_CONTROL"],
        provides_forecast=False,
        provides_power_measurement_types=[QUANTITY],
    )


def select_control_type() -> Message:
    """The energy manager chooses how it controls the battery."""
    return _message("SelectControlType", control_type="FILL_RATE_BASED_CONTROL")


def system_description() -> Message:
    """Abilities of the battery: charge and discharge with up to 5 kW, between empty and full."""
    element = {
        "fill_level_range": {"start_of_range": 0.0, "end_of_range": 100.0},
        "fill_rate": {"start_of_range": fill_rate(-MAX_POWER_W), "end_of_range": fill_rate(MAX_POWER_W)},
        "power_ranges": [{"start_of_range": -MAX_POWER_W, "end_of_range": MAX_POWER_W, "commodity_quantity": QUANTITY}],
    }
    mode = {
        "id": CHARGE_OR_DISCHARGE,
        "diagnostic_label": "charge or discharge",
        "elements": [element],
        "abnormal_condition_only": False,
    }
    actuator = {
        "id": ACTUATOR,
        "diagnostic_label": "battery inverter",
        "supported_commodities": ["ELECTRICITY"],
        "operation_modes": [mode],
        "transitions": [],
        "timers": [],
    }
    storage = {
        "diagnostic_label": "battery",
        "fill_level_label": "state of charge in per cent",
        "provides_leakage_behaviour": False,
        "provides_fill_level_target_profile": False,
        "provides_usage_forecast": False,
        "fill_level_range": {"start_of_range": 0.0, "end_of_range": 100.0},
    }
    return _message("FRBC.SystemDescription", valid_from=_now(), actuators=[actuator], storage=storage)


def actuator_status(power_w: float) -> Message:
    """Present mode of the inverter."""
    return _message(
        "FRBC.ActuatorStatus",
        actuator_id=ACTUATOR,
        active_operation_mode_id=CHARGE_OR_DISCHARGE,
        operation_mode_factor=factor(power_w),
    )


def storage_status(fill_level: float) -> Message:
    """Fill level of the battery, in per cent."""
    return _message("FRBC.StorageStatus", present_fill_level=fill_level)


def power_measurement(power_w: float) -> Message:
    """The power that the battery measures at its connection."""
    values = [{"commodity_quantity": QUANTITY, "value": power_w}]
    return _message("PowerMeasurement", measurement_timestamp=_now(), values=values)


def instruction(power_w: float) -> Message:
    """The energy manager wants a power from now on."""
    return _message(
        "FRBC.Instruction",
        id=str(uuid4()),
        actuator_id=ACTUATOR,
        operation_mode=CHARGE_OR_DISCHARGE,
        operation_mode_factor=factor(power_w),
        execution_time=_now(),
        abnormal_condition=False,
    )


def instruction_status(instruction_id: str, status: str) -> Message:
    """Status of an instruction: ``ACCEPTED``, ``STARTED`` and so on."""
    return _message("InstructionStatusUpdate", instruction_id=instruction_id, status_type=status, timestamp=_now())


def _message(kind: str, **fields: Any) -> Message:
    return {"message_type": kind, "message_id": str(uuid4()), **fields}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
