"""Secrets do not show (SEC-01)."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import logging
import traceback
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from s2connect.model.common import MalformedMessage, NodeId, Role
from s2connect.model.pairing import (
    ConnectionDetails,
    PostConnectionDetails,
    RequestConnectionDetails,
    RequestPairingResponse,
)
from s2connect.model.secret import (
    MAX_SECRET_CHARACTERS,
    AccessToken,
    Base64Secret,
    CommunicationToken,
    HmacChallenge,
    HmacChallengeResponse,
    PairingAttemptId,
    Secret,
)
from s2connect.model.session_init import InitiateSessionResponse, WebSocketCommunicationDetails
from s2connect.pairing.code import PairingCode, PairingToken
from s2connect.pairing.server_core import Commit
from s2connect.store.base import PairKey

RAW = bytes(range(100, 132))
TEXT = base64.b64encode(RAW).decode()
KINDS: list[type[Secret]] = [
    Secret,
    Base64Secret,
    AccessToken,
    CommunicationToken,
    HmacChallenge,
    HmacChallengeResponse,
    PairingAttemptId,
]
NODE = {"id": "3e9a5c0f-9d0e-4f3c-8a44-0d2f6a3b1c77", "brand": "b", "type": "t", "modelName": "m", "role": Role.RM}
CARRIERS: list[tuple[Any, dict[str, Any]]] = [
    (ConnectionDetails, {"initiateSessionUrl": "https://ems.local/", "accessToken": TEXT}),
    (RequestConnectionDetails, {"serverHmacChallengeResponse": TEXT}),
    (
        PostConnectionDetails,
        {
            "serverHmacChallengeResponse": TEXT,
            "connectionDetails": {"initiateSessionUrl": "https://ems.local/", "accessToken": TEXT},
        },
    ),
    (
        RequestPairingResponse,
        {
            "pairingAttemptId": TEXT,
            "serverNodeDescription": NODE,
            "serverEndpointDescription": {},
            "selectedHmacHashingAlgorithm": "SHA256",
            "clientHmacChallengeResponse": TEXT,
            "serverHmacChallenge": TEXT,
        },
    ),
    (
        InitiateSessionResponse,
        {"selectedCommunicationProtocol": "x", "selectedS2MessageVersion": "y", "accessToken": TEXT},
    ),
    (
        WebSocketCommunicationDetails,
        {"communicationProtocol": "WebSocket", "websocketToken": TEXT, "websocketUrl": "wss://ems.local/"},
    ),
]


def _hidden(text: str) -> bool:
    return not any(part in text for part in (TEXT, TEXT.rstrip("="), TEXT[:12], repr(RAW)[2:20], RAW.hex()[:16]))


@pytest.mark.rule("SEC-01")
@pytest.mark.parametrize("kind", KINDS)
def test_no_usual_way_of_writing_shows_the_value(kind: type[Secret], caplog: pytest.LogCaptureFixture) -> None:
    secret = kind(TEXT)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%s %r", secret, secret)
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r}",
        f"{secret!s}",
        f"{secret!a}",
        f"{[secret]}",
        caplog.text,
    ]
    shown += [f"{secret}", f"{secret!r}", f"{ {'x': secret} }"]
    for text in shown:
        assert _hidden(text)
        assert f"{kind.__name__}(***)" in text
    assert not hasattr(secret, "__dict__")
    assert secret.reveal() == TEXT


@pytest.mark.rule("SEC-01")
@pytest.mark.parametrize(("model", "value"), CARRIERS, ids=lambda v: getattr(v, "__name__", ""))
def test_no_model_shows_its_secrets_but_writes_them(model: Any, value: dict[str, Any]) -> None:
    read = model.from_value(value)
    for text in (repr(read), str(read), f"{read}", f"{read!r}", repr([read]), repr(read.model_dump())):
        assert _hidden(text) or text == repr(read.model_dump())
    assert TEXT in read.to_json().decode()
    assert json.loads(read.to_json())


@pytest.mark.rule("SEC-01")
@pytest.mark.parametrize(("model", "value"), CARRIERS, ids=lambda v: getattr(v, "__name__", ""))
def test_no_error_shows_a_secret(model: Any, value: dict[str, Any]) -> None:
    """Each secret in turn is made too short, so that the others are the input of a failed validation."""
    secrets = [name for name, v in value.items() if v == TEXT]
    for name in [*secrets, "serverNodeDescription"]:
        if name not in value:
            continue
        broken = {**value, name: f"\x01{TEXT[:16]}"}
        with pytest.raises(MalformedMessage) as caught:
            model.from_value(broken)
        assert _hidden("".join(traceback.format_exception(caught.value)))
        with pytest.raises(ValidationError) as direct:
            model.model_validate(broken)
        assert _hidden(str(direct.value))
        assert _hidden("".join(traceback.format_exception(direct.value)))


@pytest.mark.rule("SEC-01")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "ä" * 40, f"ä{TEXT}", f"{TEXT}" * 200, f"!{TEXT[1:]}"])
def test_the_error_of_a_bad_secret_does_not_repeat_it(kind: type[Secret], text: str) -> None:
    if text.startswith("!") and not issubclass(kind, Base64Secret):
        return  # any visible ASCII text may be one of these
    with pytest.raises(ValueError, match=f"not a valid {kind.__name__}") as caught:
        kind(text)
    shown = "".join(traceback.format_exception(caught.value))
    assert _hidden(str(caught.value))
    assert text == "" or text not in shown


@pytest.mark.rule("SEC-01", "TOK-06")
def test_a_pairing_code_shows_itself_to_a_person_but_not_in_a_repr() -> None:
    code = PairingCode.parse("A0-5hK7Secret")
    assert str(code) == "A0-5hK7Secret"
    assert repr(code) == "PairingCode(token=PairingToken(***), alias='A0', expires_in=None, other_token=None)"
    assert "Secret" not in repr(PairingToken("5hK7Secret"))


@pytest.mark.rule("SEC-01")
def test_what_the_core_hands_out_does_not_show_its_secrets() -> None:
    key = PairKey(NodeId(uuid4()), NodeId(uuid4()))
    commit = Commit(key, AccessToken(TEXT), PairingAttemptId(TEXT))  # type: ignore[arg-type] # only shown
    assert _hidden(repr(commit))


def test_secrets_are_compared_and_copied_by_value() -> None:
    assert AccessToken(TEXT) == AccessToken(TEXT)
    assert AccessToken(TEXT) != AccessToken.from_bytes(bytes(32))
    assert AccessToken(TEXT) != TEXT
    assert {AccessToken(TEXT): 1}[AccessToken(TEXT)] == 1
    assert copy.deepcopy(AccessToken(TEXT)) == AccessToken(TEXT)


@pytest.mark.rule("HMAC-01")
def test_a_challenge_of_less_than_32_bytes_is_refused() -> None:
    assert HmacChallenge.from_bytes(bytes(32)).raw == bytes(32)
    with pytest.raises(ValueError, match="not a valid"):
        HmacChallenge.from_bytes(bytes(31))


JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJybSJ9.c2lnbmF0dXJl-_"
OPAQUE = [JWT, "x", base64.b64encode(bytes(24)).decode(), "a" * MAX_SECRET_CHARACTERS, "~!\"\\'{}"]


@pytest.mark.rule("SES-04")
@pytest.mark.parametrize("kind", [AccessToken, CommunicationToken])
@pytest.mark.parametrize("text", OPAQUE, ids=lambda text: text[:12])
def test_what_a_peer_issues_is_an_opaque_bearer(kind: type[Secret], text: str) -> None:
    assert kind(text).reveal() == text


@pytest.mark.rule("SES-04", "SEC-03")
@pytest.mark.parametrize("kind", [AccessToken, CommunicationToken, PairingAttemptId])
@pytest.mark.parametrize("char", ["\x00", "\x1f", "\x7f", "\xe9", "\u0661", " "])
def test_what_cannot_stand_in_a_header_is_no_bearer(kind: type[Secret], char: str) -> None:
    with pytest.raises(ValueError, match="not a valid"):
        kind(f"{TEXT}{char}{TEXT}")
    with pytest.raises(ValueError, match="not a valid"):
        kind("x" * (MAX_SECRET_CHARACTERS + 1))


@pytest.mark.rule("SES-04")
def test_line_breaks_of_wrapped_base64_are_no_part_of_a_bearer() -> None:
    assert AccessToken(f"{TEXT[:20]}\r\n{TEXT[20:]}\n").reveal() == TEXT


@pytest.mark.rule("HMAC-01")
@pytest.mark.parametrize(
    "text",
    [
        TEXT.rstrip("="),
        TEXT.replace("=", "") + "==",
        TEXT + "=",
        "_" + TEXT[1:],
        "-" + TEXT[1:],
        "." + TEXT[1:],
        "=" + TEXT[1:],
        RAW.hex() + "z",
    ],
)
def test_only_standard_base64_with_padding_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid HmacChallenge"):
        HmacChallenge(text)


def test_white_space_in_base64_is_dropped() -> None:
    assert HmacChallenge(f" {TEXT[:10]}\r\n{TEXT[10:]}\n").raw == RAW
    assert HmacChallenge(f" {TEXT}").reveal() == TEXT


@given(st.binary(min_size=1, max_size=100))
def test_bytes_survive_base64(raw: bytes) -> None:
    secret = HmacChallengeResponse.from_bytes(raw)
    assert secret.raw == raw
    assert base64.b64decode(secret.reveal()) == raw


@pytest.mark.rule("SEC-03")
def test_the_length_of_a_secret_is_bounded() -> None:
    assert Secret("x" * MAX_SECRET_CHARACTERS)
    with pytest.raises(ValueError, match="not a valid Secret"):
        Secret("x" * (MAX_SECRET_CHARACTERS + 1))


@given(st.sampled_from(KINDS), st.text(max_size=80))
def test_any_text_is_a_secret_or_a_value_error(kind: type[Secret], text: str) -> None:
    with contextlib.suppress(ValueError):
        kind(text)
