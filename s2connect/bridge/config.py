"""Settings of a bridge, as the tables of its TOML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from s2connect import (
    Check,
    Deployment,
    EndpointConfig,
    MqttSettings,
    NodeDescription,
    NodeId,
    PageSettings,
    Role,
    for_display,
)
from s2connect.bridge.devices import GENERIC, UNKNOWN, Device
from s2connect.messages import BETA, DEFAULT_S2_VERSION
from s2connect.session import DEFAULT_LIMITS
from s2connect.transports import MAX_MESSAGE_BYTES, check_client_id, check_prefix

_TYPES: Final = {
    "ENERGY_PRODUCER": "Energy producer",
    "ENERGY_CONSUMER": "Energy consumer",
    "ENERGY_STORAGE": "Energy storage",
}

VERSIONS: Final = (DEFAULT_S2_VERSION, BETA)
"""S2 versions of a bridge's nodes; the relay translates where the sides differ."""

Shown = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
Port = Annotated[int, Field(ge=1, le=65535)]
Protocol = Literal["WebSocket", "X-MQTT5-0"]
MQTT: Final = "X-MQTT5-0"


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class EndpointSection(Section):
    """Settings of the bridge's endpoint, as in ``EndpointConfig``. What is missing keeps its value."""

    name: Shown | None = None
    host: Shown | None = None
    port: Annotated[int, Field(ge=0, le=65535)] = EndpointConfig.model_fields["port"].default
    bind: str | None = None
    listen_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    balancers: tuple[str, ...] = ()
    balancers_only: bool = False
    tls: Literal["own", "balancer"] = "own"
    deployment: Deployment = Deployment.LAN
    certificate: Path | None = None
    private_key: Path | None = None
    trust_anchors: Path | None = None
    vault: Literal["auto", "keyring", "files"] = "auto"
    store: str | None = None
    store_key_file: Path | None = None
    instance: str | None = None
    instance_url: str | None = None
    drain_wait: Annotated[float, Field(ge=0, le=3600)] = EndpointConfig.model_fields["drain_wait"].default
    drain_rate: Annotated[float, Field(gt=0, le=100_000)] = EndpointConfig.model_fields["drain_rate"].default
    store_outage_limit: Annotated[float, Field(ge=0, le=86_400)] = EndpointConfig.model_fields[
        "store_outage_limit"
    ].default
    advertise: bool = True
    allow_private_addresses: bool = False


class ProxySection(Section):
    """An HTTP proxy for connections to the internet. What is local is always reached directly.

    Attributes:
        url: ``http://host:port``; None takes that of the environment (``HTTPS_PROXY``, ``NO_PROXY``).
        exceptions: Hosts or ``.domains`` that are reached without it.
    """

    url: str | None = None
    exceptions: tuple[str, ...] = ()


class MetricsSection(Section):
    """Numbers for Prometheus at ``http://127.0.0.1:PORT/metrics``.

    Attributes:
        port: TCP port on this machine.
        bind: Address to listen on, as in ``MetricsSettings``: for the checks of a balancer.
    """

    port: Port
    bind: Annotated[str, StringConstraints(min_length=1, max_length=255, strip_whitespace=True)] = "127.0.0.1"


class ConfiguredDevice(Section):
    """A device that does not present itself to the bridge.

    Attributes:
        name: For people.
        brand: Its maker; :data:`UNKNOWN` where the configuration does not say.
        type: Kind of device, e.g. ``Heat pump``.
        model: Its model.
    """

    name: Shown
    brand: Shown = UNKNOWN
    type: Shown = GENERIC
    model: Shown = UNKNOWN

    @property
    def key(self) -> str:
        """Its permanent identifier."""
        return self.name

    def device(self) -> Device:
        """Return the device as configured. Its node id is the key, where that is a UUID, otherwise made from it."""
        try:
            node = NodeId(UUID(self.key))
        except ValueError:
            node = NodeId(uuid5(NAMESPACE_URL, f"s2connect-device:{self.key}"))
        maker = {"brand": self.brand, "type": self.type, "model_name": self.model}
        return Device(self.key, self.name, NodeDescription(id=node, **maker, user_defined_name=self.name, role=Role.RM))

    def introduced(self, details: Mapping[str, Any]) -> Device:
        """Return the device with its gaps filled from its ``ResourceManagerDetails``, where anything may be."""

        def text(name: str) -> str | None:
            value = details.get(name)
            return (for_display(value, 200) or None) if isinstance(value, str) else None

        roles = details.get("roles")
        first = roles[0].get("role") if isinstance(roles, list) and roles and isinstance(roles[0], dict) else None
        device = self.device()
        changes = {
            "brand": text("manufacturer") if self.brand == UNKNOWN else None,
            "model_name": text("model") if self.model == UNKNOWN else None,
            "type": _TYPES.get(first) if self.type == GENERIC and isinstance(first, str) else None,
            "user_defined_name": text("name") if isinstance(self, PathDevice) else None,
        }
        known = {name: value for name, value in changes.items() if value is not None}
        return replace(device, description=device.description.model_copy(update=known))


class PathDevice(ConfiguredDevice):
    """A device of which only the id in its path is known, which is its name until it presents itself."""


class Credentials(Section):
    """A peer of plain S2, with what it has to show, or what the bridge shows it.

    Attributes:
        token_file: File with a bearer token, which only its owner may read.
        login_file: File with ``user:password`` for Basic authentication, likewise.
    """

    token_file: Path | None = None
    login_file: Path | None = None


class PlainClient(Credentials):
    """A server of plain S2, of which the bridge is a client.

    Attributes:
        url: ``wss://`` or ``ws://``; that of a manager may have ``{id}`` or ``{name}`` of the device in it.
        trust_anchors: PEM file with CAs to trust beside those of the system.
        allow_unencrypted: Allow ``ws://`` beyond this machine. Everybody on the way can read and change the messages.
    """

    url: str
    trust_anchors: Path | None = None
    allow_unencrypted: bool = False


class PlainDevice(Credentials, ConfiguredDevice):
    """A device that speaks plain S2.

    Attributes:
        id: Its permanent identifier: with one, the name can change. Letters, digits and ``._-``.
    """

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None

    @property
    def key(self) -> str:
        """Its id, or else its name."""
        return self.id or self.name


class PlainClientDevice(PlainClient, PlainDevice):
    """A device that is a server of plain S2."""


class PlainServerDevice(PlainDevice):
    """A device that is a client of plain S2.

    Attributes:
        path: Path to which it connects; None makes one of its id or name.
    """

    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]*$")] | None = None

    @property
    def at(self) -> str:
        """The path to which it connects."""
        return self.path or "/" + (re.sub(r"[^A-Za-z0-9.-]+", "-", self.key).strip("-.") or "device")


class MqttPeer(Section):
    """A program at a broker.

    Attributes:
        id: Its node id, a UUID.
        client_id: Its MQTT client id, if it opens the sessions itself; otherwise the bridge opens them.
        secret_file: File with the secret that both share, which only its owner may read.
        prefix: Topic prefix; None takes that of ``[mqtt]``.
        protection: ``sealed``, or ``plain``, which shows every message to the broker.
        s2_versions: S2 JSON versions that it speaks, by preference.
    """

    id: UUID
    client_id: Annotated[str, AfterValidator(check_client_id)] | None = None
    secret_file: Path | None = None
    prefix: Annotated[str, AfterValidator(check_prefix)] | None = None
    protection: Literal["sealed", "plain"] = "sealed"
    s2_versions: tuple[str, ...] = VERSIONS


class MqttDevice(MqttPeer, ConfiguredDevice):
    """A device at a broker."""

    @property
    def key(self) -> str:
        """Its id."""
        return str(self.id)


class Listening(Section):
    """Listener for clients of plain S2.

    Attributes:
        port: TCP port.
        host: Address to listen on; ``*`` is every one.
        certificate: PEM file with the certificate chain for ``wss://``.
        private_key: PEM file with its key.
        allow_unencrypted: Listen without TLS beyond this machine. Everybody on the way can read and change all.
    """

    port: Port
    host: str = "127.0.0.1"
    certificate: Path | None = None
    private_key: Path | None = None
    allow_unencrypted: bool = False


class NodeDevices(Section):
    """Devices that pair with the bridge.

    Attributes:
        protocols: By preference.
        brand: Brand of the bridge, shown to the users of the devices.
        model: Its model.
        name: Its name.
    """

    type: Literal["s2-connect"]
    protocols: tuple[Protocol, ...] = ("WebSocket",)
    brand: Shown = "s2connect"
    model: Shown = "bridge"
    name: Shown | None = None


class PlainClientDevices(Section):
    """Devices to which the bridge connects."""

    type: Literal["plain-client"]
    device: tuple[PlainClientDevice, ...]


class PlainServerDevices(Listening, Credentials):
    """Devices that connect to the bridge, without S2 Connect.

    Attributes:
        path: Path with ``{id}`` for devices that are not in the file; None takes none of them.
        max_devices: Most ids of such devices.
    """

    type: Literal["plain-server"]
    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/{}-]*$")] | None = None
    max_devices: Annotated[int, Field(ge=1, le=10_000)] = 100
    device: tuple[PlainServerDevice, ...] = ()


class MqttDevices(Section):
    """Devices at a broker."""

    type: Literal["mqtt"]
    device: tuple[MqttDevice, ...]


class NodeManager(Section):
    """An energy manager that pairs with the representatives of the devices.

    Attributes:
        protocols: By preference.
    """

    type: Literal["s2-connect"]
    protocols: tuple[Protocol, ...] = ("WebSocket",)


class PlainClientManager(PlainClient):
    """An energy manager to which the bridge connects once for each device."""

    type: Literal["plain-client"]


class PlainServerManager(Listening, Credentials):
    """An energy manager that connects to the bridge once for each device.

    Attributes:
        path: Path with ``{id}`` of the device.
    """

    type: Literal["plain-server"]
    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/{}-]*$")] = "/{id}"


class MqttManager(MqttPeer):
    """An energy manager at a broker."""

    type: Literal["mqtt"]


Devices = NodeDevices | PlainClientDevices | PlainServerDevices | MqttDevices
Manager = NodeManager | PlainClientManager | PlainServerManager | MqttManager
ConfiguredDevices = PlainClientDevices | PlainServerDevices | MqttDevices


class RouteSection(Section):
    """Settings of a route, without its two sides.

    Attributes:
        name: For people; ids are made of it, unless there is an ``id``.
        id: What its ids are made of, where it is to be renamed: a UUID.
        check: How much of each message is validated.
        max_message_bytes: Longest message; what is longer is refused.
        messages_per_second: Messages of each side beyond which they are refused; 0 for no limit.
        burst: Messages at once before that counts.
        slow_beyond_messages: Messages a second of each side beyond which it is read from more slowly; 0 for no limit.
        slow_beyond_bytes: The same in bytes.
        slow_beyond_share: The same as share of a processor.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}$")]
    id: UUID | None = None
    check: Check = Check.ENVELOPE
    max_message_bytes: Annotated[int, Field(ge=1024, le=MAX_MESSAGE_BYTES)] = MAX_MESSAGE_BYTES
    messages_per_second: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    burst: Annotated[int, Field(ge=1, le=100_000)] = 100
    slow_beyond_messages: Annotated[float, Field(ge=0, le=100_000)] = DEFAULT_LIMITS.messages_per_second
    slow_beyond_bytes: Annotated[float, Field(ge=0, le=1e9)] = DEFAULT_LIMITS.bytes_per_second
    slow_beyond_share: Annotated[float, Field(ge=0, le=1)] = DEFAULT_LIMITS.busy_share


class RouteConfig(RouteSection):
    """A route of the file.

    Attributes:
        devices: Where the devices are.
        manager: Where the energy manager is.
        files: Its files, with what changes when their content does.
    """

    devices: Devices
    manager: Manager
    files: tuple[tuple[str, int, int], ...] = ()

    def id_in(self, bridge: NodeId) -> NodeId:
        """Return the permanent id of this route of a bridge: as configured, or made from its name."""
        return NodeId(self.id or uuid5(uuid5(NAMESPACE_URL, f"urn:uuid:{bridge}"), f"route:{self.name}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeConfig:
    """A whole file, with the state directory that it names, its tables, and the routes in their order."""

    file: Path
    home: Path
    endpoint: EndpointSection
    mqtt: MqttSettings | None
    proxy: ProxySection
    metrics: MetricsSection | None
    page: PageSettings
    routes: tuple[RouteConfig, ...]
