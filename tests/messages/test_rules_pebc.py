"""Rules about single messages of Power Envelope Based Control."""

from __future__ import annotations

from typing import Any

import pytest

from s2connect.messages.rules import check
from tests.messages.rule_examples import NIGHT, NOON, Case, build, name, numbers

L1, L2, SYMMETRIC = "ELECTRIC.POWER.L1", "ELECTRIC.POWER.L2", "ELECTRIC.POWER.3_PHASE_SYMMETRIC"
RANGES = "allowed_limit_ranges"
ENVELOPES = "power_envelopes"


def limit(kind: str, quantity: str = L1) -> dict[str, Any]:
    return {
        "commodity_quantity": quantity,
        "limit_type": kind,
        "range_boundary": {"start_of_range": 0, "end_of_range": 0},
        "abnormal_condition_only": False,
    }


def envelope(identifier: str, quantity: str) -> dict[str, Any]:
    element = {"duration": 1, "upper_limit": 0, "lower_limit": 0}
    return {"id": identifier, "commodity_quantity": quantity, "power_envelope_elements": [element]}


UPPER, LOWER = limit("UPPER_LIMIT"), limit("LOWER_LIMIT")
BOTH_L2 = [limit("UPPER_LIMIT", L2), limit("LOWER_LIMIT", L2)]
BOTH_SYMMETRIC = [limit("UPPER_LIMIT", SYMMETRIC), limit("LOWER_LIMIT", SYMMETRIC)]

CASES = [
    Case("PEBC-01", "PEBC.PowerConstraints", {RANGES: [UPPER, UPPER]}, {RANGES: [UPPER, LOWER]}, RANGES),
    Case("PEBC-01", "PEBC.PowerConstraints", {RANGES: [LOWER, LOWER]}, {RANGES: [LOWER, LOWER, UPPER]}, RANGES),
    Case(
        "PEBC-02",
        "PEBC.PowerConstraints",
        {RANGES: [UPPER, LOWER, limit("UPPER_LIMIT", L2)]},
        {RANGES: [UPPER, LOWER, *BOTH_L2]},
        RANGES,
    ),
    Case(
        "PEBC-03",
        "PEBC.PowerConstraints",
        {f"{RANGES}.1.range_boundary": {"start_of_range": 0, "end_of_range": -5000}},
        {f"{RANGES}.1.range_boundary": {"start_of_range": -5000, "end_of_range": -5000}},
        f"{RANGES}[1].range_boundary",
    ),
    Case(
        "PEBC-04",
        "PEBC.PowerConstraints",
        {"valid_until": "2026-05-04T13:59:59.999+02:00"},
        {"valid_until": "2026-05-04T14:00:00.001+02:00"},
        "valid_until",
    ),
    Case(
        "PEBC-04",
        "PEBC.EnergyConstraint",
        {"valid_from": "2026-05-04T22:00:01Z"},
        {"valid_from": "2026-05-04T21:59:59Z"},
        "valid_until",
    ),
    Case(
        "PEBC-08",
        "PEBC.PowerConstraints",
        {"valid_until": NOON},
        {"valid_until": "2026-05-04T14:00:00.001+02:00"},
        "valid_until",
    ),
    Case(
        "PEBC-08", "PEBC.EnergyConstraint", {"valid_from": NIGHT}, {"valid_from": "2026-05-04T21:59:59Z"}, "valid_until"
    ),
    Case(
        "PEBC-05",
        "PEBC.EnergyConstraint",
        {"upper_average_power": 999},
        {"upper_average_power": 1000},
        "upper_average_power",
    ),
    Case(
        "PEBC-06",
        "PEBC.Instruction",
        {f"{ENVELOPES}.1": envelope("cap-2", L1)},
        {f"{ENVELOPES}.1": envelope("cap-2", L2)},
        f"{ENVELOPES}[1]",
    ),
    Case(
        "PEBC-07",
        "PEBC.Instruction",
        {f"{ENVELOPES}.0.power_envelope_elements.0.upper_limit": -2501},
        {f"{ENVELOPES}.0.power_envelope_elements.0.upper_limit": -2500},
        f"{ENVELOPES}[0].power_envelope_elements[0]",
    ),
    Case(
        "COM-02",
        "PEBC.Instruction",
        {f"{ENVELOPES}.1": envelope("cap-1", L2)},
        {f"{ENVELOPES}.1": envelope("cap-2", L2)},
        f"{ENVELOPES}[1]",
    ),
    Case(
        "COM-07", "PEBC.PowerConstraints", {RANGES: [UPPER, LOWER, *BOTH_SYMMETRIC]}, {RANGES: BOTH_SYMMETRIC}, RANGES
    ),
    Case(
        "COM-07",
        "PEBC.Instruction",
        {f"{ENVELOPES}.1": envelope("cap-2", SYMMETRIC)},
        {ENVELOPES: [envelope("cap-2", SYMMETRIC)]},
        ENVELOPES,
    ),
    Case("COM-08", "PEBC.PowerConstraints", {RANGES: BOTH_L2}, {RANGES: [UPPER, LOWER, *BOTH_L2]}, RANGES),
    Case(
        "COM-10",
        "PEBC.Instruction",
        {f"{ENVELOPES}.0.power_envelope_elements.0.duration": 0},
        {f"{ENVELOPES}.0.power_envelope_elements.0.duration": 1},
        f"{ENVELOPES}[0].power_envelope_elements[0].duration",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_message_breaks_the_rule_and_one_near_it_breaks_none(case: Case) -> None:
    found = check(build(case.message_type, case.breaks))
    assert [(one.rule.id, one.path) for one in found] == [(case.rule, case.path)]
    assert check(build(case.message_type, case.near)) == []


def test_every_rule_has_a_case() -> None:
    assert numbers("PEBC") <= {case.rule for case in CASES}
