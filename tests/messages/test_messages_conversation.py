"""One validation of a message: envelope, schema, state and rules, in this order, for either side."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.errors import UsageError
from s2connect.messages.base import S2Message
from s2connect.messages.catalogue import BETA, V1
from s2connect.messages.conversation import MAX_IN_FLIGHT, MAX_IN_FLIGHT_CHARACTERS, Conversation, ValidationResult
from s2connect.messages.enums import Check
from s2connect.messages.envelope import NIL_ID, Message, read_message
from s2connect.messages.general import ControlType, PowerMeasurement
from s2connect.messages.rules.base import Finding, Rule, Severity
from s2connect.model.common import Role

CEM, RM = Role.CEM, Role.RM
AT = "2026-01-01T00:00:00Z"
MEASURED = {"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}


def message(kind: str, identifier: str = "m1", **members: Any) -> Message:
    return read_message(json.dumps({"message_type": kind, "message_id": identifier, **members}))


def measurement(identifier: str = "m1", **members: Any) -> Message:
    return message("PowerMeasurement", identifier, **{"measurement_timestamp": AT, "values": [MEASURED], **members})


def select(identifier: str = "s1", control_type: str = "FILL_RATE_BASED_CONTROL") -> Message:
    return message("SelectControlType", identifier, control_type=control_type)


def storage_status(identifier: str = "m1") -> Message:
    return message("FRBC.StorageStatus", identifier, present_fill_level=1)


def target(identifier: str, *, start: float, end: float) -> Message:
    element = {"duration": 1000, "fill_level_range": {"start_of_range": start, "end_of_range": end}}
    return message("FRBC.FillLevelTargetProfile", identifier, start_time=AT, elements=[element])


def said(verdict: ValidationResult) -> tuple[str, str | None]:
    return verdict.status, verdict.label


def test_a_message_that_is_taken_has_its_typed_form() -> None:
    measured = measurement()
    verdict = Conversation("1.0.0").validate(RM, measured)
    assert verdict.ok
    assert (verdict.status, verdict.label, verdict.subject_id, verdict.warnings) == ("OK", None, "m1", ())
    assert isinstance(verdict.parsed, PowerMeasurement)
    assert measured.parsed is verdict.parsed


@pytest.mark.rule("MSG-01")
@pytest.mark.parametrize("check", Check)
@pytest.mark.parametrize("sender", [CEM, RM])
@pytest.mark.parametrize(
    "handshake",
    [
        message("Handshake"),
        message("Handshake", role="RM", supported_protocol_versions=["v1.0.0"]),
        message("HandshakeResponse", selected_protocol_version="v1.0.0"),
    ],
)
def test_handshakes_are_refused_however_little_is_checked(check: Check, sender: Role, handshake: Message) -> None:
    verdict = Conversation(V1, check=check).validate(sender, handshake)
    assert said(verdict) == ("INVALID_CONTENT", f"MSG-01: S2 Connect sessions have no {handshake.type}")


@pytest.mark.rule("MSG-03")
@pytest.mark.parametrize(
    ("validated", "status", "label", "subject"),
    [
        (measurement(values=[]), "INVALID_MESSAGE", "values", "m1"),
        (measurement(values=[{**MEASURED, "value": "1"}]), "INVALID_MESSAGE", "values[0].value", "m1"),
        (message("FRBC.Nonsense"), "INVALID_MESSAGE", 'message_type: "FRBC.Nonsense" is none of the data model', "m1"),
        (read_message('{"message_type":"FRBC.Nonsense","message_id":"m1","a":1,"a":1}'), "INVALID_DATA", "not", NIL_ID),
        (
            read_message('{"message_type":"SessionRequest","message_id":"m1","a":1,"a":1}'),
            "INVALID_DATA",
            "not",
            NIL_ID,
        ),
        (storage_status(), "INVALID_CONTENT", "MSG-02: FRBC.StorageStatus is not sent by the RM while", "m1"),
        (select("m1"), "INVALID_CONTENT", "MSG-02: SelectControlType is never sent by the RM", "m1"),
        (measurement(values=[MEASURED, MEASURED]), "INVALID_CONTENT", "COM-06: ", "m1"),
    ],
)
def test_what_is_refused_says_where_and_by_which_rule(
    validated: Message, status: str, label: str, subject: str
) -> None:
    verdict = Conversation(V1).validate(RM, validated)
    assert verdict.status == status
    assert verdict.label is not None
    assert verdict.label.startswith(label)
    assert verdict.subject_id == subject


@pytest.mark.parametrize(
    ("check", "taken"), [(Check.ENVELOPE, 4), (Check.SCHEMA, 3), (Check.RULES, 1)], ids=lambda value: str(value)
)
def test_a_setting_says_how_far_a_message_is_validated(check: Check, taken: int) -> None:
    validated = [measurement(), storage_status(), measurement(values=[MEASURED, MEASURED]), message("Nonsense")]
    verdicts = [Conversation(V1, check=check).validate(RM, one) for one in validated]
    assert [verdict.ok for verdict in verdicts] == [True] * taken + [False] * (4 - taken)


def test_schema_is_validated_before_state_and_state_before_rules() -> None:
    conversation = Conversation(V1)
    verdict = conversation.validate(RM, message("FRBC.StorageStatus", present_fill_level="full"))
    assert verdict.status == "INVALID_MESSAGE"
    backwards = target("m1", start=2, end=1)
    assert said(conversation.validate(RM, backwards))[1].startswith("MSG-02")  # type: ignore[union-attr]
    conversation.accepted(CEM, select())
    assert said(conversation.validate(RM, backwards))[1].startswith("FRBC-07")  # type: ignore[union-attr]
    assert conversation.validate(RM, target("m1", start=1, end=2)).ok


def test_several_broken_rules_are_one_label() -> None:
    backwards = {"duration": 1000, "fill_level_range": {"start_of_range": 2, "end_of_range": 1}}
    conversation = Conversation(V1)
    conversation.accepted(CEM, select())
    verdict = conversation.validate(RM, message("FRBC.FillLevelTargetProfile", start_time=AT, elements=[backwards] * 3))
    assert verdict.label is not None
    assert verdict.label.startswith("FRBC-07: elements[0]")
    assert verdict.label.endswith("(and 2 more)")


def test_warnings_do_not_refuse_a_message() -> None:
    several = [{**MEASURED, "commodity_quantity": "ELECTRIC.POWER.3_PHASE_SYMMETRIC"}, MEASURED]
    verdict = Conversation(V1).validate(RM, measurement(values=several))
    assert verdict.ok
    assert [finding.rule.id for finding in verdict.warnings] == ["COM-07"]


@pytest.mark.rule("VER-06")
@pytest.mark.parametrize(("version", "ok"), [("1.0.0", True), ("v1.0.0", True), ("0.0.2-beta", False), (BETA, False)])
def test_the_data_model_is_that_of_the_version_in_any_spelling(version: str, *, ok: bool) -> None:
    conversation = Conversation(version)
    conversation.accepted(CEM, select(control_type="DEMAND_DRIVEN_BASED_CONTROL"))
    rate = {"start_of_range": 1, "end_of_range": 2}
    assert conversation.validate(RM, message("DDBC.PresentDemandStatus", present_demand_rate=rate)).ok is ok


def test_of_an_unknown_version_only_the_envelope_can_be_validated() -> None:
    with pytest.raises(UsageError):
        Conversation("v9")
    assert Conversation("v9", check=Check.ENVELOPE).validate(RM, message("Anything")).ok


def test_a_message_of_which_only_the_envelope_was_validated_has_no_typed_form() -> None:
    read = measurement()
    Conversation(V1, check=Check.ENVELOPE).validate(RM, read)
    with pytest.raises(UsageError):
        _ = read.parsed


@pytest.mark.rule("MSG-02")
def test_who_receives_follows_at_once_and_who_sends_with_the_answer() -> None:
    device, manager = Conversation(V1), Conversation(V1)
    selection = select()
    assert device.validate(CEM, selection).ok
    assert manager.validate(CEM, selection).ok
    manager.sent(CEM, selection)
    device.accepted(CEM, selection)
    assert device.state.control_type is ControlType.FILL_RATE_BASED_CONTROL
    assert device.validate(RM, storage_status()).ok
    assert manager.state.control_type is None
    assert manager.validate(RM, storage_status()).ok, "it may overtake the OK"
    manager.answered(CEM, "s1", ok=True)
    assert manager.state.control_type is ControlType.FILL_RATE_BASED_CONTROL
    manager.answered(CEM, "s1", ok=False)
    assert manager.state.control_type is ControlType.FILL_RATE_BASED_CONTROL, "the first answer counts"


@pytest.mark.rule("MSG-02")
def test_an_answer_about_a_message_of_the_other_side_with_the_same_id_changes_nothing() -> None:
    manager = Conversation(V1)
    manager.sent(CEM, select("x1"))
    manager.answered(RM, "x1", ok=True)
    assert manager.state.control_type is None


def test_a_typed_message_can_be_told_as_well() -> None:
    conversation = Conversation(V1)
    verdict = conversation.validate(CEM, select())
    assert isinstance(verdict.parsed, S2Message)
    conversation.accepted(CEM, verdict.parsed)
    assert conversation.state.control_type is ControlType.FILL_RATE_BASED_CONTROL


def test_what_cannot_be_read_changes_nothing() -> None:
    conversation = Conversation(V1)
    conversation.accepted(CEM, select(control_type="nothing"))
    assert conversation.state.control_type is None


class Told:
    """A history in which a storage status needs a target profile before it."""

    RULE = Rule("HIST-99", Severity.ERROR, "FRBC.StorageStatus", "There was a target.")

    def __init__(self) -> None:
        self.targets = 0

    def check(self, sender: Role, message: S2Message, now: object = None) -> list[Finding]:
        missing = message.message_type == "FRBC.StorageStatus" and not self.targets
        return [Finding(self.RULE, "", "no target")] if missing else []

    def accept(self, sender: Role, message: S2Message, now: object = None) -> None:
        self.targets += message.message_type == "FRBC.FillLevelTargetProfile"

    def fork(self) -> Told:
        return copy.copy(self)


@pytest.mark.parametrize("ok", [True, False])
def test_what_is_on_its_way_may_have_been_taken(monkeypatch: pytest.MonkeyPatch, *, ok: bool) -> None:
    monkeypatch.setattr("s2connect.messages.conversation.History", Told)
    conversation = Conversation(V1)
    conversation.accepted(CEM, validated(conversation, CEM, select()))
    assert said(conversation.validate(RM, storage_status())) == ("INVALID_CONTENT", "HIST-99: no target")
    conversation.sent(RM, validated(conversation, RM, target("t1", start=1, end=2)))
    assert conversation.validate(RM, storage_status()).ok
    conversation.sent(RM, validated(conversation, RM, measurement()))
    assert conversation.validate(RM, storage_status()).ok
    conversation.answered(RM, "t1", ok=ok)
    assert conversation.validate(RM, storage_status()).ok is ok
    conversation.sent(RM, validated(conversation, RM, target("t2", start=1, end=2)))
    assert conversation.validate(RM, storage_status()).ok


def validated(conversation: Conversation, sender: Role, one: Message) -> Message:
    assert conversation.validate(sender, one).ok
    return one


def test_messages_that_nobody_answers_are_forgotten_in_the_end() -> None:
    conversation = Conversation(V1)
    conversation.sent(CEM, validated(conversation, CEM, select()))
    one = validated(conversation, RM, measurement())
    assert isinstance(one.parsed, PowerMeasurement)
    for number in range(MAX_IN_FLIGHT):
        conversation.sent(RM, one.parsed.replace(message_id=f"m{number}"))
    conversation.answered(CEM, "s1", ok=True)
    assert conversation.state.control_type is None


@pytest.mark.rule("SEC-03")
def test_what_waits_for_its_answer_is_bounded_in_characters_but_for_the_newest() -> None:
    conversation = Conversation(V1)
    conversation.sent(CEM, validated(conversation, CEM, select()))
    padding = " " * (MAX_IN_FLIGHT_CHARACTERS // 4)
    for number in range(6):
        conversation.sent(RM, validated(conversation, RM, read_message(measurement(f"m{number}").text + padding)))
        assert conversation._in_flight_characters <= MAX_IN_FLIGHT_CHARACTERS
    assert [identifier for _, identifier in conversation._in_flight] == ["m3", "m4", "m5"]
    conversation.answered(CEM, "s1", ok=True)
    assert conversation.state.control_type is None, "the selection was forgotten, for it was the oldest"
    huge = validated(conversation, RM, read_message(measurement("m9").text + padding * 5))
    conversation.sent(RM, huge)
    assert [identifier for _, identifier in conversation._in_flight] == ["m9"]
    conversation.answered(RM, "m9", ok=True)
    assert conversation._in_flight_characters == 0


@settings(max_examples=200, deadline=None)
@given(
    members=st.one_of(
        st.fixed_dictionaries(
            {"message_type": st.sampled_from(["PowerMeasurement", "SelectControlType", "FRBC.Instruction", "X"])},
            optional={"values": st.lists(st.integers()), "control_type": st.sampled_from([*ControlType, "?"])},
        ),
        st.dictionaries(st.text(), st.integers(), max_size=3).map(
            lambda more: {"message_type": "RevokeObject", **more}
        ),
    ),
    sender=st.sampled_from(Role),
    check=st.sampled_from(Check),
)
def test_every_message_gets_a_verdict(members: dict[str, Any], sender: Role, check: Check) -> None:
    conversation = Conversation(V1, check=check)
    one = read_message(json.dumps({**members, "message_id": "m1"}))
    verdict = conversation.validate(sender, one)
    assert verdict.ok is (verdict.label is None)
    if verdict.ok:
        conversation.accepted(sender, one)
