"""Describes faults of a wire object for a person: the member, and its fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from s2connect.model.text import for_display

MAX_FAULTS = 3
"""Most faults named for one object; there may be one for each member."""

_MAX_PATH_CHARACTERS = 100
_QUOTE = "'"
_MAX_VALUE_CHARACTERS = 40

_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "string_type": "is not a text",
    "string_too_long": "is longer than {max_length} characters",
    "string_too_short": "is shorter than {min_length} characters",
    "string_pattern_mismatch": "has characters that it may not have",
    "bool_type": "is neither true nor false",
    "uuid_parsing": "is not a UUID",
    "uuid_type": "is not a UUID",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "tuple_type": "is not a list",
    "list_type": "is not a list",
    "too_short": "has fewer than {min_length} items",
    "too_long": "has more than {max_length} items",
    "dict_type": "is not an object",
    "model_type": "is not an object",
    "model_attributes_type": "is not an object",
    "value_error": "is {error}",
    "secret": "{what}",
    "url": "{what}",
}
"""Texts for pydantic's kinds of faults; our own types bring their texts along."""


def describe_faults(error: ValidationError) -> str:
    """Return the first faulty members and their faults, without texts of the validation library.

    A value is repeated only where a name of an enumeration was expected: such a member never holds a secret.
    """
    found = error.errors(include_url=False)
    texts = [f"{_path(fault['loc'])} {_fault(fault)}" for fault in found[:MAX_FAULTS]]
    if len(found) > MAX_FAULTS:
        texts.append(f"{len(found) - MAX_FAULTS} more")
    return "; ".join(texts)


def _path(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return for_display(text.removeprefix("."), _MAX_PATH_CHARACTERS) or "it"


def _fault(fault: Any) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "enum":
        value = fault["input"]
        given = f'"{for_display(value, _MAX_VALUE_CHARACTERS)}"' if isinstance(value, str) else "no text"
        return f"is {given}, not {context['expected'].replace(_QUOTE, '')}"
    return _WORDS.get(kind, "is not as the standard says").format_map(context)
