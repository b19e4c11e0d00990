"""Rules about single messages of Fill Rate Based Control."""

from __future__ import annotations

from typing import Any

import pytest

from s2connect.messages.rules import check
from tests.messages.rule_examples import Case, build, name, numbers

MODE = "actuators.0.operation_modes.1"
WHERE = "actuators[0].operation_modes[1]"
LEVELS = "fill_level_range"


def span(start: float, end: float) -> dict[str, float]:
    return {"start_of_range": start, "end_of_range": end}


def leaks(*ranges: tuple[float, float]) -> list[dict[str, Any]]:
    return [{LEVELS: span(*one), "leakage_rate": 0.1} for one in ranges]


CASES = [
    Case(
        "FRBC-01",
        "FRBC.SystemDescription",
        {f"{MODE}.elements.1.{LEVELS}": span(40, 40)},
        {f"{MODE}.elements.1.{LEVELS}": span(40, 100.5)},
        f"{WHERE}.elements[1].{LEVELS}",
    ),
    Case(
        "FRBC-02",
        "FRBC.SystemDescription",
        {f"{MODE}.elements.1.{LEVELS}": span(41, 100)},
        {f"{MODE}.elements.1.{LEVELS}": span(40.00000001, 100)},
        f"{WHERE}.elements",
    ),
    Case(
        "FRBC-02",
        "FRBC.SystemDescription",
        {f"{MODE}.elements.1.{LEVELS}": span(39, 100)},
        {f"{MODE}.elements.1.{LEVELS}": span(0, 40), f"{MODE}.elements.0.{LEVELS}": span(40, 100)},
        f"{WHERE}.elements",
    ),
    Case(
        "FRBC-03",
        "FRBC.SystemDescription",
        {f"{MODE}.elements.1.{LEVELS}": span(40, 99)},
        {f"{MODE}.elements.1.{LEVELS}": span(40, 120)},
        f"{WHERE}.elements",
    ),
    Case(
        "FRBC-03",
        "FRBC.SystemDescription",
        {f"{MODE}.elements.0.{LEVELS}": span(1, 40)},
        {f"{MODE}.elements.0.{LEVELS}": span(-1, 40)},
        f"{WHERE}.elements",
    ),
    Case(
        "FRBC-04",
        "FRBC.SystemDescription",
        {f"storage.{LEVELS}": span(100, 0)},
        {f"storage.{LEVELS}": span(50, 50)},
        f"storage.{LEVELS}",
    ),
    Case(
        "FRBC-05",
        "FRBC.LeakageBehaviour",
        {"elements": leaks((0, 10), (10, 10))},
        {"elements": leaks((0, 10))},
        f"elements[1].{LEVELS}",
    ),
    Case(
        "FRBC-06",
        "FRBC.LeakageBehaviour",
        {"elements": leaks((0, 10), (20, 30))},
        {"elements": leaks((0, 10), (20, 30), (10, 20))},
        "elements",
    ),
    Case(
        "FRBC-07",
        "FRBC.FillLevelTargetProfile",
        {f"elements.0.{LEVELS}": span(100, 80)},
        {f"elements.0.{LEVELS}": span(100, 100)},
        f"elements[0].{LEVELS}",
    ),
    Case(
        "COM-02",
        "FRBC.SystemDescription",
        {"actuators.0.transitions.1.id": "go"},
        {"actuators.0.transitions.1.id": "on"},
        "actuators[0].transitions[1]",
    ),
    Case(
        "COM-03",
        "FRBC.SystemDescription",
        {"actuators.0.transitions.0.to": "gone"},
        {"actuators.0.transitions.0.to": "off"},
        "actuators[0].transitions[0].to",
    ),
    Case(
        "COM-04",
        "FRBC.Instruction",
        {"operation_mode_factor": 2},
        {"operation_mode_factor": 0},
        "operation_mode_factor",
    ),
    Case(
        "COM-05",
        "FRBC.ActuatorStatus",
        {"operation_mode_factor": -1},
        {"operation_mode_factor": 0},
        "operation_mode_factor",
    ),
    Case(
        "COM-06",
        "FRBC.SystemDescription",
        {f"{MODE}.elements.0.power_ranges.1": span(0, 1) | {"commodity_quantity": "ELECTRIC.POWER.L1"}},
        {f"{MODE}.elements.0.power_ranges.1": span(0, 1) | {"commodity_quantity": "ELECTRIC.POWER.L3"}},
        f"{WHERE}.elements[0].power_ranges[1]",
    ),
    Case(
        "COM-09",
        "FRBC.UsageForecast",
        {"elements.0.usage_rate_upper_limit": 0},
        {"elements.0.usage_rate_upper_limit": 80},
        "elements[0]",
    ),
    Case(
        "COM-10", "FRBC.UsageForecast", {"elements.0.duration": 0}, {"elements.0.duration": 1}, "elements[0].duration"
    ),
    Case(
        "COM-10",
        "FRBC.FillLevelTargetProfile",
        {"elements.0.duration": 0},
        {"elements.0.duration": 1},
        "elements[0].duration",
    ),
    Case(
        "COM-11",
        "FRBC.SystemDescription",
        {f"{MODE}.elements.0.running_costs": span(1, 0)},
        {f"{MODE}.elements.0.running_costs": span(-1, 0)},
        f"{WHERE}.elements[0].running_costs",
    ),
    Case(
        "COM-15",
        "FRBC.SystemDescription",
        {f"{MODE}.elements.0.power_ranges.0.commodity_quantity": "OIL.FLOW_RATE"},
        {
            f"{MODE}.elements.0.power_ranges.0.commodity_quantity": "OIL.FLOW_RATE",
            "actuators.0.supported_commodities.1": "OIL",
        },
        f"{WHERE}.elements[0].power_ranges[0]",
    ),
    Case(
        "COM-16",
        "FRBC.SystemDescription",
        {"actuators.0.supported_commodities.1": "ELECTRICITY"},
        {"actuators.0.supported_commodities.1": "HEAT"},
        "actuators[0].supported_commodities",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_message_breaks_the_rule_and_one_near_it_breaks_none(case: Case) -> None:
    found = check(build(case.message_type, case.breaks))
    assert [(one.rule.id, one.path) for one in found] == [(case.rule, case.path)]
    assert check(build(case.message_type, case.near)) == []


def test_every_rule_has_a_case() -> None:
    assert numbers("FRBC") <= {case.rule for case in CASES}


def test_two_actuators_may_use_the_same_names_for_their_modes_but_not_for_themselves() -> None:
    first = build("FRBC.SystemDescription").to_value()["actuators"][0]
    assert check(build("FRBC.SystemDescription", {"actuators": [first, first | {"id": "second"}]})) == []
    (found,) = check(build("FRBC.SystemDescription", {"actuators": [first, first]}))
    assert (found.rule.id, found.path) == ("COM-02", "actuators[1]")


def test_the_fill_rate_of_a_mode_may_descend_from_factor_0_to_factor_1() -> None:
    assert check(build("FRBC.SystemDescription", {f"{MODE}.elements.0.fill_rate": span(0, -5)})) == []


@pytest.mark.parametrize(("levels", "word"), [((41, 100), "gap"), ((39, 100), "overlap")])
def test_the_label_says_whether_there_is_a_gap_or_an_overlap(levels: tuple[float, float], word: str) -> None:
    (found,) = check(build("FRBC.SystemDescription", {f"{MODE}.elements.1.{LEVELS}": span(*levels)}))
    assert word in found.label
