"""Rules about single messages of Demand Driven Based Control, in both data models."""

from __future__ import annotations

import pytest

from s2connect.messages.catalogue import BETA
from s2connect.messages.rules import check
from tests.messages.rule_examples import Case, build, name, numbers

MODE = "actuators.0.operation_modes.1"
WHERE = "actuators[0].operation_modes[1]"


def span(start: float, end: float) -> dict[str, float]:
    return {"start_of_range": start, "end_of_range": end}


GO = {
    "id": "go",
    "from": "off",
    "to": "on",
    "start_timers": [],
    "blocking_timers": [],
    "abnormal_condition_only": False,
}

CASES = [
    Case(
        "DDBC-01",
        "DDBC.SystemDescription",
        {"actuators.0.transitions": []},
        {"actuators.0.transitions": [GO]},
        "actuators[0].transitions",
    ),
    Case(
        "DDBC-02",
        "DDBC.PresentDemandStatus",
        {"present_demand_rate": span(2, 1)},
        {"present_demand_rate": span(2, 2)},
        "present_demand_rate",
    ),
    Case(
        "DDBC-02",
        "DDBC.SystemDescription",
        {"present_demand_rate": span(2, 1)},
        {"present_demand_rate": span(2, 2)},
        "present_demand_rate",
        BETA,
    ),
    Case(
        "COM-02",
        "DDBC.SystemDescription",
        {"actuators.0.timers.1.id": "min-on", "actuators.0.transitions": [GO]},
        {"actuators.0.timers.1.id": "go", "actuators.0.transitions": [GO]},
        "actuators[0].timers[1]",
    ),
    Case(
        "COM-03",
        "DDBC.SystemDescription",
        {"actuators.0.transitions.0.blocking_timers": ["go"]},
        {"actuators.0.transitions.0.blocking_timers": ["min-on", "min-off"]},
        "actuators[0].transitions[0].blocking_timers",
    ),
    Case(
        "COM-04",
        "DDBC.Instruction",
        {"operation_mode_factor": 100},
        {"operation_mode_factor": 0.999},
        "operation_mode_factor",
    ),
    Case(
        "COM-05",
        "DDBC.ActuatorStatus",
        {"operation_mode_factor": 100},
        {"operation_mode_factor": 0.999},
        "operation_mode_factor",
    ),
    Case(
        "COM-06",
        "DDBC.SystemDescription",
        {f"{MODE}.power_ranges.1": span(0, 1) | {"commodity_quantity": "ELECTRIC.POWER.L1"}},
        {f"{MODE}.power_ranges.1": span(0, 1) | {"commodity_quantity": "HYDROGEN.FLOW_RATE"}},
        f"{WHERE}.power_ranges[1]",
    ),
    Case(
        "COM-09",
        "DDBC.AverageDemandRateForecast",
        {"elements.0.demand_rate_lower_limit": 100},
        {"elements.0.demand_rate_lower_limit": -100},
        "elements[0]",
    ),
    Case(
        "COM-10",
        "DDBC.AverageDemandRateForecast",
        {"elements.0.duration": 0},
        {"elements.0.duration": 1},
        "elements[0].duration",
    ),
    Case(
        "COM-11",
        "DDBC.SystemDescription",
        {f"{MODE}.running_costs": span(1, 0)},
        {f"{MODE}.running_costs": span(0, 1)},
        f"{WHERE}.running_costs",
    ),
    Case(
        "COM-15",
        "DDBC.SystemDescription",
        {f"{MODE}.power_ranges.0.commodity_quantity": "HEAT.FLOW_RATE"},
        {f"{MODE}.power_ranges.0.commodity_quantity": "NATURAL_GAS.FLOW_RATE"},
        f"{WHERE}.power_ranges[0]",
    ),
    Case(
        "COM-16",
        "DDBC.SystemDescription",
        {"actuators.0.supported_commodites.2": "GAS"},
        {"actuators.0.supported_commodites.2": "HEAT"},
        "actuators[0].supported_commodites",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_message_breaks_the_rule_and_one_near_it_breaks_none(case: Case) -> None:
    found = check(build(case.message_type, case.breaks, version=case.version))
    assert [(one.rule.id, one.path) for one in found] == [(case.rule, case.path)]
    assert check(build(case.message_type, case.near, version=case.version)) == []


def test_every_rule_has_a_case() -> None:
    assert numbers("DDBC") <= {case.rule for case in CASES}
