"""Page of the configuration files, made from the models that read them."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

HEAD = """# Configuration files

Every setting of `bridge.toml` and of `config.json` in a home, made from the models that read these files.
[The bridge](../bridge.md) explains the file of a bridge as a whole. An unknown name is a mistake in both.
"""

SEPARATED = "type"
"""Setting that says which kind of table it is; it stands in the heading."""


KINDS: dict[type, str] = {bool: "true, false", int: "whole number", float: "number", Path: "file", UUID: "UUID"}
"""Kinds of values in the words of the file; ``bool`` comes before ``int``."""


def tables() -> Iterator[tuple[str, str, str, type[BaseModel]]]:
    """Return the tables of both files: file, heading, where it stands, and the model."""
    from s2connect import EndpointConfig, MetricsSettings, MqttSettings, NodeConfig, PageSettings
    from s2connect.bridge import config

    yield "bridge.toml", "Endpoint", "[endpoint]", config.EndpointSection
    yield "bridge.toml", "Broker", "[mqtt]", MqttSettings
    yield "bridge.toml", "Proxy", "[proxy]", config.ProxySection
    yield "bridge.toml", "Page", "[page]", PageSettings
    yield "bridge.toml", "Metrics", "[metrics]", config.MetricsSection
    yield "bridge.toml", "Route", "[[route]]", config.RouteSection
    for place, models in (("devices", config.Devices), ("manager", config.Manager)):
        for model in typing.get_args(models):
            (kind,) = typing.get_args(model.model_fields[SEPARATED].annotation)
            what = "Devices" if place == "devices" else "Energy manager"
            yield "bridge.toml", f"{what}: {kind}", f'[route.{place}], type = "{kind}"', model
            device = model.model_fields.get("device")
            if device is not None:
                (each, _) = typing.get_args(device.annotation)
                yield "bridge.toml", f"{what}: each device of {kind}", "[[route.devices.device]]", each
    yield "config.json", "Endpoint of a home", "(top)", EndpointConfig
    yield "config.json", "Each node", "nodes", NodeConfig
    yield "config.json", "Broker of a home", "mqtt", MqttSettings
    yield "config.json", "Page of a home", "page", PageSettings
    yield "config.json", "Metrics of a home", "metrics", MetricsSettings


def page() -> str:
    """Return the page."""
    parts, before = [HEAD], ""
    for file, heading, place, model in tables():
        if file != before:
            parts += [f"## {file}", ""]
            before = file
            if file == "bridge.toml":
                parts += ["`home`, at the top, is the state directory with keys, pairings and ids; it is required.", ""]
        parts += [f"### {heading}", "", f"`{place}`: {_first_line(model)}", ""]
        rows = [(name, field) for name, field in model.model_fields.items() if name not in (SEPARATED, "device")]
        if place in ("(top)", "nodes"):
            rows += [(name, field) for name, field in model.model_fields.items() if name == SEPARATED]
        parts += ["| setting | value | default | meaning |", "| --- | --- | --- | --- |"]
        meanings = described(model)
        parts += [f"| `{n}` | {_kind(f.annotation)} | {_default(f)} | {meanings.get(n, '')} |" for n, f in rows]
        parts.append("")
    return "\n".join(parts)


def described(model: type) -> dict[str, str]:
    """Return what the docstrings of a model and of those it extends say about its settings."""
    from s2connect import EndpointConfig
    from s2connect.bridge.config import EndpointSection

    found: dict[str, str] = described(EndpointConfig) if model is EndpointSection else {}
    for each in reversed(model.__mro__):
        section = inspect.cleandoc(vars(each).get("__doc__") or "").partition("Attributes:\n")[2]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE):
            found[name] = _cell(text)
    return found


def _first_line(model: type[BaseModel]) -> str:
    return _cell(inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0])


def _kind(annotation: object) -> str:
    """Return the kind of a value in the words of the file."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return ", ".join(_kind(each) for each in arguments if each is not type(None))
    if origin is tuple:
        return f"list of: {_kind(arguments[0])}"
    if isinstance(annotation, type):
        if issubclass(annotation, Enum):
            return ", ".join(f"`{each.value}`" for each in annotation)
        if issubclass(annotation, BaseModel):
            return "table"
        return next((word for known, word in KINDS.items() if issubclass(annotation, known)), "text")
    return "text"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined:
        return "made"
    if value is None or value in ((), ""):
        return ""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;")
