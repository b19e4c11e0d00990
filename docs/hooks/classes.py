"""Page of the message classes, made from them: their members, kinds and meanings."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from enum import Enum

import msgspec

from docs.hooks.settings import described

MODULES = {
    "general": "Shared by control types",
    "pebc": "Power Envelope Based Control",
    "ppbc": "Power Profile Based Control",
    "ombc": "Operation Mode Based Control",
    "frbc": "Fill Rate Based Control",
    "ddbc": "Demand Driven Based Control",
}
"""The modules of message classes, which are public as a whole."""

HEAD = """# Message classes

Every message of S2 JSON, and every object in one, is a class with the members of the standard:
`from s2connect.messages import frbc`. A message has a `message_id`, too, a new one unless given.
[Messages](../../messages.md) says how to use them, and [the rules](../../message-rules.md) what they have to mean.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for module, title in MODULES.items():
        loaded = importlib.import_module(f"s2connect.messages.{module}")
        parts += [f"## {title}", "", f"`s2connect.messages.{module}`", ""]
        for name, value in vars(loaded).items():
            if inspect.isclass(value) and value.__module__ == loaded.__name__ and not name.startswith("_"):
                parts += [f"### {module}.{name}", "", *_about(value)]
    return "\n".join(parts)


def _about(value: type) -> list[str]:
    text = inspect.cleandoc(value.__doc__ or "").partition("Attributes:\n")[0].replace("``", "`").strip()
    if issubclass(value, Enum):
        return [text, "", ", ".join(f"`{each.name}`" for each in value) + ".", ""]
    if not issubclass(value, msgspec.Struct):
        return [text, ""]
    meanings, kinds = described(value), typing.get_type_hints(value, include_extras=True)
    rows = [
        f"| `{field.name}` | {_kind(kinds[field.name])} | {meanings.get(field.name, '')} |"
        for field in msgspec.structs.fields(value)
        if field.name != "message_id"
    ]
    return [text, "", "| member | value | meaning |", "| --- | --- | --- |", *rows, ""] if rows else [text, ""]


def _kind(kind: object) -> str:
    """Return the kind of a member in words; ``optional`` where it may be None."""
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin in (typing.Union, types.UnionType):
        words = [_kind(each) for each in arguments if each is not type(None)]
        return " or ".join(words) + (", optional" if type(None) in arguments else "")
    if origin is list:
        return f"list of {_kind(arguments[0])}"
    return f"`{getattr(kind, '__name__', str(kind))}`"
