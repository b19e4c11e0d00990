"""The handshake of plain S2, between our two sides and against what software in the field does. No I/O."""

from __future__ import annotations

import json
import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import ProtocolViolation, SessionRefused
from s2connect.messages.handshake import HANDSHAKE_TIMEOUT, MAX_REFUSED, VERSIONS, PlainHandshake, Step
from s2connect.model.common import Role

BETA = "0.0.2-beta"
RM, CEM = Role.RM, Role.CEM


def side(role: Role, *versions: str) -> PlainHandshake:
    return PlainHandshake(
        role, message_ids=(f"{role}-handshake", f"{role}-response"), now=100.0, versions=versions or None
    )


def handshake(role: str, *versions: str, **more: Any) -> str:
    value = {"message_type": "Handshake", "message_id": "theirs", "role": role} | more
    if versions:
        value["supported_protocol_versions"] = list(versions)
    return json.dumps(value)


def response(version: str) -> str:
    return json.dumps(
        {"message_type": "HandshakeResponse", "message_id": "chosen", "selected_protocol_version": version}
    )


def status(subject: str, value: str = "OK", **more: Any) -> str:
    return json.dumps({"message_type": "ReceptionStatus", "subject_message_id": subject, "status": value} | more)


def message(kind: str = "ResourceManagerDetails", **more: Any) -> str:
    return json.dumps({"message_type": kind, "message_id": "other"} | more)


def sent(step: Step) -> list[tuple[Any, ...]]:
    """Return the messages that a step sends, in short."""
    short = []
    for text in step.send:
        value = json.loads(text)
        if value["message_type"] == "ReceptionStatus":
            short.append((value["status"], value["subject_message_id"]))
        else:
            short.append((value["message_type"], value.get("selected_protocol_version", value.get("role"))))
    return short


def test_each_side_introduces_itself_with_its_role_and_versions() -> None:
    for role in Role:
        first = json.loads(side(role).begin())
        assert first == {
            "message_type": "Handshake",
            "message_id": f"{role}-handshake",
            "role": role,
            "supported_protocol_versions": list(VERSIONS[role]),
        }


def test_a_device_offers_only_what_is_deployed_because_managers_take_the_first_or_the_highest() -> None:
    assert VERSIONS[RM] == (BETA,)
    assert VERSIONS[CEM] == (BETA, "v1.0.0")


@pytest.mark.rule("MSG-03")
def test_the_manager_answers_and_chooses_and_is_done_with_the_acknowledgement() -> None:
    cem = side(CEM)
    step = cem.received(handshake("RM", BETA))
    assert sent(step) == [("OK", "theirs"), ("HandshakeResponse", BETA)]
    assert not cem.done
    assert cem.received(status("CEM-response")) == Step()
    assert (cem.done, cem.version) == (True, BETA)
    assert not cem.settled(101), "our own Handshake still waits for its answer"
    assert cem.received(status("CEM-handshake")) == Step()
    assert cem.settled(101)


def test_a_message_right_after_the_response_counts_as_its_acknowledgement_and_is_not_lost() -> None:
    cem = side(CEM)
    cem.received(handshake("RM", BETA))
    assert cem.received(message()) == Step(deliver=message())
    assert cem.done
    assert cem.received(status("CEM-response")) == Step(), "late, and none of the session's business"
    assert cem.received(status("of the session")).deliver is not None


@pytest.mark.parametrize("order", ["first", "last", "never"])
def test_the_managers_own_handshake_may_come_first_last_or_never(order: str) -> None:
    rm = side(RM)
    if order == "first":
        assert sent(rm.received(handshake("CEM"))) == [("OK", "theirs")]
    rm.received(status("RM-handshake"))
    assert not rm.done
    assert sent(rm.received(response(BETA))) == [("OK", "chosen")]
    assert rm.done
    assert rm.settled(101) == (order == "first")
    if order == "last":
        assert sent(rm.received(handshake("CEM"))) == [("OK", "theirs")]
        assert rm.settled(101)
    if order == "never":
        assert rm.settled(100 + HANDSHAKE_TIMEOUT)


def test_a_late_handshake_of_the_manager_is_answered_once_and_kept_from_the_session() -> None:
    rm = side(RM)
    rm.received(response(BETA))
    first = rm.received(handshake("CEM"))
    assert (sent(first), first.deliver) == ([("OK", "theirs")], None)
    assert rm.received(handshake("CEM")) == Step(deliver=handshake("CEM")), "a second one is the session's to refuse"
    assert not rm.settled(101)
    assert rm.received(status("RM-handshake")) == Step(), "the certification tool acknowledges after its response"
    assert rm.settled(101)


@pytest.mark.parametrize("text", ["not json", handshake("RM"), handshake("X"), message()])
def test_once_done_whatever_is_no_rest_of_the_handshake_goes_to_the_session(text: str) -> None:
    rm = side(RM)
    rm.received(response(BETA))
    assert rm.received(text) == Step(deliver=text)


@pytest.mark.rule("VER-06")
@pytest.mark.parametrize(
    ("own", "offered", "chosen"),
    [
        ([BETA], [BETA], BETA),
        ([BETA], [f"v{BETA}"], f"v{BETA}"),
        (["v1.0.0"], ["1.0.0"], "1.0.0"),
        (["v1.0.0", BETA], [BETA, "1.0.0", "v1.0.0"], "1.0.0"),
        ([BETA], ["9", BETA], BETA),
    ],
)
def test_the_manager_chooses_its_best_in_the_devices_spelling(own: list[str], offered: list[str], chosen: str) -> None:
    cem = side(CEM, *own)
    assert sent(cem.received(handshake("RM", *offered)))[1] == ("HandshakeResponse", chosen)
    assert cem.version == chosen
    rm = side(RM, *offered)
    rm.received(response(chosen))
    assert rm.version == chosen


@pytest.mark.rule("VER-06", "MSG-03")
@pytest.mark.parametrize("offered", [(), ("1.0.1",), ("0.0.2",), ("^0.0.2-beta",), ("vv0.0.2-beta",)])
def test_no_common_version_is_told_to_both(offered: tuple[str, ...]) -> None:
    cem = side(CEM, BETA)
    step = cem.received(handshake("RM", *offered))
    assert sent(step) == [("INVALID_CONTENT", "theirs")]
    assert isinstance(step.error, SessionRefused)
    assert step.error.reason == "IncompatibleS2MessageVersions"
    assert BETA in step.error.what
    assert step.farewell == "no common version"
    for version in offered:
        rm = side(RM, BETA)
        step = rm.received(response(version))
        assert sent(step) == [("INVALID_CONTENT", "chosen")]
        assert isinstance(step.error, SessionRefused)
        assert version in step.error.what
        assert not rm.done


def test_what_a_peer_calls_its_versions_is_fit_for_a_terminal() -> None:
    step = side(CEM).received(handshake("RM", "\x1b[31m" + "x" * 500, *("y",) * 50))
    assert step.error is not None
    assert "\x1b" not in str(step.error)
    assert len(str(step.error)) < 400


@pytest.mark.rule("ROLE-01")
@pytest.mark.parametrize("role", list(Role))
def test_two_of_the_same_role_are_refused(role: Role) -> None:
    step = side(role).received(handshake(role, BETA))
    assert sent(step) == [("INVALID_CONTENT", "theirs")]
    assert isinstance(step.error, ProtocolViolation)


@pytest.mark.parametrize("role", list(Role))
def test_a_message_before_the_handshake_is_refused_and_dropped(role: Role) -> None:
    core = side(role)
    step = core.received(message("PowerMeasurement"))
    assert (sent(step), step.deliver, step.error) == ([("INVALID_CONTENT", "other")], None, None)
    other = core.received(handshake(role.other, BETA))
    assert other.error is None


@pytest.mark.rule("SEC-03")
def test_a_peer_that_never_shakes_hands_is_given_up() -> None:
    core = side(RM)
    for _ in range(MAX_REFUSED):
        assert core.received(message()).error is None
    assert isinstance(core.received(message()).error, ProtocolViolation)


@pytest.mark.rule("MSG-03", "SEC-04")
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("garbage", ("INVALID_DATA", "00000000-0000-0000-0000-000000000000")),
        ('{"message_type": "Handshake"}', ("INVALID_DATA", "00000000-0000-0000-0000-000000000000")),
        (handshake("CHEF", BETA), ("INVALID_MESSAGE", "theirs")),
        (handshake("RM", supported_protocol_versions=[]), ("INVALID_MESSAGE", "theirs")),
        (handshake("RM", BETA, extra=1), ("INVALID_MESSAGE", "theirs")),
        (
            response(BETA).replace("}", ', "message_id": "chosen"}'),
            ("INVALID_DATA", "00000000-0000-0000-0000-000000000000"),
        ),
        (response(BETA).replace(f'"{BETA}"', "7"), ("INVALID_MESSAGE", "chosen")),
    ],
)
def test_what_is_no_message_is_answered_as_in_a_session(text: str, answer: tuple[str, str]) -> None:
    for role in Role:
        step = side(role).received(text)
        assert (sent(step), step.error) == ([answer], None)


def test_a_broken_reception_status_is_not_answered() -> None:
    assert side(RM).received('{"message_type": "ReceptionStatus"}') == Step()


def test_a_response_is_not_for_the_manager_to_receive() -> None:
    step = side(CEM).received(response(BETA))
    assert (sent(step), step.error) == ([("INVALID_CONTENT", "chosen")], None)


@pytest.mark.parametrize("role", list(Role))
def test_a_second_handshake_before_the_end_is_refused_but_harmless(role: Role) -> None:
    core = side(role)
    core.received(handshake(role.other, BETA))
    step = core.received(handshake(role.other, BETA))
    assert (sent(step), step.error) == ([("INVALID_CONTENT", "theirs")], None)


def test_a_device_whose_handshake_is_refused_says_why() -> None:
    step = side(RM).received(status("RM-handshake", "INVALID_CONTENT", diagnostic_label="too\x07 old"))
    assert isinstance(step.error, SessionRefused)
    assert step.error.additional_info == "too\x07 old"
    assert "INVALID_CONTENT: too old" in step.error.what


def test_a_manager_needs_only_its_response_to_be_taken() -> None:
    cem = side(CEM)
    assert cem.received(status("CEM-handshake", "TEMPORARY_ERROR")) == Step()
    cem.received(handshake("RM", BETA))
    assert isinstance(cem.received(status("CEM-response", "INVALID_CONTENT")).error, SessionRefused)
    assert not cem.done


def test_a_status_about_something_else_changes_nothing() -> None:
    for role in Role:
        core = side(role)
        assert core.received(status("unknown", "PERMANENT_ERROR")) == Step()
        assert core.received(status("CEM-response")) == Step()
        assert not core.done


@pytest.mark.rule("REC-03")
def test_a_session_request_ends_the_handshake() -> None:
    step = side(RM).received(message("SessionRequest", request="TERMINATE", diagnostic_label="full"))
    assert sent(step) == [("OK", "other")]
    assert isinstance(step.error, SessionRefused)
    assert step.error.additional_info == "full"


@given(seed=st.integers(0, 2**32), junk=st.lists(st.integers(0, 3), max_size=6))
def test_our_two_sides_agree_in_whatever_order_the_wires_run(seed: int, junk: list[int]) -> None:
    chance = random.Random(seed)
    ends = {RM: side(RM), CEM: side(CEM)}
    wires: dict[Role, deque[str]] = {role: deque([ends[role.other].begin()]) for role in Role}
    noise = ["x", message("PowerMeasurement"), status("nothing"), '{"message_type": "ReceptionStatus"}']
    for kind in junk:
        wires[chance.choice(list(Role))].appendleft(noise[kind])
    delivered = []
    while any(wires.values()):
        role = chance.choice([r for r in Role if wires[r]])
        step = ends[role].received(wires[role].popleft())
        assert step.error is None
        wires[role.other].extend(step.send)
        if step.deliver is not None:
            delivered.append(step.deliver)
    assert all(end.done and end.version == BETA and end.settled(101) for end in ends.values())
    assert all("ReceptionStatus" in text for text in delivered), "only answers to noise, for the session to ignore"


@given(texts=st.lists(st.text() | st.sampled_from([handshake("RM", BETA), response(BETA), status("RM-handshake")])))
def test_whatever_comes_gives_a_step(texts: list[str]) -> None:
    for role in Role:
        core = side(role)
        for text in texts:
            if core.received(text).error is not None:
                break
