"""Reading and writing envelopes."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.errors import UsageError
from s2connect.messages.envelope import (
    MAX_ID_CHARACTERS,
    MAX_LABEL_CHARACTERS,
    InvalidMessage,
    Message,
    ReceptionStatusValue,
    read_message,
    reception_status,
    write_message,
)

NIL = "00000000-0000-0000-0000-000000000000"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["message_type", "message_id", "subject_message_id", "status", "diagnostic_label", "x"])
KINDS = st.sampled_from(["ReceptionStatus", "PowerMeasurement", "Handshake"])


def refusal(text: str) -> tuple[str, str]:
    with pytest.raises(InvalidMessage) as caught:
        read_message(text)
    return caught.value.status, caught.value.subject_id


@given(st.text() | st.dictionaries(NAMES, VALUES | KINDS, max_size=6).map(json.dumps))
@pytest.mark.rule("SEC-04", "MSG-03")
def test_any_text_is_a_message_or_an_invalid_message(text: str) -> None:
    try:
        message = read_message(text)
    except InvalidMessage:
        return
    assert message.text is text
    assert (message.id is None) == (message.type == "ReceptionStatus")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        '"message"',
        "null",
        '{"message_type":"A"}',
        '{"message_type":"A","message_id":null}',
        '{"message_type":"A","message_id":12}',
        '{"message_type":"A","message_id":"x"}',
        '{"message_type":"A","message_id":"é é"}',
        '{"message_type":"A","message_id":"' + "a" * (MAX_ID_CHARACTERS + 1) + '"}',
        '{"message_type":"A","message_id":"ab","v":NaN}',
        '{"message_type":"A","message_id":"ab"',
        "[" * 100_000,
        '{"message_type":"A","message_id":"ab","v":' + "[" * 100_000,
    ],
)
@pytest.mark.rule("MSG-03", "MSG-05", "SEC-04")
def test_without_json_or_a_usable_id_the_answer_is_invalid_data_about_the_nil_uuid(text: str) -> None:
    assert refusal(text) == ("INVALID_DATA", NIL)


@pytest.mark.parametrize("kind", ["", '"message_type":7,', '"message_type":null,'])
@pytest.mark.rule("MSG-03")
def test_without_a_type_the_answer_is_invalid_message_about_that_id(kind: str) -> None:
    assert refusal("{" + kind + '"message_id":"m-1"}') == ("INVALID_MESSAGE", "m-1")


@pytest.mark.parametrize("name", ["ab", "A-z_0:9", "a" * 64, "3fa85f64-5717-4562-b3fc-2c963f66afa6"])
@pytest.mark.rule("MSG-05")
def test_ids_need_not_be_uuids(name: str) -> None:
    assert read_message(json.dumps({"message_type": "A", "message_id": name})).id == name


def test_members_of_a_reception_status_in_another_message_do_not_matter() -> None:
    message = read_message('{"message_type":"A","message_id":"ab","status":5,"diagnostic_label":[]}')
    assert (message.type, message.id) == ("A", "ab")


@pytest.mark.rule("MSG-03")
def test_a_reception_status_is_read_with_subject_status_and_label() -> None:
    message = read_message(reception_status("m-1", ReceptionStatusValue.INVALID_CONTENT, "wärme"))
    assert (message.type, message.id) == ("ReceptionStatus", None)
    assert (message.subject_id, message.status, message.label) == ("m-1", "INVALID_CONTENT", "wärme")


@pytest.mark.parametrize(
    "rest", ["", ',"subject_message_id":"ab"', ',"status":"OK"', ',"subject_message_id":1,"status":"OK"']
)
@pytest.mark.rule("MSG-03")
def test_a_broken_reception_status_is_not_answered(rest: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        read_message('{"message_type":"ReceptionStatus"' + rest + "}")
    assert not caught.value.answerable


@pytest.mark.parametrize("rest", ['"a":1,"a":2', '"a":"\\ud800"', '"message_id":"cd"', '"a":' + "[" * 70 + "]" * 70])
@pytest.mark.rule("SEC-04")
def test_the_body_is_read_strictly(rest: str) -> None:
    with pytest.raises(InvalidMessage):
        _ = read_message('{"message_type":"A","message_id":"ab",' + rest + "}").body


@pytest.mark.rule("MSG-06")
def test_the_text_is_kept_as_it_came_and_the_body_is_parsed_once() -> None:
    text = ' {"message_id": "ab",\n "message_type":"A", "ü": 1.50 }'
    message = read_message(text)
    assert message.text is text
    assert message.body == {"message_id": "ab", "message_type": "A", "ü": 1.5}
    assert message.body is message.body


def test_a_repr_is_short() -> None:
    assert "y" * 50 not in repr(Message("y" * 500, "A", "ab"))


@pytest.mark.rule("MSG-05")
def test_writing_adds_a_uuid_where_there_is_no_id_and_leaves_the_object_alone() -> None:
    message = {"message_type": "A", "ü": [1.5, None]}
    text, identifier = write_message(message)
    assert UUID(identifier).version == 4
    assert json.loads(text) == {**message, "message_id": identifier}
    assert "message_id" not in message
    assert write_message({"message_type": "A", "message_id": "m-1"})[1] == "m-1"


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"message_type": 1},
        {"message_type": "A", "message_id": "x"},
        {"message_type": "A", "message_id": 5},
        {"message_type": "A", "v": float("nan")},
        {"message_type": "A", "v": [{"w": (1, float("-inf"))}]},
        {"message_type": "A", "v": object()},
        {"message_type": "A", "v": "\ud800"},
        {"message_type": "ReceptionStatus"},
    ],
)
def test_what_is_no_message_is_not_written(message: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        write_message(message)


@pytest.mark.parametrize("kind", ["Handshake", "HandshakeResponse"])
@pytest.mark.rule("MSG-01")
def test_handshakes_are_not_sent(kind: str) -> None:
    with pytest.raises(UsageError):
        write_message({"message_type": kind})


def test_labels_are_bounded() -> None:
    text = reception_status(NIL, ReceptionStatusValue.INVALID_DATA, "x" * 5000)
    assert len(json.loads(text)["diagnostic_label"]) == MAX_LABEL_CHARACTERS
