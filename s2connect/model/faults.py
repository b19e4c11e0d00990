"""Mistakes that pydantic finds in what a person wrote, in words of a person: its own never reach one."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import ValidationError

from s2connect.model.text import for_display

_A_TEXT: Final = "has to be a text"
_A_LIST: Final = "has to be a list"
_A_TABLE: Final = "has to be a table"
_A_NUMBER: Final = "has to be a number"
_A_WHOLE_NUMBER: Final = "has to be a whole number"
_TRUE_OR_FALSE: Final = "has to be true or false"
_A_UUID: Final = "has to be a UUID"

_SENTENCES: Final = {
    "missing": "is missing",
    "extra_forbidden": "is no setting",
    "string_type": _A_TEXT,
    "string_too_short": "is too short: it needs at least {min_length} character(s)",
    "string_too_long": "is too long: it may have {max_length} characters",
    "string_pattern_mismatch": "does not fit {pattern}",
    "uuid_parsing": _A_UUID,
    "uuid_type": _A_UUID,
    "literal_error": "has to be {expected}",
    "enum": "has to be {expected}",
    "path_type": "has to be the name of a file",
    "tuple_type": _A_LIST,
    "list_type": _A_LIST,
    "dict_type": _A_TABLE,
    "model_type": _A_TABLE,
    "model_attributes_type": _A_TABLE,
    "int_type": _A_WHOLE_NUMBER,
    "int_parsing": _A_WHOLE_NUMBER,
    "int_from_float": _A_WHOLE_NUMBER,
    "float_type": _A_NUMBER,
    "float_parsing": _A_NUMBER,
    "finite_number": _A_NUMBER,
    "bool_type": _TRUE_OR_FALSE,
    "bool_parsing": _TRUE_OR_FALSE,
    "greater_than": "has to be greater than {gt}",
    "greater_than_equal": "has to be at least {ge}",
    "less_than": "has to be less than {lt}",
    "less_than_equal": "has to be at most {le}",
    "too_short": "needs at least {min_length} of them",
    "too_long": "may have {max_length} of them",
}

_PATTERNS: Final = {r"\A[0-9a-zA-Z]+\z": "may have letters A to Z and digits only"}

_JSON_REASONS: Final = {
    "EOF while parsing": "it ends in the middle",
    "trailing comma": "there is a comma before a closing bracket",
    "trailing characters": "something follows after its end",
    "key must be a string": "the name of a member has to be in double quotes",
    "expected value": "a value is missing, or is written as JSON does not have it",
    "control character": "a text has a line end or another control character in it",
    "expected `,` or": "a comma is missing, or a closing bracket",
    "expected `:`": "a colon is missing after a name",
}
_JSON_PLACE: Final = re.compile(r" at line (\d+) column (\d+)")


def fault_sentence(fault: Any) -> str:
    """Return one of ``ValidationError.errors()`` as the rest of a sentence whose subject is the setting."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "string_too_short" and context["min_length"] == 1:
        return "is empty"
    if kind == "json_invalid":
        return json_sentence(str(context.get("error", "")))
    if kind == "string_pattern_mismatch" and (words := _PATTERNS.get(context["pattern"])) is not None:
        return words
    if (words := _SENTENCES.get(kind)) is not None:
        return words.format(**context)
    if kind in ("value_error", "assertion_error"):
        return str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    if fault["type"] in _OWN:
        return str(fault["msg"]).rstrip(".")
    return "cannot be used"


_OWN: Final = frozenset({"url"})  # types of ours, whose texts are for people


def json_sentence(reason: str) -> str:
    """Return why a text is no JSON, and where, from pydantic's reason, as the rest of a sentence."""
    place = _JSON_PLACE.search(reason)
    where = f"line {place[1]}, column {max(1, int(place[2]))}: " if place else ""
    known = next((words for begin, words in _JSON_REASONS.items() if begin in reason), "it cannot be read")
    return f"is no JSON: {where}{known}"


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Return the place of the first mistake, as a dotted name that is empty for the whole, and its sentence."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return for_display(place, 200), fault_sentence(first)
