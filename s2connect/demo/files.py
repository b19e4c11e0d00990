"""Files of the demonstration: a certificate authority, a cloud, the file of a bridge, secrets."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from s2connect import Deployment, EndpointConfig, MqttSettings, NodeConfig, Role, create_home
from s2connect.certs.authority import CertificateAuthority
from s2connect.demo.broker import HOST, Account, Broker
from s2connect.https.server import free_port
from s2connect.model.common import MQTT, WEBSOCKET
from s2connect.model.url import MqttUrl
from s2connect.store.files import write_private

LOCAL: Final = "127.0.0.1"
CLOUD, BRIDGE, BRIDGE_FILE, TOKEN_FILE = "cloud", "bridge", "bridge.toml", "token"
"""In the directory of the demonstration: two state directories, the file of the bridge, the token of the old device."""

OVER_WEBSOCKET, OVER_MQTT, OLD = "websocket", "mqtt", "old device"
"""The routes of the bridge."""
OLD_NAME: Final = "Heat pump"

_DAY: Final = 86_400.0
_MORNING: Final = 9.5 * 3600
_SPEED: Final = 600.0


def _bridge_file(port: int, plain_port: int, broker: str) -> str:
    return f"""\
home = "{BRIDGE}"

[endpoint]
name = "Gateway"
host = "{LOCAL}"
bind = "{LOCAL}"
port = {port}
vault = "files"
advertise = false
trust_anchors = "ca.pem"

[mqtt]
url = "{broker}"
client_id = "{BRIDGE}"
username = "{BRIDGE}"
password_file = "{BRIDGE}-password"
ca_file = "ca.pem"

[[route]]
name = "{OVER_WEBSOCKET}"
check = "rules"
devices = {{ type = "s2-connect" }}
manager = {{ type = "s2-connect", protocols = ["{WEBSOCKET}"] }}

[[route]]
name = "{OVER_MQTT}"
check = "rules"
devices = {{ type = "s2-connect" }}
manager = {{ type = "s2-connect", protocols = ["{MQTT}"] }}

[[route]]
name = "{OLD}"
check = "rules"
manager = {{ type = "s2-connect", protocols = ["{MQTT}"] }}

[route.devices]
type = "plain-server"
port = {plain_port}

[[route.devices.device]]
name = "{OLD_NAME}"
type = "heat-pump"
path = "/heat-pump"
token_file = "{TOKEN_FILE}"
"""


def prepare(directory: Path, logs: Path, *, embedded: bool = False) -> tuple[Broker, str]:
    """Write a cloud, a bridge and what they need. Blocks.

    Returns:
        The broker, not started, and the URL that the old device connects to.

    Raises:
        Failure: There is no broker.
        S2ConnectError: Something cannot be written.
    """
    now = datetime.now(UTC)
    ca = CertificateAuthority.create("CA of the demonstration", now=now)
    ca_file, chain, key = (directory / name for name in ("ca.pem", "cloud-chain.pem", "cloud-key.pem"))
    ca_file.write_bytes(ca.to_pem())
    identity = ca.issue([HOST, LOCAL], now=now)
    write_private(chain, identity.chain_pem)
    write_private(key, identity.key_pem)
    passwords = {name: secrets.token_urlsafe(24) for name in (CLOUD, BRIDGE)}
    for name, password in passwords.items():
        write_private(directory / f"{name}-password", password.encode())
    write_private(directory / TOKEN_FILE, secrets.token_urlsafe(24).encode())
    manager = NodeConfig(
        role=Role.CEM,
        brand="Example",
        type="Energy manager",
        model_name="Cloud 1",
        user_defined_name="Cloud",
        communication_protocols=(WEBSOCKET, MQTT),
    )
    accounts = {CLOUD: Account(passwords[CLOUD], (str(manager.id),)), BRIDGE: Account(passwords[BRIDGE])}
    broker_directory = directory / "broker"
    broker_directory.mkdir(0o700)
    broker = Broker(broker_directory, accounts, ca.issue([HOST], now=now), logs / "broker.log", embedded=embedded)
    cloud = EndpointConfig(
        deployment=Deployment.WAN,
        allow_private_addresses=True,  # all of it is on this machine
        host=HOST,
        bind=LOCAL,
        port=free_port(LOCAL),
        certificate=chain,
        private_key=key,
        vault="files",
        nodes=(manager,),
        mqtt=MqttSettings(
            url=MqttUrl(broker.url),
            client_id=CLOUD,
            username=CLOUD,
            password_file=directory / f"{CLOUD}-password",
            ca_file=ca_file,
        ),
    )
    create_home(directory / CLOUD, cloud)
    plain_port = free_port(LOCAL)
    (directory / BRIDGE_FILE).write_text(_bridge_file(free_port(LOCAL), plain_port, broker.url))
    return broker, f"ws://{LOCAL}:{plain_port}/heat-pump"


def speed() -> float:
    """Return the speed of the simulated time, about 600, with which the demonstration begins in the morning."""
    since_midnight = time.time() % _DAY + 1
    days = max(0, round((_SPEED * since_midnight - _MORNING) / _DAY))
    return (days * _DAY + _MORNING) / since_midnight
