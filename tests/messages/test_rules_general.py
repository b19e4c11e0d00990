"""Rules about single messages that control types share, and what holds of all checks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.messages.catalogue import BETA, MESSAGES, V1, parse
from s2connect.messages.rules import RULES, Severity, check
from s2connect.messages.rules.base import MAX_FINDINGS_PER_RULE, MAX_LABEL_LENGTH, Finding, with_value
from tests.messages.message_schemas import documents, names
from tests.messages.rule_examples import MISSING, TEMPLATES, Case, broken, build, name, numbers

L1, L2, L3 = "ELECTRIC.POWER.L1", "ELECTRIC.POWER.L2", "ELECTRIC.POWER.L3"
SYMMETRIC = "ELECTRIC.POWER.3_PHASE_SYMMETRIC"


def power(quantity: str) -> dict[str, Any]:
    return {"start_of_range": 0, "end_of_range": 1, "commodity_quantity": quantity}


def value(quantity: str) -> dict[str, Any]:
    return {"value": 1, "commodity_quantity": quantity}


def expected(quantity: str) -> dict[str, Any]:
    return {"value_expected": 1, "commodity_quantity": quantity}


CASES = [
    Case(
        "COM-01", "InstructionStatusUpdate", {"instruction_id": "ab c"}, {"instruction_id": "a_b:c"}, "instruction_id"
    ),
    Case("COM-01", "RevokeObject", {"object_id": "x" * 65}, {"object_id": "x" * 64}, "object_id"),
    Case("COM-01", "ResourceManagerDetails", {"resource_id": "id\n"}, {"resource_id": "id"}, "resource_id"),
    Case("COM-06", "PowerMeasurement", {"values.1": value(L1)}, {"values.1": value(L2)}, "values[1]"),
    Case(
        "COM-06",
        "PowerForecast",
        {"elements.0.power_values.1": expected(L1)},
        {"elements.0.power_values.1": expected("HEAT.THERMAL_POWER")},
        "elements[0].power_values[1]",
    ),
    Case(
        "COM-07",
        "PowerMeasurement",
        {"values.1": value(SYMMETRIC)},
        {"values": [value(L1), value(L2), value(L3)]},
        "values",
    ),
    Case("COM-08", "PowerMeasurement", {"values": [value(L2)]}, {"values": [value(L2), value(L3)]}, "values"),
    Case(
        "COM-08",
        "PowerForecast",
        {"elements.0.power_values": [expected(L3), expected("HEAT.THERMAL_POWER")]},
        {"elements.0.power_values": [expected(L1), expected("HEAT.THERMAL_POWER")]},
        "elements[0].power_values",
    ),
    Case(
        "COM-08",
        "ResourceManagerDetails",
        {"provides_power_measurement_types": [L3]},
        {"provides_power_measurement_types": [L1, L2, L3, SYMMETRIC]},
        "provides_power_measurement_types",
    ),
    Case(
        "COM-09",
        "PowerForecast",
        {"elements.0.power_values.0.value_lower_68PPR": 61},
        {"elements.0.power_values.0.value_lower_68PPR": 60},
        "elements[0].power_values[0]",
    ),
    Case(
        "COM-09",
        "PowerForecast",
        {"elements.0.power_values.0.value_upper_68PPR": MISSING, "elements.0.power_values.0.value_upper_95PPR": 59},
        {"elements.0.power_values.0.value_upper_68PPR": MISSING, "elements.0.power_values.0.value_upper_95PPR": 60},
        "elements[0].power_values[0]",
    ),
    Case("COM-10", "PowerForecast", {"elements.0.duration": 0}, {"elements.0.duration": 1}, "elements[0].duration"),
    Case(
        "COM-16",
        "ResourceManagerDetails",
        {"available_control_types": ["FILL_RATE_BASED_CONTROL", "FILL_RATE_BASED_CONTROL"]},
        {"available_control_types": ["FILL_RATE_BASED_CONTROL", "NOT_CONTROLABLE"]},
        "available_control_types",
    ),
    Case(
        "COM-16",
        "ResourceManagerDetails",
        {"provides_power_measurement_types.1": L1},
        {"provides_power_measurement_types.1": L2},
        "provides_power_measurement_types",
    ),
    Case(
        "COM-17",
        "ResourceManagerDetails",
        {"roles.1": {"role": "ENERGY_CONSUMER", "commodity": "ELECTRICITY"}},
        {"roles.1": {"role": "ENERGY_CONSUMER", "commodity": "HEAT"}},
        "roles",
    ),
    Case(
        "COM-18",
        "ResourceManagerDetails",
        {"available_control_types": ["NO_SELECTION"]},
        {"available_control_types": ["NOT_CONTROLABLE"]},
        "available_control_types",
    ),
    Case(
        "COM-19",
        "Handshake",
        {"supported_protocol_versions": MISSING},
        {"supported_protocol_versions": MISSING, "role": "CEM"},
        "supported_protocol_versions",
    ),
]

ELSEWHERE = {"COM-02", "COM-03", "COM-04", "COM-05", "COM-11", "COM-12", "COM-13", "COM-14", "COM-15"}
"""Rules about operation modes, whose cases are with OMBC, FRBC and DDBC."""


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_message_breaks_the_rule_and_one_near_it_breaks_none(case: Case) -> None:
    found = check(build(case.message_type, case.breaks))
    assert [(one.rule.id, one.path) for one in found] == [(case.rule, case.path)]
    assert check(build(case.message_type, case.near)) == []


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} | ELSEWHERE == numbers("COM")
    assert {number.rstrip("0123456789") for number in RULES} == {
        "COM-",
        "PEBC-",
        "PPBC-",
        "FRBC-",
        "DDBC-",
        "HIST-",
        "READ-",
    }


@pytest.mark.parametrize(("version", "message_type"), [(v, t) for v in sorted(MESSAGES) for t in sorted(MESSAGES[v])])
def test_a_message_without_fault_breaks_no_rule(version: str, message_type: str) -> None:
    assert check(build(message_type, version=version)) == []


@pytest.mark.parametrize("version", sorted(MESSAGES))
def test_there_is_a_message_of_each_type(version: str) -> None:
    assert set(MESSAGES[version]) <= set(TEMPLATES)


@pytest.mark.rule("MSG-05")
@pytest.mark.parametrize("message_type", sorted(TEMPLATES.keys() - {"ReceptionStatus"}))
def test_every_identifier_of_a_message_is_looked_at(message_type: str) -> None:
    def paths(value: Any, path: str = "") -> list[str]:
        if isinstance(value, dict):
            named = [(f"{path}{key}", key, one) for key, one in value.items()]
            ids = [place for place, key, one in named if _is_id(key) and isinstance(one, str)]
            return ids + [found for place, _, one in named for found in paths(one, f"{place}.")]
        if isinstance(value, list):
            return [found for index, one in enumerate(value) for found in paths(one, f"{path}{index}.")]
        return []

    for path in paths(TEMPLATES[message_type]):
        found = check(build(message_type, {path: "no id!"}))
        assert "COM-01" in broken(found), path


def _is_id(key: str) -> bool:
    return key in ("id", "Id", "from", "to", "operation_mode") or key.endswith("_id")


def test_a_warning_is_no_error_and_each_rule_says_which() -> None:
    assert {rule.severity for rule in RULES.values()} == {Severity.ERROR, Severity.WARNING}
    assert RULES["COM-06"].severity is Severity.ERROR
    assert RULES["COM-09"].severity is Severity.WARNING


TOLERATED = {
    "COM-09": "the walkthroughs of photovoltaics and of a device without control exchange upper and lower",
    "COM-10": "the walkthrough of the heat pump has a forecast of 0 ms",
    "COM-18": "FlexMeasures describes devices that offer NO_SELECTION",
    "HIST-02": "s2-python's example of an energy manager selects as soon as it has the handshake",
    "HIST-18": "after a reconnect devices report about instructions of the session before",
    "HIST-28": "after a reconnect devices report about power profiles of the session before",
    "HIST-29": "devices end what was instructed as soon as nothing is selected any more",
    "READ-01": "Victron's nodes write null where a validity has no end",
    "HIST-10": "FlexMeasures describes devices with two modes and no transition",
    "HIST-19": "FlexMeasures, and the battery of s2-example-implementations, name the message",
    "PEBC-03": "the photovoltaics of s2-example-implementations have ranges from 0 down to a negative number",
    "PPBC-03": "s2-python has no progress in milliseconds, so it is left out",
}
"""Rules that software in use, or the standard's examples, break without harm."""


@pytest.mark.parametrize("number", TOLERATED)
def test_what_others_are_known_to_do_is_not_refused(number: str) -> None:
    assert RULES[number].severity is Severity.WARNING


def test_the_label_says_number_place_and_what_is_wrong() -> None:
    (found,) = check(build("PowerMeasurement", {"values.1": value(L1)}))
    assert found.label == "COM-06: values[1]: the list has this quantity already"
    assert found._replace(path="").label == "COM-06: the list has this quantity already"


def test_a_long_label_is_cut() -> None:
    label = Finding(RULES["COM-01"], "x" * 300, "wrong").label
    assert len(label) == MAX_LABEL_LENGTH
    assert label.endswith("…")


def test_a_label_can_show_the_value_cut_and_fit_for_a_terminal() -> None:
    message = build("RevokeObject", {"object_id": "odd\u202e stuff" + "x" * 500})
    (found,) = check(message)
    assert "odd" not in found.label
    shown = with_value(found, message.to_value())
    assert shown.startswith('COM-01: object_id: "odd stuff')
    assert shown.isprintable()
    assert len(shown) <= MAX_LABEL_LENGTH
    for path in ("", "nowhere", "object_id[0]", "object_id.x"):
        other = found._replace(path=path)
        assert with_value(other, message.to_value()) == other.label


def test_places_beyond_the_first_of_one_rule_hide_no_other_rule() -> None:
    element = {"duration": 0, "power_values": [expected(L1)]}
    elements = [element] * (MAX_FINDINGS_PER_RULE + 5) + [{"duration": 1, "power_values": [expected(L1)] * 2}]
    found = check(build("PowerForecast", {"elements": elements}))
    assert [one.rule.id for one in found] == ["COM-10"] * MAX_FINDINGS_PER_RULE + ["COM-06"]


@pytest.mark.parametrize("version", [V1, BETA])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_check_takes_every_message_of_the_data_model(version: str, data: st.DataObject) -> None:
    message_type = data.draw(st.sampled_from(names(version, "messages")))
    message = parse(json.dumps(data.draw(documents(version, message_type))), version)
    for found in check(message):
        assert len(found.label) <= MAX_LABEL_LENGTH
        assert found.label.isprintable()
        assert RULES[found.rule.id] is found.rule
