"""Reading and writing objects of the wire."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.model import common, pairing, registry, session_init
from s2connect.model.common import (
    MalformedMessage,
    NodeDescription,
    Role,
    Wire,
    choose_name,
    choose_version,
    read_list,
    spelled_by_peer,
)
from tests import strategies

MODELS: dict[str, type[Wire]] = {
    name: model
    for module in (common, pairing, session_init, registry)
    for name, model in vars(module).items()
    if isinstance(model, type) and issubclass(model, Wire) and model is not Wire
}

NODE: dict[str, Any] = {
    "id": "3e9a5c0f-9d0e-4f3c-8a44-0d2f6a3b1c77",
    "brand": "Acme",
    "type": "Heat pump",
    "modelName": "HP 1",
    "role": "RM",
}


def test_there_is_a_strategy_for_every_model() -> None:
    assert set(MODELS) == set(strategies.WIRE)


named_values = st.sampled_from(sorted(strategies.WIRE)).flatmap(lambda n: st.tuples(st.just(n), strategies.WIRE[n]))


def _with_defaults(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"forcePairing": False, **value} if name == "RequestPairing" else value


@given(named_values)
def test_what_was_read_is_written_again(named: tuple[str, Any]) -> None:
    name, value = named
    read = MODELS[name].from_json(json.dumps(value).encode())
    assert json.loads(read.to_json()) == _with_defaults(name, value)
    assert read.to_value() == _with_defaults(name, value)
    assert MODELS[name].from_json(read.to_json()) == read


@pytest.mark.rule("VER-07")
@given(named_values, st.dictionaries(st.text("xyz", min_size=3).map("x-{}".format), strategies.json_values, max_size=3))
def test_unknown_members_are_ignored(named: tuple[str, Any], unknown: dict[str, Any]) -> None:
    name, value = named
    kept = MODELS[name].from_value({**unknown, **value})
    members = {field.alias for field in MODELS[name].model_fields.values()}
    assert {k: v for k, v in kept.to_value().items() if k in members} == _with_defaults(name, value)
    if name not in ("CommunicationDetails", "WebSocketCommunicationDetails"):
        assert kept == MODELS[name].from_value(value)


@pytest.mark.rule("VER-07")
def test_unknown_members_deep_inside_are_ignored() -> None:
    value = {
        "clientNodeId": NODE["id"],
        "clientNodeDescription": {**NODE, "colour": {"rgb": [1, 2, 3]}},
        "priority": None,
    }
    assert pairing.WaitForPairingItem.from_value(value).to_value() == {
        "clientNodeId": NODE["id"],
        "clientNodeDescription": NODE,
    }


def test_details_of_protocols_of_third_parties_keep_their_members() -> None:
    value = {"communicationProtocol": "Carrier pigeon", "loft": {"roof": "red"}, "birds": 3}
    assert session_init.CommunicationDetails.from_value(value).to_value() == value


@given(named_values, st.data())
def test_a_missing_required_member_is_refused(named: tuple[str, Any], data: st.DataObject) -> None:
    name, value = named
    required = sorted(str(f.alias) for f in MODELS[name].model_fields.values() if f.is_required())
    if not required:
        return
    missing = data.draw(st.sampled_from(required))
    with pytest.raises(MalformedMessage, match=missing):
        MODELS[name].from_value({k: v for k, v in value.items() if k != missing})


@given(named_values)
def test_the_spelling_of_python_does_not_count_on_the_wire(named: tuple[str, Any]) -> None:
    name, value = named
    fields = {f.alias: n for n, f in MODELS[name].model_fields.items() if f.alias != n and f.is_required()}
    if not set(fields) & set(value):
        return
    with pytest.raises(MalformedMessage):
        MODELS[name].from_value({fields.get(k, k): v for k, v in value.items()})


@given(st.sampled_from(sorted(MODELS)), strategies.json_values)
def test_any_json_value_is_read_or_refused_as_malformed(name: str, value: Any) -> None:
    with contextlib.suppress(MalformedMessage):
        MODELS[name].from_value(value)


@given(named_values, strategies.json_values, st.data())
def test_any_value_of_any_member_is_read_or_refused_as_malformed(
    named: tuple[str, Any], value: Any, data: st.DataObject
) -> None:
    name, good = named
    member = data.draw(st.sampled_from(sorted(str(f.alias) for f in MODELS[name].model_fields.values())))
    with contextlib.suppress(MalformedMessage):
        MODELS[name].from_value({**good, member: value})


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null", "true", "", "{"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        common.EndpointDescription.from_json(text)


@pytest.mark.rule("VER-07")
def test_values_of_other_types_in_lists_of_names_match_nothing() -> None:
    value = {
        "clientNodeId": NODE["id"],
        "serverNodeId": NODE["id"],
        "supportedS2MessageVersions": ["v9", None, "v1.0.0", 1, {}],
        "supportedCommunicationProtocols": ["QUIC", "WebSocket", ["WebSocket"]],
    }
    read = session_init.InitiateSession.from_value(value)
    assert read.supported_s2_message_versions == ("v9", "v1.0.0")
    assert read.supported_communication_protocols == ("QUIC", "WebSocket")


@pytest.mark.parametrize("value", ["WebSocket", {}, None, 1])
def test_a_list_of_names_is_a_list(value: Any) -> None:
    with pytest.raises(MalformedMessage):
        session_init.InitiateSession.from_value(
            {
                "clientNodeId": NODE["id"],
                "serverNodeId": NODE["id"],
                "supportedS2MessageVersions": ["v1.0.0"],
                "supportedCommunicationProtocols": value,
            }
        )


@pytest.mark.rule("VER-07")
@pytest.mark.parametrize("model", [pairing.PairingResponseErrorMessage, session_init.CommunicationDetailsErrorMessage])
@pytest.mark.parametrize("reason", ["MoonIsFull", "", "other", "PARSINGERROR"])
def test_unknown_reasons_are_read_as_other(model: Any, reason: str) -> None:
    read = model.from_value({"errorMessage": reason, "additionalInfo": "text"})
    assert read.error_message.value == "Other"
    assert read.additional_info == "text"


@pytest.mark.parametrize("reason", [None, 1, [], {}, True])
@pytest.mark.parametrize("model", [pairing.PairingResponseErrorMessage, session_init.CommunicationDetailsErrorMessage])
def test_a_reason_that_is_no_text_is_malformed(model: Any, reason: Any) -> None:
    with pytest.raises(MalformedMessage):
        model.from_value({"errorMessage": reason})


@pytest.mark.parametrize("value", ["true", 1, 0, "", "false"])
def test_booleans_are_not_guessed(value: Any) -> None:
    with pytest.raises(MalformedMessage):
        pairing.FinalizePairing.from_value({"success": value})


@pytest.mark.rule("PAIR-09")
def test_finalize_without_success_is_told_from_both_values() -> None:
    assert pairing.FinalizePairing.from_value({}).success is None
    assert pairing.FinalizePairing.from_value({"success": None}).success is None
    assert pairing.FinalizePairing.from_value({"success": False}).success is False


def test_read_list_reads_every_element() -> None:
    other = {**NODE, "role": "CEM"}
    nodes = read_list(json.dumps([NODE, other]), NodeDescription)
    assert [node.role for node in nodes] == [Role.RM, Role.CEM]
    assert read_list(b"[]", NodeDescription) == []


@pytest.mark.parametrize("text", ["{}", "[1]", "[{}]", "nonsense", '[{"id": "1"}]'])
def test_read_list_refuses_what_is_no_list_of_them(text: str) -> None:
    with pytest.raises(MalformedMessage):
        read_list(text, NodeDescription)


def test_objects_of_the_wire_cannot_be_changed() -> None:
    node = NodeDescription.from_value(NODE)
    with pytest.raises(ValueError, match="frozen"):
        node.brand = "other"  # type: ignore[misc]


def test_the_title_prefers_the_name_a_person_gave() -> None:
    assert NodeDescription.from_value(NODE).title == "Acme HP 1"
    assert NodeDescription.from_value({**NODE, "userDefinedName": "Cellar"}).title == "Cellar"


@pytest.mark.rule("ROLE-01")
def test_a_cem_pairs_with_an_rm_only() -> None:
    assert Role.CEM.other is Role.RM
    assert Role.RM.other is Role.CEM


def test_what_is_said_of_a_malformed_object_is_bounded_and_shows_no_control_characters() -> None:
    """It goes to the log (SEC-01, SEC-03)."""
    value = {**NODE, "id": "\x1b[2J\n" * 1000, "role": "\r" * 1000}
    with pytest.raises(MalformedMessage) as caught:
        NodeDescription.from_value(value)
    text = str(caught.value)
    assert len(text) < 1000
    assert text.isprintable()


DETAILS = {"initiateSessionUrl": "https://ems.local/", "accessToken": "A" * 44}
REQUEST = {
    "clientNodeDescription": NODE,
    "clientEndpointDescription": {},
    "supportedCommunicationProtocols": ["WebSocket"],
    "supportedS2MessageVersions": ["v1.0.0"],
    "supportedHmacHashingAlgorithms": ["SHA256"],
    "clientHmacChallenge": "A" * 43 + "=",
}
POST = {"serverHmacChallengeResponse": "AAAA", "connectionDetails": DETAILS}


@pytest.mark.rule("TRUST-07", "VER-07")
@pytest.mark.parametrize("map", ["AA:BB", 7, [], {"\n" * 500: 1, "SHA256": None}, {"SHA256": {"a": 1}}, True], ids=str)
def test_a_fingerprint_that_nobody_may_need_is_read_as_it_is(map: object) -> None:  # noqa: A002 - as on the wire
    read = pairing.ConnectionDetails.from_value({**DETAILS, "certificateFingerprint": map})
    assert read.certificate_fingerprint == {}


@pytest.mark.rule("PAIR-07")
def test_the_order_of_a_fingerprint_map_makes_no_difference() -> None:
    one, other = {"SHA256": "a", "SHA265": "b"}, {"SHA265": "b", "SHA256": "a"}
    texts = {
        pairing.ConnectionDetails.from_value({**DETAILS, "certificateFingerprint": found}).to_json()
        for found in (one, other)
    }
    assert len(texts) == 1


@pytest.mark.rule("VER-07")
@pytest.mark.parametrize("absent", [{}, {"forcePairing": None}])
def test_null_counts_as_absent_also_where_there_is_a_default(absent: dict[str, object]) -> None:
    read = pairing.RequestPairing.from_value({**REQUEST, **absent})
    assert read.force_pairing is False
    assert read == pairing.RequestPairing.from_value({**REQUEST, "forcePairing": False})


def _without(value: Mapping[str, object], member: str) -> dict[str, object]:
    return {name: given for name, given in value.items() if name != member}


@pytest.mark.rule("SEC-01", "PAIRC-07")
@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (pairing.ConnectionDetails, _without(DETAILS, "accessToken"), "accessToken is missing"),
        (
            pairing.PostConnectionDetails,
            {**POST, "connectionDetails": _without(DETAILS, "accessToken")},
            "connectionDetails.accessToken is missing",
        ),
        (
            pairing.PostConnectionDetails,
            {**POST, "connectionDetails": {**DETAILS, "accessToken": "not \x07 visible"}},
            "connectionDetails.accessToken is not a text of 1 to 4096 visible ASCII characters",
        ),
        (pairing.PostConnectionDetails, {**POST, "connectionDetails": "secret"}, "connectionDetails is not an object"),
        (
            pairing.ConnectionDetails,
            {**DETAILS, "initiateSessionUrl": "http://ems.local/"},
            "initiateSessionUrl cannot be used: The URL does not start with https://",
        ),
        (pairing.ConnectionDetails, {**DETAILS, "initiateSessionUrl": 7}, "initiateSessionUrl is not a text"),
        (pairing.RequestPairing, {**REQUEST, "forcePairing": "yes"}, "forcePairing is neither true nor false"),
        (
            pairing.RequestPairing,
            {**REQUEST, "clientHmacChallenge": "c2hvcnQ="},
            "clientHmacChallenge is not Base64 of at least 32 bytes",
        ),
        (
            pairing.RequestPairing,
            {**REQUEST, "clientNodeDescription": {**NODE, "role": "cem\x1b"}},
            'clientNodeDescription.role is "cem", not CEM or RM',
        ),
        (
            pairing.RequestPairing,
            {**REQUEST, "clientNodeDescription": {**NODE, "id": "7"}},
            "clientNodeDescription.id is not a UUID",
        ),
        (
            pairing.RequestPairing,
            {**REQUEST, "supportedS2MessageVersions": "v1.0.0"},
            "supportedS2MessageVersions is not a list",
        ),
        (pairing.RequestPairing, {**REQUEST, "nodeIdAlias": "a b"}, "nodeIdAlias has characters that it may not have"),
        (pairing.RequestPairing, {**REQUEST, "nodeIdAlias": "a" * 65}, "nodeIdAlias is longer than 64 characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_named_by_its_member_in_our_words(kind: type[Wire], value: dict[str, object], said: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        kind.from_json(json.dumps(value))
    assert str(caught.value) == said


def test_of_many_faults_the_first_three_are_named() -> None:
    with pytest.raises(MalformedMessage) as caught:
        pairing.RequestPairing.from_value({})
    assert str(caught.value) == (
        "clientNodeDescription is missing; clientEndpointDescription is missing; "
        "supportedCommunicationProtocols is missing; 3 more"
    )


# Versions


@pytest.mark.rule("VER-06")
@pytest.mark.parametrize(
    ("own", "offered", "chosen"),
    [
        (["v1.0.0"], ["v1.0.0"], "v1.0.0"),
        (["v1.0.0"], ["1.0.0"], "1.0.0"),
        (["1.0.0"], ["v1.0.0"], "v1.0.0"),
        (["v1.0.0"], ["0.0.2-beta", "1.0.0"], "1.0.0"),
        (["0.0.2-beta"], ["v0.0.2-beta"], "v0.0.2-beta"),
        (["v1.0.0", "0.0.2-beta"], ["0.0.2-beta", "v1.0.0"], "v1.0.0"),
        (["0.0.2-beta", "v1.0.0"], ["v1.0.0", "0.0.2-beta"], "0.0.2-beta"),
        (["v1.0.0"], ["1.0.0", "v1.0.0"], "1.0.0"),
        (["v1.0.0"], ["v1.0"], None),
        (["v1.0.0"], ["v1.0.1"], None),
        (["v1.0.0"], [">=1.0.0", "^1.0.0", "1.*", "1.0.x", "*", ""], None),
        (["v1.0.0"], ["V1.0.0"], None),
        (["v1.0.0"], ["vv1.0.0"], None),
        (["v1.0.0"], [" v1.0.0", "v1.0.0 "], None),
        (["v1.0.0"], [], None),
        ([], ["v1.0.0"], None),
    ],
)
def test_versions_are_chosen_exactly_and_in_the_spelling_of_the_peer(
    own: list[str], offered: list[str], chosen: str | None
) -> None:
    assert choose_version(own, offered) == chosen


@given(st.lists(st.sampled_from(["v1", "1", "v2", "2", "3", "v4-beta", "v"])), st.lists(strategies.texts, max_size=5))
def test_a_chosen_version_is_always_one_that_was_offered(own: list[str], offered: list[str]) -> None:
    chosen = choose_version(own, offered)
    assert chosen is None or chosen in offered
    for version in own:
        assert spelled_by_peer([version], version) == version


def test_names_are_chosen_by_our_preference() -> None:
    assert choose_name(("a", "b"), ["b", "a"]) == "a"
    assert choose_name(("a", "b"), ["c", "b"]) == "b"
    assert choose_name(("a",), ["A", ""]) is None
