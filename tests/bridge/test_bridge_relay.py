"""Relay: the answer to each message, and whether it is forwarded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from s2connect.bridge import relay as relay_module
from s2connect.bridge.counters import Counters
from s2connect.bridge.relay import FAR_SIDE_PATIENCE, Fate, Out, Policy, Relay
from s2connect.errors import UsageError
from s2connect.messages.conversation import Conversation
from s2connect.messages.enums import Check
from s2connect.messages.envelope import NIL_ID, read_message
from s2connect.model.common import Role
from s2connect.session.acknowledgements import MAX_OUTSTANDING
from tests.bridge.link_fixtures import answer, message
from tests.messages.rule_examples import build

RM, CEM = Role.RM, Role.CEM
V1, BETA = "v1.0.0", "0.0.2-beta"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def relay(policy: Policy | None = None, *, rm: str = V1, cem: str = V1) -> Relay:
    return Relay({RM: rm, CEM: cem}, policy or Policy(), wall=lambda: NOON)


def said(out: Out) -> tuple[str, str]:
    """About which message, and what."""
    value = json.loads(out.text)
    assert value["message_type"] == "ReceptionStatus"
    return value["subject_message_id"], value["status"]


def measurement(identifier: str, **more: Any) -> str:
    values = [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}]
    return message(identifier, measurement_timestamp="2026-01-01T00:00:00Z", values=values, **more)


def nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: number for name, number in counts.items() if number and name != "bytes"}


# One message


@pytest.mark.rule("MSG-06")
@pytest.mark.parametrize("check", Check)
@pytest.mark.parametrize("version", [V1, "1.0.0", BETA])
def test_a_good_message_is_forwarded_byte_for_byte_and_answered_by_nobody_here(check: Check, version: str) -> None:
    text = (
        '{ "message_type" :"PowerMeasurement","message_id":"m1" , "measurement_timestamp":"2026-01-01T00:00:00+00:00",'
        '\n\t"values":[{"commodity_quantity":"ELECTRIC.POWER.L1","value":1.50e+01}]}'
    )
    link = relay(Policy(check=check), rm=version, cem=version)
    assert link.received(RM, text, now=0.0) == [Out(CEM, text, "m1")]
    status = ' {"message_type":"ReceptionStatus","subject_message_id":"m1","status":"OK","diagnostic_label":"\\u00fc"}'
    assert link.received(CEM, status, now=1.0) == [Out(RM, status)]
    assert link.overdue(100.0) == []
    assert nonzero(link.counters.messages[RM]) == {Fate.FORWARDED: 1, Fate.ACKNOWLEDGED: 1}
    assert nonzero(link.counters.messages[CEM]) == {}
    assert link.counters.messages[RM]["bytes"] == len(text)


ROOF = """{"message_type": "PEBC.PowerConstraints", "message_id": "m1", "id": "roof", "valid_from":
 "2026-01-01T00:00:00.1234567890Z", "valid_until": %s"consequence_type": "DEFER", "allowed_limit_ranges": [
 {"commodity_quantity": "ELECTRIC.POWER.L1", "limit_type": "UPPER_LIMIT", "range_boundary": {"start_of_range": 0,
 "end_of_range": 1}, "abnormal_condition_only": false}, {"commodity_quantity": "ELECTRIC.POWER.L1", "limit_type":
 "LOWER_LIMIT", "range_boundary": {"start_of_range": 0, "end_of_range": 1}, "abnormal_condition_only": false}]}"""
NULL_ROOF = ROOF % "null, "


def selected(link: Relay) -> Relay:
    control = {"control_type": "POWER_ENVELOPE_BASED_CONTROL"}
    link.received(CEM, message("s1", "SelectControlType", **control), now=0.0)
    link.received(RM, answer("s1"), now=0.0)
    return link


@pytest.mark.rule("MSG-08", "MSG-06")
@pytest.mark.parametrize("check", Check)
def test_a_null_of_a_beta_device_is_left_out_of_what_a_v1_energy_manager_gets(check: Check) -> None:
    link = selected(relay(Policy(check=check), rm=BETA, cem=V1))
    (out,) = link.received(RM, NULL_ROOF, now=0.0)
    expected = json.loads(NULL_ROOF)
    del expected["valid_until"]
    assert (out.to, out.key, json.loads(out.text)) == (CEM, "m1", expected)
    assert link.received(CEM, answer("m1"), now=0.0) == [Out(RM, answer("m1"))]
    other = selected(relay(Policy(check=check), rm=BETA, cem=BETA))
    assert other.received(RM, NULL_ROOF, now=0.0) == [Out(CEM, NULL_ROOF, "m1")]


@pytest.mark.rule("MSG-08")
def test_a_null_of_a_beta_energy_manager_is_left_out_and_one_of_a_v1_device_refused() -> None:
    link = relay(rm=V1, cem=BETA)
    farewell = message("m1", "SessionRequest", request="TERMINATE", diagnostic_label=None)
    (out,) = link.received(CEM, farewell, now=0.0)
    assert (out.to, out.key, "diagnostic_label" in json.loads(out.text)) == (RM, "m1", False)
    (refused,) = selected(relay(Policy(check=Check.RULES), rm=V1, cem=BETA)).received(RM, NULL_ROOF, now=0.0)
    assert said(refused) == ("m1", "INVALID_MESSAGE")


@pytest.mark.rule("MSG-08")
def test_warnings_of_a_link_are_logged_once_for_each_rule_and_side(caplog: pytest.LogCaptureFixture) -> None:
    link = selected(relay(Policy(check=Check.RULES), rm=BETA, cem=V1))
    for _ in range(20):
        assert link.received(RM, NULL_ROOF, now=0.0)
        link.received(CEM, answer("m1"), now=0.0)
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    found = [text.split("harm: ")[1][:7] for text in warned]
    assert found == ["HIST-02", "READ-02", "READ-01", "HIST-01"]


@pytest.mark.rule("MSG-08", "SEC-03")
def test_a_link_that_begins_anew_again_and_again_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    for second in range(100):
        link = Relay({RM: BETA, CEM: V1}, Policy(check=Check.SCHEMA), wall=lambda: NOON, counters=counters)
        link.received(RM, NULL_ROOF, now=float(second))
    assert len([one for one in caplog.records if "READ-01" in one.getMessage()]) == 2


@pytest.mark.parametrize("status", ["OK", "INVALID_CONTENT", "PERMANENT_ERROR", "A_VALUE_OF_TOMORROW"])
def test_the_far_sides_answer_is_passed_on_whatever_it_says(status: str) -> None:
    link = relay()
    link.received(CEM, message("m1"), now=0.0)
    assert link.received(RM, answer("m1", status), now=0.1) == [Out(CEM, answer("m1", status))]
    assert link.counters.messages[CEM][Fate.ACKNOWLEDGED] == 1


@pytest.mark.rule("MSG-03")
@pytest.mark.parametrize(
    ("text", "subject", "status"),
    [
        ("no JSON", NIL_ID, "INVALID_DATA"),
        ("[]", NIL_ID, "INVALID_DATA"),
        ('{"message_type":"PowerMeasurement"}', NIL_ID, "INVALID_DATA"),
        ('{"message_id":"m1"}', "m1", "INVALID_MESSAGE"),
        (message("m1", "Handshake"), "m1", "INVALID_CONTENT"),
        (message("m1", "HandshakeResponse"), "m1", "INVALID_CONTENT"),
    ],
)
@pytest.mark.parametrize("side", Role)
def test_what_is_no_message_is_answered_and_goes_no_further(side: Role, text: str, subject: str, status: str) -> None:
    link = relay()
    (out,) = link.received(side, text, now=0.0)
    assert out.to is side
    assert said(out) == (subject, status)
    assert nonzero(link.counters.messages[side]) == {Fate.REFUSED: 1}
    assert link.deadline is None


@pytest.mark.rule("MSG-03")
@pytest.mark.parametrize("text", ['{"message_type":"ReceptionStatus"}', answer("nothing-that-was-sent")])
def test_a_reception_status_is_never_answered(text: str) -> None:
    link = relay()
    assert link.received(CEM, text, now=0.0) == []
    assert link.counters.messages[CEM if "subject" not in text else RM][Fate.STRAY] == 1


def test_a_second_answer_goes_no_further() -> None:
    link = relay()
    link.received(RM, message("m1"), now=0.0)
    assert len(link.received(CEM, answer("m1"), now=0.1)) == 1
    assert link.received(CEM, answer("m1"), now=0.2) == []
    assert link.counters.messages[RM][Fate.STRAY] == 1


def test_both_sides_may_use_the_same_id() -> None:
    link = relay()
    link.received(RM, message("m1"), now=0.0)
    link.received(CEM, message("m1"), now=0.0)
    assert link.received(CEM, answer("m1"), now=0.1) == [Out(RM, answer("m1"))]
    assert link.received(RM, answer("m1"), now=0.1) == [Out(CEM, answer("m1"))]


# Policies


@pytest.mark.rule("MSG-02")
@pytest.mark.parametrize(
    ("text", "refused_by", "status"),
    [
        (message("m1", "PowerMeasurement"), Check.SCHEMA, "INVALID_MESSAGE"),
        (message("m1", "NotInTheStandard"), Check.SCHEMA, "INVALID_MESSAGE"),
        (measurement("m1").replace('"m1"', '"m1","message_id":"m1"'), Check.SCHEMA, "INVALID_DATA"),
        (measurement("m1", extra=1), Check.SCHEMA, "INVALID_MESSAGE"),
        (message("m1", "SelectControlType", control_type="NO_SELECTION"), Check.RULES, "INVALID_CONTENT"),
    ],
)
@pytest.mark.parametrize("check", Check)
def test_a_link_refuses_what_its_check_finds_and_lets_pass_what_is_beyond(
    check: Check, text: str, refused_by: Check, status: str
) -> None:
    link, order = relay(Policy(check=check)), list(Check)
    (out,) = link.received(RM, text, now=0.0)
    if order.index(check) >= order.index(refused_by):
        assert out.to is RM
        assert said(out)[1] == status
        assert nonzero(link.counters.messages[RM]) == {Fate.REFUSED: 1}
    else:
        assert out == Out(CEM, text, "m1")


@pytest.mark.parametrize("filler", ["x", "ü", "\N{BATTERY}"])
def test_the_longest_message_is_counted_in_bytes_and_a_longer_one_is_answered(filler: str) -> None:
    def of_size(identifier: str, size: int) -> str:
        bare = json.dumps({"message_type": "X", "message_id": identifier, "f": ""})
        left = size - len(bare)
        count = left // len(filler.encode())
        return bare.replace('"f": ""', f'"f": "{filler * count}{"." * (left - count * len(filler.encode()))}"')

    link = relay(Policy(max_message_bytes=1000))
    fits, too_long = of_size("m1", 1000), of_size("m2", 1001)
    assert len(fits.encode()) == 1000
    assert link.received(RM, fits, now=0.0) == [Out(CEM, fits, "m1")]
    (out,) = link.received(RM, too_long, now=0.0)
    assert said(out) == ("m2", "INVALID_CONTENT")
    assert "1000 bytes" in out.text
    assert link.counters.messages[RM]["bytes"] == 2001


def test_too_many_messages_a_second_are_answered_and_reception_statuses_do_not_count() -> None:
    link = relay(Policy(messages_per_second=2.0, burst=3))
    passed = [bool(link.received(RM, message(f"m{n}"), now=0.0)[0].to is CEM) for n in range(5)]
    assert passed == [True, True, True, False, False]
    assert said(link.received(RM, message("again"), now=0.0)[0]) == ("again", "TEMPORARY_ERROR")
    assert link.received(CEM, message("other"), now=0.0)[0].to is RM, "each side has its own"
    for _ in range(10):
        link.received(RM, answer("other"), now=0.0)
    assert link.received(RM, message("m5"), now=0.5)[0].to is CEM
    assert link.received(RM, message("m6"), now=0.6)[0].to is RM
    assert [link.received(RM, message(f"n{n}"), now=1e6)[0].to for n in range(4)] == [CEM, CEM, CEM, RM]


@pytest.mark.rule("SEC-03")
def test_a_text_is_read_once_and_no_further_than_what_is_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[str] = []
    envelopes: list[str] = []

    def noting(read: Callable[..., Any], texts: list[str]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            texts.append(arguments[-1])
            return read(*arguments)

        return noted

    monkeypatch.setattr(Conversation, "read", noting(Conversation.read, whole))
    monkeypatch.setattr(relay_module, "read_message", noting(read_message, envelopes))
    limits = {"max_message_bytes": 1000, "messages_per_second": 1.0, "burst": 2}
    good, too_long, too_many = measurement("m1"), measurement("m2") + 1000 * " ", measurement("m3")
    for check in (Check.SCHEMA, Check.RULES):
        link = relay(Policy(check=check, **limits))  # type: ignore[arg-type]
        assert link.received(RM, good, now=0.0)[0].to is CEM
        assert link.received(CEM, answer("m1"), now=0.0)[0].to is RM
        assert said(link.received(RM, too_long, now=0.0)[0]) == ("m2", "INVALID_CONTENT")
        link.received(RM, measurement("m4"), now=0.0)
        assert said(link.received(RM, too_many, now=0.0)[0]) == ("m3", "TEMPORARY_ERROR")
    assert whole == 2 * [good, measurement("m4")]
    assert envelopes == 2 * [answer("m1"), too_long, too_many]
    link = relay(Policy(check=Check.ENVELOPE))
    assert link.received(RM, good, now=0.0)[0].to is CEM
    assert len(whole) == 4


# Time


def test_a_message_that_is_not_answered_in_time_is_answered_from_here_and_the_late_answer_is_swallowed() -> None:
    link = relay()
    link.received(RM, message("m1"), now=10.0)
    assert link.deadline == 10.0 + FAR_SIDE_PATIENCE
    assert link.overdue(10.0 + FAR_SIDE_PATIENCE - 0.001) == []
    (overdue,) = link.overdue(10.0 + FAR_SIDE_PATIENCE)
    assert (overdue.key, overdue.to, overdue.answer.to) == ("m1", CEM, RM)
    assert said(overdue.answer) == ("m1", "TEMPORARY_ERROR")
    assert link.deadline is None
    assert link.received(CEM, answer("m1"), now=20.0) == []
    assert nonzero(link.counters.messages[RM]) == {Fate.FORWARDED: 1, Fate.UNANSWERED: 1, Fate.LATE: 1}


def test_of_a_message_that_never_left_no_answer_is_late() -> None:
    link = relay()
    link.received(RM, message("m1"), now=0.0)
    link.withdrawn(link.overdue(5.0)[0])
    assert link.received(CEM, answer("m1"), now=6.0) == []
    assert nonzero(link.counters.messages[RM]) == {Fate.FORWARDED: 1, Fate.UNANSWERED: 1, Fate.STRAY: 1}


@pytest.mark.parametrize("left", [True, False])
def test_a_message_that_never_left_is_nothing_to_build_on(*, left: bool) -> None:
    """One that left and was not answered may have been taken; what follows from it is not refused."""

    def details(identifier: str, control_type: str) -> str:
        offered = {"available_control_types": [control_type], "message_id": identifier}
        return build("ResourceManagerDetails", offered).to_json()

    link = relay(Policy(check=Check.RULES))
    assert link.received(RM, details("d1", "POWER_ENVELOPE_BASED_CONTROL"), now=0.0)[0].to is CEM
    link.received(CEM, answer("d1"), now=0.0)
    link.received(RM, details("d2", "OPERATION_MODE_BASED_CONTROL"), now=1.0)
    (overdue,) = link.overdue(9.0)
    assert overdue.key == "d2"
    if not left:
        link.withdrawn(overdue)
    selection = build("SelectControlType", {"control_type": "OPERATION_MODE_BASED_CONTROL"}).to_json()
    assert (link.received(CEM, selection, now=9.5)[0].to is RM) is left


def test_at_the_end_of_a_link_everybody_who_waits_is_answered() -> None:
    link = relay()
    for n in range(3):
        link.received(RM, message(f"r{n}"), now=0.0)
        link.received(CEM, message(f"c{n}"), now=0.0)
    link.received(CEM, answer("r1"), now=0.1)
    assert [said(overdue.answer) for overdue in link.ended()] == [
        (key, "TEMPORARY_ERROR") for key in ("r0", "r2", "c0", "c1", "c2")
    ]
    assert link.ended() == []


def test_an_id_that_waits_already_and_more_than_can_wait_are_told_to_come_again() -> None:
    link = relay()
    link.received(RM, message("m0"), now=0.0)
    assert said(link.received(RM, message("m0"), now=0.0)[0]) == ("m0", "TEMPORARY_ERROR")
    for n in range(1, MAX_OUTSTANDING):
        assert link.received(RM, message(f"m{n}"), now=0.0)[0].to is CEM
    assert said(link.received(RM, message("more"), now=0.0)[0]) == ("more", "TEMPORARY_ERROR")
    link.received(CEM, answer("m0"), now=0.0)
    assert link.received(RM, message("more"), now=0.0)[0].to is CEM


def test_an_id_may_be_used_again_once_it_was_answered() -> None:
    link = relay()
    for _ in range(3):
        assert link.received(RM, message("m0"), now=0.0)[0].to is CEM
        assert link.received(CEM, answer("m0"), now=0.0)[0].to is RM


# The end of a session


@pytest.mark.rule("REC-03")
@pytest.mark.parametrize("request_", ["RECONNECT", "TERMINATE"])
@pytest.mark.parametrize("check", Check)
def test_a_session_request_passes_and_is_remembered(request_: str, check: Check) -> None:
    link = relay(Policy(check=check))
    text = message("m1", "SessionRequest", request=request_)
    assert link.received(RM, text, now=0.0) == [Out(CEM, text, "m1")]
    assert link.knows_of_the_end(CEM)
    assert not link.knows_of_the_end(RM)


def test_who_never_got_the_session_request_does_not_know_of_the_end() -> None:
    link = relay()
    link.received(RM, message("m1", "SessionRequest", request="RECONNECT"), now=0.0)
    link.withdrawn(link.ended()[0])
    assert not link.knows_of_the_end(CEM)


# Versions


def described(identifier: str, **rate: object) -> dict[str, Any]:
    zero_to_ten = {"start_of_range": 0.0, "end_of_range": 10.0}
    mode = {
        "diagnostic_label": "on",
        "power_ranges": [{**zero_to_ten, "commodity_quantity": "ELECTRIC.POWER.L1"}],
        "supply_range": zero_to_ten,
        "abnormal_condition_only": False,
        "Id": str(uuid4()),
    }
    actuator = {
        "id": str(uuid4()),
        "supported_commodites": ["ELECTRICITY"],
        "operation_modes": [mode],
        "transitions": [],
        "timers": [],
    }
    return {
        "message_type": "DDBC.SystemDescription",
        "message_id": identifier,
        "valid_from": "2026-01-01T00:00:00Z",
        "actuators": [actuator],
        "provides_average_demand_rate_forecast": False,
        **rate,
    }


DEMAND = {"start_of_range": 1.0, "end_of_range": 2.0}


@pytest.mark.rule("VER-06")
@pytest.mark.parametrize(("first", "second"), [("OK", "OK"), ("OK", "INVALID_CONTENT"), ("INVALID_CONTENT", "OK")])
def test_an_old_device_gets_one_answer_for_the_two_messages_that_were_made_of_its_one(first: str, second: str) -> None:
    link = relay(rm=BETA, cem=V1)
    outs = link.received(RM, json.dumps(described("d1", present_demand_rate=DEMAND)), now=0.0)
    assert [(out.to, json.loads(out.text)["message_type"], out.key) for out in outs] == [
        (CEM, "DDBC.SystemDescription", None),
        (CEM, "DDBC.PresentDemandStatus", None),
    ]
    ids = [json.loads(out.text)["message_id"] for out in outs]
    answers = [
        out
        for identifier, status in zip(ids, (first, second), strict=True)
        for out in link.received(CEM, answer(identifier, status), now=0.1)
    ]
    assert [said(out) for out in answers] == [("d1", "OK" if first == second else "INVALID_CONTENT")]
    assert link.deadline is None


@pytest.mark.rule("VER-06")
def test_a_new_device_is_answered_from_here_for_what_an_old_energy_manager_cannot_have_yet() -> None:
    link = relay(rm=V1, cem=BETA)
    (kept,) = link.received(RM, json.dumps(described("d1")), now=0.0)
    assert (kept.to, said(kept)) == (RM, ("d1", "OK"))
    rate = message("r1", "DDBC.PresentDemandStatus", present_demand_rate=DEMAND)
    (out,) = link.received(RM, rate, now=0.1)
    assert out.to is CEM
    assert json.loads(out.text)["present_demand_rate"] == DEMAND
    (back,) = link.received(CEM, answer(json.loads(out.text)["message_id"]), now=0.2)
    assert (back.to, said(back)) == (RM, ("r1", "OK"))


@pytest.mark.rule("VER-06")
@pytest.mark.parametrize("check", Check)
def test_what_is_the_same_in_both_versions_passes_byte_for_byte_and_can_be_withdrawn(check: Check) -> None:
    link, text = relay(Policy(check=check), rm=BETA, cem=V1), measurement("m1") + "  "
    assert link.received(RM, text, now=0.0) == [Out(CEM, text, "m1")]


@pytest.mark.rule("VER-06")
@pytest.mark.parametrize("check", Check)
def test_what_has_no_counterpart_is_refused_with_a_reason(check: Check) -> None:
    link = relay(Policy(check=check), rm=BETA, cem=V1)
    text = message("r1", "DDBC.PresentDemandStatus", present_demand_rate=DEMAND)
    (out,) = link.received(RM, text, now=0.0)
    assert out.to is RM
    assert said(out)[0] == "r1"
    assert said(out)[1] in ("INVALID_CONTENT", "INVALID_MESSAGE")
    assert json.loads(out.text)["diagnostic_label"]
    assert link.deadline is None


@pytest.mark.rule("VER-06")
def test_unknown_versions_pass_where_only_the_envelope_is_checked_and_both_sides_agree() -> None:
    assert relay(Policy(check=Check.ENVELOPE), rm="v9", cem="v9").received(RM, message("m1"), now=0.0)[0].to is CEM
    with pytest.raises(UsageError):
        relay(Policy(check=Check.SCHEMA), rm="v9", cem="v9")
    with pytest.raises(UsageError):
        relay(Policy(check=Check.ENVELOPE), rm="v9", cem=V1)


# Everything at once


class Conversations(RuleBasedStateMachine):
    """Two peers that send, answer late, twice or never, and the queue towards each, from which messages are withdrawn.

    The model is a list of what each side was sent and was answered, and of what the other side has really seen.
    """

    @initialize(cem=st.sampled_from([V1, BETA]), rate=st.sampled_from([0.0, 5.0]))
    def begin(self, cem: str, rate: float) -> None:
        self.link = relay(Policy(messages_per_second=rate, burst=5), cem=cem)
        self.now = 0.0
        self.number = 0
        self.sent: dict[Role, list[str]] = {RM: [], CEM: []}
        self.answered: dict[Role, list[str]] = {RM: [], CEM: []}
        self.queue: dict[Role, list[Out]] = {RM: [], CEM: []}
        self.seen: dict[Role, list[str]] = {RM: [], CEM: []}
        self.ok_by_peer: dict[Role, set[str]] = {RM: set(), CEM: set()}
        self.withdrawn: set[str] = set()

    def put(self, outs: list[Out]) -> None:
        for out in outs:
            self.queue[out.to].append(out)

    def deliver_one(self, side: Role) -> None:
        out = self.queue[side].pop(0)
        value = json.loads(out.text)
        if value["message_type"] == "ReceptionStatus":
            subject = value["subject_message_id"]
            if value["status"] == "OK":
                assert subject in self.ok_by_peer[side.other], "nobody says OK on another's behalf"
            self.answered[side].append(subject)
        else:
            assert value["message_id"] not in self.withdrawn
            self.seen[side].append(value["message_id"])

    @rule(side=st.sampled_from(Role), bad=st.sampled_from(["", "", "", "{}", "handshake"]))
    def send(self, side: Role, bad: str) -> None:
        self.number += 1
        identifier = f"m{self.number}"
        if bad == "{}":
            outs = self.link.received(side, "{}", now=self.now)
            assert [(out.to, said(out)[1]) for out in outs] == [(side, "INVALID_DATA")]
            return
        text = message(identifier, "Handshake") if bad else measurement(identifier)
        self.sent[side].append(identifier)
        self.put(self.link.received(side, text, now=self.now))

    @precondition(lambda self: any(self.queue.values()))
    @rule(side=st.sampled_from(Role), count=st.integers(1, 5))
    def deliver(self, side: Role, count: int) -> None:
        for _ in range(min(count, len(self.queue[side]))):
            self.deliver_one(side)

    @precondition(lambda self: any(self.seen.values()))
    @rule(side=st.sampled_from(Role), data=st.data(), status=st.sampled_from(["OK", "OK", "INVALID_CONTENT"]))
    def acknowledge(self, side: Role, data: st.DataObject, status: str) -> None:
        if self.seen[side]:
            identifier = data.draw(st.sampled_from(self.seen[side]))
            if status == "OK":
                self.ok_by_peer[side].add(identifier)
            self.put(self.link.received(side, answer(identifier, status), now=self.now))

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.time_is_over(self.link.overdue(self.now))
        assert self.link.deadline is None or self.link.deadline > self.now

    def time_is_over(self, all_overdue: list[Any]) -> None:
        for overdue in all_overdue:
            waiting = [out for out in self.queue[overdue.to] if out.key == overdue.key]
            if waiting:
                self.queue[overdue.to].remove(waiting[0])
                self.link.withdrawn(overdue)
                self.withdrawn.add(overdue.key)
            self.put([overdue.answer])

    @invariant()
    def in_order_and_once(self) -> None:
        for side, seen in getattr(self, "seen", {}).items():
            assert len(seen) == len(set(seen))
            assert [name for name in self.sent[side.other] if name in set(seen)] == seen

    def teardown(self) -> None:
        if not hasattr(self, "link"):
            return
        self.time_is_over(self.link.ended())
        for side in Role:
            while self.queue[side]:
                self.deliver_one(side)
            assert sorted(self.answered[side]) == sorted(self.sent[side]), "exactly one answer for each"
        counts = self.link.counters.messages
        for side in Role:
            of = counts[side]
            assert of[Fate.FORWARDED] == of[Fate.ACKNOWLEDGED] + of[Fate.UNANSWERED]
            assert of[Fate.FORWARDED] + of[Fate.REFUSED] >= len(self.sent[side])


TestConversations = Conversations.TestCase
TestConversations.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")), st.sampled_from(Role))
def test_any_text_is_forwarded_answered_or_counted(text: str, side: Role) -> None:
    link = relay()
    outs = link.received(side, text, now=0.0)
    assert len(outs) + link.counters.messages[side][Fate.STRAY] + link.counters.messages[side.other][Fate.STRAY] == 1
