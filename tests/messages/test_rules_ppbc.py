"""Rules about single messages of Power Profile Based Control."""

from __future__ import annotations

import pytest

from s2connect.messages.rules import check
from tests.messages.rule_examples import MISSING, NOON, Case, build, name, numbers

CONTAINERS = "power_sequences_containers"
ECO = f"{CONTAINERS}.0.power_sequences.0"
WHERE = f"{CONTAINERS}[0].power_sequences[0]"
STATUS = "sequence_container_status"

CASES = [
    Case(
        "PPBC-01",
        "PPBC.PowerProfileDefinition",
        {"end_time": NOON},
        {"end_time": "2026-05-04T12:40:00Z"},
        "end_time",
    ),
    Case(
        "PPBC-02",
        "PPBC.PowerProfileDefinition",
        {"end_time": "2026-05-04T12:39:59Z"},
        {"end_time": "2026-05-04T12:40:00Z"},
        "end_time",
    ),
    Case(
        "PPBC-03",
        "PPBC.PowerProfileStatus",
        {f"{STATUS}.0.progress": MISSING},
        {f"{STATUS}.0.progress": MISSING, f"{STATUS}.0.status": "FINISHED"},
        f"{STATUS}[0].progress",
    ),
    Case(
        "PPBC-03",
        "PPBC.PowerProfileStatus",
        {f"{STATUS}.0.status": "SCHEDULED"},
        {f"{STATUS}.0.status": "SCHEDULED", f"{STATUS}.0.progress": 0},
        f"{STATUS}[0].progress",
    ),
    Case(
        "PPBC-04",
        "PPBC.PowerProfileStatus",
        {f"{STATUS}.0.selected_sequence_id": MISSING},
        {f"{STATUS}.0.selected_sequence_id": "cold"},
        f"{STATUS}[0].selected_sequence_id",
    ),
    Case(
        "PPBC-04",
        "PPBC.PowerProfileStatus",
        {f"{STATUS}.1.selected_sequence_id": "eco"},
        {f"{STATUS}.1.selected_sequence_id": "eco", f"{STATUS}.1.status": "SCHEDULED"},
        f"{STATUS}[1].selected_sequence_id",
    ),
    Case(
        "PPBC-05",
        "PPBC.PowerProfileStatus",
        {f"{STATUS}.1.sequence_container_id": "wash"},
        {f"{STATUS}.1.sequence_container_id": "wash", f"{STATUS}.1.power_profile_id": "dishes"},
        f"{STATUS}[1]",
    ),
    Case(
        "COM-02",
        "PPBC.PowerProfileDefinition",
        {f"{CONTAINERS}.1.id": "wash"},
        {f"{CONTAINERS}.1.id": "eco"},
        f"{CONTAINERS}[1]",
    ),
    Case(
        "COM-02",
        "PPBC.PowerProfileDefinition",
        {f"{ECO}.id": "quick"},
        {f"{ECO}.id": "wash"},
        f"{CONTAINERS}[0].power_sequences[1]",
    ),
    Case(
        "COM-06",
        "PPBC.PowerProfileDefinition",
        {f"{ECO}.elements.0.power_values.1": {"value_expected": 1, "commodity_quantity": "ELECTRIC.POWER.L1"}},
        {f"{ECO}.elements.0.power_values.1": {"value_expected": 1, "commodity_quantity": "ELECTRIC.POWER.L2"}},
        f"{WHERE}.elements[0].power_values[1]",
    ),
    Case(
        "COM-09",
        "PPBC.PowerProfileDefinition",
        {f"{ECO}.elements.0.power_values.0.value_expected": 95},
        {f"{ECO}.elements.0.power_values.0.value_expected": 55},
        f"{WHERE}.elements[0].power_values[0]",
    ),
    Case(
        "COM-10",
        "PPBC.PowerProfileDefinition",
        {f"{ECO}.elements.0.duration": 0},
        {f"{ECO}.elements.0.duration": 1},
        f"{WHERE}.elements[0].duration",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_message_breaks_the_rule_and_one_near_it_breaks_none(case: Case) -> None:
    found = check(build(case.message_type, case.breaks))
    assert [(one.rule.id, one.path) for one in found] == [(case.rule, case.path)]
    assert check(build(case.message_type, case.near)) == []


def test_every_rule_has_a_case() -> None:
    assert numbers("PPBC") <= {case.rule for case in CASES}
