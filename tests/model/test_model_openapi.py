"""The models against the OpenAPI files, in both directions: whatever one says, the other has to say as well."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Union
from uuid import UUID

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from s2connect.model import common, pairing, registry, session_init
from s2connect.model.common import Wire
from s2connect.model.secret import PairingAttemptId, Secret
from s2connect.model.url import BaseUrl, WebSocketUrl

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "spec" / "s2-connect-openapi-1.0"
FILES = {name: f"s2-connect-{name}.yml" for name in ("common", "pairing", "session-init", "wan-endpoint-registry")}
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the OpenAPI files are not beside this checkout")

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
    "common#CommunicationProtocol": common.CommunicationProtocol,
    "common#Role": common.Role,
    "common#Deployment": common.Deployment,
    "pairing#HmacHashingAlgorithm": common.HmacHashingAlgorithm,
    "pairing#PairingResponseErrorMessage.errorMessage": pairing.PairingErrorReason,
    "pairing#waitForPairing/request.errorMessage": pairing.WaitForPairingError,
    "pairing#waitForPairing/200.action": pairing.WaitForPairingAction,
    "session-init#CommunicationDetailsErrorMessage.errorMessage": session_init.SessionErrorReason,
    "wan-endpoint-registry#Status": registry.RegistryStatus,
}
"""Every enumeration of the files and the StrEnum that stands for it."""

LENIENT = {"CommunicationProtocol", "HmacHashingAlgorithm"}
"""Read as any text, because adding values is a minor change (VER-07)."""


def _load() -> dict[str, Any]:
    return {name: yaml.safe_load((FOLDER / file).read_text("utf-8")) for name, file in FILES.items()}


class Spec:
    """The files, with references followed and every schema that has a name or a place of its own."""

    def __init__(self) -> None:
        self.files = _load()
        self.schemas = dict(self._collect())

    def _collect(self) -> Iterator[tuple[str, Any]]:
        for file, document in self.files.items():
            for name, schema in document.get("components", {}).get("schemas", {}).items():
                yield f"{file}#{name}", schema
            for path, operations in document.get("paths", {}).items():
                for operation in operations.values():
                    bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
                    for place, body in bodies.items():
                        for content in body.get("content", {}).values():
                            schema = content["schema"]
                            if schema.get("type") == "array" and "$ref" not in schema["items"]:
                                schema = schema["items"]
                            yield f"{file}#{path[1:]}/{place}", schema

    def follow(self, file: str, schema: Any) -> tuple[str, Any, str | None]:
        """The schema behind a reference, its file, and its name."""
        name = None
        while "$ref" in schema:
            target, _, pointer = schema["$ref"].partition("#")
            if target:
                file = target.removeprefix("s2-connect-").removesuffix(".yml")
            name = pointer.rpartition("/")[2]
            schema = self.files[file]["components"]["schemas"][name]
        return file, schema, name

    def members(self, file: str, schema: Any) -> tuple[dict[str, tuple[str, Any]], set[str]]:
        """Properties (with the file they stand in) and required names, with allOf merged."""
        file, schema, _ = self.follow(file, schema)
        properties = {name: (file, member) for name, member in schema.get("properties", {}).items()}
        required = set(schema.get("required", ()))
        for part in schema.get("allOf", ()):
            more, needed = self.members(file, part)
            properties |= more
            required |= needed
        return properties, required

    def objects(self) -> dict[str, Any]:
        return {k: s for k, s in self.schemas.items() if "properties" in s or "allOf" in s}

    def enums(self) -> dict[str, list[str]]:
        found = {}
        for key, schema in self.schemas.items():
            if "enum" in schema:
                found[key] = schema["enum"]
            for name, member in schema.get("properties", {}).items():
                if "enum" in member:
                    found[f"{key}.{name}"] = member["enum"]
        return found


@pytest.fixture(scope="module")
def spec() -> Spec:
    return Spec()


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


def test_every_object_of_the_files_has_a_model_and_no_more(spec: Spec) -> None:
    assert set(spec.objects()) == set(OBJECTS)


def test_every_other_schema_with_a_place_of_its_own_is_a_reference_to_a_mapped_one(spec: Spec) -> None:
    known = set(OBJECTS) | set(ENUMS)
    scalars = {"string"}
    for key, schema in spec.schemas.items():
        if key in known:
            continue
        file = key.partition("#")[0]
        inner = schema["items"] if schema.get("type") == "array" else schema
        for part in inner.get("oneOf", [inner]):
            target_file, target, name = spec.follow(file, part)
            assert f"{target_file}#{name}" in known or target.get("type") in scalars, key


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
def test_members_are_the_same_on_both_sides(spec: Spec, key: str) -> None:
    properties, _ = spec.members(key.partition("#")[0], spec.schemas[key])
    aliases = {field.alias for field in OBJECTS[key].model_fields.values()}
    assert aliases == set(properties)


@pytest.mark.parametrize("key", OBJECTS)
def test_required_members_are_the_same_on_both_sides(spec: Spec, key: str) -> None:
    """No exception is needed: ``success`` of finalizePairing is optional in the file, and the server refuses it."""
    _, required = spec.members(key.partition("#")[0], spec.schemas[key])
    assert {f.alias for f in OBJECTS[key].model_fields.values() if f.is_required()} == required


@pytest.mark.parametrize("key", OBJECTS)
def test_defaults_are_those_of_the_files(spec: Spec, key: str) -> None:
    properties, required = spec.members(key.partition("#")[0], spec.schemas[key])
    for field in OBJECTS[key].model_fields.values():
        assert field.alias is not None
        if field.alias not in required:
            assert field.default == properties[field.alias][1].get("default"), field.alias


@pytest.mark.parametrize("key", OBJECTS)
def test_types_are_those_of_the_files(spec: Spec, key: str) -> None:
    properties, _ = spec.members(key.partition("#")[0], spec.schemas[key])
    for field in OBJECTS[key].model_fields.values():
        assert field.alias is not None
        file, schema = properties[field.alias]
        _agrees(spec, file, schema, field.annotation, f"{key}.{field.alias}")


def _agrees(spec: Spec, file: str, schema: Any, annotation: Any, place: str) -> None:
    found = _core_type(annotation)
    file, schema, name = spec.follow(file, schema)
    mapped = OBJECTS.get(f"{file}#{name}")
    if mapped is not None:
        assert found is mapped, place
    elif "enum" in schema and name not in LENIENT:
        assert found is ENUMS[f"{file}#{name}" if name else place], place
    elif schema.get("type") == "array":
        assert typing.get_origin(found) is tuple, place
        _agrees(spec, file, schema["items"], typing.get_args(found)[0], place)
    elif schema.get("type") == "boolean":
        assert found is bool, place
    elif schema.get("type") == "object":
        assert found == dict[str, str], place
        assert schema["additionalProperties"] == {"type": "string"}, place
    elif schema.get("format") == "uuid":
        assert found is UUID, place
    elif schema.get("format") == "byte" or name == "PairingAttemptId":
        assert issubclass(found, Secret), place
    elif schema.get("format") == "url":
        assert found is WebSocketUrl, place
    elif place.rpartition(".")[2] in {"pairingUrl", "initiateSessionUrl"}:
        assert found is BaseUrl, place
    else:
        # The file forgets the type of EndpointRecord.description.
        assert schema.get("type", "string") == "string", place
        assert found is str, place


def test_every_enumeration_of_the_files_is_mapped_and_no_more(spec: Spec) -> None:
    assert set(spec.enums()) == set(ENUMS)


@pytest.mark.parametrize("key", ENUMS)
def test_enumerations_have_the_same_values(spec: Spec, key: str) -> None:
    assert [member.value for member in ENUMS[key]] == spec.enums()[key]


def _constraints(spec: Spec) -> set[tuple[str, str, Any]]:
    found = set()

    def walk(place: str, schema: Any) -> None:
        if isinstance(schema, dict):
            for word in ("minLength", "maxLength", "pattern", "minItems", "maxItems", "minimum", "maximum"):
                if word in schema:
                    found.add((place, word, schema[word]))
            for name, member in schema.items():
                walk(place if name in ("properties", "items") else f"{place}.{name}", member)

    for key, schema in spec.schemas.items():
        walk(key, schema)
    return found


def test_the_files_have_these_constraints_and_no_others(spec: Spec) -> None:
    """Each is tried below. (That a waitForPairing answer has at least one item is a rule of the operation, LP-04.)"""
    assert _constraints(spec) == {
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
        {"pairingUrl": "https://example.com/pairing"},
        {"pairingUrl": "https://example.com/pairing/v1/"},
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
