"""Settings of a bridge, as the tables of its TOML file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from s2connect import Check, Deployment, EndpointConfig, MqttSettings, NodeId
from s2connect.bridge.devices import GENERIC, UNKNOWN, ConfiguredDevice
from s2connect.bridge.toml_lines import Place
from s2connect.messages import BETA, DEFAULT_S2_VERSION
from s2connect.session import DEFAULT_LIMITS
from s2connect.transports import MAX_MESSAGE_BYTES

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

VERSIONS: Final = (DEFAULT_S2_VERSION, BETA)
"""S2 versions of a bridge's nodes; the relay translates where the sides differ."""

Shown = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
Port = Annotated[int, Field(ge=1, le=65535)]
Protocol = Literal["WebSocket", "X-MQTT5-0"]


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class EndpointSection(Section):
    """Settings of the bridge's endpoint, as in ``EndpointConfig``. What is missing keeps its value."""

    name: Shown | None = None
    host: Shown | None = None
    port: Annotated[int, Field(ge=0, le=65535)] = EndpointConfig.model_fields["port"].default
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
    """Description of a device that does not present itself."""

    name: Shown
    brand: Shown = UNKNOWN
    type: Shown = GENERIC
    model: Shown = UNKNOWN

    @property
    def key(self) -> str:
        """Its permanent identifier."""
        return self.name

    def configured(self) -> ConfiguredDevice:
        """Return the device that this describes."""
        return ConfiguredDevice(key=self.key, name=self.name, brand=self.brand, type=self.type, model_name=self.model)


class PlainDevice(DeviceSection):
    """A device that speaks plain S2."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    token_file: Path | None = None
    login_file: Path | None = None

    @property
    def key(self) -> str:
        """Its id, or else its name."""
        return self.id or self.name


class PlainClientDevice(PlainDevice):
    """A device that is a server of plain S2."""

    url: str
    trust_anchors: Path | None = None
    allow_unencrypted: bool = False


class PlainServerDevice(PlainDevice):
    """A device that is a client of plain S2."""

    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]*$")] | None = None

    @property
    def at(self) -> str:
        """The path to which it connects."""
        return self.path or "/" + (re.sub(r"[^A-Za-z0-9.-]+", "-", self.key).strip("-.") or "device")


class MqttPeer(Section):
    """A program at a broker."""

    id: UUID
    client_id: str | None = None
    secret_file: Path | None = None
    prefix: str | None = None
    protection: Literal["sealed", "plain"] = "sealed"
    s2_versions: tuple[str, ...] = VERSIONS


class MqttDevice(MqttPeer, DeviceSection):
    """A device at a broker."""

    @property
    def key(self) -> str:
        """Its id."""
        return str(self.id)


class Listening(Section):
    """Listener for clients of plain S2; ``host = "*"`` is every address."""

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
    """An energy manager that pairs with the representatives of the devices."""

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
    """Settings of a route, without its two sides."""

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
        """Validation level of messages."""
        return Check(self.settings.check)

    def id_in(self, bridge: NodeId) -> NodeId:
        """Return the permanent id of this route of a bridge: as configured, or made from its name."""
        return NodeId(self.settings.id or uuid5(uuid5(NAMESPACE_URL, f"urn:uuid:{bridge}"), f"route:{self.name}"))


@dataclass(frozen=True, slots=True)
class ReadRoute:
    """A route as far as it could be read; parts with mistakes are None."""

    place: Place
    settings: RouteSection | None
    devices: Devices | None
    manager: Manager | None
    files: tuple[tuple[str, int, int], ...]

    def complete(self) -> RouteConfig | None:
        """Return the route if all of it could be read."""
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
    mqtt: MqttSettings | None
    proxy: ProxySection
    metrics: MetricsSection | None
    routes: tuple[RouteConfig, ...]
