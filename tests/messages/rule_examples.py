"""Messages that break no rule, one of each type, and how a case changes them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from s2connect.messages.base import S2Message
from s2connect.messages.catalogue import BETA, V1, parse
from s2connect.messages.rules import RULES, Finding

Json = dict[str, Any]
Changes = Mapping[str, Any]

MISSING = object()
"""As the value of a change: the member is left out."""

NOON = "2026-05-04T12:00:00Z"
ONE = "2026-05-04T13:00:00Z"
NIGHT = "2026-05-04T22:00:00Z"


def _range(start: float, end: float) -> Json:
    return {"start_of_range": start, "end_of_range": end}


def _power(start: float, end: float, quantity: str = "ELECTRIC.POWER.L1") -> Json:
    return _range(start, end) | {"commodity_quantity": quantity}


def _transition(name: str, start: str, end: str, *, starts: str, blocks: str) -> Json:
    return {
        "id": name,
        "from": start,
        "to": end,
        "start_timers": [starts],
        "blocking_timers": [blocks],
        "abnormal_condition_only": False,
    }


_TRANSITIONS = [
    _transition("go", "off", "on", starts="min-on", blocks="min-off"),
    _transition("stop", "on", "off", starts="min-off", blocks="min-on"),
    _transition("alarm", "on", "boost", starts="min-off", blocks="min-on") | {"abnormal_condition_only": True},
]
_TIMERS = [{"id": "min-on", "duration": 600_000}, {"id": "min-off", "duration": 0}]


def _fill_element(low: float, high: float, power: float) -> Json:
    return {
        "fill_level_range": _range(low, high),
        "fill_rate": _range(0, power / 1e6),
        "power_ranges": [_power(0, power)],
    }


def _frbc_mode(name: str, power: float, *, abnormal: bool = False) -> Json:
    elements = [_fill_element(0, 40, power), _fill_element(40, 100, power)]
    return {"id": name, "elements": elements, "abnormal_condition_only": abnormal}


def _ombc_mode(name: str, power: float, *, abnormal: bool = False) -> Json:
    return {"id": name, "power_ranges": [_power(0, power)], "abnormal_condition_only": abnormal}


def _ddbc_mode(name: str, power: float, *, abnormal: bool = False) -> Json:
    return {
        "Id": name,
        "power_ranges": [_power(0, power)],
        "supply_range": _range(0, 3 * power),
        "abnormal_condition_only": abnormal,
    }


_FRBC_ACTUATOR: Json = {
    "id": "charger",
    "supported_commodities": ["ELECTRICITY"],
    "operation_modes": [_frbc_mode("off", 0), _frbc_mode("on", 7400), _frbc_mode("boost", 11000, abnormal=True)],
    "transitions": _TRANSITIONS,
    "timers": _TIMERS,
}
_DDBC_ACTUATOR: Json = {
    "id": "heater",
    "supported_commodites": ["ELECTRICITY", "GAS"],
    "operation_modes": [_ddbc_mode("off", 0), _ddbc_mode("on", 2000), _ddbc_mode("boost", 3000, abnormal=True)],
    "transitions": _TRANSITIONS,
    "timers": _TIMERS,
}
_BOUNDS: Json = {
    "upper_limit": 90.0,
    "upper_95PPR": 80.0,
    "upper_68PPR": 70.0,
    "expected": 60.0,
    "lower_68PPR": 50.0,
    "lower_95PPR": 40.0,
    "lower_limit": 30.0,
}


def _bounds(prefix: str) -> Json:
    return {f"{prefix}_{name}": value for name, value in _BOUNDS.items()}


def _power_forecast(quantity: str = "ELECTRIC.POWER.L1") -> Json:
    return _bounds("value") | {"commodity_quantity": quantity}


def _limit(kind: str, low: float, high: float, *, abnormal: bool = False) -> Json:
    return {
        "commodity_quantity": "ELECTRIC.POWER.L1",
        "limit_type": kind,
        "range_boundary": _range(low, high),
        "abnormal_condition_only": abnormal,
    }


def _sequence(name: str, minutes: int, *, interruptible: bool = True, abnormal: bool = False) -> Json:
    return {
        "id": name,
        "elements": [{"duration": minutes * 60_000, "power_values": [_power_forecast()]}],
        "is_interruptible": interruptible,
        "abnormal_condition_only": abnormal,
    }


_PPBC_NAMES = {"power_profile_id": "laundry", "sequence_container_id": "wash", "power_sequence_id": "eco"}
_STATUS = {
    "active_operation_mode_id": "on",
    "operation_mode_factor": 0.5,
    "previous_operation_mode_id": "off",
    "transition_timestamp": NOON,
}
_INSTRUCTION = {"id": "order-1", "execution_time": ONE, "abnormal_condition": False, "operation_mode_factor": 1}

TEMPLATES: dict[str, Json] = {
    "Handshake": {"role": "RM", "supported_protocol_versions": ["0.0.2-beta"]},
    "HandshakeResponse": {"selected_protocol_version": "0.0.2-beta"},
    "InstructionStatusUpdate": {"instruction_id": "order-1", "status_type": "STARTED", "timestamp": NOON},
    "PowerForecast": {"start_time": NOON, "elements": [{"duration": 900_000, "power_values": [_power_forecast()]}]},
    "PowerMeasurement": {
        "measurement_timestamp": NOON,
        "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": -12.5}],
    },
    "ReceptionStatus": {"subject_message_id": "m-0", "status": "OK"},
    "ResourceManagerDetails": {
        "resource_id": "cellar:1",
        "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}],
        "instruction_processing_delay": 500,
        "available_control_types": [
            "POWER_ENVELOPE_BASED_CONTROL",
            "POWER_PROFILE_BASED_CONTROL",
            "OPERATION_MODE_BASED_CONTROL",
            "FILL_RATE_BASED_CONTROL",
            "DEMAND_DRIVEN_BASED_CONTROL",
        ],
        "provides_forecast": True,
        "provides_power_measurement_types": ["ELECTRIC.POWER.L1"],
        "currency": "EUR",
    },
    "RevokeObject": {"object_type": "FRBC.Instruction", "object_id": "order-1"},
    "SelectControlType": {"control_type": "FILL_RATE_BASED_CONTROL"},
    "SessionRequest": {"request": "TERMINATE"},
    "PEBC.EnergyConstraint": {
        "id": "need-1",
        "valid_from": NOON,
        "valid_until": NIGHT,
        "upper_average_power": 3000,
        "lower_average_power": 1000,
        "commodity_quantity": "ELECTRIC.POWER.L1",
    },
    "PEBC.Instruction": {
        "id": "order-1",
        "execution_time": ONE,
        "abnormal_condition": False,
        "power_constraints_id": "roof-1",
        "power_envelopes": [
            {
                "id": "cap-1",
                "commodity_quantity": "ELECTRIC.POWER.L1",
                "power_envelope_elements": [{"duration": 900_000, "upper_limit": 0, "lower_limit": -2500}],
            }
        ],
    },
    "PEBC.PowerConstraints": {
        "id": "roof-1",
        "valid_from": NOON,
        "valid_until": NIGHT,
        "consequence_type": "VANISH",
        "allowed_limit_ranges": [
            _limit("UPPER_LIMIT", 0, 0),
            _limit("LOWER_LIMIT", -5000, -1000),
            _limit("LOWER_LIMIT", -1000, 0, abnormal=True),
        ],
    },
    "PPBC.EndInterruptionInstruction": _PPBC_NAMES
    | {"id": "order-3", "execution_time": ONE, "abnormal_condition": False},
    "PPBC.PowerProfileDefinition": {
        "id": "laundry",
        "start_time": NOON,
        "end_time": NIGHT,
        "power_sequences_containers": [
            {
                "id": "wash",
                "power_sequences": [
                    _sequence("eco", 120),
                    _sequence("quick", 45, interruptible=False),
                    _sequence("cold", 30, abnormal=True),
                ],
            },
            {"id": "spin", "power_sequences": [_sequence("eco", 10)]},
        ],
    },
    "PPBC.PowerProfileStatus": {
        "sequence_container_status": [
            {
                "power_profile_id": "laundry",
                "sequence_container_id": "wash",
                "selected_sequence_id": "eco",
                "progress": 1000,
                "status": "EXECUTING",
            },
            {"power_profile_id": "laundry", "sequence_container_id": "spin", "status": "NOT_SCHEDULED"},
        ]
    },
    "PPBC.ScheduleInstruction": _PPBC_NAMES | {"id": "order-1", "execution_time": ONE, "abnormal_condition": False},
    "PPBC.StartInterruptionInstruction": _PPBC_NAMES
    | {"id": "order-2", "execution_time": ONE, "abnormal_condition": False},
    "OMBC.Instruction": _INSTRUCTION | {"operation_mode_id": "on"},
    "OMBC.Status": _STATUS,
    "OMBC.SystemDescription": {
        "valid_from": NOON,
        "operation_modes": [_ombc_mode("off", 0), _ombc_mode("on", 800), _ombc_mode("boost", 900, abnormal=True)],
        "transitions": _TRANSITIONS,
        "timers": _TIMERS,
    },
    "OMBC.TimerStatus": {"timer_id": "min-on", "finished_at": NIGHT},
    "FRBC.ActuatorStatus": _STATUS | {"actuator_id": "charger"},
    "FRBC.FillLevelTargetProfile": {
        "start_time": NOON,
        "elements": [{"duration": 3_600_000, "fill_level_range": _range(80, 100)}],
    },
    "FRBC.Instruction": _INSTRUCTION | {"actuator_id": "charger", "operation_mode": "on"},
    "FRBC.LeakageBehaviour": {
        "valid_from": NOON,
        "elements": [
            {"fill_level_range": _range(50, 100), "leakage_rate": 0.0002},
            {"fill_level_range": _range(0, 50), "leakage_rate": 0.0001},
        ],
    },
    "FRBC.StorageStatus": {"present_fill_level": 55.5},
    "FRBC.SystemDescription": {
        "valid_from": NOON,
        "actuators": [_FRBC_ACTUATOR],
        "storage": {
            "provides_leakage_behaviour": True,
            "provides_fill_level_target_profile": True,
            "provides_usage_forecast": True,
            "fill_level_range": _range(0, 100),
        },
    },
    "FRBC.TimerStatus": {"timer_id": "min-on", "actuator_id": "charger", "finished_at": NIGHT},
    "FRBC.UsageForecast": {"start_time": NOON, "elements": [{"duration": 1000} | _bounds("usage_rate")]},
    "DDBC.ActuatorStatus": _STATUS | {"actuator_id": "heater"},
    "DDBC.AverageDemandRateForecast": {
        "start_time": NOON,
        "elements": [{"duration": 1000} | _bounds("demand_rate")],
    },
    "DDBC.Instruction": _INSTRUCTION | {"actuator_id": "heater", "operation_mode_id": "on"},
    "DDBC.PresentDemandStatus": {"present_demand_rate": _range(2, 3)},
    "DDBC.SystemDescription": {
        "valid_from": NOON,
        "actuators": [_DDBC_ACTUATOR],
        "provides_average_demand_rate_forecast": True,
    },
    "DDBC.TimerStatus": {"timer_id": "min-on", "actuator_id": "heater", "finished_at": NIGHT},
}
"""By type of message: one that breaks no rule, without its type and id."""

_COUNT = iter(range(1, 1_000_000))


def build(message_type: str, changes: Changes | None = None, *, version: str = V1) -> S2Message:
    """A message of a type, with a new id, and with changes by path: ``{"actuators.0.id": "x"}``."""
    value: Json = copy.deepcopy(TEMPLATES[message_type])
    value["message_type"] = message_type
    if message_type != "ReceptionStatus":
        value["message_id"] = f"m-{next(_COUNT)}"
    if version == BETA and message_type == "DDBC.SystemDescription":
        value["present_demand_rate"] = _range(2, 3)
    for path, new in (changes or {}).items():
        _set(value, path.split("."), new)
    return parse(json.dumps(value), version)


def _set(value: Any, path: list[str], new: Any) -> None:
    for step in path[:-1]:
        value = value[int(step) if isinstance(value, list) else step]
    last: Any = int(path[-1]) if isinstance(value, list) else path[-1]
    if new is MISSING:
        del value[last]
    elif isinstance(value, list) and last == len(value):
        value.append(copy.deepcopy(new))
    else:
        value[last] = copy.deepcopy(new)


class Case(NamedTuple):
    """A message that breaks a rule and no other, and one near it that breaks none."""

    rule: str
    message_type: str
    breaks: Changes
    near: Changes
    path: str
    version: str = V1


def name(case: Case) -> str:
    return f"{case.rule}-{case.message_type}-{case.path}"


def broken(found: list[Finding]) -> set[str]:
    """The numbers of the rules."""
    return {finding.rule.id for finding in found}


def numbers(prefix: str) -> set[str]:
    """All rules of a group."""
    return {number for number in RULES if number.startswith(f"{prefix}-")}
