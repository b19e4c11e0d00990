"""Reader of a bridge's file: reads all of it, checks it as a whole, and names every mistake with its line."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from s2connect import Home, MqttSettings, PageSettings, fault_sentence, for_display
from s2connect.bridge.config import (
    BridgeConfig,
    Devices,
    EndpointSection,
    Manager,
    MetricsSection,
    ProxySection,
    RouteConfig,
    RouteSection,
)
from s2connect.bridge.config_checks import check
from s2connect.bridge.devices import is_file
from s2connect.bridge.identity import read_identity
from s2connect.bridge.problems import BridgeFileError, Place, Problem, Problems
from s2connect.errors import ConfigurationError, S2ConnectError

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Longest file that is read."""

_Section = TypeVar("_Section", bound=BaseModel)


def load(file: Path) -> tuple[BridgeConfig, list[Problem]]:
    """Read and check a file. Blocks: call it in a thread.

    Returns:
        The settings, and warnings.

    Raises:
        BridgeFileError: It has mistakes.
        ConfigurationError: It cannot be read.
    """
    text, data = _parsed(file)
    reader = _Reader(file.absolute(), text, data)
    config = reader.read()
    if config is not None:
        reader.check_names(config)
    problems = sorted(reader.problems.found)
    if config is None or any(problem.fatal for problem in problems):
        raise BridgeFileError(file, problems)
    return config, problems


def _beside(file: Path, path: str | Path) -> Path:
    """Return a path that a file names, relative to the file; ``~`` and ``~user`` as in a shell."""
    return file.parent / os.path.expanduser(path)  # noqa: PTH111 - the method raises RuntimeError for an unknown user


def home_of(file: Path) -> Path:
    """Return the home that a file names, whatever else it says. Blocks.

    Raises:
        BridgeFileError: The file is no TOML; with line and cause.
        ConfigurationError: It cannot be read, or names no home.
    """
    home = _parsed(file)[1].get("home")
    if not isinstance(home, str) or not home:
        raise ConfigurationError(f"{file} does not name a home.", hint=f"s2connect bridge check {file} says more.")
    return _beside(file.absolute(), home)


def instance_of(file: Path) -> str:
    """Return the name of the instance that a file names; empty for none. Blocks; errors are those of `home_of`."""
    endpoint = _parsed(file)[1].get("endpoint")
    name = endpoint.get("instance") if isinstance(endpoint, dict) else None
    return name if isinstance(name, str) else ""


def _parsed(file: Path) -> tuple[str, dict[str, Any]]:
    """Return text and tables of a file; the errors are those of :func:`home_of`."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read ({error.strerror}).") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{file} has more than {MAX_FILE_BYTES} bytes.")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
        data = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BridgeFileError(file, [Problem(line, "this is not UTF-8")]) from None
    except tomllib.TOMLDecodeError as error:
        raise BridgeFileError(file, [_syntax(str(error), text)]) from None
    return text, data


def _syntax(message: str, text: str) -> Problem:
    found = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)", message)
    line = int(found[1]) if found is not None and found[1] else text.count("\n") + 1
    return Problem(line, f"not TOML: {for_display(message[: found.start()] if found is not None else message)}")


class _Reader:
    """Reader of one file, which collects all its mistakes."""

    _TABLES: ClassVar = ("home", "endpoint", "mqtt", "proxy", "metrics", "page", "route")

    def __init__(self, file: Path, text: str, data: dict[str, Any]) -> None:
        self.problems = Problems(text)
        self._file = file
        self._data = data
        self._read: dict[Place, BaseModel] = {}

    def read(self) -> BridgeConfig | None:
        """Read everything; None where a part of it is unusable."""
        data = self._data
        self._unknown((), data, self._TABLES)
        home = data.get("home")
        if not isinstance(home, str) or not home:
            wrong = "is missing" if home is None else "has to be the name of a directory"
            self.problems.add(("home",), f'home {wrong}, the state directory, e.g. home = "bridge-home"')
        endpoint = self._section(EndpointSection, ("endpoint",), data.get("endpoint", {}))
        mqtt = self._section(MqttSettings, ("mqtt",), data["mqtt"]) if "mqtt" in data else None
        proxy = self._section(ProxySection, ("proxy",), data.get("proxy", {}))
        metrics = self._section(MetricsSection, ("metrics",), data["metrics"]) if "metrics" in data else None
        page = self._section(PageSettings, ("page",), data.get("page", {}))
        routes = tuple(self._routes(data.get("route")))
        check(self.problems, self._read)
        if endpoint is None or proxy is None or page is None or not isinstance(home, str):
            return None
        return BridgeConfig(
            file=self._file,
            home=_beside(self._file, home),
            endpoint=endpoint,
            mqtt=mqtt,
            proxy=proxy,
            metrics=metrics,
            page=page,
            routes=routes,
        )

    def check_names(self, config: BridgeConfig) -> None:
        """Refuse routes that were renamed without keeping their ids, where the home tells which there were."""
        try:
            identity = read_identity(Home.open(config.home))
        except S2ConnectError:
            return  # whoever opens it says why
        for name, what in (identity.renamed(config.routes) if identity is not None else {}).items():
            number = next(n for n, one in enumerate(self._data["route"]) if one.get("name") == name)
            self.problems.add(("route", number, "name"), what)

    def _routes(self, value: Any) -> Iterator[RouteConfig]:
        """Read the routes; those without a mistake are returned."""
        if not isinstance(value, list) or not value:
            what = "there is no route: at least one [[route]] is needed, with devices and manager"
            self.problems.add(("route",), what)
            return
        for number, route in enumerate(value):
            place: Place = ("route", number)
            if not isinstance(route, dict):
                self.problems.add(place, "a route is a table: [[route]]")
                continue
            self._unknown(place, route, (*RouteSection.model_fields, "devices", "manager"))
            own = {k: v for k, v in route.items() if k in RouteSection.model_fields}
            settings = self._section(RouteSection, place, own)
            devices = self._side(Devices, (*place, "devices"), route.get("devices"))
            manager = self._side(Manager, (*place, "manager"), route.get("manager"))
            if settings is not None and devices is not None and manager is not None:
                files = tuple(self._stamps(place))
                yield RouteConfig.model_construct(**dict(settings), devices=devices, manager=manager, files=files)

    def _stamps(self, place: Place) -> Iterator[tuple[str, int, int]]:
        for file in (v for p, s in self._read.items() if p[:2] == place for _, v in s if isinstance(v, Path)):
            with contextlib.suppress(OSError):
                facts = file.stat()
                yield str(file), facts.st_mtime_ns, facts.st_size

    def _side(self, union: Any, place: Place, value: Any) -> Any:
        """Read one side of a route, by its type."""
        models = {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(union)}
        name = place[-1]
        if not isinstance(value, dict):
            self.problems.add(place, f"[route.{name}] is missing, with type = one of: {', '.join(models)}")
            return None
        kind = value.get("type")
        if not isinstance(kind, str) or kind not in models:
            near = difflib.get_close_matches(str(kind), models, 1, 0.5)
            said = f'"{for_display(str(kind), 40)}" is no type' if "type" in value else "type is missing"
            meant = f'; did you mean "{near[0]}"?' if near else ""
            self.problems.add((*place, "type"), f"{said} of [route.{name}]{meant} There are: {', '.join(models)}")
            return None
        if kind == "mqtt" and "mqtt" not in self._data:
            self.problems.add((*place, "type"), 'type = "mqtt" needs the broker: [mqtt] with its url')
        return self._section(models[kind], place, value)

    def _section(self, model: type[_Section], place: Place, value: Any) -> _Section | None:
        if not isinstance(value, dict):
            self.problems.add(place, f"{place[-1]} is a table: [{place[-1]}]")
            return None
        try:
            # As JSON, where a string may be a path or a UUID and a list a tuple, but no string is a number.
            section = model.model_validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as error:
            for found in error.errors():
                if found["type"] == "default_factory_not_called":
                    continue  # it follows from another one
                inner = found["loc"]
                if found["type"] == "extra_forbidden":
                    # There is one level of tables inside a section.
                    inside = len(inner) > 1 and get_args(model.model_fields[str(inner[0])].annotation)[0]
                    self._say_unknown((*place, *inner), (inside or model).model_fields)
                else:
                    self.problems.add((*place, *inner), f"{_named(inner)}: {fault_sentence(found)}")
            return None
        return self._with_files(section, place)

    def _with_files(self, section: _Section, place: Place) -> _Section:
        """Resolve the files that a section names, relative to the file that names them; a missing one is a problem."""
        changes: dict[str, Any] = {}
        for name, value in section:
            here = (*place, name)
            if isinstance(value, Path):
                changes[name] = file = _beside(self._file, value)
                if not is_file(file):
                    self.problems.add(here, f"{name}: there is no file {for_display(str(file), 300)}")
            elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
                changes[name] = tuple(self._with_files(item, (*here, number)) for number, item in enumerate(value))
        self._read[place] = section = section.model_copy(update=changes)
        return section

    def _unknown(self, place: Place, value: dict[str, Any], known: Iterable[str]) -> None:
        for key in value:
            if key not in known:
                self._say_unknown((*place, key), known)

    def _say_unknown(self, place: Place, known: Iterable[str]) -> None:
        known, key = tuple(known), str(place[-1])
        near = difflib.get_close_matches(key, known, 1, 0.6)
        meant = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        self.problems.add(place, f"{for_display(key, 60)} is unknown; {meant}")


def _named(inner: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in inner if isinstance(part, str)) or "this"
