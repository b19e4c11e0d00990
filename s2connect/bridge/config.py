"""The file of a bridge: read, checked as a whole, and every mistake named with its line."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_args
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from s2connect.bridge.devices import GENERIC, UNKNOWN
from s2connect.bridge.nodes import VERSIONS
from s2connect.bridge.toml_lines import Place, line_of, lines_of
from s2connect.endpoint.config import DEFAULT_PORT, MqttConfig
from s2connect.errors import ConfigurationError
from s2connect.messages.checks import Check
from s2connect.model.common import Deployment, NodeId
from s2connect.model.text import for_display
from s2connect.session.budget import DEFAULT_LIMITS
from s2connect.transports.base import MAX_MESSAGE_BYTES

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Longest file that is read."""

Shown = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
Port = Annotated[int, Field(ge=1, le=65535)]
Protocol = Literal["WebSocket", "X-MQTT5-0"]
_Section = TypeVar("_Section", bound=BaseModel)


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class EndpointSection(Section):
    """How the bridge presents itself and is reached; as in ``EndpointConfig``. What is missing keeps its value."""

    name: Shown | None = None
    host: Shown | None = None
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    bind: str | None = None
    deployment: Deployment = Deployment.LAN
    certificate: Path | None = None
    private_key: Path | None = None
    trust_anchors: Path | None = None
    vault: Literal["auto", "keyring", "files"] = "auto"
    advertise: bool = True
    allow_private_addresses: bool = False


class ProxySection(Section):
    """An HTTP proxy for connections to the internet.

    Attributes:
        url: ``http://host:port``; None takes that of the environment.
        exceptions: Hosts, or domains that begin with a dot, which are reached without it.
    """

    url: str | None = None
    exceptions: tuple[str, ...] = ()


class MetricsSection(Section):
    """Numbers for Prometheus at ``http://127.0.0.1:PORT/metrics``."""

    port: Port


class DeviceSection(Section):
    """What the configuration says of a device that does not present itself."""

    name: Shown
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    brand: Shown = UNKNOWN
    type: Shown = GENERIC
    model: Shown = UNKNOWN

    @property
    def key(self) -> str:
        """What it is recognised by: its id, or else its name."""
        return self.id or self.name


class PlainClientDevice(DeviceSection):
    """A device that is a server of plain S2."""

    url: str
    token_file: Path | None = None
    login_file: Path | None = None
    trust_anchors: Path | None = None
    allow_unencrypted: bool = False


class PlainServerDevice(DeviceSection):
    """A device that is a client of plain S2."""

    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]*$")] | None = None
    token_file: Path | None = None
    login_file: Path | None = None

    @property
    def at(self) -> str:
        """The path at which it comes in."""
        return self.path or "/" + (re.sub(r"[^A-Za-z0-9.-]+", "-", self.key).strip("-.") or "device")


class MqttPeer(Section):
    """A program at a broker."""

    id: UUID
    client_id: str | None = None
    secret_file: Path | None = None
    prefix: str | None = None
    protection: Literal["sealed", "plain"] = "sealed"
    s2_versions: tuple[str, ...] = VERSIONS


class MqttDevice(MqttPeer):
    """A device at a broker."""

    name: Shown
    brand: Shown = UNKNOWN
    type: Shown = GENERIC
    model: Shown = UNKNOWN

    @property
    def key(self) -> str:
        """What it is recognised by."""
        return str(self.id)


class Listening(Section):
    """Where clients of plain S2 come in; ``host = "*"`` is everywhere."""

    port: Port
    host: str = "127.0.0.1"
    certificate: Path | None = None
    private_key: Path | None = None
    allow_unencrypted: bool = False


class NodeDevices(Section):
    """Devices that pair with the bridge."""

    type: Literal["s2-connect"]
    protocols: tuple[Protocol, ...] = ("WebSocket",)
    brand: Shown = "s2connect"
    model: Shown = "bridge"
    name: Shown | None = None


class PlainClientDevices(Section):
    """Devices to which the bridge connects."""

    type: Literal["plain-client"]
    device: tuple[PlainClientDevice, ...]


class PlainServerDevices(Listening):
    """Devices that connect to the bridge, without S2 Connect."""

    type: Literal["plain-server"]
    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/{}-]*$")] | None = None
    max_devices: Annotated[int, Field(ge=1, le=10_000)] = 100
    token_file: Path | None = None
    login_file: Path | None = None
    device: tuple[PlainServerDevice, ...] = ()


class MqttDevices(Section):
    """Devices at a broker."""

    type: Literal["mqtt"]
    device: tuple[MqttDevice, ...]


class NodeManager(Section):
    """An energy manager with which the representatives pair."""

    type: Literal["s2-connect"]
    protocols: tuple[Protocol, ...] = ("WebSocket",)


class PlainClientManager(Section):
    """An energy manager to which the bridge connects once for each device."""

    type: Literal["plain-client"]
    url: str
    token_file: Path | None = None
    login_file: Path | None = None
    trust_anchors: Path | None = None
    allow_unencrypted: bool = False


class PlainServerManager(Listening):
    """An energy manager that connects to the bridge once for each device."""

    type: Literal["plain-server"]
    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/{}-]*$")] = "/{id}"
    token_file: Path | None = None
    login_file: Path | None = None


class MqttManager(MqttPeer):
    """An energy manager at a broker."""

    type: Literal["mqtt"]


Devices = NodeDevices | PlainClientDevices | PlainServerDevices | MqttDevices
Manager = NodeManager | PlainClientManager | PlainServerManager | MqttManager
ConfiguredDevices = PlainClientDevices | PlainServerDevices | MqttDevices


class RouteSection(Section):
    """A route, but for its two ends."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}$")]
    id: UUID | None = None
    check: Literal["envelope", "schema", "rules"] = "envelope"
    max_message_bytes: Annotated[int, Field(ge=1024, le=MAX_MESSAGE_BYTES)] = MAX_MESSAGE_BYTES
    messages_per_second: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    burst: Annotated[int, Field(ge=1, le=100_000)] = 100
    slow_beyond_messages: Annotated[float, Field(ge=0, le=100_000)] = DEFAULT_LIMITS.messages_per_second
    slow_beyond_bytes: Annotated[float, Field(ge=0, le=1e9)] = DEFAULT_LIMITS.bytes_per_second
    slow_beyond_share: Annotated[float, Field(ge=0, le=1)] = DEFAULT_LIMITS.busy_share


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfig:
    """A route of the file.

    Attributes:
        settings: Its name and policy.
        devices: Where the devices are.
        manager: Where the energy manager is.
        files: Its files, with what changes when their content does.
    """

    settings: RouteSection
    devices: Devices
    manager: Manager
    files: tuple[tuple[str, int, int], ...] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self.settings.name

    @property
    def check(self) -> Check:
        """How much of each message is judged."""
        return Check(self.settings.check)

    def id_in(self, bridge: NodeId) -> NodeId:
        """The id that stands for this route of a bridge, for ever: as configured, or made of its name."""
        return NodeId(self.settings.id or uuid5(uuid5(NAMESPACE_URL, f"urn:uuid:{bridge}"), f"route:{self.name}"))


@dataclass(frozen=True, slots=True)
class ReadRoute:
    """What could be read of a route, and where it is; parts with mistakes are None."""

    place: Place
    settings: RouteSection | None
    devices: Devices | None
    manager: Manager | None
    files: tuple[tuple[str, int, int], ...]

    def complete(self) -> RouteConfig | None:
        """The route, where everything of it could be read."""
        settings, devices, manager = self.settings, self.devices, self.manager
        if settings is None or devices is None or manager is None:
            return None
        return RouteConfig(settings=settings, devices=devices, manager=manager, files=self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeConfig:
    """A whole file.

    Attributes:
        file: Where it is.
        home: State directory.
        endpoint: How the bridge is reached; ``given`` are the settings that the file names.
        mqtt: Its broker.
        proxy: Its proxy.
        metrics: Where its numbers are.
        routes: By their order in the file.
    """

    file: Path
    home: Path
    endpoint: EndpointSection
    mqtt: MqttConfig | None
    proxy: ProxySection
    metrics: MetricsSection | None
    routes: tuple[RouteConfig, ...]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something about a file.

    Attributes:
        line: On which line.
        what: What is wrong.
        fatal: Whether the bridge cannot run with it; otherwise it is a warning.
    """

    line: int
    what: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}" if self.fatal else f"line {self.line}: warning: {self.what}"


class BridgeFileError(ConfigurationError):
    """A file has mistakes; the text names all of them.

    Attributes:
        problems: The mistakes, and the warnings.
    """

    kind = "bridge_file"

    def __init__(self, file: Path, problems: Sequence[Problem]) -> None:
        """Take the mistakes of a file."""
        fatal = [problem for problem in problems if problem.fatal]
        count = f"{len(fatal)} mistakes" if len(fatal) > 1 else "a mistake"
        listed = "; ".join(f"{problem}" for problem in fatal)
        super().__init__(f"{file} has {count}: {listed}", hint="Nothing was changed. docs/bridge.md explains the file.")
        self.file = file
        self.problems = tuple(problems)


def load(file: Path) -> tuple[BridgeConfig, list[Problem]]:
    """Read and check a file. Blocks: call it in a thread.

    Returns:
        The settings, and warnings.

    Raises:
        BridgeFileError: It has mistakes.
        ConfigurationError: It cannot be read.
    """
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
    reading = Reading(file.absolute(), text, data)
    config = reading.read()
    if config is None or any(problem.fatal for problem in reading.problems):
        raise BridgeFileError(file, sorted(reading.problems))
    return config, sorted(reading.problems)


def home_of(file: Path) -> Path:
    """The home that a file names, whatever else is wrong with it. Blocks.

    Raises:
        ConfigurationError: It cannot be read, or names none.
    """
    try:
        home = tomllib.loads(file.read_text("utf-8-sig")).get("home")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read ({error.strerror}).") from None
    except ValueError:
        home = None
    if not isinstance(home, str) or not home:
        raise ConfigurationError(f"{file} does not name a home.", hint=f"s2connect bridge check {file} says more.")
    return file.absolute().parent / Path(home).expanduser()


def _syntax(message: str, text: str) -> Problem:
    found = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)", message)
    line = int(found[1]) if found is not None and found[1] else text.count("\n") + 1
    return Problem(line, f"not TOML: {for_display(message[: found.start()] if found is not None else message)}")


class Reading:
    """One reading of a file: what it says, and what is wrong with it.

    Attributes:
        problems: What was found.
    """

    _TABLES: ClassVar = ("home", "endpoint", "mqtt", "proxy", "metrics", "route")

    def __init__(self, file: Path, text: str, data: dict[str, Any]) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._data = data
        self._lines = lines_of(text)

    def problem(self, place: Place, what: str, *, fatal: bool = True) -> None:
        """Note something about a value."""
        self.problems.append(Problem(line_of(self._lines, place), what, fatal))

    def read(self) -> BridgeConfig | None:
        """Read everything; None where a part of it is unusable."""
        from s2connect.bridge.config_checks import check  # what a file means builds on what it says

        data = self._data
        self._unknown((), data, self._TABLES)
        home = data.get("home")
        if not isinstance(home, str) or not home:
            wrong = "is missing" if home is None else "has to be the name of a directory"
            self.problem(("home",), f'home {wrong}, the state directory, e.g. home = "bridge-home"')
        endpoint = self._section(EndpointSection, ("endpoint",), data.get("endpoint", {}))
        mqtt = self._section(MqttConfig, ("mqtt",), data["mqtt"]) if "mqtt" in data else None
        proxy = self._section(ProxySection, ("proxy",), data.get("proxy", {}))
        metrics = self._section(MetricsSection, ("metrics",), data["metrics"]) if "metrics" in data else None
        routes = list(self._routes(data.get("route")))
        complete = [made for route in routes if (made := route.complete()) is not None]
        for section, place in ((endpoint, "endpoint"), (mqtt, "mqtt"), (metrics, "metrics")):
            self._files(section, (place,))
        check(self, endpoint, mqtt, proxy, metrics, routes)
        if endpoint is None or proxy is None or not isinstance(home, str):
            return None
        return BridgeConfig(
            file=self._file,
            home=self._file.parent / Path(home).expanduser(),
            endpoint=endpoint,
            mqtt=mqtt,
            proxy=proxy,
            metrics=metrics,
            routes=tuple(complete),
        )

    def _routes(self, value: Any) -> Iterator[ReadRoute]:
        if not isinstance(value, list) or not value:
            self.problem(("route",), "there is no route: at least one [[route]] is needed, with devices and manager")
            return
        for number, route in enumerate(value):
            place: Place = ("route", number)
            if not isinstance(route, dict):
                self.problem(place, "a route is a table: [[route]]")
                continue
            ends = ("devices", "manager")
            self._unknown(place, route, (*RouteSection.model_fields, *ends))
            own = {k: v for k, v in route.items() if k in RouteSection.model_fields}
            settings = self._section(RouteSection, place, own)
            devices = self._end(Devices, (*place, "devices"), route.get("devices"))
            manager = self._end(Manager, (*place, "manager"), route.get("manager"))
            files = [*self._files(devices, (*place, "devices")), *self._files(manager, (*place, "manager"))]
            yield ReadRoute(place, settings, devices, manager, tuple(_stamps(files)))

    def _end(self, union: Any, place: Place, value: Any) -> Any:
        """One end of a route, by its type."""
        models = {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(union)}
        name = place[-1]
        if not isinstance(value, dict):
            self.problem(place, f"[route.{name}] is missing, with type = one of: {', '.join(models)}")
            return None
        kind = value.get("type")
        if kind not in models:
            near = difflib.get_close_matches(str(kind), models, 1, 0.5)
            said = f'"{for_display(str(kind), 40)}" is no type' if "type" in value else "type is missing"
            meant = f'; did you mean "{near[0]}"?' if near else ""
            self.problem((*place, "type"), f"{said} of [route.{name}]{meant} There are: {', '.join(models)}")
            return None
        return self._section(models[kind], place, value)

    def _section(self, model: type[_Section], place: Place, value: Any) -> _Section | None:
        if not isinstance(value, dict):
            self.problem(place, f"{place[-1]} is a table: [{place[-1]}]")
            return None
        try:
            # As JSON, where a string may be a path or a UUID and a list a tuple, but no string is a number.
            return model.model_validate_json(json.dumps(self._absolute(value), default=str), strict=True)
        except ValidationError as error:
            for found in error.errors():
                inner = found["loc"]
                if found["type"] == "extra_forbidden":
                    known = _model_at(model, inner[:-1]).model_fields
                    self._say_unknown((*place, *inner), known)
                else:
                    self.problem((*place, *inner), f"{_named(inner)}: {_sentence(found)}")
            return None

    def _absolute(self, value: Any, key: str = "") -> Any:
        """File names are relative to the file that they stand in."""
        if isinstance(value, dict):
            return {k: self._absolute(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self._absolute(item) for item in value]
        if isinstance(value, str) and value and key in FILES:
            return str(self._file.parent / Path(value).expanduser())
        return value

    def _unknown(self, place: Place, value: dict[str, Any], known: Iterable[str]) -> None:
        for key in value:
            if key not in known:
                self._say_unknown((*place, key), known)

    def _say_unknown(self, place: Place, known: Iterable[str]) -> None:
        known, key = tuple(known), str(place[-1])
        near = difflib.get_close_matches(key, known, 1, 0.6)
        meant = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        self.problem(place, f"{for_display(key, 60)} is unknown; {meant}")

    def _files(self, section: BaseModel | None, place: Place) -> list[Path]:
        """Files that a section names; those that are missing are problems."""
        found: list[Path] = []
        for name, value in section or ():
            here = (*place, name)
            if name in FILES and isinstance(value, Path):
                if value.is_file():
                    found.append(value)
                else:
                    self.problem(here, f"{name}: there is no file {for_display(str(value), 300)}")
            elif isinstance(value, tuple):
                for number, item in enumerate(value):
                    if isinstance(item, BaseModel):
                        found += self._files(item, (*here, number))
        return found


FILES: Final = frozenset(
    {
        "certificate",
        "private_key",
        "trust_anchors",
        "token_file",
        "login_file",
        "secret_file",
        "password_file",
        "ca_file",
        "certificate_file",
        "key_file",
    }
)
"""Settings that are names of files."""


def _stamps(files: Iterable[Path]) -> Iterator[tuple[str, int, int]]:
    for file in files:
        try:
            facts = file.stat()
        except OSError:
            continue
        yield str(file), facts.st_mtime_ns, facts.st_size


def _model_at(model: type[BaseModel], inner: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of a table inside a section; there is one level of them."""
    for part in inner:
        if isinstance(part, str) and part in model.model_fields:
            item = get_args(model.model_fields[part].annotation)
            if item and isinstance(item[0], type) and issubclass(item[0], BaseModel):
                model = item[0]
    return model


def _named(inner: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in inner if isinstance(part, str)) or "this"


def _sentence(error: Any) -> str:
    """What pydantic says, for somebody who edits a file."""
    given, context = error["type"], error.get("ctx", {})
    match given:
        case "missing":
            return "is missing"
        case "string_pattern_mismatch":
            return f"does not fit {context['pattern']}"
        case "uuid_parsing" | "uuid_type":
            return "has to be a UUID, e.g. 6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31"
        case "literal_error" | "enum":
            return f"has to be {context['expected']}"
        case "path_type":
            return "has to be the name of a file"
        case "tuple_type":
            return "has to be a list"
        case "model_type" | "model_attributes_type":
            return "has to be a table"
        case "int_type" | "int_parsing" | "int_from_float":
            return "has to be a whole number"
    text = str(error["msg"]).removeprefix("Value error, ")
    return text.replace("Input should be a valid", "has to be a").replace("Input should be", "has to be")
