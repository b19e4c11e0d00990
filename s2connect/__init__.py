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

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2connect import errors, events
    from s2connect.endpoint.config import EndpointConfig, NodeConfig
    from s2connect.endpoint.endpoint import Endpoint, create_home
    from s2connect.endpoint.home import new_certificate_authority, unpair_all
    from s2connect.endpoint.node import Node
    from s2connect.endpoint.plain_server import PlainServer
    from s2connect.errors import S2ConnectError
    from s2connect.messages.catalogue import parse
    from s2connect.messages.conversation import Conversation, ValidationResult
    from s2connect.messages.enums import Check
    from s2connect.messages.envelope import InvalidMessage, Message
    from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
    from s2connect.model.roles import CommunicationRole
    from s2connect.model.url import BaseUrl
    from s2connect.pairing.code import PairingCode
    from s2connect.session.answers import LATER, RefuseMessage
    from s2connect.session.session import Session, SessionEnd
    from s2connect.store.base import Pairing, PairKey, Pin
    from s2connect.transports.base import Connection, ConnectionInfo, Transport
    from s2connect.transports.plain import PlainAcceptor, connect_plain, plain_node_id

# Names are loaded when they are first used, so that a command or a small device pays only for what it uses.
_HOMES = {
    "EndpointConfig": "s2connect.endpoint.config",
    "NodeConfig": "s2connect.endpoint.config",
    "Endpoint": "s2connect.endpoint.endpoint",
    "create_home": "s2connect.endpoint.endpoint",
    "new_certificate_authority": "s2connect.endpoint.home",
    "unpair_all": "s2connect.endpoint.home",
    "S2ConnectError": "s2connect.errors",
    "parse": "s2connect.messages.catalogue",
    "Check": "s2connect.messages.enums",
    "Conversation": "s2connect.messages.conversation",
    "ValidationResult": "s2connect.messages.conversation",
    "InvalidMessage": "s2connect.messages.envelope",
    "Message": "s2connect.messages.envelope",
    "Deployment": "s2connect.model.common",
    "EndpointDescription": "s2connect.model.common",
    "NodeDescription": "s2connect.model.common",
    "NodeId": "s2connect.model.common",
    "Role": "s2connect.model.common",
    "CommunicationRole": "s2connect.model.roles",
    "BaseUrl": "s2connect.model.url",
    "Node": "s2connect.endpoint.node",
    "PairingCode": "s2connect.pairing.code",
    "PlainServer": "s2connect.endpoint.plain_server",
    "LATER": "s2connect.session.answers",
    "RefuseMessage": "s2connect.session.answers",
    "Session": "s2connect.session.session",
    "SessionEnd": "s2connect.session.session",
    "Pairing": "s2connect.store.base",
    "PairKey": "s2connect.store.base",
    "Pin": "s2connect.store.base",
    "Connection": "s2connect.transports.base",
    "ConnectionInfo": "s2connect.transports.base",
    "Transport": "s2connect.transports.base",
    "PlainAcceptor": "s2connect.transports.plain",
    "connect_plain": "s2connect.transports.plain",
    "plain_node_id": "s2connect.transports.plain",
}


def __getattr__(name: str) -> Any:
    if name in ("errors", "events"):
        return import_module(f"s2connect.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 's2connect' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "Endpoint",
    "EndpointConfig",
    "Node",
    "NodeConfig",
    "create_home",
    "new_certificate_authority",
    "unpair_all",
    "PairingCode",
    "Pairing",
    "PairKey",
    "Pin",
    "Session",
    "SessionEnd",
    "RefuseMessage",
    "LATER",
    "Message",
    "Check",
    "parse",
    "InvalidMessage",
    "Conversation",
    "ValidationResult",
    "Connection",
    "ConnectionInfo",
    "Transport",
    "connect_plain",
    "PlainAcceptor",
    "PlainServer",
    "plain_node_id",
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
