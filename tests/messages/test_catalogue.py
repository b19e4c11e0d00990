"""The typed messages against the schemas of S2 JSON: member by member, and by documents that they accept or refuse."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2connect.errors import UsageError
from s2connect.messages import ddbc, frbc, general, id_pattern, ombc, pebc, ppbc
from s2connect.messages.base import Duration, Id, S2Message, S2Object, Timestamp
from s2connect.messages.catalogue import BETA, MESSAGES, V1, data_model, parse, parse_message, written
from s2connect.messages.conversation import Conversation
from s2connect.messages.decoding import count_marks, decoded, plan
from s2connect.messages.envelope import MAX_VALUES, InvalidMessage, Message, ReceptionStatusValue, read_message
from s2connect.messages.identifiers import odd_ids
from s2connect.messages.schema import MAX_COLLECTED
from s2connect.model.strict_json import MalformedJson, read_json
from tests.messages import message_schemas
from tests.strategies import json_values

VERSIONS = (V1, BETA)
MODULES = {"": general, "PEBC.": pebc, "PPBC.": ppbc, "OMBC.": ombc, "FRBC.": frbc, "DDBC.": ddbc}
EVERY_MESSAGE = [(version, name) for version in VERSIONS for name in sorted(MESSAGES[version])]
ACTUATOR_STATUS = {
    "message_type": "FRBC.ActuatorStatus",
    "message_id": "m-1",
    "actuator_id": "a-1",
    "active_operation_mode_id": "o-1",
    "operation_mode_factor": 0.5,
}
FORECAST: dict[str, Any] = {
    "message_type": "PowerForecast",
    "message_id": "m-1",
    "start_time": "2026-01-01T12:00:00Z",
    "elements": [
        {"duration": 1000, "power_values": [{"value_expected": 1, "commodity_quantity": "ELECTRIC.POWER.L1"}]}
    ],
}


def refusal(text: str | bytes, version: str = V1) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        parse(text, version, strict=True)
    return caught.value


# Member by member


def form_of_schema(rules: dict[str, Any]) -> Any:
    """Return a schema in a form that can be compared. A reference is the name of what it refers to."""
    if "const" in rules:
        return ("const", rules["const"])
    if rules.get("x-name") == "ID":
        return "identifier"
    if rules.get("x-name") == "Duration":
        return "duration"
    if "x-name" in rules:
        return ("file", rules["x-name"])
    if rules["type"] == "array":
        return ("array", form_of_schema(rules["items"]), rules.get("minItems", 0), rules.get("maxItems"))
    if "format" in rules:
        return rules["format"]
    assert set(rules) == {"type"}, rules
    return rules["type"]


def members_of_schema(rules: dict[str, Any]) -> dict[str, tuple[Any, bool]]:
    assert set(rules) == {"properties", "required", "additionalProperties", "x-name"}
    assert rules["additionalProperties"] is False
    return {name: (form_of_schema(one), name in rules["required"]) for name, one in rules["properties"].items()}


def form_of_type(kind: Any) -> Any:
    if kind == Id:
        return "identifier"
    if kind == Duration:
        return "duration"
    if kind == Timestamp:
        return "date-time"
    if get_origin(kind) is Annotated:
        items, length = get_args(kind)
        assert get_origin(items) is list
        assert length == msgspec.Meta(min_length=length.min_length, max_length=length.max_length)
        return ("array", form_of_type(get_args(items)[0]), length.min_length, length.max_length)
    if issubclass(kind, StrEnum | S2Object):
        return ("file", wire_name(kind))
    return {str: "string", float: "number", bool: "boolean"}[kind]


def members_of_type(kind: type[S2Object]) -> dict[str, tuple[Any, bool]]:
    assert kind.__struct_config__.forbid_unknown_fields
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    if issubclass(kind, S2Message):
        assert kind.__struct_config__.tag_field == "message_type"
        found["message_type"] = (("const", kind.__struct_config__.tag), True)
    for field in msgspec.structs.fields(kind):
        hint, required = hints[field.name], field.required or field.name == "message_id"
        if NoneType in get_args(hint):
            (hint,) = (one for one in get_args(hint) if one is not NoneType)
            required = False
            assert field.default is None
        found[field.encode_name] = (form_of_type(hint), required)
    return found


def wire_name(kind: type) -> str:
    if kind is ReceptionStatusValue:
        return "ReceptionStatusValues"
    if kind is ddbc.BetaSystemDescription:
        return "DDBC.SystemDescription"
    return next(prefix for prefix, module in MODULES.items() if module.__name__ == kind.__module__) + kind.__name__


@cache
def types_of(version: str) -> dict[str, type]:
    """Objects and enumerations that messages of a data model are made of."""
    found: dict[str, type] = {}

    def look_at(kind: Any) -> None:
        for one in get_args(kind):
            look_at(one)
        if not isinstance(kind, type) or not issubclass(kind, StrEnum | S2Object):
            return
        assert found.setdefault(wire_name(kind), kind) is kind
        if issubclass(kind, S2Object):
            for name in kind.__struct_fields__:
                look_at(get_type_hints(kind, include_extras=True)[name])

    for message in MESSAGES[version].values():
        for name in message.__struct_fields__:
            look_at(get_type_hints(message, include_extras=True)[name])
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_message_and_every_type_of_the_schemas_has_a_class_and_no_other(version: str) -> None:
    assert sorted(MESSAGES[version]) == message_schemas.names(version, "messages")
    assert sorted([*types_of(version), "ID", "Duration"]) == message_schemas.names(version, "schemas")


@pytest.mark.rule("MSG-05")
@pytest.mark.parametrize(("version", "name"), EVERY_MESSAGE)
def test_a_message_has_the_members_of_its_schema(version: str, name: str) -> None:
    kind = MESSAGES[version][name]
    assert members_of_type(kind) == members_of_schema(message_schemas.schema(version, "messages", name))
    assert wire_name(kind) == name


@pytest.mark.rule("MSG-05")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_objects_and_enumerations_have_the_members_of_their_schemas(version: str) -> None:
    for name, kind in types_of(version).items():
        rules = message_schemas.schema(version, "schemas", name)
        if issubclass(kind, StrEnum):
            assert [str(value) for value in kind] and set(kind) == set(rules["enum"]), name  # noqa: PT018
        else:
            assert issubclass(kind, S2Object)
            assert members_of_type(kind) == members_of_schema(rules), name


@pytest.mark.rule("MSG-05")
@pytest.mark.parametrize("version", VERSIONS)
def test_identifiers_and_durations_are_those_of_the_schema(version: str) -> None:
    identifier = message_schemas.schema(version, "schemas", "ID")
    assert (identifier["type"], identifier["pattern"]) == ("string", id_pattern.ID_PATTERN)
    duration = message_schemas.schema(version, "schemas", "Duration")
    assert (duration["type"], duration["minimum"]) == ("integer", 0)


def test_attributes_are_spelled_as_on_the_wire_in_lower_case_but_for_misspellings() -> None:
    odd = {
        (wire_name(kind), attribute)
        for version in VERSIONS
        for kind in {**types_of(version), **MESSAGES[version]}.values()
        if issubclass(kind, S2Object)
        for attribute, on_wire in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
        if on_wire.lower() != attribute.rstrip("_")
    }
    assert odd == {("DDBC.ActuatorDescription", "supported_commodities")}


# What the schema accepts and refuses


@st.composite
def changed(draw: st.DrawFn, document: st.SearchStrategy[Any]) -> Any:
    """A document with one change somewhere in it, which may make it wrong or not."""
    whole = copy.deepcopy(draw(document))
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            if isinstance(inner, dict | list):
                collect(inner)

    collect(whole)
    holder, key = draw(st.sampled_from(places))
    old = holder[key]
    others = [one for place, name in places if (one := place[name]) is not old]
    match draw(st.sampled_from(["drop", "add", "replace", "null", "swap", "repeat", "empty", "number"])):
        case "drop":
            del holder[key]
        case "add" if isinstance(holder, dict):
            holder[draw(st.sampled_from(["x", "Id", "from_", "supported_commodities", key.upper(), f"{key} "]))] = old
        case "add" | "repeat":
            target = old if isinstance(old, list) else holder
            if isinstance(target, list):
                target.extend(copy.deepcopy(target) * draw(st.sampled_from([1, 4, 12, 300])))
        case "replace":
            holder[key] = draw(json_values)
        case "null":
            holder[key] = None
        case "swap" if others:
            holder[key] = copy.deepcopy(draw(st.sampled_from(others)))
        case "empty":
            holder[key] = draw(st.sampled_from(["", [], {}, 0, False]))
        case "number":
            holder[key] = draw(st.sampled_from([-1, 5.0, 5.5, 1e300, 10**30, True, "5", -0.0, 0.0]))
    return whole


def examples(number: int) -> Any:
    checks = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
    return settings(max_examples=number, deadline=None, database=None, suppress_health_check=checks)


def check_accepted(version: str, name: str, document: Any) -> None:
    message = parse(json.dumps(document), version)
    assert type(message) is MESSAGES[version][name]
    assert message_schemas.validator(version, name)(message.to_value())
    again = parse(message.to_json(), version)
    assert again == message
    assert again.to_json() == message.to_json()
    assert json.loads(message.to_json()) == message.to_value()
    assert same_but_for_spelling(message.to_value(), document)


def same_but_for_spelling(ours: Any, theirs: Any) -> bool:
    """Return whether two JSON values are equal, but for time stamps of the same moment."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same_but_for_spelling(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same_but_for_spelling, ours, theirs))
    if isinstance(ours, str) and ours != theirs:
        return moment(ours) == moment(theirs)
    return bool(ours == theirs)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.upper())


def check_agreement(version: str, name: str, document: Any) -> None:
    accepted = message_schemas.validator(version, name)(document)
    label = None
    try:
        parse(json.dumps(document), version, strict=True)
    except InvalidMessage as refused:
        label = refused.label
    if label != f"more than {MAX_VALUES} values":  # which a schema does not count
        assert (label is None) is accepted, document


@pytest.mark.rule("MSG-05")
@pytest.mark.parametrize(("version", "name"), EVERY_MESSAGE)
@examples(4)
@given(st.data())
def test_a_document_that_the_schema_accepts_is_accepted_and_written_back(
    version: str, name: str, data: st.DataObject
) -> None:
    check_accepted(version, name, data.draw(message_schemas.documents(version, name)))


@pytest.mark.rule("MSG-05", "MSG-03")
@pytest.mark.parametrize(("version", "name"), EVERY_MESSAGE)
@examples(8)
@given(st.data())
def test_a_changed_document_is_accepted_where_the_schema_accepts_it_and_refused_where_not(
    version: str, name: str, data: st.DataObject
) -> None:
    check_agreement(version, name, data.draw(changed(message_schemas.documents(version, name))))


@pytest.mark.long
@pytest.mark.rule("MSG-05", "MSG-03")
@pytest.mark.parametrize(("version", "name"), EVERY_MESSAGE)
@examples(150)
@given(st.data())
def test_many_changed_documents_are_validated_as_the_schema_does(version: str, name: str, data: st.DataObject) -> None:
    check_agreement(version, name, data.draw(changed(message_schemas.documents(version, name))))


@pytest.mark.parametrize(
    "members",
    [
        {"operation_mode_factor": "0.5"},
        {"operation_mode_factor": True},
        {"operation_mode_factor": None},
        {"active_operation_mode_id": 7},
        {"active_operation_mode_id": "x"},
        {"active_operation_mode_id": "é ! "},
        {"previous_operation_mode_id": None},
        {"transition_timestamp": "2026-01-01"},
        {"transition_timestamp": "2026-01-01T12:00:00"},
        {"transition_timestamp": "2026-01-01 12:00:00Z"},
        {"transition_timestamp": "2026-01-01T12:00:00+0530"},
        {"transition_timestamp": "2026-01-01T12:00:00+0000"},
        {"transition_timestamp": "2026-01-01 12:00:00Z", "actuator_id": '"transition_timestamp"'},
        {"transition_timestamp": "2026-01-01 12:00:00Z", "actuator_id": "transition_timestamp"},
        {"transition_timestamp": "1767268800"},
        {"transition_timestamp": 1767268800},
        {"transition_timestamp": "2026-02-30T12:00:00Z"},
        {"transition_timestamp": "2026-12-31T23:59:60Z"},
        {"Actuator_id": "a-1"},
        {"x": None},
    ],
)
@pytest.mark.rule("MSG-03", "MSG-05")
def test_what_is_not_of_its_schema_is_an_invalid_message_about_its_id(members: dict[str, Any]) -> None:
    refused = refusal(json.dumps(ACTUATOR_STATUS | members))
    assert (refused.status, refused.subject_id, refused.answerable) == ("INVALID_MESSAGE", "m-1", True)


@pytest.mark.rule("MSG-05")
def test_a_time_is_found_by_its_name_and_not_by_a_text_that_is_the_same() -> None:
    moment = {"transition_timestamp": "2026-01-01T12:00:00+05:30", "actuator_id": "transition_timestamp"}
    for text in (json.dumps(ACTUATOR_STATUS | moment), json.dumps(moment | ACTUATOR_STATUS, indent=1)):
        assert parse(text, strict=True).to_value()["transition_timestamp"] == "2026-01-01T12:00:00+05:30"


@pytest.mark.parametrize("loose", ["a b-1", "has-more after it!", "x" * 65])
@pytest.mark.rule("MSG-05")
def test_an_identifier_is_as_loose_as_the_schema(loose: str) -> None:
    assert parse(json.dumps(ACTUATOR_STATUS | {"actuator_id": loose})).to_value()["actuator_id"] == loose
    assert parse(json.dumps(ACTUATOR_STATUS | {"message_id": loose})).to_value()["message_id"] == loose


def with_duration(spelling: str) -> str:
    return json.dumps(FORECAST).replace("1000", spelling)


@pytest.mark.parametrize("whole", ["0", "5", "5.0", "5e3", "1E2", "9007199254740993", "1" + "0" * 30])
@pytest.mark.rule("MSG-05")
def test_a_duration_is_a_whole_number_in_any_spelling(whole: str) -> None:
    message = parse(with_duration(whole))
    assert isinstance(message, general.PowerForecast)
    assert message.elements[0].duration == (int(whole) if whole.isdigit() else float(whole))
    assert type(message.elements[0].duration) is int


@pytest.mark.parametrize("wrong", ["-1", "-5.0", "5.5", "true", '"5"', "null", "1e-3"])
@pytest.mark.rule("MSG-05", "MSG-03")
def test_what_is_no_duration_is_refused_with_a_label_that_says_where(wrong: str) -> None:
    refused = refusal(with_duration(wrong))
    assert refused.status == "INVALID_MESSAGE"
    null = wrong == "null"
    assert refused.label == "elements[0].duration: " + (
        "is null, which no member may be"
        if null
        else f"{json.dumps(json.loads(wrong))}; a duration is a whole number of milliseconds, at least 0"
    )


@pytest.mark.rule("MSG-03", "SEC-04")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e999"])
def test_a_number_that_is_no_number_is_invalid_data(number: str) -> None:
    refused = refusal(json.dumps(ACTUATOR_STATUS).replace("0.5", number))
    assert (refused.status, refused.subject_id) == ("INVALID_DATA", "00000000-0000-0000-0000-000000000000")


@pytest.mark.rule("MSG-03")
def test_a_type_that_the_data_model_does_not_have_is_an_invalid_message() -> None:
    demand = json.dumps(
        {
            "message_type": "DDBC.PresentDemandStatus",
            "message_id": "m-1",
            "present_demand_rate": {"start_of_range": 0, "end_of_range": 1},
        }
    )
    assert parse(demand).message_type == "DDBC.PresentDemandStatus"
    assert refusal(demand, BETA).status == refusal(demand.replace("Status", "x")).status == "INVALID_MESSAGE"
    assert refusal(demand.replace("Status", "x").replace("}}", "}}}")).status == "INVALID_DATA"
    assert refusal(demand.replace("Status", 'x","a":1,"a":"')).status == "INVALID_DATA"


@pytest.mark.rule("VER-06")
def test_a_data_model_has_several_spellings_and_others_are_unknown() -> None:
    assert data_model("1.0.0") == data_model("v1.0.0") == V1
    assert data_model("v0.0.2-beta") == data_model("0.0.2-beta") == BETA
    assert parse(json.dumps(ACTUATOR_STATUS), "1.0.0") == parse(json.dumps(ACTUATOR_STATUS), BETA)
    with pytest.raises(UsageError, match=r"S2 JSON 2 is unknown here; known are v1\.0\.0, 0\.0\.2-beta"):
        parse(json.dumps(ACTUATOR_STATUS), "2")


@pytest.mark.rule("MSG-03", "SEC-04")
def test_bytes_are_read_as_utf_8_and_nothing_else() -> None:
    text = json.dumps(ACTUATOR_STATUS | {"actuator_id": "hôtel-1"}, ensure_ascii=False)
    assert parse(text.encode()) == parse(text)
    for wrong in (text.encode("latin-1"), text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode()):
        assert refusal(wrong).status == "INVALID_DATA"


@pytest.mark.rule("MSG-03")
def test_a_broken_reception_status_is_not_to_be_answered() -> None:
    status = {"message_type": "ReceptionStatus", "subject_message_id": "m-1", "status": "OK"}
    assert parse(json.dumps(status)) == general.ReceptionStatus(
        subject_message_id="m-1", status=ReceptionStatusValue.OK
    )
    for members in ({"status": "FINE"}, {"message_id": "m-2"}, {"status": None}, {"subject_message_id": "x"}):
        refused = refusal(json.dumps(status | members))
        assert (refused.status, refused.answerable) == ("INVALID_MESSAGE", False)


# Labels


@pytest.mark.rule("MSG-03")
def test_a_label_names_places_values_and_what_is_allowed() -> None:
    wrong = ACTUATOR_STATUS | {"operation_mode_factor": "\x1bfull", "\x1b[31mevil": "secret", "actuator_id": 1, "z": 1}
    label = refusal(json.dumps(wrong)).label
    assert label == (
        'actuator_id: 1; a text is expected; operation_mode_factor: "full"; a number is expected; '
        "[31mevil: is no member of it; and 1 more"
    )
    missing = {"message_type": "FRBC.ActuatorStatus", "message_id": "m-1"}
    assert refusal(json.dumps(missing)).label.startswith("actuator_id: is missing; ")
    assert refusal(json.dumps(FORECAST).replace("L1", "L9")).label == (
        'elements[0].power_values[0].commodity_quantity: "ELECTRIC.POWER.L9"; allowed are ELECTRIC.POWER.L1, '
        "ELECTRIC.POWER.L2, ELECTRIC.POWER.L3, ELECTRIC.POWER.3_PHASE_SYMMETRIC, …"
    )


@pytest.mark.rule("SEC-03", "SEC-04")
def test_many_problems_are_counted_and_not_listed_and_more_values_than_a_message_may_have_are_not_looked_at() -> None:
    wrong = {f"x{number}": 1 for number in range(20_000)}
    assert refusal(json.dumps(ACTUATOR_STATUS | wrong)).label == "20000 departures from the schema"
    few = {f"x{number}": 1 for number in range(MAX_COLLECTED)}
    assert refusal(json.dumps(ACTUATOR_STATUS | few)).label.endswith("and 997 more")
    refused = refusal(json.dumps(ACTUATOR_STATUS | {f"x{number}": 1 for number in range(MAX_VALUES)}))
    assert (refused.status, refused.subject_id) == ("INVALID_MESSAGE", ACTUATOR_STATUS["message_id"])
    assert refused.label == f"more than {MAX_VALUES} values"


@pytest.mark.rule("SEC-03")
@pytest.mark.parametrize(
    "element",
    [
        {"duration": -1, "power_values": []},
        {"duration": 1, "power_values": [{}]},
        {"duration": 1, "power_values": [FORECAST["elements"][0]["power_values"][0], {"value_expected": "x"}]},
        [],
    ],
)
def test_the_first_faulty_element_ends_the_validation(element: Any) -> None:
    label = refusal(json.dumps(FORECAST | {"elements": [*FORECAST["elements"], *[element] * 200]})).label
    place = f"elements[{len(FORECAST['elements'])}]"
    assert label.count("elements[") == label.count(place) > 0


# Each member once


@st.composite
def oddly_spelled(draw: st.DrawFn, value: Any) -> str:
    """JSON of a value: with any white space, perhaps with escapes, perhaps with a member that occurs twice."""

    def space() -> str:
        return draw(st.sampled_from(["", "", "", " ", "\n\t"]))

    def spelled(one: Any) -> str:
        if isinstance(one, dict):
            members = [(name, inner) for name, inner in one.items()]
            if members and draw(st.integers(0, 5)) == 0:
                again = draw(st.sampled_from(members))
                members.insert(draw(st.integers(0, len(members))), (again[0], draw(st.just(again[1]) | json_values)))
            inside = ",".join(
                f"{space()}{spelled(name)}{space()}:{space()}{spelled(inner)}{space()}" for name, inner in members
            )
            return "{" + inside + "}"
        if isinstance(one, list):
            return "[" + ",".join(map(spelled, one)) + space() + "]"
        text = json.dumps(one, ensure_ascii=draw(st.booleans()))
        if isinstance(one, str) and one and draw(st.integers(0, 9)) == 0:
            text = f'"\\u{ord(one[0]):04x}{text[2:]}' if text[1] != "\\" and ord(one[0]) < 0xD800 else text
        return text

    return spelled(value)


def is_strict_json(text: str) -> bool:
    try:
        read_json(text)
    except MalformedJson:
        return False
    return True


@pytest.mark.rule("SEC-04", "MSG-03")
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_member_that_occurs_twice_is_invalid_data_in_any_spelling(data: st.DataObject) -> None:
    version, name = data.draw(st.sampled_from(EVERY_MESSAGE))
    document = data.draw(message_schemas.documents(version, name))
    text = data.draw(oddly_spelled(document))
    if is_strict_json(text):
        parse(text, version)
    else:
        assert refusal(text, version).status == "INVALID_DATA" or name == "ReceptionStatus"


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_valid_text_is_not_read_twice(data: st.DataObject) -> None:
    version, name = data.draw(st.sampled_from(EVERY_MESSAGE))
    text = json.dumps(
        data.draw(message_schemas.documents(version, name)), indent=1, ensure_ascii=data.draw(st.booleans())
    )
    parsed = parse(text, version)
    assert count_marks(parsed, plan(type(parsed))[1]) == 2 * len(re.findall(r'"(?:[^"\\]|\\.)*"', text))
    if not re.search(
        r"[0-9]\.0\b", text
    ):  # a duration may be a number with a fraction, which only the second reading takes
        assert decoded(text, msgspec.json.Decoder(type(parsed)).decode) == parsed


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.rule("MSG-05")
def test_every_odd_identifier_of_a_message_is_found(data: st.DataObject) -> None:
    version, name = data.draw(st.sampled_from(EVERY_MESSAGE))
    parsed = parse(json.dumps(data.draw(message_schemas.documents(version, name))), version)
    odd = {one for one in identifiers_in(parsed) if not id_pattern.is_whole_id(one)}
    assert set(odd_ids(parsed)) == odd
    assert set(odd_ids(parsed)) == odd, "what is remembered changes nothing"


def identifiers_in(thing: S2Object) -> Iterator[str]:
    """All identifiers in an object, by the types of its members."""
    for name, hint in get_type_hints(type(thing), include_extras=True).items():
        value: Any = getattr(thing, name, None)
        if hint in (Id, Id | None) and value is not None:
            yield value
        for entry in value if isinstance(value, list) else [value]:
            if get_args(get_args(hint)[0] if get_args(hint) else None) == (Id,):
                yield entry
            elif isinstance(entry, S2Object):
                yield from identifiers_in(entry)


@pytest.mark.parametrize(
    "twice",
    [
        '{"operation_mode_factor":0.5,',
        '{"operation_mode_factor" : 0.5,',
        '{"operation_mode_factor":NaN,',
        '{"operation_mode_factor":{"a":[1,2]},',
        '{"\\u006fperation_mode_factor":0.5,',
        '{"actuator_id":"::",',
        '{"message_id":"m-2",',
        '{"message_type":"FRBC.ActuatorStatus",',
    ],
)
@pytest.mark.rule("SEC-04", "MSG-03")
def test_a_member_cannot_be_hidden_behind_its_second_occurrence(twice: str) -> None:
    text = json.dumps(ACTUATOR_STATUS).replace("{", twice)
    refused = refusal(text)
    assert (refused.status, refused.subject_id) == ("INVALID_DATA", "00000000-0000-0000-0000-000000000000")


@pytest.mark.rule("SEC-04", "MSG-03", "MSG-05")
@pytest.mark.parametrize("more", ["", ',"control_type":"NO_SELECTION"', ',"a":null,"b":null', ',"message_id":null'])
def test_a_missing_message_id_is_not_made_up_for_a_received_text(more: str) -> None:
    refused = refusal('{"message_type":"SelectControlType","control_type":"NO_SELECTION"' + more + "}")
    assert (refused.status, refused.subject_id) == ("INVALID_DATA", "00000000-0000-0000-0000-000000000000")
    with pytest.raises(InvalidMessage):
        Conversation(V1).read(
            '{"message_type":"SessionRequest","request":"TERMINATE"' + more.replace("control_type", "request") + "}"
        )


def test_times_are_members_of_messages_only() -> None:
    for version in VERSIONS:
        for kind in types_of(version).values():
            if issubclass(kind, S2Object):
                hints = get_type_hints(kind, include_extras=True)
                assert not {Timestamp, Timestamp | None} & {hints[name] for name in kind.__struct_fields__}


def test_the_parsed_message_and_the_body_are_of_the_same_text() -> None:
    envelope = read_message(json.dumps(ACTUATOR_STATUS))
    assert isinstance(envelope, Message)
    assert parse_message(envelope).to_value() == envelope.body == ACTUATOR_STATUS


# In Python


@pytest.mark.rule("MSG-05")
@pytest.mark.parametrize(
    "members", [{"id": "."}, {"from_": "a.b"}, {"to": ""}, {"start_timers": ["t-1", "é"]}, {"blocking_timers": ["x"]}]
)
def test_no_odd_identifier_is_built_or_written(members: dict[str, Any]) -> None:
    good: dict[str, Any] = {"id": "w-1", "from_": "o-1", "to": "o-2", "start_timers": [], "blocking_timers": []}
    good["abnormal_condition_only"] = False
    with pytest.raises(UsageError, match="2 to 64 letters"):
        general.Transition(**good | members)
    raw = msgspec.convert({name.rstrip("_"): value for name, value in (good | members).items()}, general.Transition)
    mode = ombc.OperationMode(
        id="o-1",
        power_ranges=[
            general.PowerRange(start_of_range=0, end_of_range=1, commodity_quantity="ELECTRIC.POWER.L1")  # type: ignore[arg-type]
        ],
        abnormal_condition_only=False,
    )
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    described = ombc.SystemDescription(valid_from=moment, operation_modes=[mode], transitions=[raw], timers=[])
    with pytest.raises(UsageError, match="2 to 64 letters"):
        written(described)
    with pytest.raises(UsageError, match="2 to 64 letters"):
        ombc.SystemDescription(
            valid_from=moment,
            operation_modes=[mode],
            transitions=[{name.rstrip("_"): value for name, value in (good | members).items()}],  # type: ignore[list-item]
            timers=[],
        )


def test_currencies_are_named_by_their_codes() -> None:
    assert all(currency.name == currency.value for currency in general.Currency)


def test_messages_are_built_by_name_checked_and_immutable() -> None:
    status = frbc.ActuatorStatus(actuator_id="a-1", active_operation_mode_id="o-1", operation_mode_factor=1)
    assert parse(status.to_json()) == status
    assert len(status.message_id) == 36
    assert "null" not in status.to_json()
    with pytest.raises(AttributeError):
        status.actuator_id = "a-2"  # type: ignore[misc]
    for wrong in (
        {"operation_mode_factor": float("nan")},
        {"operation_mode_factor": "1"},
        {"actuator_id": "x"},
        {"actuator_id": "a-\ud800"},
        {"actuator_id": b"a-1"},
        {"y": 1},
        {"transition_timestamp": datetime(2026, 1, 1)},
    ):
        with pytest.raises(UsageError):
            status.replace(**wrong)
    with pytest.raises(UsageError, match=r"^This is no ActuatorStatus: actuator_id: is missing; active_operation_mode"):
        frbc.ActuatorStatus(operation_mode_factor=1)  # type: ignore[call-arg]
    assert status.replace(actuator_id="a-2") == frbc.ActuatorStatus(
        message_id=status.message_id, actuator_id="a-2", active_operation_mode_id="o-1", operation_mode_factor=1
    )
    assert copy.deepcopy(status) == pickle.loads(pickle.dumps(status)) == status


def test_misspellings_of_the_wire_are_on_the_wire_only() -> None:
    mode = ddbc.OperationMode(
        id="o-1",
        power_ranges=[
            general.PowerRange(
                start_of_range=0, end_of_range=1, commodity_quantity=general.CommodityQuantity.ELECTRIC_POWER_L1
            )
        ],
        supply_range=general.NumberRange(start_of_range=0, end_of_range=1),
        abnormal_condition_only=False,
    )
    actuator = ddbc.ActuatorDescription(
        id="a-1", supported_commodities=[general.Commodity.HEAT], operation_modes=[mode], transitions=[], timers=[]
    )
    wire = actuator.to_value()
    assert wire["supported_commodites"] == ["HEAT"]
    assert wire["operation_modes"][0]["Id"] == "o-1"
    choice = general.SelectControlType(control_type=general.ControlType.NOT_CONTROLLABLE)
    assert choice.to_value()["control_type"] == "NOT_CONTROLABLE"
