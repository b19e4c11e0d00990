"""Facts of the standard's schema and OpenAPI files, in a notation of our own.

``tests/facts`` has a table of each version of S2 JSON, and one of S2 Connect's requests and answers; ``generate.py``
makes them from the files, and ``test_facts.py`` holds them against the files wherever these are at hand. So the other
tests need only the tables.

In the tables of S2 JSON an object is its members by name, and an enumeration is the list of its values. A member whose
name ends in ``?`` may be left out. Its kind is a type of JSON, a name from ``schemas``, ``date-time``, ``=`` and the
only text that it can be, or any of these and the bounds of an array: ``Timer[0..1000]``, ``string[1..]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
JSON_VERSIONS = ("v1.0.0", "0.0.2-beta")
Schema = dict[str, Any]

TYPES = ("string", "number", "integer", "boolean")

_ARRAY = re.compile(r"(.+)\[(\d+)\.\.(\d*)\]")


def path_of(version: str) -> Path:
    """The table of a version of S2 JSON."""
    return HERE / f"s2-json-{version}.json"


OPENAPI = HERE / "s2-connect-1.0.json"


@cache
def openapi_facts() -> dict[str, Any]:
    """Return the facts of the OpenAPI files of S2 Connect; see ``openapi.py``."""
    read: dict[str, Any] = json.loads(OPENAPI.read_text("utf-8"))
    return read


@cache
def json_facts(version: str) -> dict[str, dict[str, Any]]:
    """``messages`` and ``schemas`` of a version of S2 JSON, as they stand in the table."""
    read: dict[str, dict[str, Any]] = json.loads(path_of(version).read_text("utf-8"))
    return read


@cache
def schema(version: str, kind: str, name: str) -> Schema:
    """A JSON Schema without references, built from the facts; ``x-name`` says which one an object is from."""
    facts = json_facts(version)[kind][name]
    return {"x-name": name} | expanded(facts, lambda other: schema(version, "schemas", other))


def expanded(facts: Any, follow: Callable[[str], Schema]) -> Schema:
    """The JSON Schema of what stands in a table."""
    if isinstance(facts, str):
        return _of_kind(facts, follow)
    if isinstance(facts, list):
        return {"type": "string", "enum": facts}
    if "type" in facts:  # a text or number with bounds
        return dict(facts)
    return {
        "properties": {name.removesuffix("?"): _of_kind(kind, follow) for name, kind in facts.items()},
        "required": [name for name in facts if not name.endswith("?")],
        "additionalProperties": False,
    }


def _of_kind(kind: str, follow: Callable[[str], Schema]) -> Schema:
    if array := _ARRAY.fullmatch(kind):
        inner, least, most = array.groups()
        bounds = {"minItems": int(least)} | ({"maxItems": int(most)} if most else {})
        return {"type": "array", "items": _of_kind(inner, follow)} | bounds
    if kind.startswith("="):
        return {"type": "string", "const": kind[1:]}
    if kind == "date-time":
        return {"type": "string", "format": kind}
    if kind in TYPES:
        return {"type": kind}
    return follow(kind)


def condensed(rules: Schema) -> Any:
    """Return the table form of a JSON Schema, references left as they are: the inverse of ``expanded``."""
    rules = {key: value for key, value in rules.items() if key not in ("$id", "$schema", "title", "description")}
    if "properties" in rules:
        required = set(rules["required"])
        assert rules.keys() == {"properties", "required", "additionalProperties"}, rules
        assert rules["additionalProperties"] is False
        assert required <= rules["properties"].keys()
        return {name if name in required else f"{name}?": _kind(one) for name, one in rules["properties"].items()}
    if "enum" in rules:
        assert rules.pop("type", "string") == "string"  # some files leave it out
        assert rules.keys() == {"enum"}, rules
        return rules["enum"]
    assert rules.keys() <= {"type", "pattern", "minimum"}, rules
    return rules


def _kind(rules: Schema) -> str:
    rules = {key: value for key, value in rules.items() if key not in ("title", "description")}
    match rules:
        case {"$ref": str(name), **rest} if not rest:
            return name.rsplit("/", 1)[-1].removesuffix(".schema.json")
        case {"type": "array", "items": items, "minItems": least, **rest} if rest.keys() <= {"maxItems"}:
            return f"{_kind(items)}[{least}..{rest.get('maxItems', '')}]"
        case {"type": "string", "const": str(text), **rest} if not rest:
            return f"={text}"
        case {"type": "string", "format": "date-time", **rest} if not rest:
            return "date-time"
        case {"type": str(name), **rest} if not rest and name in TYPES:
            return name
    raise NotImplementedError(rules)
