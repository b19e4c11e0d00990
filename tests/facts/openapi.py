"""Facts of the OpenAPI files of S2 Connect: what every request, answer and schema is made of.

The table's keys are ``FILE#NAME``, and ``FILE#OPERATION/request`` or ``/STATUS`` for a body with a shape of its own.
An object is its members by name, with those of ``allOf`` among them; a member that may be left out ends in ``?``. An
enumeration is the list of its values. Everything else is a text: a key of the table or a type, a format if it has one,
bounds and default; ``[]`` makes it an array, ``{}`` an object with any names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FILES = ("common", "pairing", "session-init", "wan-endpoint-registry")
BOUNDS = {"minLength", "maxLength", "pattern", "minItems", "maxItems", "minimum", "maximum"}
_SILENT = {"description", "example", "discriminator"}


def condensed(folder: Path) -> dict[str, Any]:
    """The table of the files in a folder."""
    files = {name: yaml.safe_load((folder / f"s2-connect-{name}.yml").read_text("utf-8")) for name in FILES}
    return {key: _facts(files, key.partition("#")[0], schema) for key, schema in _schemas(files)}


def _schemas(files: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for file, document in files.items():
        for name, schema in document.get("components", {}).get("schemas", {}).items():
            yield f"{file}#{name}", schema
        for path, operations in document.get("paths", {}).items():
            for operation in operations.values():
                bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
                for place, body in bodies.items():
                    for content in body.get("content", {}).values():
                        schema = content["schema"]
                        if schema.get("type") == "array" and "$ref" not in schema["items"]:
                            schema = schema["items"]  # that the body is an array of these is a rule of the operation
                        yield f"{file}#{path[1:]}/{place}", schema


def _facts(files: dict[str, Any], file: str, schema: Any) -> Any:
    if "properties" in schema or "allOf" in schema:
        return _members(files, file, schema)
    if "enum" in schema:
        assert schema.keys() - _SILENT <= {"type", "enum", "default"}, schema
        return schema["enum"]
    return _kind(file, schema)


def _members(files: dict[str, Any], file: str, schema: Any) -> dict[str, Any]:
    if "$ref" in schema:
        target, name = _reference(file, schema).split("#")
        return _members(files, target, files[target]["components"]["schemas"][name])
    assert schema.keys() - _SILENT <= {"type", "properties", "required", "allOf"}, schema
    found: dict[str, Any] = {}
    for part in schema.get("allOf", ()):
        found |= _members(files, file, part)
    for name, member in schema.get("properties", {}).items():
        found[name if name in schema.get("required", ()) else f"{name}?"] = _facts(files, file, member)
    return found


def _reference(file: str, schema: Any) -> str:
    target, _, pointer = schema["$ref"].partition("#")
    return f"{target.removeprefix('s2-connect-').removesuffix('.yml') or file}#{pointer.rpartition('/')[2]}"


def _kind(file: str, schema: Any) -> str:
    schema = {key: value for key, value in schema.items() if key not in _SILENT}
    rest: dict[object, object]
    match schema:
        case {"oneOf": [only], **rest} if not rest:
            return _kind(file, only)
        case {"$ref": _, **rest} if not rest:
            return _reference(file, schema)
        case {"type": "array", "items": items, **rest}:
            text = f"{_kind(file, items)}[]"
        case {"type": "object", "additionalProperties": items, **rest}:
            text = f"{_kind(file, items)}{{}}"
        case {"type": str(text), "format": str(form), **rest}:
            text = f"{text}:{form}"
        case {"type": str(text), **rest}:
            pass
        case rest:
            text = "any"
    bounds = {word: json.dumps(value) for word, value in rest.items()}
    assert bounds.keys() <= {*BOUNDS, "default"}, schema
    assert " " not in "".join(bounds.values()), schema
    return " ".join([text, *(f"{word}={value}" for word, value in bounds.items())])


def read_kind(text: str) -> dict[str, Any]:
    """Parts of a text of the table: ``ref`` or ``type``, ``format``, bounds; ``items`` of an array or of any names."""
    kind, *words = text.split(" ")
    parts: dict[str, Any] = {}
    while words and "=" in words[-1]:
        word, _, value = words.pop().partition("=")
        parts[word] = json.loads(value)
    assert not words, text
    if kind.endswith(("[]", "{}")):
        form, items = ("array", kind[:-2]) if kind.endswith("[]") else ("object", kind[:-2])
        return {"type": form, "items": read_kind(items), **parts}
    if "#" in kind:
        return {"ref": kind, **parts}
    type_, _, form = kind.partition(":")
    return {"type": type_, **({"format": form} if form else {}), **parts}
