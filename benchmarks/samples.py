"""Messages that are sent, a measurement as it comes every few seconds and a forecast of a day, and some to be read."""

from __future__ import annotations

import json
from typing import Any

_PHASES = [
    {"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1234.5},
    {"commodity_quantity": "ELECTRIC.POWER.L2", "value": 987.25},
    {"commodity_quantity": "ELECTRIC.POWER.L3", "value": -250.75},
]

SMALL: dict[str, Any] = {
    "message_type": "PowerMeasurement",
    "measurement_timestamp": "2026-01-01T12:00:00.000000+00:00",
    "values": _PHASES,
}
"""332 bytes as JSON with its id."""

LARGE: dict[str, Any] = {
    "message_type": "PowerForecast",
    "start_time": "2026-01-01T12:00:00.000000+00:00",
    "elements": [
        {
            "duration": 3_600_000,
            "power_values": [
                {
                    "value_upper_limit": 1000.0 + hour,
                    "value_expected": 500.0 + hour,
                    "value_lower_limit": 100.0,
                    "commodity_quantity": "ELECTRIC.POWER.3_PHASE_SYMMETRIC",
                }
            ],
        }
        for hour in range(15)
    ],
}
"""2.7 KB as JSON with its id."""


def size_of(message: dict[str, Any]) -> str:
    """Length of a message with its id, for people."""
    length = len(json.dumps({"message_id": "0" * 36, **message}, separators=(",", ":")))
    return f"{length} B" if length < 1000 else f"{length / 1000:.1f} KB"


SAMPLES = {"small": SMALL, "large": LARGE}
"""Messages that the benchmarks send, by size."""


def _id(kind: int, number: int) -> str:
    return f"{number:08x}-{kind:04x}-4bbb-8ccc-0123456789ab"


def _range(begin: float, end: float) -> dict[str, float]:
    return {"start_of_range": begin, "end_of_range": end}


def description(modes: int, elements: int, transitions: int) -> dict[str, Any]:
    """A heat pump with its tank, such that s2-python takes it as well: one power range per commodity, ids are UUIDs."""
    return {
        "message_type": "FRBC.SystemDescription",
        "message_id": _id(0, 0),
        "valid_from": "2026-01-01T12:00:00.000000+00:00",
        "actuators": [
            {
                "id": _id(1, 0),
                "diagnostic_label": "Heat pump",
                "supported_commodities": ["ELECTRICITY"],
                "operation_modes": [
                    {
                        "id": _id(2, mode),
                        "elements": [
                            {
                                "fill_level_range": _range(20.0 + element, 21.0 + element),
                                "fill_rate": _range(0.0, 0.0125),
                                "power_ranges": [
                                    {**_range(0.0, 2400.5), "commodity_quantity": "ELECTRIC.POWER.3_PHASE_SYMMETRIC"}
                                ],
                            }
                            for element in range(elements)
                        ],
                        "abnormal_condition_only": False,
                    }
                    for mode in range(modes)
                ],
                "transitions": [
                    {
                        "id": _id(3, number),
                        "from": _id(2, number % modes),
                        "to": _id(2, (number + 1) % modes),
                        "start_timers": [_id(4, 0)],
                        "blocking_timers": [_id(4, 0)],
                        "transition_duration": 60_000,
                        "abnormal_condition_only": False,
                    }
                    for number in range(transitions)
                ],
                "timers": [{"id": _id(4, 0), "diagnostic_label": "least time on", "duration": 600_000}],
            }
        ],
        "storage": {
            "provides_leakage_behaviour": False,
            "provides_fill_level_target_profile": True,
            "provides_usage_forecast": True,
            "fill_level_range": _range(20.0, 20.0 + elements),
        },
    }


READ = {
    "small": {**SMALL, "message_id": _id(0, 1)},
    "medium": description(modes=2, elements=3, transitions=2),
    "large": description(modes=10, elements=7, transitions=5),
}
"""Messages that are read, of about 330 bytes, 3 KB and 20 KB."""

DETAILS: dict[str, Any] = {
    "message_type": "ResourceManagerDetails",
    "resource_id": "r1",
    "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
    "instruction_processing_delay": 500,
    "available_control_types": ["FILL_RATE_BASED_CONTROL"],
    "provides_forecast": True,
    "provides_power_measurement_types": [f"ELECTRIC.POWER.L{phase}" for phase in (1, 2, 3)],
}
"""With what a session begins."""

SELECTION: dict[str, Any] = {"message_type": "SelectControlType", "control_type": "FILL_RATE_BASED_CONTROL"}

FILL_LEVEL: dict[str, Any] = {"message_type": "FRBC.StorageStatus", "present_fill_level": 21}

_ACTUATOR = READ["medium"]["actuators"][0]


def instruction(identifier: str, execution_time: str) -> dict[str, Any]:
    """An instruction to the heat pump of ``READ["medium"]``."""
    return {
        "message_type": "FRBC.Instruction",
        "id": identifier,
        "actuator_id": _ACTUATOR["id"],
        "operation_mode": _ACTUATOR["operation_modes"][0]["id"],
        "operation_mode_factor": 0.5,
        "execution_time": execution_time,
        "abnormal_condition": False,
    }
