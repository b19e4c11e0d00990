"""Parts of the status of a service: pairings, certificates, broker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from s2connect import CodeStatus, Endpoint, EndpointConfig, Home, Node, Pairing, PairKey
from s2connect.endpoint.certificate import Certificates, read_certificates
from s2connect.endpoint.connections import LiveConnection, PeerHistory
from s2connect.model.common import MQTT, WEBSOCKET
from s2connect.service.commands import BrokerStatus, LogLines, ShowLog
from s2connect.service.logs import latest_lines
from s2connect.service.objects import OwnNode, PairingEntry


def own_entry(node: Node, codes: CodeStatus | None = None) -> OwnNode:
    """Return one of our nodes in full; the state of its code is ``none`` unless ``codes`` says it."""
    code = {} if codes is None else {"code_state": codes.state, "static_code": codes.static}
    return OwnNode(**dict(node.description), alias=node.alias, **code)


async def entries(
    pairings: Sequence[Pairing],
    connected: Mapping[PairKey, LiveConnection] = MappingProxyType({}),
    history: Mapping[PairKey, PeerHistory] = MappingProxyType({}),
    elsewhere: Mapping[PairKey, str] = MappingProxyType({}),
) -> list[PairingEntry]:
    """Return the entries of pairings: made in a thread, because there may be many."""
    return await asyncio.to_thread(
        lambda: [PairingEntry.of(pairing, connected, history, elsewhere) for pairing in pairings]
    )


def certificates(endpoint: Endpoint, home: Path, *, running: bool) -> Certificates:
    """Return the certificates: what a running service shows, or else what the files hold. Blocks."""
    return endpoint.certificates() if running else read_certificates(Home.open(home), endpoint.config)


def unused_broker(config: EndpointConfig) -> str:
    """Return what to change where the settings have an MQTT broker, and no node uses it; empty otherwise."""
    if config.mqtt is None or not config.nodes or any(MQTT in node.communication_protocols for node in config.nodes):
        return ""
    each = " --node NODE" if len(config.nodes) > 1 else ""
    return (
        "Sessions go over WebSocket, because no node here has MQTT. To use the broker: "
        f"s2connect config set communication-protocols {MQTT},{WEBSOCKET}{each}"
    )


def broker_status(endpoint: Endpoint, unused: str) -> BrokerStatus | None:
    """Return the state of the connection to the MQTT broker, None where there is none."""
    client = endpoint.mqtt.client if endpoint.mqtt is not None else None
    if client is None:
        return None
    return BrokerStatus(
        where=client.where,
        client_id=client.client_id,
        connected=client.connection is not None,
        error=str(client.error) if client.error is not None else None,
        suspicion=client.suspicion or None,
        unused=unused or None,
    )


async def log_lines(command: ShowLog) -> LogLines:
    """Return the latest lines of the log of this process."""
    return LogLines(lines=latest_lines())
