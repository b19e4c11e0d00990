"""Checks across the parts of a bridge's file: ports, paths, secrets, encryption."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from s2connect import EndpointConfig, MqttSettings, for_display, read_private
from s2connect.bridge.config import (
    ConfiguredDevices,
    Devices,
    EndpointSection,
    Listening,
    Manager,
    MetricsSection,
    MqttDevice,
    MqttDevices,
    MqttManager,
    MqttPeer,
    PlainClientDevice,
    PlainClientDevices,
    PlainClientManager,
    PlainServerDevice,
    PlainServerDevices,
    PlainServerManager,
    ProxySection,
    ReadRoute,
)
from s2connect.bridge.devices import MAX_SECRET_BYTES
from s2connect.bridge.problems import Problems
from s2connect.bridge.toml_lines import Place
from s2connect.errors import InvalidUrl, S2ConnectError
from s2connect.transports import (
    InvalidTopic,
    ServerIdentity,
    SessionToken,
    UnencryptedWebSocketUrl,
    WebSocketUrl,
    check_client_id,
    check_prefix,
    is_this_machine,
    wan_client_context,
)

PRIVATE: Final = ("token_file", "login_file", "secret_file", "password_file")
"""Settings that name files with a secret."""

NO_TLS: Final = "anybody on the way can read along and give commands"

MIN_PASSWORD: Final = 16
"""Shortest password without a warning, in characters: one address may try a hundred a second."""

_Routes = Sequence[ReadRoute]


def check(
    problems: Problems,
    endpoint: EndpointSection | None,
    mqtt: MqttSettings | None,
    proxy: ProxySection | None,
    metrics: MetricsSection | None,
    routes: _Routes,
    *,
    has_broker: bool,
) -> None:
    """Check what is there; the parts that could not be read are None or missing.

    Args:
        problems: Takes the mistakes.
        endpoint: Section of the endpoint.
        mqtt: Section of the broker.
        proxy: Section of the proxy.
        metrics: Section of the metrics.
        routes: The routes.
        has_broker: Whether the file has a section of the broker, with mistakes or without.
    """
    if endpoint is not None:
        _pair_of_files(problems, ("endpoint",), endpoint.certificate, endpoint.private_key)
        _anchors(problems, ("endpoint",), endpoint.trust_anchors)
    if mqtt is not None:
        _mqtt(problems, mqtt)
    if proxy is not None and proxy.url is not None:
        _proxy(problems, proxy.url)
    named = [(route.place, route.settings) for route in routes if route.settings is not None]
    _distinct(problems, [((*p, "name"), s.name.casefold()) for p, s in named], "another route has this name")
    _distinct(problems, [((*p, "id"), s.id) for p, s in named if s.id is not None], "another route has this id")
    for place, side in _sides(routes):
        _side(problems, place, side, mqtt)
        if isinstance(side, MqttDevices | MqttManager) and not has_broker:
            problems.add((*place, "type"), 'type = "mqtt" needs the broker: [mqtt] with its url')
        if isinstance(side, ConfiguredDevices):
            _devices(problems, place, side)
    _ports(problems, endpoint, metrics, routes)
    _broker(problems, mqtt, routes)


def _sides(routes: _Routes) -> Iterator[tuple[Place, Devices | Manager]]:
    for route in routes:
        if route.devices is not None:
            yield (*route.place, "devices"), route.devices
        if route.manager is not None:
            yield (*route.place, "manager"), route.manager


def _mqtt(problems: Problems, mqtt: MqttSettings) -> None:
    place = ("mqtt",)
    missing = [f for f in (mqtt.ca_file, mqtt.certificate_file, mqtt.key_file) if f is not None and not f.is_file()]
    if not missing:
        try:
            mqtt.context()
        except S2ConnectError as error:
            problems.add(place, error.what)
    _secrets(problems, place, mqtt)


def _proxy(problems: Problems, url: str) -> None:
    try:
        EndpointConfig(proxy=url)
    except ValidationError as error:
        problems.add(("proxy", "url"), f"url: {error.errors()[0]['msg'].removeprefix('Value error, ')}")


def _side(problems: Problems, place: Place, side: BaseModel, mqtt: MqttSettings | None) -> None:
    _secrets(problems, place, side)
    if isinstance(side, Listening):
        _listening(problems, place, side)
    if isinstance(side, PlainClientManager):
        filled = side.url.replace("{name}", "name").replace("{id}", "id")
        _plain_url(problems, place, filled, allow_unencrypted=side.allow_unencrypted)
        _anchors(problems, place, side.trust_anchors)
        if "{" not in side.url:
            what = "url: every device has the same URL; {name} or {id} in it stands for that of the device"
            problems.add((*place, "url"), what, fatal=False)
    if isinstance(side, PlainServerManager) and "{id}" not in side.path and "{name}" not in side.path:
        problems.add((*place, "path"), "path: it needs {id} or {name}, so that every device has a path of its own")
    if isinstance(side, MqttManager):
        _mqtt_peer(problems, place, side, mqtt)


def _devices(problems: Problems, place: Place, devices: ConfiguredDevices) -> None:
    by_path = isinstance(devices, PlainServerDevices) and devices.path is not None
    if not devices.device and not by_path:
        problems.add((*place, "device"), "there is no device: at least one [[route.devices.device]] is needed")
    keys: list[tuple[Place, Hashable]] = []
    items: tuple[PlainClientDevice | PlainServerDevice | MqttDevice, ...] = devices.device
    for number, device in enumerate(items):
        here = (*place, "device", number)
        keys.append((here, device.key))
        _secrets(problems, here, device)
    _distinct(problems, keys, "another device has this id, or name")
    if isinstance(devices, PlainClientDevices):
        for number, client in enumerate(devices.device):
            here = (*place, "device", number)
            _plain_url(problems, here, client.url, allow_unencrypted=client.allow_unencrypted)
            _anchors(problems, here, client.trust_anchors)
    elif isinstance(devices, PlainServerDevices):
        paths = [((*place, "device", n, "path"), device.at) for n, device in enumerate(devices.device)]
        _distinct(problems, paths, "another device has this path")
        for number, server in enumerate(devices.device):
            if server.token_file is None and server.login_file is None and not is_this_machine(devices.host):
                what = f"whoever reaches port {devices.port} can pose as {server.name}: give it a token_file"
                problems.add((*place, "device", number), what, fatal=False)
        _by_path(problems, place, devices)


def _by_path(problems: Problems, place: Place, devices: PlainServerDevices) -> None:
    if devices.path is None:
        for name in ("token_file", "login_file", "max_devices"):
            if name in devices.model_fields_set:
                what = f"{name}: this is for devices by path; each [[route.devices.device]] has its own token_file"
                problems.add((*place, name), what)
        return
    if re.fullmatch(r"[^{}]*\{id\}(?:/[^{}]*)?", devices.path) is None or "/{id}" not in devices.path:
        what = "path: it has /{id} once, which stands for the id of a device, e.g. /s2/{id}"
        problems.add((*place, "path"), what)
    if devices.token_file is None and devices.login_file is None and not is_this_machine(devices.host):
        what = (
            f"whoever reaches port {devices.port} can pose as any device and use up max_devices: give a token_file or"
            " login_file"
        )
        problems.add((*place, "path"), what, fatal=False)


def _mqtt_peer(problems: Problems, place: Place, peer: MqttPeer, mqtt: MqttSettings | None) -> None:
    try:
        if peer.client_id is not None:
            check_client_id(peer.client_id)
    except InvalidTopic as error:
        problems.add((*place, "client_id"), f"client_id: {error}")
    try:
        if peer.prefix is not None:
            check_prefix(peer.prefix)
    except InvalidTopic as error:
        problems.add((*place, "prefix"), f"prefix: {error}")
    if peer.client_id is not None and mqtt is not None and peer.prefix not in (None, mqtt.prefix):
        problems.add((*place, "prefix"), "prefix: who opens its sessions itself uses that of [mqtt]")
    if peer.secret_file is None:
        if peer.protection == "sealed":
            what = 'secret_file is missing: both sides need the same 32 random bytes in Base64, or protection = "plain"'
            problems.add(place, what)
        else:
            what = "without a secret, whoever may publish on the topics is the peer"
            problems.add(place, what, fatal=False)
    elif peer.protection == "plain":
        problems.add((*place, "protection"), "the broker can read every message", fatal=False)


def _listening(problems: Problems, place: Place, side: Listening) -> None:
    _pair_of_files(problems, place, side.certificate, side.private_key)
    if side.certificate is None and not is_this_machine(side.host):
        if side.allow_unencrypted:
            problems.add((*place, "allow_unencrypted"), f"without TLS, {NO_TLS}", fatal=False)
        else:
            what = (
                f"other machines come in without TLS: give certificate and private_key, or allow_unencrypted ({NO_TLS})"
            )
            problems.add((*place, "host"), what)


def _plain_url(problems: Problems, place: Place, url: str, *, allow_unencrypted: bool) -> None:
    here = (*place, "url")
    try:
        if not url.lower().startswith("ws://"):
            WebSocketUrl(url)
            return
        host = UnencryptedWebSocketUrl(url).host
    except InvalidUrl:
        problems.add(here, "url: it looks like wss://name.example:8443/s2, or ws://… in a network of your own")
        return
    if is_this_machine(host):
        return
    if allow_unencrypted:
        problems.add(here, f"without TLS, {NO_TLS}", fatal=False)
    else:
        what = (
            f"url: {for_display(host, 100)} is another machine, and ws:// has no TLS: use wss://, or allow_unencrypted"
        )
        problems.add(here, f"{what} ({NO_TLS})")


def _secrets(problems: Problems, place: Place, section: BaseModel) -> None:
    for name in PRIVATE:
        file = getattr(section, name, None)
        if not isinstance(file, Path) or not file.is_file():
            continue
        try:
            content = read_private(file, MAX_SECRET_BYTES) or b""
        except S2ConnectError as error:
            problems.add((*place, name), f"{name}: {error.what}")
            continue
        if not content.strip():
            problems.add((*place, name), f"{name}: {for_display(str(file), 300)} is empty")
        elif name == "login_file" and (b":" not in content or not content.isascii()):
            what = f"{name}: {for_display(str(file), 300)} does not hold user:password in ASCII"
            problems.add((*place, name), what)
        elif name == "login_file" and len(content.strip().partition(b":")[2]) < MIN_PASSWORD:
            what = f"{name}: a password of less than {MIN_PASSWORD} characters may be guessed; better take a random one"
            problems.add((*place, name), what, fatal=False)
        elif name == "secret_file":
            try:
                SessionToken(content.decode("utf-8"))
            except ValueError:
                what = f"{name}: {for_display(str(file), 300)} does not hold 32 random bytes in Base64"
                problems.add((*place, name), what)


def _pair_of_files(problems: Problems, place: Place, certificate: Path | None, private_key: Path | None) -> None:
    if (certificate is None) != (private_key is None):
        given = "certificate" if certificate is not None else "private_key"
        problems.add((*place, given), "certificate and private_key belong together")
    elif certificate is not None and private_key is not None and certificate.is_file() and private_key.is_file():
        try:
            ServerIdentity.load(certificate.read_bytes(), private_key.read_bytes())
        except OSError as error:
            problems.add((*place, "certificate"), f"the files cannot be read ({error.strerror})")
        except S2ConnectError as error:
            problems.add((*place, "certificate"), error.what)


def _anchors(problems: Problems, place: Place, file: Path | None) -> None:
    if file is None or not file.is_file():
        return
    try:
        wan_client_context(file)
    except S2ConnectError as error:
        problems.add((*place, "trust_anchors"), error.what)


def _ports(
    problems: Problems, endpoint: EndpointSection | None, metrics: MetricsSection | None, routes: _Routes
) -> None:
    taken: list[tuple[Place, Hashable]] = []
    if endpoint is not None and endpoint.port:
        taken.append((("endpoint", "port"), endpoint.port))
    if metrics is not None:
        taken.append((("metrics", "port"), metrics.port))
    taken += [((*place, "port"), side.port) for place, side in _sides(routes) if isinstance(side, Listening)]
    _distinct(problems, taken, "port: something else of this file listens there already")


def _broker(problems: Problems, mqtt: MqttSettings | None, routes: _Routes) -> None:
    """Static sessions share the topics of a broker: no two of them may have the same two sides."""
    found: list[tuple[Place, Hashable]] = []
    for place, side in _sides(routes):
        if isinstance(side, MqttDevices):
            for number, device in enumerate(side.device):
                here = (*place, "device", number)
                _mqtt_peer(problems, here, device, mqtt)
                found.append((here, device.id))
    _distinct(problems, found, "another device at the broker has this id")


def _distinct(problems: Problems, values: Iterable[tuple[Place, Hashable]], what: str) -> None:
    seen: set[Hashable] = set()
    for place, value in values:
        if value in seen:
            problems.add(place, what)
        seen.add(value)
