"""Answers as the communication client reads them (SESC)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from s2connect.errors import NoLongerPaired, ProtocolViolation, S2ConnectError, SessionRefused
from s2connect.session import client_core
from s2connect.session.client_core import (
    MAX_VERSIONS,
    VERSION_LIFETIME,
    KnownVersions,
    VersionGone,
    read_confirm_answer,
    read_initiate_answer,
)
from tests.session.session_fixtures import token

TOKEN = token("new").reveal()


def _answer(**changes: Any) -> bytes:
    value = {
        "selectedCommunicationProtocol": "WebSocket",
        "selectedS2MessageVersion": "v1.0.0",
        "accessToken": TOKEN,
        **changes,
    }
    return json.dumps({k: v for k, v in value.items() if v is not None}).encode()


def _read(status: int, body: bytes) -> Any:
    return read_initiate_answer(
        status, body, offered_protocols=("WebSocket", "Pigeon"), offered_versions=("v1.0.0", "0.0.2-beta")
    )


@pytest.mark.rule("SESC-01")
def test_401_means_the_next_token() -> None:
    assert _read(401, b"") is None
    assert _read(401, _answer()) is None


def test_a_good_answer_is_read() -> None:
    answer = _read(200, _answer(selectedS2MessageVersion="0.0.2-beta", selectedCommunicationProtocol="Pigeon"))
    assert answer.access_token.reveal() == TOKEN
    assert (answer.selected_communication_protocol, answer.selected_s2_message_version) == ("Pigeon", "0.0.2-beta")


@pytest.mark.rule("SESC-04", "VER-06")
@pytest.mark.parametrize(
    "change",
    [
        {"selectedCommunicationProtocol": "QUIC"},
        {"selectedCommunicationProtocol": "websocket"},
        {"selectedS2MessageVersion": "v2.0.0"},
        {"selectedS2MessageVersion": "v1"},
        {"selectedS2MessageVersion": ""},
    ],
    ids=str,
)
def test_what_was_not_offered_cannot_be_selected(change: dict[str, str]) -> None:
    with pytest.raises(ProtocolViolation, match="not offered"):
        _read(200, _answer(**change))


@pytest.mark.rule("VER-06", "SESC-04")
def test_a_selected_version_is_that_which_was_offered_without_its_v() -> None:
    assert _read(200, _answer(selectedS2MessageVersion="1.0.0")).selected_s2_message_version == "v1.0.0"


@pytest.mark.rule("PAIRC-04")
@pytest.mark.parametrize("status", [200, 201, 202, 203])
def test_any_2xx_is_success(status: int) -> None:
    assert _read(status, _answer()).access_token.reveal() == TOKEN


@pytest.mark.rule("SES-04")
@pytest.mark.parametrize("token", ["x", "c2hvcnQ=", "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJybSJ9.c2lnbmF0dXJl"])
def test_any_opaque_bearer_is_taken_for_a_new_token(token: str) -> None:
    assert _read(200, _answer(accessToken=token)).access_token.reveal() == token


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        _answer(accessToken=None),
        _answer(accessToken=""),
        _answer(accessToken=f"\x07{TOKEN}"),
    ],
    ids=lambda body: repr(body[-20:]),
)
def test_an_answer_that_breaks_its_schema_is_a_violation(body: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        _read(200, body)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("status", [100, 301, 302, 403, 404, 418])
def test_another_status_is_a_violation(status: int) -> None:
    with pytest.raises(ProtocolViolation, match=str(status)):
        _read(status, _answer())


@pytest.mark.rule("SESC-05")
@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("NoLongerPaired", NoLongerPaired),
        ("IncompatibleS2MessageVersions", SessionRefused),
        ("IncompatibleCommunicationProtocols", SessionRefused),
        ("ParsingError", SessionRefused),
        ("Other", SessionRefused),
        ("MoonIsFull", SessionRefused),
    ],
)
def test_only_no_longer_paired_is_for_good(reason: str, error: type[S2ConnectError]) -> None:
    with pytest.raises(error) as caught:
        _read(400, json.dumps({"errorMessage": reason, "additionalInfo": "Back at\x1b[2J nine."}).encode())
    if isinstance(caught.value, SessionRefused):
        assert caught.value.reason == (reason if reason != "MoonIsFull" else "Other")
        assert caught.value.additional_info == "Back at [2J nine."
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"errorMessage": 1}'])
def test_a_refusal_that_cannot_be_read_is_for_now(body: bytes) -> None:
    with pytest.raises(SessionRefused) as caught:
        _read(400, body)
    assert caught.value.reason == "Other"


DETAILS = json.dumps(
    {"communicationProtocol": "WebSocket", "websocketToken": TOKEN, "websocketUrl": "wss://ems.local/ws", "new": [1]}
).encode()


@pytest.mark.rule("SES-04")
def test_the_details_keep_what_the_transport_needs() -> None:
    details = read_confirm_answer(200, DETAILS, protocol="WebSocket")
    assert details.to_value() == json.loads(DETAILS)


@pytest.mark.rule("SESC-03", "SESC-05")
def test_a_confirmation_that_came_too_late_is_tried_again_later() -> None:
    with pytest.raises(SessionRefused):
        read_confirm_answer(401, b"", protocol="WebSocket")


@pytest.mark.rule("SESC-04")
def test_details_of_another_protocol_are_a_violation() -> None:
    with pytest.raises(ProtocolViolation, match="another protocol"):
        read_confirm_answer(200, DETAILS, protocol="Pigeon")


@pytest.mark.parametrize(
    ("status", "body"), [(200, b""), (200, b"{}"), (200, b"[]"), (204, b""), (302, DETAILS), (400, b"")]
)
def test_any_other_answer_to_the_confirmation_is_a_violation(status: int, body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read_confirm_answer(status, body, protocol="WebSocket")


@pytest.mark.parametrize("status", [404, 405, 410])
def test_a_missing_operation_is_told_from_other_violations(status: int) -> None:
    with pytest.raises(VersionGone) as gone:
        _read(status, b"")
    assert gone.value.kind == ProtocolViolation.kind
    with pytest.raises(ProtocolViolation) as other:
        _read(403, b"")
    assert not isinstance(other.value, VersionGone)


@pytest.mark.rule("VER-02")
def test_a_version_is_remembered_for_a_time_of_one_url_with_one_ca() -> None:
    known = KnownVersions()
    known.remember("https://a/", b"ca", "v1", now=10.0)
    assert known.get("https://a/", b"ca", now=10.0) == "v1"
    assert known.get("https://a/", b"ca", now=9.9 + VERSION_LIFETIME) == "v1"
    assert known.get("https://a/", b"ca", now=10.0 + VERSION_LIFETIME) is None
    for url, ca in (("https://b/", b"ca"), ("https://a/", b"other"), ("https://a/", None)):
        assert known.get(url, ca, now=10.0) is None
    known.forget("https://a/", b"ca")
    assert known.get("https://a/", b"ca", now=10.0) is None


def test_versions_of_a_bounded_number_of_servers_are_remembered() -> None:
    known = KnownVersions()
    for number in range(MAX_VERSIONS + 5):
        known.remember(f"https://{number}/", None, "v1", now=0.0)
    assert known.get("https://4/", None, now=0.0) is None
    assert known.get("https://5/", None, now=0.0) == "v1"
    assert known.get(f"https://{MAX_VERSIONS + 4}/", None, now=0.0) == "v1"


@pytest.mark.parametrize(
    ("connected_before", "words"), [(False, "This home may be an older copy"), (True, "a second copy of this home")]
)
def test_the_hint_about_a_401_says_whose_copy_it_can_be(connected_before: bool, words: str) -> None:
    assert words in client_core.refused_hint(connected_before=connected_before)
