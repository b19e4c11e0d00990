"""Whole conversations in the shape of the standard's walkthroughs: our own, and the published ones if they are at hand.

The published ones are ``website/docs/examples/*.md`` of github.com/flexiblepower/s2-documentation. To run them, put
those files into a folder and name it in the environment as ``S2_WALKTHROUGHS``, or put it as ``walkthroughs`` into the
folder ``shared`` beside the repository.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from s2connect.messages.catalogue import BETA, MESSAGES, V1, parse
from s2connect.messages.conversation import Conversation
from s2connect.messages.envelope import read_message
from s2connect.messages.rules import Severity, check
from s2connect.messages.rules.history import History
from s2connect.model.common import Role
from tests.shared import SHARED

FOLDER = Path(os.environ.get("S2_WALKTHROUGHS") or SHARED / "walkthroughs")
needs_walkthroughs = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the standard's walkthroughs are not at hand (S2_WALKTHROUGHS)"
)

Spoken = tuple[Role, dict[str, Any]]


# Our own

T0, T1, T2, T3 = (f"2026-03-02T{hour}:00:00+01:00" for hour in ("18", "19", "23", "07"))
CHARGE, HALT = "charge", "halt"
Q3 = "ELECTRIC.POWER.3_PHASE_SYMMETRIC"
L1 = "ELECTRIC.POWER.L1"


def conversation(*parts: tuple[str, str, dict[str, Any]]) -> list[Spoken]:
    """Messages from ``CEM`` or ``RM``, by type, with their members; they get their ids here."""
    return [
        (Role(sender), {"message_type": kind, "message_id": f"msg-{number}", **members})
        for number, (sender, kind, members) in enumerate(parts)
    ]


def between(start: float, end: float) -> dict[str, float]:
    return {"start_of_range": start, "end_of_range": end}


def details(control_type: str, role: str, quantity: str, *, forecast: bool = False) -> tuple[str, str, dict[str, Any]]:
    members = {
        "resource_id": "house-7",
        "roles": [{"role": role, "commodity": "ELECTRICITY"}],
        "instruction_processing_delay": 2000,
        "available_control_types": [control_type],
        "provides_forecast": forecast,
        "provides_power_measurement_types": [quantity],
    }
    return "RM", "ResourceManagerDetails", members


def select(control_type: str) -> tuple[str, str, dict[str, Any]]:
    return "CEM", "SelectControlType", {"control_type": control_type}


def measured(quantity: str, value: float) -> tuple[str, str, dict[str, Any]]:
    values = [{"commodity_quantity": quantity, "value": value}]
    return "RM", "PowerMeasurement", {"measurement_timestamp": T1, "values": values}


def reported(status: str) -> tuple[str, str, dict[str, Any]]:
    return "RM", "InstructionStatusUpdate", {"instruction_id": "do-1", "status_type": status, "timestamp": T1}


def terminate(reason: str) -> tuple[str, str, dict[str, Any]]:
    return "RM", "SessionRequest", {"request": "TERMINATE", "diagnostic_label": reason}


def mode(name: str, levels: tuple[float, float], rate: tuple[float, float], power: tuple[float, float], q: str) -> Any:
    element = {
        "fill_level_range": between(*levels),
        "fill_rate": between(*rate),
        "power_ranges": [between(*power) | {"commodity_quantity": q}],
    }
    return {"id": name, "elements": [element], "abnormal_condition_only": False}


def change(name: str, start: str, end: str, starts: list[str], blocked_by: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "from": start,
        "to": end,
        "start_timers": starts,
        "blocking_timers": blocked_by,
        "abnormal_condition_only": False,
    }


def storage(levels: tuple[float, float], **provides: bool) -> dict[str, Any]:
    all_provided = {"leakage_behaviour": False, "fill_level_target_profile": False, "usage_forecast": False} | provides
    return {"fill_level_range": between(*levels)} | {f"provides_{name}": given for name, given in all_provided.items()}


def status(actuator: str, active: str, factor: float, previous: str | None) -> tuple[str, str, dict[str, Any]]:
    members = {"actuator_id": actuator, "active_operation_mode_id": active, "operation_mode_factor": factor}
    if previous:
        members |= {"previous_operation_mode_id": previous, "transition_timestamp": T1}
    return "RM", "FRBC.ActuatorStatus", members


def instruct(actuator: str, operation_mode: str, factor: float, when: str) -> tuple[str, str, dict[str, Any]]:
    members = {
        "id": "do-1",
        "actuator_id": actuator,
        "operation_mode": operation_mode,
        "operation_mode_factor": factor,
        "execution_time": when,
        "abnormal_condition": False,
    }
    return "CEM", "FRBC.Instruction", members


EV = conversation(
    details("FILL_RATE_BASED_CONTROL", "ENERGY_CONSUMER", Q3),
    select("FILL_RATE_BASED_CONTROL"),
    (
        "RM",
        "FRBC.SystemDescription",
        {
            "valid_from": T0,
            "actuators": [
                {
                    "id": "socket",
                    "supported_commodities": ["ELECTRICITY"],
                    "operation_modes": [
                        mode(HALT, (0, 80), (0, 0), (0, 0), Q3),
                        mode(CHARGE, (0, 80), (0.0023, 0.0061), (4140, 11040), Q3),
                    ],
                    "transitions": [change("t-1", HALT, CHARGE, [], []), change("t-2", CHARGE, HALT, [], [])],
                    "timers": [],
                }
            ],
            "storage": storage((0, 80), fill_level_target_profile=True),
        },
    ),
    status("socket", HALT, 0, None),
    ("RM", "FRBC.StorageStatus", {"present_fill_level": 21.5}),
    (
        "RM",
        "FRBC.FillLevelTargetProfile",
        {
            "start_time": T0,
            "elements": [
                {"duration": 46_800_000, "fill_level_range": between(0, 80)},
                {"duration": 3_600_000, "fill_level_range": between(75, 80)},
            ],
        },
    ),
    instruct("socket", CHARGE, 0.4, T1),
    reported("ACCEPTED"),
    reported("STARTED"),
    status("socket", CHARGE, 0.4, HALT),
    measured(Q3, 6902.2),
    ("RM", "FRBC.StorageStatus", {"present_fill_level": 33}),
    reported("SUCCEEDED"),
    terminate("the car has left"),
)

HEAT_PUMP = conversation(
    details("FILL_RATE_BASED_CONTROL", "ENERGY_CONSUMER", L1),
    select("FILL_RATE_BASED_CONTROL"),
    (
        "RM",
        "FRBC.SystemDescription",
        {
            "valid_from": T0,
            "actuators": [
                {
                    "id": "compressor",
                    "supported_commodities": ["ELECTRICITY"],
                    "operation_modes": [
                        mode("idle", (42, 58), (0, 0), (0, 0), L1),
                        mode("heat", (42, 58), (0.0017, 0.0051), (600, 1800), L1),
                    ],
                    "transitions": [
                        change("start", "idle", "heat", ["runs"], ["rests"]),
                        change("stop", "heat", "idle", ["rests"], ["runs"]),
                    ],
                    "timers": [{"id": "runs", "duration": 1_200_000}, {"id": "rests", "duration": 900_000}],
                }
            ],
            "storage": storage((42, 58), leakage_behaviour=True, usage_forecast=True),
        },
    ),
    (
        "RM",
        "FRBC.LeakageBehaviour",
        {
            "valid_from": T0,
            "elements": [
                {"fill_level_range": between(42, 50), "leakage_rate": 0.00004},
                {"fill_level_range": between(50, 58), "leakage_rate": 0.00006},
            ],
        },
    ),
    (
        "RM",
        "FRBC.UsageForecast",
        {
            "start_time": T0,
            "elements": [
                {"duration": 7_200_000, "usage_rate_expected": 0},
                {
                    "duration": 900_000,
                    "usage_rate_lower_limit": 0,
                    "usage_rate_lower_68PPR": 0.001,
                    "usage_rate_expected": 0.002,
                    "usage_rate_upper_68PPR": 0.004,
                    "usage_rate_upper_limit": 0.009,
                },
            ],
        },
    ),
    status("compressor", "idle", 0, None),
    ("RM", "FRBC.TimerStatus", {"actuator_id": "compressor", "timer_id": "rests", "finished_at": T0}),
    ("RM", "FRBC.StorageStatus", {"present_fill_level": 44.25}),
    instruct("compressor", "heat", 1, T1),
    reported("STARTED"),
    status("compressor", "heat", 1, "idle"),
    ("RM", "FRBC.TimerStatus", {"actuator_id": "compressor", "timer_id": "runs", "finished_at": T2}),
    measured(L1, 1795),
    terminate("maintenance"),
)

PV = conversation(
    details("POWER_ENVELOPE_BASED_CONTROL", "ENERGY_PRODUCER", L1, forecast=True),
    select("POWER_ENVELOPE_BASED_CONTROL"),
    (
        "RM",
        "PEBC.PowerConstraints",
        {
            "id": "panels",
            "valid_from": T0,
            "consequence_type": "VANISH",
            "allowed_limit_ranges": [
                {
                    "commodity_quantity": L1,
                    "limit_type": limit,
                    "range_boundary": between(low, 0),
                    "abnormal_condition_only": False,
                }
                for limit, low in (("UPPER_LIMIT", 0), ("LOWER_LIMIT", -6300))
            ],
        },
    ),
    (
        "RM",
        "PEBC.EnergyConstraint",
        {
            "id": "harvest",
            "valid_from": T0,
            "valid_until": T2,
            "upper_average_power": 0,
            "lower_average_power": -2100,
            "commodity_quantity": L1,
        },
    ),
    measured(L1, -3018.5),
    (
        "RM",
        "PowerForecast",
        {
            "start_time": T1,
            "elements": [
                {
                    "duration": 900_000,
                    "power_values": [
                        {
                            "commodity_quantity": L1,
                            "value_lower_limit": -4000,
                            "value_expected": -3000,
                            "value_upper_limit": -800,
                        }
                    ],
                }
            ],
        },
    ),
    (
        "CEM",
        "PEBC.Instruction",
        {
            "id": "do-1",
            "execution_time": T1,
            "abnormal_condition": False,
            "power_constraints_id": "panels",
            "power_envelopes": [
                {
                    "id": "cap",
                    "commodity_quantity": L1,
                    "power_envelope_elements": [
                        {"duration": 1_800_000, "upper_limit": 0, "lower_limit": -1500},
                        {"duration": 1_800_000, "upper_limit": 0, "lower_limit": -6300},
                    ],
                }
            ],
        },
    ),
    reported("ACCEPTED"),
    reported("SUCCEEDED"),
    terminate("sunset"),
)

NO_CONTROL = conversation(
    details("NOT_CONTROLABLE", "ENERGY_CONSUMER", L1, forecast=True),
    select("NOT_CONTROLABLE"),
    measured(L1, 212),
    (
        "RM",
        "PowerForecast",
        {
            "start_time": T1,
            "elements": [
                {"duration": 3_600_000, "power_values": [{"commodity_quantity": L1, "value_expected": 200 + hour}]}
                for hour in range(24)
            ],
        },
    ),
    terminate("update"),
)


@pytest.mark.parametrize("now", [None, datetime(2026, 3, 2, 17, 30, tzinfo=UTC)])
@pytest.mark.parametrize("version", [V1, BETA])
@pytest.mark.parametrize(
    "said", [EV, HEAT_PUMP, PV, NO_CONTROL], ids=["electric vehicle", "heat pump", "photovoltaics", "no control"]
)
def test_a_conversation_without_fault_is_taken_without_a_warning(
    said: list[Spoken], version: str, now: datetime | None
) -> None:
    session = Conversation(version)
    for sender, value in said:
        message = read_message(json.dumps(value))
        verdict = session.validate(sender, message, now=now)
        assert (verdict.ok, verdict.label, verdict.warnings) == (True, None, ()), value["message_type"]
        session.accepted(sender, message, now=now)


# The published ones

CONTRADICTIONS = {
    "ev.md": [
        "FRBC.ActuatorStatus HIST-08 active_operation_mode_id",  # an operation mode that is not described
    ],
    "heat-pump.md": [
        "FRBC.ActuatorStatus HIST-08 actuator_id",  # actuator0; described is actuator1
        "FRBC.TimerStatus HIST-08 actuator_id",  # yet another actuator
        "FRBC.UsageForecast COM-10 elements[0].duration",  # lasts 0 ms
        "FRBC.Instruction HIST-06 actuator_id",  # actuator0 again
        "InstructionStatusUpdate HIST-18 instruction_id",  # the instruction has another id
    ],
    "pv.md": [
        "PowerForecast COM-09 elements[0].power_values[0]",  # upper and lower are exchanged
    ],
    "nocontrol.md": [
        "PowerForecast COM-09 elements[0].power_values[0]",  # likewise, and of a consumer
    ],
}
"""By walkthrough: what contradicts itself or the standard in it."""

_STEP = re.compile(r"^#+ (CEM|RM) -> (?:CEM|RM)\b[^\n]*:", re.MULTILINE)
_BLOCK = re.compile(r"```json\n(.*?)```", re.DOTALL)


def published(name: str) -> Iterator[Spoken]:
    """The messages of a walkthrough, in its order, by who sends them; parts of messages are left out."""
    steps = _STEP.split((FOLDER / name).read_text("utf-8"))
    for sender, text in zip(steps[1::2], steps[2::2], strict=True):
        for block in _BLOCK.findall(text):
            value = json.loads(block)
            if "message_type" in value:
                yield Role(sender), value


@needs_walkthroughs
@pytest.mark.parametrize("name", sorted(CONTRADICTIONS))
def test_a_published_walkthrough_contradicts_itself_where_we_know_and_nowhere_else(name: str) -> None:
    if not (FOLDER / name).is_file():
        pytest.skip(f"there is no {name} in the folder")
    history, found = History(), []
    for number, (sender, value) in enumerate(published(name)):
        if value["message_id"] in ("xxx", "string"):  # stands for an id that its reader makes up
            value["message_id"] = f"made-up-{number}"
        message = parse(json.dumps(value), BETA)
        assert type(message) is MESSAGES[BETA][value["message_type"]]
        assert json.loads(message.to_json()) == value
        assert not [one for one in check(message) if one.rule.severity is Severity.ERROR], "alone each is without error"
        found += [
            f"{value['message_type']} {one.rule.id} {one.path}"
            for one in check(message) + history.check(sender, message)
        ]
        history.accept(sender, message)
    assert found == CONTRADICTIONS[name]
