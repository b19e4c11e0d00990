"""Rules about single messages of Operation Mode Based Control: all shared with FRBC and DDBC."""

from __future__ import annotations

from typing import Any

import pytest

from s2connect.messages.rules import check
from tests.messages.rule_examples import MISSING, Case, build, name, numbers

MODES = "operation_modes"


def power(quantity: str) -> dict[str, Any]:
    return {"start_of_range": 5, "end_of_range": -5, "commodity_quantity": quantity}


CASES = [
    Case(
        "COM-02",
        "OMBC.SystemDescription",
        {f"{MODES}.3": {"id": "on", "power_ranges": [power("ELECTRIC.POWER.L1")], "abnormal_condition_only": False}},
        {f"{MODES}.3": {"id": "on2", "power_ranges": [power("ELECTRIC.POWER.L1")], "abnormal_condition_only": False}},
        f"{MODES}[3]",
    ),
    Case(
        "COM-02",
        "OMBC.SystemDescription",
        {"timers.2": {"id": "min-on", "duration": 1}},
        {"timers.2": {"id": "on", "duration": 1}},
        "timers[2]",
    ),
    Case("COM-02", "OMBC.SystemDescription", {"transitions.1.id": "go"}, {"transitions.1.id": "on"}, "transitions[1]"),
    Case(
        "COM-03",
        "OMBC.SystemDescription",
        {"transitions.0.to": "gone"},
        {"transitions.0.to": "off"},
        "transitions[0].to",
    ),
    Case(
        "COM-03",
        "OMBC.SystemDescription",
        {"transitions.0.from": "gone"},
        {"transitions.0.from": "on"},
        "transitions[0].from",
    ),
    Case(
        "COM-03",
        "OMBC.SystemDescription",
        {"transitions.0.start_timers.1": "go"},
        {"transitions.0.start_timers.1": "min-off"},
        "transitions[0].start_timers",
    ),
    Case(
        "COM-03",
        "OMBC.SystemDescription",
        {"transitions.0.blocking_timers.0": "go"},
        {"transitions.0.blocking_timers": []},
        "transitions[0].blocking_timers",
    ),
    Case(
        "COM-04",
        "OMBC.Instruction",
        {"operation_mode_factor": 1.001},
        {"operation_mode_factor": 1.0000000000000002},
        "operation_mode_factor",
    ),
    Case(
        "COM-04",
        "OMBC.Instruction",
        {"operation_mode_factor": -0.001},
        {"operation_mode_factor": -0.0},
        "operation_mode_factor",
    ),
    Case("COM-05", "OMBC.Status", {"operation_mode_factor": 50}, {"operation_mode_factor": 1}, "operation_mode_factor"),
    Case(
        "COM-06",
        "OMBC.SystemDescription",
        {f"{MODES}.1.power_ranges.1": power("ELECTRIC.POWER.L1")},
        {f"{MODES}.1.power_ranges.1": power("NATURAL_GAS.FLOW_RATE")},
        f"{MODES}[1].power_ranges[1]",
    ),
    Case(
        "COM-07",
        "OMBC.SystemDescription",
        {f"{MODES}.1.power_ranges.1": power("ELECTRIC.POWER.3_PHASE_SYMMETRIC")},
        {f"{MODES}.1.power_ranges": [power("ELECTRIC.POWER.3_PHASE_SYMMETRIC")]},
        f"{MODES}[1].power_ranges",
    ),
    Case(
        "COM-08",
        "OMBC.SystemDescription",
        {f"{MODES}.1.power_ranges": [power("ELECTRIC.POWER.L2")]},
        {f"{MODES}.1.power_ranges": [power("ELECTRIC.POWER.L1")]},
        f"{MODES}[1].power_ranges",
    ),
    Case(
        "COM-11",
        "OMBC.SystemDescription",
        {f"{MODES}.1.running_costs": {"start_of_range": 2, "end_of_range": 1}},
        {f"{MODES}.1.running_costs": {"start_of_range": 1, "end_of_range": 1}},
        f"{MODES}[1].running_costs",
    ),
    Case(
        "COM-12",
        "OMBC.Status",
        {"transition_timestamp": MISSING},
        {"transition_timestamp": MISSING, "previous_operation_mode_id": MISSING},
        "transition_timestamp",
    ),
    Case(
        "COM-12",
        "OMBC.Status",
        {"previous_operation_mode_id": MISSING},
        {"previous_operation_mode_id": "on"},
        "previous_operation_mode_id",
    ),
    Case(
        "COM-13",
        "OMBC.SystemDescription",
        {"transitions.0.to": "boost"},
        {"transitions.2.to": "on"},
        "transitions[0].abnormal_condition_only",
    ),
    Case(
        "COM-14",
        "OMBC.SystemDescription",
        {
            MODES: [{"id": "on", "power_ranges": [power("ELECTRIC.POWER.L1")], "abnormal_condition_only": True}],
            "transitions": [],
        },
        {
            MODES: [{"id": "on", "power_ranges": [power("ELECTRIC.POWER.L1")], "abnormal_condition_only": False}],
            "transitions": [],
        },
        MODES,
    ),
]

ELSEWHERE = {"COM-01", "COM-09", "COM-10", "COM-15", "COM-16", "COM-17", "COM-18", "COM-19"}


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_message_breaks_the_rule_and_one_near_it_breaks_none(case: Case) -> None:
    found = check(build(case.message_type, case.breaks))
    assert [(one.rule.id, one.path) for one in found] == [(case.rule, case.path)]
    assert check(build(case.message_type, case.near)) == []


def test_every_rule_about_operation_modes_has_a_case() -> None:
    assert {case.rule for case in CASES} | ELSEWHERE == numbers("COM")
    assert numbers("OMBC") == set()


def test_the_power_of_a_mode_may_descend_from_factor_0_to_factor_1() -> None:
    assert check(build("OMBC.SystemDescription", {f"{MODES}.1.power_ranges": [power("ELECTRIC.POWER.L1")]})) == []
