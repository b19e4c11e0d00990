"""Sets up a state directory."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

from s2connect import Deployment, EndpointConfig, NodeConfig, Role, create_home
from s2connect.endpoint.config import checked, default_host
from s2connect.endpoint.endpoint import read_config
from s2connect.errors import NotInitialised, UsageError
from s2connect.https.server import free_port
from s2connect.service.certificates import Certificates, describe
from s2connect.store.home import Home


def existing(path: Path) -> EndpointConfig | None:
    """Settings of a directory that is set up, otherwise None. Blocks.

    Raises:
        S2ConnectError: They cannot be read.
    """
    try:
        return read_config(Home.open(path))
    except NotInitialised:
        return None


def make(
    path: Path,
    *,
    role: Role,
    brand: str | None,
    kind: str | None,
    model: str | None,
    name: str | None,
    deployment: Deployment,
    host: str | None,
    port: int,
    bind: str | None,
    certificate: Path | None,
    private_key: Path | None,
    trust_anchors: Path | None,
    vault: Literal["auto", "keyring", "files"],
    advertise: bool = True,
    server: bool = True,
    allow_private_addresses: bool = False,
) -> EndpointConfig:
    """Set up a state directory. Blocks.

    Raises:
        UsageError: It is set up already, or a setting cannot be used.
        StorageError: It cannot be written.
    """
    if (found := existing(path)) is not None:
        nodes = ", ".join(f"{node.role} {node.id}" for node in found.nodes) or "no node"
        raise UsageError(
            f"{path} is set up already: {found.deployment} endpoint {found.host}:{found.port} with {nodes}.",
            hint="Nothing was changed. Edit config.json there, or choose another directory with --home.",
        )
    shown = {"brand": brand, "type": kind, "model_name": model, "user_defined_name": name}
    node = checked(
        lambda: NodeConfig.model_validate({"role": role, **{k: v for k, v in shown.items() if v is not None}}),
        "the node",
    )
    settings = {
        "deployment": deployment,
        "host": host or (default_host() if deployment is Deployment.LAN else socket.getfqdn()),
        "port": port or free_port(bind),
        "bind": bind,
        "name": name,
        "nodes": (node,),
        "certificate": certificate.absolute() if certificate else None,
        "private_key": private_key.absolute() if private_key else None,
        "trust_anchors": trust_anchors.absolute() if trust_anchors else None,
        "vault": vault,
        "advertise": advertise,
        "server": server,
        "allow_private_addresses": allow_private_addresses,
    }
    return create_home(path, checked(lambda: EndpointConfig.model_validate(settings), "the settings"))


def show_certificates(path: Path) -> Certificates:
    """Facts of the certificates of a state directory, also while its service runs. Blocks."""
    home = Home.open(path)
    return describe(home, read_config(home))
