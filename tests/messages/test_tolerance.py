"""Tolerated deviations of deployed software, and refused ones: from raw JSON (MSG-08)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2connect.errors import UsageError
from s2connect.messages import frbc, general
from s2connect.messages.catalogue import BETA, MESSAGES, V1, parse, read_typed
from s2connect.messages.conversation import Conversation, ValidationResult
from s2connect.messages.envelope import NIL_ID, InvalidMessage, read_message
from s2connect.model.common import Role
from tests.messages import message_schemas

CEM, RM = Role.CEM, Role.RM
NOW = datetime(2026, 5, 4, 12, 1, tzinfo=UTC)

STATUS = """{"message_type": "FRBC.ActuatorStatus", "message_id": "m-1", "actuator_id": "charger",
 "active_operation_mode_id": "on", "operation_mode_factor": 0.5, "transition_timestamp": %s}"""
DETAILS = """{"message_type": "ResourceManagerDetails", "message_id": "%s", "resource_id": "cellar",
 "roles": [{"role": "ENERGY_STORAGE", "commodity": "ELECTRICITY"}], "instruction_processing_delay": 0,
 "available_control_types": ["FILL_RATE_BASED_CONTROL", "POWER_ENVELOPE_BASED_CONTROL",
 "POWER_PROFILE_BASED_CONTROL"], "provides_forecast": false,
 "provides_power_measurement_types": ["ELECTRIC.POWER.L1"]}"""
SELECT = '{"message_type": "SelectControlType", "message_id": "%s", "control_type": "%s"}'
DESCRIPTION = """{"message_type": "FRBC.SystemDescription", "message_id": "%s", "valid_from": "%s",
 "actuators": [{"id": "%s", "supported_commodities": ["ELECTRICITY"], "operation_modes": [
  {"id": "off", "abnormal_condition_only": false, "elements": [{"fill_level_range": {"start_of_range": 0,
   "end_of_range": 100}, "fill_rate": {"start_of_range": 0, "end_of_range": 0}, "power_ranges": [
   {"start_of_range": 0, "end_of_range": 0, "commodity_quantity": "ELECTRIC.POWER.L1"}]}]},
  {"id": "on", "abnormal_condition_only": false, "elements": [{"fill_level_range": {"start_of_range": 0,
   "end_of_range": 100}, "fill_rate": {"start_of_range": 0, "end_of_range": 1}, "power_ranges": [
   {"start_of_range": 0, "end_of_range": 1000, "commodity_quantity": "ELECTRIC.POWER.L1"}]}]}],
  "transitions": [{"id": "go", "from": "off", "to": "on", "start_timers": [], "blocking_timers": [],
   "abnormal_condition_only": true}], "timers": []}],
 "storage": {"provides_leakage_behaviour": false, "provides_fill_level_target_profile": false,
  "provides_usage_forecast": false, "fill_level_range": {"start_of_range": 0, "end_of_range": 100}}}"""
AT_OFF = """{"message_type": "FRBC.ActuatorStatus", "message_id": "m-off", "actuator_id": "charger",
 "active_operation_mode_id": "off", "operation_mode_factor": 0}"""
ORDER = """{"message_type": "FRBC.Instruction", "message_id": "%s", "id": "%s", "actuator_id": "%s",
 "operation_mode": "%s", "operation_mode_factor": 1, "execution_time": "2026-05-04T12:00:00Z",
 "abnormal_condition": %s}"""
PROGRESS = """{"message_type": "InstructionStatusUpdate", "message_id": "m-progress", "instruction_id": "%s",
 "status_type": "%s", "timestamp": "2026-05-04T12:00:00Z"}"""
REVOKE = '{"message_type": "RevokeObject", "message_id": "%s", "object_type": "%s", "object_id": "%s"}'
CONSTRAINTS = """{"message_type": "PEBC.PowerConstraints", "message_id": "m-roof", "id": "roof",
 "valid_from": "2026-05-04T12:00:00.000Z", "valid_until": %s, "consequence_type": "DEFER",
 "allowed_limit_ranges": [{"commodity_quantity": "ELECTRIC.POWER.L1", "limit_type": "LOWER_LIMIT", "range_boundary":
  {"start_of_range": -3680, "end_of_range": 3680}, "abnormal_condition_only": false},
  {"commodity_quantity": "ELECTRIC.POWER.L1", "limit_type": "UPPER_LIMIT", "range_boundary":
  {"start_of_range": -3680, "end_of_range": 3680}, "abnormal_condition_only": false}]}"""
NEED = """{"message_type": "PEBC.EnergyConstraint", "message_id": "m-need", "id": "need",
 "valid_from": "2026-05-04T12:00:00Z", "valid_until": "%s", "upper_average_power": 2, "lower_average_power": 1,
 "commodity_quantity": "ELECTRIC.POWER.L1"}"""
LAUNDRY = """{"message_type": "PPBC.PowerProfileDefinition", "message_id": "m-laundry", "id": "laundry",
 "start_time": "2026-05-04T12:00:00Z", "end_time": "2026-05-04T22:00:00Z", "power_sequences_containers": [
 {"id": "wash", "power_sequences": [{"id": "eco", "elements": [{"duration": 1000, "power_values": [
 {"value_expected": 1, "commodity_quantity": "ELECTRIC.POWER.L1"}]}], "is_interruptible": false,
 "abnormal_condition_only": false}]}]}"""
WASHING = """{"message_type": "PPBC.PowerProfileStatus", "message_id": "m-washing", "sequence_container_status": [
 {"power_profile_id": "laundry", "sequence_container_id": "%s", "selected_sequence_id": "eco", "progress": 1,
 "status": "EXECUTING"}]}"""

FRBC = [(RM, DETAILS % "d-1"), (CEM, SELECT % ("s-1", "FILL_RATE_BASED_CONTROL"))]
CHARGER = [*FRBC, (RM, DESCRIPTION % ("plan-1", "2026-05-04T12:00:00Z", "charger"))]
PEBC = [(RM, DETAILS % "d-1"), (CEM, SELECT % ("s-1", "POWER_ENVELOPE_BASED_CONTROL"))]
PPBC = [(RM, DETAILS % "d-1"), (CEM, SELECT % ("s-1", "POWER_PROFILE_BASED_CONTROL"))]
NOTHING = (CEM, SELECT % ("s-2", "NO_SELECTION"))
ORDERED = (CEM, ORDER % ("m-order", "order-1", "charger", "on", "true"))


class Row(NamedTuple):
    """A message after others, and the expected result."""

    about: str
    before: list[tuple[Role, str]]
    sender: Role
    text: str
    rules: set[str]
    """Those that are broken; the number of an error is the label's beginning."""
    status: str = "OK"
    label: str = ""
    version: str = V1


ROWS = [
    Row("an id with dots", [], RM, DETAILS % "rm1.msg.12", {"COM-01"}),
    Row("an id in braces", [], RM, DETAILS % "{3F2504E0-4F89-11D3-9A0C-0305E82C3301}", {"COM-01"}),
    Row("an id of 65 characters", [], RM, DETAILS % ("x" * 65), {"COM-01"}),
    Row("ten digits of a second", CHARGER, RM, STATUS % '"2026-05-04T12:00:00.1234567890Z"', {"READ-02", "COM-12"}),
    Row("seven digits of a second", CHARGER, RM, STATUS % '"2026-05-04T12:00:00.1234567Z"', {"COM-12"}),
    Row("second 60", CHARGER, RM, STATUS % '"2016-12-31T23:59:60Z"', {"READ-02", "COM-12"}),
    Row("null from a beta peer", PEBC, RM, CONSTRAINTS % "null", {"READ-01"}, version=BETA),
    Row(
        "null in v1.0.0",
        PEBC,
        RM,
        CONSTRAINTS % "null",
        set(),
        "INVALID_MESSAGE",
        "valid_until: is null, which no member may be",
    ),
    Row(
        "null for a member that has to be there",
        [],
        RM,
        (DETAILS % "d-1").replace("false", "null"),
        set(),
        "INVALID_MESSAGE",
        "provides_forecast: is null, which no member may be",
        BETA,
    ),
    Row("a status of an instruction of the session before", CHARGER, RM, PROGRESS % ("old", "STARTED"), {"HIST-18"}),
    Row("the same before anything is selected", [], RM, PROGRESS % ("old", "STARTED"), {"HIST-18", "HIST-29"}),
    Row("a status of a profile of the session before", PPBC, RM, WASHING % "wash", {"HIST-28"}),
    Row(
        "a status of a revoked profile",
        [*PPBC, (RM, LAUNDRY), (RM, REVOKE % ("r-1", "PPBC.PowerProfileDefinition", "laundry"))],
        RM,
        WASHING % "wash",
        {"HIST-28"},
    ),
    Row(
        "a status of a container that the profile does not have",
        [*PPBC, (RM, LAUNDRY)],
        RM,
        WASHING % "dry",
        set(),
        "INVALID_CONTENT",
        'HIST-08: sequence_container_status[0].sequence_container_id: "dry", not in the power profile: wash',
    ),
    Row("ABORTED after NO_SELECTION", [*CHARGER, ORDERED, NOTHING], RM, PROGRESS % ("order-1", "ABORTED"), {"HIST-29"}),
    Row(
        "a revocation by the device after NO_SELECTION",
        [*PEBC, (RM, CONSTRAINTS % '"2026-05-04T22:00:00Z"'), NOTHING],
        RM,
        REVOKE % ("r-1", "PEBC.PowerConstraints", "roof"),
        {"HIST-29"},
    ),
    Row(
        "a revocation by the energy manager after NO_SELECTION",
        [*CHARGER, ORDERED, NOTHING],
        CEM,
        REVOKE % ("r-1", "FRBC.Instruction", "order-1"),
        {"HIST-29"},
    ),
    Row(
        "a revocation of what never was",
        [NOTHING],
        CEM,
        REVOKE % ("r-1", "FRBC.Instruction", "order-1"),
        {"HIST-29"},
        "INVALID_CONTENT",
        'HIST-21: object_id: "order-1", ',
    ),
    Row(
        "a second revocation of one instruction",
        [*CHARGER, ORDERED, (CEM, REVOKE % ("r-1", "FRBC.Instruction", "order-1"))],
        CEM,
        REVOKE % ("r-2", "FRBC.Instruction", "order-1"),
        set(),
        "INVALID_CONTENT",
        'HIST-21: object_id: "order-1", was revoked before',
    ),
    Row(
        "a second revocation that names the message",
        [*CHARGER, ORDERED, (CEM, REVOKE % ("r-1", "FRBC.Instruction", "m-order"))],
        CEM,
        REVOKE % ("r-2", "FRBC.Instruction", "order-1"),
        set(),
        "INVALID_CONTENT",
        'HIST-21: object_id: "order-1", was revoked before',
    ),
    Row(
        "the same revocation once more",
        [*CHARGER, ORDERED, (CEM, REVOKE % ("r-1", "FRBC.Instruction", "order-1"))],
        CEM,
        REVOKE % ("r-1", "FRBC.Instruction", "order-1"),
        {"HIST-01"},
    ),
    Row(
        "an instruction for the second of several future descriptions",
        [
            *CHARGER,
            (RM, DESCRIPTION % ("plan-2", "2026-05-04T13:00:00Z", "second")),
            (RM, DESCRIPTION % ("plan-3", "2026-05-04T14:00:00Z", "third")),
        ],
        CEM,
        ORDER % ("m-order", "order-1", "second", "on", "true"),
        set(),
    ),
    Row(
        "an instruction for no actuator",
        CHARGER,
        CEM,
        ORDER % ("m-order", "order-1", "toaster", "on", "true"),
        set(),
        "INVALID_CONTENT",
        'HIST-06: actuator_id: "toaster", no actuator that is described: charger',
    ),
    Row(
        "an abnormal-only transition without abnormal_condition",
        [*CHARGER, (RM, AT_OFF)],
        CEM,
        ORDER % ("m-order", "order-1", "charger", "on", "false"),
        set(),
        "INVALID_CONTENT",
        'HIST-09: operation_mode: "on", every transition there is only for abnormal conditions',
    ),
    Row(
        "the same with abnormal_condition",
        [*CHARGER, (RM, AT_OFF)],
        CEM,
        ORDER % ("m-order", "order-1", "charger", "on", "true"),
        set(),
    ),
    Row("constraints for no time", PEBC, RM, CONSTRAINTS % '"2026-05-04T14:00:00+02:00"', {"PEBC-08"}),
    Row("an energy constraint for no time", PEBC, RM, NEED % "2026-05-04T12:00:00Z", {"PEBC-08"}),
    Row(
        "constraints that end before they begin",
        PEBC,
        RM,
        CONSTRAINTS % '"2026-05-04T11:59:59Z"',
        set(),
        "INVALID_CONTENT",
        'PEBC-04: valid_until: "2026-05-04T11:59:59Z", before valid_from',
    ),
]


def validated(row: Row) -> ValidationResult:
    conversation = Conversation(row.version)
    for sender, text in row.before:
        message = read_message(text)
        assert conversation.validate(sender, message, now=NOW).ok, text
        conversation.accepted(sender, message, now=NOW)
    return conversation.validate(row.sender, read_message(row.text), now=NOW)


@pytest.mark.rule("MSG-08", "MSG-03", "MSG-05")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.about)
def test_what_deployed_software_sends_is_taken_with_a_warning_and_what_is_wrong_is_named(row: Row) -> None:
    verdict = validated(row)
    assert (verdict.status, {one.rule.id for one in verdict.warnings}) == (row.status, row.rules), verdict.label
    assert (verdict.label or "").startswith(row.label)
    assert verdict.subject_id == json.loads(row.text)["message_id"]


@pytest.mark.rule("MSG-03", "MSG-05")
@pytest.mark.parametrize("identifier", ["", "x", "é", "a" * 257, 7, None])
def test_without_an_id_that_can_be_answered_the_answer_is_about_the_nil_uuid_and_says_why(identifier: Any) -> None:
    with pytest.raises(InvalidMessage) as caught:
        read_message(json.dumps({"message_type": "PowerMeasurement", "message_id": identifier}))
    assert (caught.value.status, caught.value.subject_id) == ("INVALID_DATA", NIL_ID)
    assert caught.value.label.startswith("message_id: ")


@pytest.mark.rule("MSG-08")
def test_a_tolerated_time_is_read_as_the_moment_that_it_means() -> None:
    def read(text: str) -> datetime:
        message = parse(STATUS % f'"{text}"')
        assert isinstance(message, frbc.ActuatorStatus)
        assert message.transition_timestamp is not None
        return message.transition_timestamp

    assert read("2016-12-31T23:59:60Z") == read("2016-12-31t23:59:60.75z") == datetime(2017, 1, 1, tzinfo=UTC)
    assert read("2017-01-01T01:59:60+02:00") == datetime(2017, 1, 1, tzinfo=UTC)
    assert read(f"2026-01-01T00:00:00.{'1234567' * 30}Z") == datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.rule("MSG-08")
@pytest.mark.parametrize(
    "wrong", ["9999-12-31T23:59:60Z", "2026-13-01T23:59:60Z", "2026-01-01T23:59:61Z", "2026-01-01T24:00:00Z", "noon"]
)
def test_what_is_no_time_is_refused_with_an_example_of_one(wrong: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse(STATUS % f'"{wrong}"')
    assert caught.value.label == f'transition_timestamp: "{wrong}"; a time is written as in 2026-01-31T12:00:00Z'


@pytest.mark.rule("MSG-08")
def test_nulls_are_tolerated_wherever_a_member_may_be_missing_and_nowhere_else() -> None:
    nested = json.loads(DESCRIPTION % ("plan-1", "2026-05-04T12:00:60Z", "charger"))
    nested["actuators"][0]["diagnostic_label"] = None
    nested["actuators"][0]["operation_modes"][1]["elements"][0]["running_costs"] = None
    parsed, warnings = read_typed(read_message(json.dumps(nested)), BETA)
    assert [one.path for one in warnings] == [
        "valid_from",
        "actuators[0].operation_modes[1].elements[0].running_costs",
        "actuators[0].diagnostic_label",
    ]
    assert isinstance(parsed, frbc.SystemDescription)
    assert parsed.actuators[0].diagnostic_label is None
    for path in ("x", "storage"):
        with pytest.raises(InvalidMessage) as caught:
            parse(json.dumps(nested | {path: None}), BETA)
        assert caught.value.label.startswith(f"{path}: is n")


@pytest.mark.rule("MSG-08")
def test_strictly_read_and_what_is_written_are_not_tolerated() -> None:
    late = read_message(PROGRESS % ("old", "STARTED"))
    assert Conversation(V1).validate(RM, late).ok
    assert (Conversation(V1).validate(RM, late, strict=True).label or "").startswith("MSG-02: ")
    for text in (CONSTRAINTS % "null", STATUS % '"2016-12-31T23:59:60Z"'):
        with pytest.raises(InvalidMessage):
            parse(text, BETA, strict=True)
        conversation = Conversation(BETA)
        conversation.accepted(CEM, read_message(SELECT % ("s-1", "POWER_ENVELOPE_BASED_CONTROL")))
        assert conversation.validate(RM, read_message(text), strict=True).status == "INVALID_MESSAGE"


@pytest.mark.rule("MSG-08")
@pytest.mark.parametrize("name", sorted(MESSAGES[BETA]))
@settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_document_with_null_for_every_missing_member_is_read_as_the_one_without(
    name: str, data: st.DataObject
) -> None:
    document = data.draw(message_schemas.documents(BETA, name))
    strict = parse(json.dumps(document), BETA, strict=True)
    missing = dict.fromkeys(message_schemas.schema(BETA, "messages", name)["properties"])
    assert parse(json.dumps(missing | document), BETA) == strict


@pytest.mark.rule("MSG-03")
def test_no_label_has_the_words_of_a_validation_library() -> None:
    values: tuple[Any, ...] = (None, True, 7, -1, 5.5, "x", "", [], {}, [None], [7], {"x": 1}, "é" * 500)
    seen = 0
    for version, kinds in MESSAGES.items():
        for name in kinds:
            rules = message_schemas.schema(version, "messages", name)
            for member in rules["properties"]:
                for value in values:
                    text = json.dumps({"message_type": name, "message_id": "m-1", member: value})
                    if (label := label_of(text, version)) is None:
                        continue
                    seen += 1
                    assert label.isprintable()
                    for word in ("Input", "should", "valid ", "Extra", "pydantic", "instance", "not as the schema"):
                        assert word not in label, (text, label)
    assert seen > 1000


def label_of(text: str, version: str) -> str | None:
    try:
        parse(text, version)
    except InvalidMessage as error:
        return error.label
    return None


# Constructors, and what is written


def test_constructors_take_strings_uuids_and_timedeltas() -> None:
    name = UUID("3f2504e0-4f89-11d3-9a0c-0305e82c3301")
    choice = general.SelectControlType(control_type="FILL_RATE_BASED_CONTROL", message_id=name)  # type: ignore[arg-type]
    assert choice.control_type is general.ControlType.FILL_RATE_BASED_CONTROL
    assert choice.message_id == str(name)
    timer = general.Timer(id=name, duration=timedelta(minutes=2, microseconds=400))  # type: ignore[arg-type]
    assert timer.to_value() == {"id": str(name), "duration": 120_000}
    power = general.PowerRange(start_of_range=0, end_of_range=1, commodity_quantity="ELECTRIC.POWER.L1")  # type: ignore[arg-type]
    assert power.commodity_quantity is general.CommodityQuantity.ELECTRIC_POWER_L1
    status = general.ReceptionStatus(subject_message_id=name, status="OK")  # type: ignore[arg-type]
    assert json.loads(status.to_json())["status"] == "OK"
    for wrong in ({"control_type": "NOPE"}, {"control_type": 5}, {"control_type": "NO_SELECTION", "message_id": 5}):
        with pytest.raises(UsageError, match="This is no SelectControlType: "):
            general.SelectControlType(**wrong)
    with pytest.raises(UsageError, match="This is no Timer: duration: -1000; a duration is a whole number"):
        general.Timer(id="t-1", duration=timedelta(seconds=-1))  # type: ignore[arg-type]
