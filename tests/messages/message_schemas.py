"""Generates documents that the schemas of S2 JSON accept, and validates documents by them."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jsonschema
from hypothesis import strategies as st

from tests.facts.table import Schema, json_facts, schema


def names(version: str, kind: str) -> list[str]:
    """Names of the ``messages`` or ``schemas`` of a version."""
    return sorted(json_facts(version)[kind])


# What a schema accepts

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_ids = st.from_regex(r"[a-zA-Z0-9\-_:]{2,64}", fullmatch=True)
_loose_ids = _ids | st.builds("{}{}{}".format, _texts, _ids, _texts)
_moments = st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))
_times = st.builds(
    lambda moment, zone: moment.isoformat().replace("+00:00", zone),
    _moments,
    st.sampled_from(["Z", "z", "+00:00", "-05:30", "+14:00"]),
)
_numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**12), 10**12)


@cache
def documents(version: str, name: str) -> st.SearchStrategy[Any]:
    """Messages that a schema accepts, and MSG-05 as well."""
    return _documents(schema(version, "messages", name))


def _documents(rules: Schema) -> st.SearchStrategy[Any]:
    if "const" in rules:
        return st.just(rules["const"])
    if "enum" in rules:
        return st.sampled_from(rules["enum"])
    if "properties" in rules:
        members = {
            key: _ids if key.endswith("message_id") else _documents(one) for key, one in rules["properties"].items()
        }
        required = {key: members.pop(key) for key in rules["required"]}
        return st.fixed_dictionaries(required, optional=members)
    match rules["type"]:
        case "array":
            least = rules["minItems"]
            return st.lists(_documents(rules["items"]), min_size=least, max_size=least + 2)
        case "string" if "format" in rules:
            return _times
        case "string":
            return _loose_ids if "pattern" in rules else _texts
        case "number":
            return _numbers
        case "integer":
            return st.integers(0, 2**53) | st.integers(0, 10**6).map(float)
        case "boolean":
            return st.booleans()
    raise NotImplementedError(rules)


def any_document(rules: Schema, chance: random.Random) -> Any:
    """Like :func:`documents`, of a schema and without hypothesis: less thorough, but a hundred times as fast."""
    if "const" in rules:
        return rules["const"]
    if "enum" in rules:
        return chance.choice(rules["enum"])
    if "properties" in rules:
        members = rules["properties"]
        wanted = [name for name in members if name in rules["required"] or chance.random() < 0.5]
        return {name: any_document(members[name], chance) for name in wanted}
    match rules["type"]:
        case "array":
            return [any_document(rules["items"], chance) for _ in range(rules["minItems"] + chance.randrange(2))]
        case "string" if "format" in rules:
            year = chance.choice(("0001", "9999", *map(str, range(2020, 2030))))
            return f"{year}-0{chance.randrange(1, 9)}-01T00:00:00{chance.choice(('Z', '+14:00', '-05:30'))}"
        case "string":
            return chance.choice(("a-1", "a-2", "b:1", "3f0c5a52-3b1c-4bb0-9f6e-0a8c3f2d9b11"))
        case "number":
            return chance.choice((0, 1, 0.5, -20.25, 1e308, chance.random()))
        case "integer":
            return chance.choice((0, 1000, 5.0, 10**18, 10**400, 1e300))
    return chance.random() < 0.5


# What a schema says of a document, with our documented differences

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d{1,9})?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)


def _is_moment(value: Any) -> bool:
    """Date and time by RFC 3339, within the years that have one and without leap seconds."""
    if not isinstance(value, str):
        return True
    found = _RFC3339.fullmatch(value)
    if found is None:
        return False
    zone = found[8].upper().replace("Z", "+00:00")
    try:
        datetime.fromisoformat(f"{value[:10]}T{value[11:19]}{zone}")
    except ValueError:
        return False
    return True


_checker = jsonschema.FormatChecker(formats=())
_checker.checks("date-time")(_is_moment)


@cache
def validator(version: str, name: str) -> Callable[[Any], bool]:
    """Return a validator of documents by their schema, and four rules that the schema leaves out.

    These are: an object is an object, a time stamp is one, a number fits a double, and the identifier of a message is
    one from end to end (MSG-05).
    """
    validator = jsonschema.Draft202012Validator(_strict(schema(version, "messages", name)), format_checker=_checker)
    return validator.is_valid


def _strict(rules: Any) -> Any:
    if isinstance(rules, list):
        return [_strict(one) for one in rules]
    if not isinstance(rules, dict):
        return rules
    strict = {key: _strict(one) for key, one in rules.items()}
    if rules.get("type") == "number":
        strict |= {"minimum": -sys.float_info.max, "maximum": sys.float_info.max}
    if "properties" in rules and "additionalProperties" in rules:
        strict["type"] = "object"
    return strict
