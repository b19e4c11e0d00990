"""Settings of a state directory by name: their values and where these come from, and changes of them."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from s2connect import (
    EndpointConfig,
    Home,
    MetricsSettings,
    MqttSettings,
    NodeConfig,
    PageSettings,
    first_fault,
    for_display,
)
from s2connect.certs.tls import wan_client_context
from s2connect.endpoint.config import CONFIG_FILE
from s2connect.errors import ConfigurationError, NotInitialised, UsageError
from s2connect.https.server import check_bind
from s2connect.model.faults import json_sentence
from s2connect.model.proxy import Proxy
from s2connect.service.objects import Entry

_NODE: Final = {
    "brand": "brand",
    "type": "type",
    "model": "model_name",
    "communication-protocols": "communication_protocols",
    "s2-versions": "s2_versions",
}
"""Settings of a node by name; ``name`` is that of the endpoint, and of its node."""

_SECTIONS: Final[Mapping[str, type[BaseModel]]] = {
    "mqtt": MqttSettings,
    "page": PageSettings,
    "metrics": MetricsSettings,
}
_FILES: Final = ("certificate", "private-key", "trust-anchors", "store-key-file", "mqtt.password-file", "mqtt.ca-file")
_LISTS: Final = ("balancers", "proxy-exceptions", "communication-protocols", "s2-versions")
_TRUTH: Final = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
_FIXED: Final = {
    "vault": "Secrets cannot be moved to another place by a setting.",
    "role": "The role of a node never changes: s2connect node add --role rm|cem adds another one.",
    "id": "The id of a node never changes.",
    "alias": "An alias is given with: s2connect node alias NODE ALIAS",
    "nodes": "Nodes are changed with: s2connect node list, add, alias and remove",
}

AT_ONCE: Final = frozenset({"name", *_NODE})
"""Settings that a running service takes over at once; peers see them with their next session."""

ADDRESS: Final = frozenset({"host", "port", "deployment", "server"})
"""Settings by which paired peers find this endpoint: those that connect to it know the old value."""


class Setting(Entry):
    """A setting. ``source`` is ``file``, ``default`` (also if the file says the same), or an environment variable."""

    name: str
    value: Any
    source: str


class ChangedSettings(Entry):
    """Names of settings that were changed: those that count now, and those that count from the next start on."""

    now: list[str]
    at_restart: list[str]


def _top() -> Iterator[str]:
    for member in EndpointConfig.model_fields:
        if member not in ("nodes", *_SECTIONS):
            yield member.replace("_", "-")
    for section, model in _SECTIONS.items():
        for member in model.model_fields:
            yield f"{section}.{member.replace('_', '-')}"


def names() -> list[str]:
    """Return the names of all settings."""
    return [*_top(), *_NODE]


def known_name(name: str) -> str:
    """Return the name of a setting as it was typed; ``UsageError`` if there is none, or if it never changes."""
    plain = name.strip().lower().replace("_", "-")
    if plain in _FIXED and plain != "vault":
        raise UsageError(_FIXED[plain])
    if plain not in names():
        near = difflib.get_close_matches(plain, names(), 1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"There is no setting {for_display(name, 60)}.", hint=f"{meant}s2connect config show lists them."
        )
    return plain


def read_raw(home: Home) -> dict[str, Any]:
    """Return the settings of a home as they stand in the file, also where they cannot be used. Blocks.

    Raises:
        NotInitialised, StorageError: It has none, or they cannot be read.
        ConfigurationError: The file is no JSON.
    """
    content = home.read(CONFIG_FILE)
    if content is None:
        raise NotInitialised(f"{home.path} is not set up.")
    try:
        value = from_json(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigurationError(f"{home.path / CONFIG_FILE} is no text in UTF-8.") from None
    except ValueError as error:
        raise ConfigurationError(f"{home.path / CONFIG_FILE} {json_sentence(str(error))}.") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"{home.path / CONFIG_FILE} does not hold an object.")
    return value


def settings_of(raw: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> list[Setting]:
    """Return all settings and where they come from. Those of nodes are only there where there is one."""
    config = checked_settings(raw)
    found = []
    for name in _top():
        place, _, member = name.replace("-", "_").rpartition(".")
        given, holder = (raw.get(place) or {}, getattr(config, place)) if place else (raw, config)
        model = _SECTIONS[place] if place else EndpointConfig
        value = getattr(holder, member) if holder is not None else model.model_fields[member].get_default()
        if place == "mqtt" and holder is None:
            continue
        is_default = value == model.model_fields[member].get_default()
        source = "file" if member in given and not is_default else "default"
        found.append(Setting(name=name, value=_shown(value), source=source))
    if config.proxy is None and (variable := next((v for v in _PROXIES if environment.get(v)), None)) is not None:
        through = Setting(name="proxy", value=f"http://{Proxy.parse(environment[variable]).address}", source=variable)
        found = [through if one.name == "proxy" else one for one in found]
    nodes = raw.get("nodes") or []
    for name, member in _NODE.items() if len(config.nodes) == 1 else ():
        value = getattr(config.nodes[0], member)
        is_default = value == NodeConfig.model_fields[member].get_default()
        source = "file" if member in nodes[0] and not is_default else "default"
        found.append(Setting(name=name, value=_shown(value), source=source))
    return found


_PROXIES: Final = ("https_proxy", "HTTPS_PROXY")  # in the order in which they count


def _shown(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, bool | int) else str(value)


def changed(raw: Mapping[str, Any], changes: Mapping[str, str | None], node: str | None = None) -> dict[str, Any]:
    """Return settings with changes, checked. None takes a setting back to its default; ``node`` is an alias or id.

    Raises:
        UsageError: There is no such setting, or it never changes; or the node is not named.
        ConfigurationError: A value cannot be used.
    """
    made: dict[str, Any] = json.loads(json.dumps(raw))
    for typed, text in changes.items():
        if text is None and typed in _SECTIONS:
            made.pop(typed, None)
            continue
        name = known_name(typed)
        if name in _FIXED:
            raise UsageError(_FIXED[name], hint="Another directory can have it: s2connect init --vault … --home …")
        value = None if text is None else _value(name, text)
        if name in _NODE:
            _put(_node(made, node), _NODE[name], value)
        elif name == "name":
            if node is None:
                _put(made, "name", value)
            if node is not None or len(made.get("nodes") or []) == 1:
                _put(_node(made, node), "user_defined_name", value)
        else:
            place, _, member = name.replace("-", "_").rpartition(".")
            _put(made.setdefault(place, {}) if place else made, member, value)
            if place and not made[place]:
                del made[place]
    checked_settings(made, of_file=False)
    return made


def _put(holder: dict[str, Any], member: str, value: Any) -> None:
    holder.pop(member, None)
    if value is not None:
        holder[member] = value


def _node(raw: Mapping[str, Any], wanted: str | None) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = raw.get("nodes") or []
    fitting = [one for one in nodes if wanted is None or wanted in (one.get("alias"), one.get("id"))]
    if len(fitting) != 1:
        known = ", ".join(f"{one.get('alias') or one.get('id')} ({one.get('role')})" for one in nodes) or "none"
        raise UsageError(f"Which node of this endpoint? There are: {known}.", hint="Name it with --node.")
    return fitting[0]


def _value(name: str, text: str) -> Any:
    """Return what a person typed as JSON has it."""
    text = text.strip()
    if name in _LISTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    if name in _FILES:
        path = Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - an unknown user's name stays as it is
        if not path.is_file():
            raise ConfigurationError(f"{name}: there is no file {for_display(str(path), 300)}.")
        if name == "trust-anchors":
            wan_client_context(path)  # raises if there is no certificate in it
        return str(path)
    if name == "deployment":
        return text.upper()
    if name == "bind" or (name in ("page.bind", "metrics.bind") and text != "*"):
        check_bind(text)
    field = _field(name)
    if field.annotation is bool:
        if text.lower() not in _TRUTH:
            raise ConfigurationError(f"{name}: it is on or off, and not {for_display(text, 40)}.")
        return _TRUTH[text.lower()]
    return int(text) if name.rpartition(".")[2] in ("port", "listen-port") and text.isdecimal() else text


def _field(name: str) -> Any:
    if name in _NODE:
        return NodeConfig.model_fields[_NODE[name]]
    place, _, member = name.replace("-", "_").rpartition(".")
    return (_SECTIONS[place] if place else EndpointConfig).model_fields[member]


def checked_settings(raw: Mapping[str, Any], *, of_file: bool = True) -> EndpointConfig:
    """Return settings as the endpoint takes them; ``ConfigurationError`` names the wrong one, and what helps."""
    try:
        return EndpointConfig.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        place, what = first_fault(error)
        name = _NAMES_OF_MEMBERS.get(place.rpartition(".")[2], place.replace("_", "-"))
        name = name if place.startswith("nodes.") else place.replace("_", "-")
        hint = f"Change it with: s2connect config set {name} …, or take it back: s2connect config unset {name}"
        if not of_file:
            section = name.partition(".")[0]
            hint = f"To take back all of it: s2connect config unset {section}" if section in _SECTIONS else ""
        raise ConfigurationError(f"{name or 'The settings'}: {what}.", hint=hint if name in names() else "") from None


_NAMES_OF_MEMBERS: Final = {member: name for name, member in _NODE.items()} | {"user_defined_name": "name"}


def write_changes(home: Home, changes: Mapping[str, str | None], node: str | None) -> ChangedSettings:
    """Change the settings of a home that no service runs, atomically. Blocks.

    Raises:
        HomeInUse: Another process has it.
        UsageError, StorageError: As :func:`changed` does; or the file cannot be read or written.
    """
    # A home whose state has moved into a database has its settings still.
    with home.lock(moved="store" in read_raw(home)):
        made = changed(read_raw(home), changes, node)
        home.write_private(CONFIG_FILE, checked_settings(made).to_json())
    return result_of(changes)


def result_of(changes: Mapping[str, str | None]) -> ChangedSettings:
    """Return which of these changes count now in a running service, and which from its next start on."""
    done = [name if name in _SECTIONS else known_name(name) for name in changes]
    return ChangedSettings(
        now=[name for name in done if name in AT_ONCE], at_restart=[name for name in done if name not in AT_ONCE]
    )
