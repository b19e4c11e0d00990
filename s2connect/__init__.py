"""S2 Connect 1.0.0 for devices, energy managers and the gateways between them.

::

    async with Endpoint.open(home) as endpoint:
        node = endpoint.node()
        await node.pair("https://ems.local:8443/pairing/", code)
        async for session in node.sessions():
            await session.send({"message_type": "ResourceManagerDetails", ...})
            async for message in session:
                ...

Every name here is public and documented at its definition; everything else may change.
"""

from s2connect import errors, events
from s2connect.config import EndpointConfig, NodeConfig
from s2connect.endpoint import Endpoint, create_home
from s2connect.errors import S2ConnectError
from s2connect.messages.envelope import Message
from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.url import BaseUrl
from s2connect.node import Node
from s2connect.pairing.code import PairingCode
from s2connect.session.session import Session, SessionEnd
from s2connect.store.base import Pairing, PairKey, Pin
from s2connect.transports.base import Connection, ConnectionInfo, Transport

__all__ = [
    "Endpoint",
    "EndpointConfig",
    "Node",
    "NodeConfig",
    "create_home",
    "PairingCode",
    "Pairing",
    "PairKey",
    "Pin",
    "Session",
    "SessionEnd",
    "Message",
    "Connection",
    "ConnectionInfo",
    "Transport",
    "Role",
    "Deployment",
    "CommunicationRole",
    "NodeId",
    "NodeDescription",
    "EndpointDescription",
    "BaseUrl",
    "S2ConnectError",
    "errors",
    "events",
]
