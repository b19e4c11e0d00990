"""Files of the demonstration: a certificate authority, a cloud, the file of a bridge, secrets."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from s2connect import Deployment, EndpointConfig, NodeConfig, Role, create_home
from s2connect.certs.authority import CertificateAuthority
from s2connect.demo.broker import HOST, Account, Broker
from s2connect.https.server import free_port
from s2connect.model.common import MQTT, WEBSOCKET
from s2connect.model.url import MqttUrl
from s2connect.transports.mqtt.settings import MqttSettings

LOCAL: Final = "127.0.0.1"
CLOUD, BRIDGE = "cloud", "bridge"
OVER_WEBSOCKET, OVER_MQTT, OLD = "websocket", "mqtt", "old device"
"""The routes of the bridge."""
OLD_NAME: Final = "Heat pump"

_DAY: Final = 86_400.0
_MORNING: Final = 9.5 * 3600
_SPEED: Final = 600.0

_BRIDGE_FILE: Final = """\
home = "bridge"

[endpoint]
name = "Gateway"
host = "{local}"
bind = "{local}"
port = {port}
vault = "files"
advertise = false
trust_anchors = "{ca}"

[mqtt]
url = "{broker}"
client_id = "bridge"
username = "bridge"
password_file = "{password}"
ca_file = "{ca}"

[[route]]
name = "{over_websocket}"
check = "rules"
devices = {{ type = "s2-connect" }}
manager = {{ type = "s2-connect", protocols = ["WebSocket"] }}

[[route]]
name = "{over_mqtt}"
check = "rules"
devices = {{ type = "s2-connect" }}
manager = {{ type = "s2-connect", protocols = ["X-MQTT5-0"] }}

[[route]]
name = "{old}"
check = "rules"
manager = {{ type = "s2-connect", protocols = ["X-MQTT5-0"] }}

[route.devices]
type = "plain-server"
port = {plain_port}

[[route.devices.device]]
name = "{old_name}"
type = "heat-pump"
path = "/heat-pump"
token_file = "{token}"
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Everything is set up.

    Attributes:
        directory: Where it is.
        broker: The broker, not started.
        bridge_file: File of the bridge.
        old_url: Where the old device connects to.
        token_file: Its token.
    """

    directory: Path
    broker: Broker
    bridge_file: Path
    old_url: str
    token_file: Path


def prepare(directory: Path, logs: Path, *, embedded: bool = False) -> Place:
    """Set everything up. Blocks.

    Raises:
        Failure: There is no broker.
        S2ConnectError: Something cannot be written.
    """
    now = datetime.now(UTC)
    ca = CertificateAuthority.create("CA of the demonstration", now=now)
    ca_file = directory / "ca.pem"
    ca_file.write_bytes(ca.to_pem())
    identity = ca.issue([HOST, LOCAL], now=now)
    chain, key = directory / "cloud-chain.pem", directory / "cloud-key.pem"
    _private(chain, identity.chain_pem)
    _private(key, identity.key_pem)
    passwords = {name: secrets.token_urlsafe(24) for name in (CLOUD, BRIDGE)}
    for name, password in passwords.items():
        _private(directory / f"{name}-password", password.encode())
    token_file = directory / "token"
    _private(token_file, secrets.token_urlsafe(24).encode())
    manager = NodeConfig(
        role=Role.CEM,
        brand="Example",
        type="Energy manager",
        model_name="Cloud 1",
        user_defined_name="Cloud",
        communication_protocols=(WEBSOCKET, MQTT),
    )
    accounts = {CLOUD: Account(passwords[CLOUD], (str(manager.id),)), BRIDGE: Account(passwords[BRIDGE])}
    broker_place = directory / "broker"
    broker_place.mkdir(0o700)
    broker = Broker(broker_place, accounts, ca.issue([HOST], now=now), logs / "broker.log", embedded=embedded)
    mqtt = MqttSettings(
        url=MqttUrl(broker.url),
        client_id=CLOUD,
        username=CLOUD,
        password_file=directory / f"{CLOUD}-password",
        ca_file=ca_file,
    )
    create_home(
        directory / CLOUD,
        EndpointConfig(
            deployment=Deployment.WAN,
            allow_private_addresses=True,  # all of it is on this machine
            host=HOST,
            bind=LOCAL,
            port=free_port(LOCAL),
            certificate=chain,
            private_key=key,
            vault="files",
            nodes=(manager,),
            mqtt=mqtt,
        ),
    )
    plain_port = free_port(LOCAL)
    bridge_file = directory / "bridge.toml"
    bridge_file.write_text(
        _BRIDGE_FILE.format(
            local=LOCAL,
            port=free_port(LOCAL),
            ca=ca_file,
            broker=broker.url,
            password=directory / f"{BRIDGE}-password",
            plain_port=plain_port,
            token=token_file,
            over_websocket=OVER_WEBSOCKET,
            over_mqtt=OVER_MQTT,
            old=OLD,
            old_name=OLD_NAME,
        )
    )
    return Place(
        directory,
        broker,
        bridge_file,
        f"ws://{LOCAL}:{plain_port}/heat-pump",
        token_file,
    )


def speed() -> float:
    """Return the speed of the simulated time, about 600, with which the demonstration begins in the morning."""
    since_midnight = time.time() % _DAY + 1
    days = max(0, round((_SPEED * since_midnight - _MORNING) / _DAY))
    return (days * _DAY + _MORNING) / since_midnight


def _private(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)
