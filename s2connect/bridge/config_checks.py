"""Checks across the parts of a bridge's file: ports, paths, secrets, encryption."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from s2connect import EndpointConfig, MqttSettings, PageSettings, first_fault, for_display, read_private
from s2connect.bridge.config import (
    MQTT,
    ConfiguredDevices,
    EndpointSection,
    Listening,
    MetricsSection,
    MqttDevice,
    MqttDevices,
    MqttManager,
    MqttPeer,
    NodeDevices,
    NodeManager,
    PlainClient,
    PlainClientDevice,
    PlainClientManager,
    PlainServerDevices,
    PlainServerManager,
    ProxySection,
    RouteSection,
)
from s2connect.bridge.devices import MAX_SECRET_BYTES, is_file
from s2connect.bridge.problems import Place, Problems
from s2connect.errors import InvalidUrl, S2ConnectError
from s2connect.transports import (
    ServerIdentity,
    SessionToken,
    UnencryptedWebSocketUrl,
    WebSocketUrl,
    is_this_machine,
    wan_client_context,
)

PRIVATE: Final = ("token_file", "login_file", "secret_file", "password_file")
"""Settings that name files with a secret."""

UNUSED_BROKER: Final = (
    f"no route uses this broker, all sessions go over WebSocket; a side of type s2-connect uses it with: protocols = "
    f'["{MQTT}", "WebSocket"]'
)

NO_GATEWAY: Final = (
    "[mqtt] needs a gateway: with store each instance has an MQTT client id of its own, and this program knows the "
    'bridge by one name, e.g. gateway = "s2-gateway"; or give the client_id of the program, if it opens its sessions '
    "itself"
)

UNLISTED: Final = (
    "path: with store only the instance to which such a device comes knows it, and the others list the devices for the "
    "energy manager at the broker without it; give each device its [[route.devices.device]], or give the client_id of "
    "the energy manager, if it opens its sessions itself"
)

ONE_CLIENT_ID: Final = (
    "client_id: with store it is the same for all instances, and two with one client id end each other's connection; "
    "put {instance} into it"
)

NO_TLS: Final = "anybody on the way can read along and give commands"

MIN_PASSWORD: Final = 16
"""Shortest password without a warning, in characters: one address may try a hundred a second."""


def check(problems: Problems, sections: Mapping[Place, BaseModel]) -> None:
    """Check the sections that could be read."""
    prefix = next((mqtt.prefix for mqtt in sections.values() if isinstance(mqtt, MqttSettings)), None)
    for place, section in sections.items():
        _Checker(problems, place).check(section, prefix)
    routes = [(place, route) for place, route in sections.items() if isinstance(route, RouteSection)]
    _distinct(problems, "another route has this name", (((*p, "name"), route.name.casefold()) for p, route in routes))
    _distinct(problems, "another route has this id", (((*p, "id"), route.id) for p, route in routes if route.id))
    ports = (
        ((*place, "port"), section.port)
        for place, section in sections.items()
        if isinstance(section, EndpointSection | MetricsSection | Listening) and section.port
    )
    _distinct(problems, "port: something else of this file listens there already", ports)
    # Static sessions share the topics of a broker: no two of them may have the same two sides.
    static = ((place, device.id) for place, device in sections.items() if isinstance(device, MqttDevice))
    _distinct(problems, "another device at the broker has this id", static)
    if any(isinstance(section, EndpointSection) and section.store is not None for section in sections.values()):
        _several(problems, sections)
    if not uses_broker(sections.values()):
        for place in (place for place, section in sections.items() if isinstance(section, MqttSettings)):
            problems.add(place, UNUSED_BROKER, fatal=False)


def _several(problems: Problems, sections: Mapping[Place, BaseModel]) -> None:
    """Check what concerns a bridge of several instances."""
    broker = next((section for section in sections.values() if isinstance(section, MqttSettings)), None)
    for place, section in sections.items():
        if isinstance(section, MqttPeer) and section.client_id is None:
            if broker is not None and broker.gateway is None:
                problems.add(place, NO_GATEWAY)
            devices = sections.get((*place[:-1], "devices")) if isinstance(section, MqttManager) else None
            if isinstance(devices, PlainServerDevices) and devices.path is not None:
                problems.add((*place[:-1], "devices", "path"), UNLISTED)
        if isinstance(section, MqttSettings) and section.is_shared_id:
            problems.add((*place, "client_id"), ONE_CLIENT_ID, fatal=False)


def uses_broker(sides: Iterable[BaseModel]) -> bool:
    """Return whether one of the sides of routes is at the broker, or has sessions over it where the peer has MQTT."""
    return any(
        isinstance(side, MqttDevices | MqttManager)
        or (isinstance(side, NodeDevices | NodeManager) and MQTT in side.protocols)
        for side in sides
    )


def _distinct(problems: Problems, what: str, values: Iterable[tuple[Place, Hashable]]) -> None:
    seen: set[Hashable] = set()
    for place, value in values:
        if value in seen:
            problems.add(place, what)
        seen.add(value)


class _Checker:
    """Checks of the section at ``place``."""

    def __init__(self, problems: Problems, place: Place) -> None:
        self._problems = problems
        self._place = place

    def _add(self, name: str, what: str, *, fatal: bool = True) -> None:
        self._problems.add((*self._place, name), what, fatal=fatal)

    def check(self, section: BaseModel, prefix: str | None) -> None:
        """Check a section; ``prefix`` is that of the broker."""
        for name in PRIVATE:
            file = getattr(section, name, None)
            if isinstance(file, Path) and is_file(file):
                self._secret(name, file)
        if isinstance(section, EndpointSection | PlainClient):
            self._anchors(section.trust_anchors)
        if isinstance(section, EndpointSection | Listening):
            self._identity(section.certificate, section.private_key)
        if isinstance(section, EndpointSection):
            self._endpoint(section)
        if isinstance(section, PageSettings | MetricsSection):
            self._address("bind", section.bind)
        if isinstance(section, Listening):
            self._listening(section)
        if isinstance(section, MqttPeer):
            self._mqtt_peer(section, prefix)
        if isinstance(section, ConfiguredDevices):
            self._devices(section)
        match section:
            case MqttSettings():
                self._broker(section)
            case ProxySection(url=str(url)):
                try:
                    EndpointConfig(proxy=url)
                except ValidationError as error:
                    self._add("url", f"url: {first_fault(error)[1]}")
            case PlainClientDevice():
                self._plain_url(section.url, allow_unencrypted=section.allow_unencrypted)
            case PlainClientManager(url=url):
                filled = url.replace("{name}", "name").replace("{id}", "id")
                self._plain_url(filled, allow_unencrypted=section.allow_unencrypted)
                if "{" not in url:
                    what = "url: every device has the same URL; {name} or {id} in it stands for that of the device"
                    self._add("url", what, fatal=False)
            case PlainServerManager(path=path) if "{id}" not in path and "{name}" not in path:
                self._add("path", "path: it needs {id} or {name}, so that every device has a path of its own")

    def _secret(self, name: str, file: Path) -> None:
        shown = f"{name}: {for_display(str(file), 300)}"
        try:
            content = (read_private(file, MAX_SECRET_BYTES) or b"").strip()
        except S2ConnectError as error:
            self._add(name, f"{name}: {error.what}")
            return
        if not content:
            self._add(name, f"{shown} is empty")
        elif name == "login_file" and (b":" not in content or not content.isascii()):
            self._add(name, f"{shown} does not hold user:password in ASCII")
        elif name == "login_file" and len(content.partition(b":")[2]) < MIN_PASSWORD:
            what = f"{name}: a password of less than {MIN_PASSWORD} characters may be guessed; better take a random one"
            self._add(name, what, fatal=False)
        elif name == "secret_file":
            try:
                SessionToken(content.decode("utf-8"))
            except ValueError:
                self._add(name, f"{shown} does not hold 32 random bytes in Base64")

    def _endpoint(self, section: EndpointSection) -> None:
        if section.bind is not None:
            self._address("bind", section.bind, every=None)
        given = section.model_dump(exclude_unset=True, exclude_none=True)
        if (section.certificate is None) != (section.private_key is None):
            return  # it has its line
        try:
            EndpointConfig(**given).with_environment()
        except ValidationError as error:
            setting, what = first_fault(error)
            name = setting.partition(".")[0] or what.partition(" ")[0]  # what concerns several begins with the first
            self._add(name, f"{name}: {what}" if setting else what)
        except S2ConnectError as error:
            self._problems.add(self._place, error.what.rstrip("."))

    def _address(self, name: str, address: str, *, every: str | None = "*") -> None:
        from s2connect.transports import check_bind  # loads the server

        if address != every:
            try:
                check_bind(address)
            except S2ConnectError as error:
                self._add(name, f"{name}: {error.what.rstrip('.')}")

    def _anchors(self, file: Path | None) -> None:
        if file is not None and is_file(file):
            try:
                wan_client_context(file)
            except S2ConnectError as error:
                self._add("trust_anchors", error.what)

    def _identity(self, certificate: Path | None, private_key: Path | None) -> None:
        if certificate is None or private_key is None:
            if certificate != private_key:
                given = "private_key" if certificate is None else "certificate"
                self._add(given, "certificate and private_key belong together")
        elif is_file(certificate) and is_file(private_key):
            try:
                ServerIdentity.load(certificate.read_bytes(), private_key.read_bytes())
            except OSError as error:
                self._add("certificate", f"the files cannot be read ({error.strerror})")
            except S2ConnectError as error:
                self._add("certificate", error.what)

    def _listening(self, side: Listening) -> None:
        self._address("host", side.host)
        if side.certificate is not None or is_this_machine(side.host):
            return
        if side.allow_unencrypted:
            self._add("allow_unencrypted", f"without TLS, {NO_TLS}", fatal=False)
        else:
            cure = "give certificate and private_key, or allow_unencrypted"
            self._add("host", f"other machines come in without TLS: {cure} ({NO_TLS})")

    def _broker(self, mqtt: MqttSettings) -> None:
        if all(file is None or is_file(file) for file in (mqtt.ca_file, mqtt.certificate_file, mqtt.key_file)):
            try:
                mqtt.context()
            except S2ConnectError as error:
                self._problems.add(self._place, error.what)

    def _mqtt_peer(self, peer: MqttPeer, prefix: str | None) -> None:
        if peer.client_id is not None and prefix is not None and peer.prefix not in (None, prefix):
            self._add("prefix", "prefix: a side that opens its sessions itself uses that of [mqtt]")
        if peer.secret_file is not None:
            if peer.protection == "plain":
                self._add("protection", "the broker can read every message", fatal=False)
        elif peer.protection == "sealed":
            what = 'secret_file is missing: both sides need the same 32 random bytes in Base64, or protection = "plain"'
            self._problems.add(self._place, what)
        else:
            what = "without a secret, whoever may publish on the topics is the peer"
            self._problems.add(self._place, what, fatal=False)

    def _plain_url(self, url: str, *, allow_unencrypted: bool) -> None:
        try:
            if not url.lower().startswith("ws://"):
                WebSocketUrl(url)
                return
            host = UnencryptedWebSocketUrl(url).host
        except InvalidUrl:
            self._add("url", "url: it looks like wss://name.example:8443/s2, or ws://… in a network of your own")
            return
        if is_this_machine(host):
            return
        if allow_unencrypted:
            self._add("url", f"without TLS, {NO_TLS}", fatal=False)
        else:
            what = f"{for_display(host, 100)} is another machine, and ws:// has no TLS"
            self._add("url", f"url: {what}: use wss://, or allow_unencrypted ({NO_TLS})")

    def _devices(self, side: ConfiguredDevices) -> None:
        place = (*self._place, "device")
        path = side.path if isinstance(side, PlainServerDevices) else None
        if not side.device and path is None:
            self._add("device", "there is no device: at least one [[route.devices.device]] is needed")
        keys = [((*place, number), device.key) for number, device in enumerate(side.device)]
        _distinct(self._problems, "another device has this id, or name", keys)
        if not isinstance(side, PlainServerDevices):
            return
        paths = [((*place, number, "path"), device.at) for number, device in enumerate(side.device)]
        _distinct(self._problems, "another device has this path", paths)
        open_to_all = None if is_this_machine(side.host) else f"whoever reaches port {side.port} can pose as"
        for number, device in enumerate(side.device):
            if open_to_all and device.token_file is None and device.login_file is None:
                what = f"{open_to_all} {device.name}: give it a token_file"
                self._problems.add((*place, number), what, fatal=False)
        if path is None:
            for name in side.model_fields_set & {"token_file", "login_file", "max_devices"}:
                what = "this is for devices by path; each [[route.devices.device]] has its own token_file"
                self._add(name, f"{name}: {what}")
            return
        if re.fullmatch(r"[^{}]*/\{id\}(?:/[^{}]*)?", path) is None:
            self._add("path", "path: it has /{id} once, which stands for the id of a device, e.g. /s2/{id}")
        if open_to_all and side.token_file is None and side.login_file is None:
            what = f"{open_to_all} any device and use up max_devices: give a token_file or login_file"
            self._add("path", what, fatal=False)
