"""The models against the OpenAPI files, in both directions: whatever one says, the other has to say as well."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Union
from uuid import UUID

import pytest
from pydantic import TypeAdapter, ValidationError

from s2connect.model import common, pairing, registry, session_init
from s2connect.model.common import Wire
from s2connect.model.secret import PairingAttemptId, Secret
from s2connect.model.url import BaseUrl, WebSocketUrl
from tests.facts.openapi import BOUNDS, read_kind
from tests.facts.table import openapi_facts

OBJECTS: dict[str, type[Wire]] = {
    "common#EndpointDescription": common.EndpointDescription,
    "common#NodeDescription": common.NodeDescription,
    "pairing#PairingResponseErrorMessage": pairing.PairingResponseErrorMessage,
    "pairing#ConnectionDetails": pairing.ConnectionDetails,
    "pairing#requestPairing/request": pairing.RequestPairing,
    "pairing#requestPairing/200": pairing.RequestPairingResponse,
    "pairing#requestConnectionDetails/request": pairing.RequestConnectionDetails,
    "pairing#postConnectionDetails/request": pairing.PostConnectionDetails,
    "pairing#finalizePairing/request": pairing.FinalizePairing,
    "pairing#preparePairing/request": pairing.PreparePairing,
    "pairing#cancelPreparePairing/request": pairing.CancelPreparePairing,
    "pairing#waitForPairing/request": pairing.WaitForPairingItem,
    "pairing#waitForPairing/200": pairing.WaitForPairingOrder,
    "session-init#CommunicationDetails": session_init.CommunicationDetails,
    "session-init#WebSocketCommunicationDetails": session_init.WebSocketCommunicationDetails,
    "session-init#CommunicationDetailsErrorMessage": session_init.CommunicationDetailsErrorMessage,
    "session-init#initiateSession/request": session_init.InitiateSession,
    "session-init#initiateSession/200": session_init.InitiateSessionResponse,
    "session-init#unpair/request": session_init.Unpair,
    "wan-endpoint-registry#EndpointRecord": registry.EndpointRecord,
}
"""Every object of the files and the model that stands for it."""

ENUMS: dict[str, type[StrEnum]] = {
    "common#Role": common.Role,
    "common#Deployment": common.Deployment,
    "pairing#PairingResponseErrorMessage.errorMessage": pairing.PairingErrorReason,
    "pairing#waitForPairing/request.errorMessage": pairing.WaitForPairingError,
    "pairing#waitForPairing/200.action": pairing.WaitForPairingAction,
    "session-init#CommunicationDetailsErrorMessage.errorMessage": session_init.SessionErrorReason,
    "wan-endpoint-registry#Status": registry.RegistryStatus,
}
"""Every enumeration of the files and the StrEnum that stands for it."""

LENIENT = {"common#CommunicationProtocol": [common.WEBSOCKET], "pairing#HmacHashingAlgorithm": [common.SHA256]}
"""Enumerations read as any text, because adding values is a minor change (VER-07), and what we know of them."""


FACTS = openapi_facts()


def members(key: str) -> dict[str, Any]:
    """Members of an object of the files, by name."""
    return {name.removesuffix("?"): kind for name, kind in FACTS[key].items()}


def required(key: str) -> set[str]:
    return {name for name in FACTS[key] if not name.endswith("?")}


def enums() -> dict[str, list[str]]:
    found = {key: facts for key, facts in FACTS.items() if isinstance(facts, list)}
    for key, facts in FACTS.items():
        if isinstance(facts, dict):
            found |= {f"{key}.{name}": kind for name, kind in members(key).items() if isinstance(kind, list)}
    return found


def _core_type(annotation: Any) -> Any:
    """The type without Annotated, NewType and None."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif origin in (Union, types.UnionType):
            left = [a for a in typing.get_args(annotation) if a is not type(None)]
            assert len(left) == 1
            annotation = left[0]
        else:
            return annotation


def test_every_object_of_the_files_has_a_model_and_no_more() -> None:
    assert {key for key, facts in FACTS.items() if isinstance(facts, dict)} == set(OBJECTS)


def test_every_other_schema_with_a_place_of_its_own_is_a_text_or_refers_to_a_mapped_one() -> None:
    for key in set(FACTS) - set(OBJECTS) - set(ENUMS) - set(LENIENT):
        kind = read_kind(FACTS[key])
        kind = kind.get("items", kind)
        assert kind.get("ref") in {*OBJECTS, *ENUMS, *LENIENT} or kind.get("type") == "string", key


def test_no_model_was_left_unmapped() -> None:
    modules = (common, pairing, session_init, registry)
    models = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Wire) and value is not Wire
    }
    assert models == set(OBJECTS.values())
    enums = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, StrEnum) and value is not StrEnum
    }
    assert enums == set(ENUMS.values())


@pytest.mark.parametrize("key", OBJECTS)
def test_members_are_the_same_on_both_sides(key: str) -> None:
    assert {field.alias for field in OBJECTS[key].model_fields.values()} == members(key).keys()


@pytest.mark.parametrize("key", OBJECTS)
def test_required_members_are_the_same_on_both_sides(key: str) -> None:
    """No exception is needed: ``success`` of finalizePairing is optional in the file, and the server refuses it."""
    assert {f.alias for f in OBJECTS[key].model_fields.values() if f.is_required()} == required(key)


@pytest.mark.parametrize("key", OBJECTS)
def test_defaults_are_those_of_the_files(key: str) -> None:
    kinds = members(key)
    for field in OBJECTS[key].model_fields.values():
        assert field.alias is not None
        if field.alias not in required(key):
            kind = kinds[field.alias]
            default = None if isinstance(kind, list) else read_kind(kind).get("default")
            assert field.default == default, field.alias


@pytest.mark.parametrize("key", OBJECTS)
def test_types_are_those_of_the_files(key: str) -> None:
    for field in OBJECTS[key].model_fields.values():
        assert field.alias is not None
        _agrees(members(key)[field.alias], field.annotation, f"{key}.{field.alias}")


def _agrees(facts: Any, annotation: Any, place: str) -> None:
    found = _core_type(annotation)
    if isinstance(facts, list):
        assert found is ENUMS[place], place
        return
    kind = read_kind(facts) if isinstance(facts, str) else facts
    if "ref" in kind:
        _refers(kind["ref"], found, place)
    elif kind["type"] == "array":
        assert typing.get_origin(found) is tuple, place
        _agrees(kind["items"], typing.get_args(found)[0], place)
    elif kind["type"] == "boolean":
        assert found is bool, place
    elif kind["type"] == "object":
        assert found == dict[str, str], place
        assert kind["items"] == {"type": "string"}, place
    elif kind.get("format") == "uuid":
        assert found is UUID, place
    elif kind.get("format") == "byte":
        assert issubclass(found, Secret), place
    elif kind.get("format") == "url":
        assert found is WebSocketUrl, place
    elif place.rpartition(".")[2] in {"pairingUrl", "initiateSessionUrl"}:
        assert found is BaseUrl, place
    else:
        # The file forgets the type of EndpointRecord.description.
        assert kind["type"] in {"string", "any"}, place
        assert found is str, place


def _refers(key: str, found: Any, place: str) -> None:
    if key in OBJECTS:
        assert found is OBJECTS[key], place
    elif key in LENIENT:
        assert found is str, place
    elif key in ENUMS:
        assert found is ENUMS[key], place
    elif key == "pairing#PairingAttemptId":
        assert issubclass(found, Secret), place
    else:
        _agrees(FACTS[key], found, place)


def test_every_enumeration_of_the_files_is_mapped_and_no_more() -> None:
    assert set(enums()) == {*ENUMS, *LENIENT}


@pytest.mark.parametrize("key", LENIENT)
def test_lenient_enumerations_have_the_values_that_we_know(key: str) -> None:
    assert LENIENT[key] == enums()[key]


@pytest.mark.parametrize("key", ENUMS)
def test_enumerations_have_the_same_values(key: str) -> None:
    assert [member.value for member in ENUMS[key]] == enums()[key]


def _constraints() -> Iterator[tuple[str, str, Any]]:
    for key, facts in FACTS.items():
        kinds = (
            {f"{key}.{name}": kind for name, kind in members(key).items()} if isinstance(facts, dict) else {key: facts}
        )
        for place, kind in kinds.items():
            if isinstance(kind, str):
                yield from ((place, word, value) for word, value in read_kind(kind).items() if word in BOUNDS)


def test_the_files_have_these_constraints_and_no_others() -> None:
    """Each is tried below. (That a waitForPairing answer has at least one item is a rule of the operation, LP-04.)"""
    assert set(_constraints()) == {
        ("pairing#NodeIdAlias", "pattern", "^[0-9a-zA-Z]+$"),
        ("pairing#PairingAttemptId", "minLength", 32),
        ("wan-endpoint-registry#EndpointRecord.name", "maxLength", 50),
        ("wan-endpoint-registry#EndpointRecord.description", "maxLength", 500),
        ("wan-endpoint-registry#EndpointRecord.regions", "minItems", 1),
        ("wan-endpoint-registry#CountryCode", "pattern", "^[A-Z]{2}$"),
    }


@pytest.mark.rule("PAIR-03")
def test_an_attempt_id_has_at_least_32_characters() -> None:
    adapter = TypeAdapter(PairingAttemptId)
    assert adapter.validate_python("x" * 32).reveal() == "x" * 32
    with pytest.raises(ValidationError):
        adapter.validate_python("x" * 31)


@pytest.mark.rule("TOK-03")
@pytest.mark.parametrize(
    ("alias", "fits"),
    [("A0", True), ("z", True), ("", False), ("a-b", False), ("a\n", False), ("ä", False), ("٣", False)],
)
def test_an_alias_is_of_letters_and_digits(alias: str, fits: bool) -> None:
    adapter = TypeAdapter(pairing.NodeIdAlias)
    if fits:
        assert adapter.validate_python(alias) == alias
    else:
        with pytest.raises(ValidationError):
            adapter.validate_python(alias)


RECORD: dict[str, Any] = {
    "id": "5b6c1f0e-3f0b-4c36-9c3a-3d2f1f6f3a55",
    "name": "n" * 50,
    "description": "d" * 500,
    "icon32": "https://example.com/32.png",
    "icon128": "https://example.com/128.png",
    "icon512": "https://example.com/512.png",
    "pairingUrl": "https://example.com/pairing/",
    "regions": ["NL"],
    "status": "public",
    "cem": True,
    "rm": False,
}


@pytest.mark.rule("REG-02")
def test_a_record_at_its_bounds_is_read() -> None:
    assert registry.EndpointRecord.from_value(RECORD).to_value() == RECORD


@pytest.mark.rule("REG-02")
@pytest.mark.parametrize(
    "change",
    [
        {"name": "n" * 51},
        {"description": "d" * 501},
        {"regions": []},
        {"regions": ["nl"]},
        {"regions": ["NLD"]},
        {"regions": ["NL\n"]},
        {"regions": "NL"},
        {"pairingUrl": "http://example.com/pairing/"},
        {"status": "secret"},
        {"cem": "true"},
        {"rm": 1},
        {"id": "1"},
    ],
    ids=lambda change: "-".join(f"{k}={str(v)[:12]!r}" for k, v in change.items()),
)
def test_a_record_beyond_its_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(common.MalformedMessage):
        registry.EndpointRecord.from_value(RECORD | change)
