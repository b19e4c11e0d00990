"""Setting up a state directory, and giving it a new certificate authority."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from s2connect import Deployment, Endpoint, EndpointConfig, NodeConfig, Role, create_home
from s2connect.endpoint.certificate import CertificateManager
from s2connect.endpoint.config import checked, default_host
from s2connect.endpoint.endpoint import DATABASE, SECRETS, read_config
from s2connect.errors import ConfigurationError, NotInitialised, PairingsLost, UsageError
from s2connect.https.server import free_port
from s2connect.model.roles import CommunicationRole
from s2connect.service.certificates import Certificates, describe
from s2connect.service.failures import Failure
from s2connect.store.base import Vault
from s2connect.store.home import Home
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import open_vault


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


async def new_ca(path: Path) -> int:
    """End every pairing, then make a new certificate authority (TRUST-09).

    Communication servers are told where they can be reached. A crash in between leaves fewer pairings and the old
    certificate authority.

    Returns:
        How many pairings there were.

    Raises:
        HomeInUse: The service runs.
        Failure: The certificate is the operator's.
    """
    home = await asyncio.to_thread(Home.open, path)
    config = await asyncio.to_thread(read_config, home)
    if not config.is_own_ca:
        raise Failure("usage", "This endpoint has no certificate authority of its own: its certificate is a file.")
    return await _end_pairings(home, config, then=lambda vault: CertificateManager(config, home, vault).create_ca())


async def unpair_all(path: Path) -> int:
    """End every pairing, also where only their secrets are left; otherwise as :func:`new_ca`.

    Raises:
        HomeInUse: The service runs.
    """
    home = await asyncio.to_thread(Home.open, path)
    return await _end_pairings(home, await asyncio.to_thread(read_config, home))


async def _end_pairings(home: Home, config: EndpointConfig, then: Callable[[Vault], object] = lambda _: None) -> int:
    told = await _say_goodbye(home.path)
    lock = home.lock()
    await asyncio.to_thread(lock.__enter__)
    try:
        vault, _ = await asyncio.to_thread(open_vault, config.vault, home.path / SECRETS)
        store = await SqliteStore.open(home.path / DATABASE, vault, anew=True)
        try:
            left = await store.pairings()
            for pairing in left:
                server = pairing.communication_role is CommunicationRole.SERVER
                await store.remove_pairing(pairing, tombstone=server)
        finally:
            await store.close()
        await asyncio.to_thread(then, vault)
    finally:
        lock.__exit__(None, None, None)
    return told + len(left)


async def _say_goodbye(path: Path) -> int:
    try:
        async with Endpoint.open(path, serve=False) as endpoint:
            pairings = await endpoint.pairings()
            keys = {p.key for p in pairings}
            await asyncio.gather(*(endpoint.nodes[key.local].unpair(key.remote, forget=True) for key in keys))
            return len(keys)
    except (NotInitialised, ConfigurationError, PairingsLost):
        return 0  # certificate authority or pairings are lost, damaged or out of date: that is why they begin anew
