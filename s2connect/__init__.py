"""S2 Connect 1.0.0 for devices, energy managers and the gateways between them.

::

    async with Endpoint.open(home) as endpoint:
        node = endpoint.node()
        await node.pair("https://ems.local:8443/pairing/", code)
        async for session in node.sessions():
            await session.send({"message_type": "ResourceManagerDetails", ...})
            async for message in session:
                ...

Public are the names in ``__all__`` of this package and of ``messages``, ``session``, ``transports``, ``discovery``,
``bridge``, ``errors`` and ``events``. Everything else may change without notice.
"""

from typing import TYPE_CHECKING

from s2connect._lazy import lazy_names

if TYPE_CHECKING:
    from s2connect import errors, events
    from s2connect.collector import short_collections
    from s2connect.endpoint.config import EndpointConfig, MetricsSettings, NodeConfig, PageSettings
    from s2connect.endpoint.endpoint import Endpoint
    from s2connect.endpoint.holding import LinkHold, LinkUser
    from s2connect.endpoint.in_process import join_nodes
    from s2connect.endpoint.node import Node
    from s2connect.endpoint.offline import create_home, new_certificate_authority, unpair_all
    from s2connect.endpoint.pairing import CodeStatus
    from s2connect.endpoint.plain_server import PlainServer
    from s2connect.endpoint.settings import read_config
    from s2connect.endpoint.stopping import until_signal
    from s2connect.errors import S2ConnectError
    from s2connect.messages.catalogue import parse
    from s2connect.messages.conversation import Conversation, ValidationResult
    from s2connect.messages.enums import Check
    from s2connect.messages.envelope import InvalidMessage, Message
    from s2connect.model.common import Deployment, EndpointDescription, NodeDescription, NodeId, Role
    from s2connect.model.faults import fault_sentence, first_fault
    from s2connect.model.roles import CommunicationRole
    from s2connect.model.secret import Secret
    from s2connect.model.text import for_display
    from s2connect.model.url import BaseUrl
    from s2connect.pairing.code import PairingCode
    from s2connect.session.answers import LATER, RefuseMessage
    from s2connect.session.handlers import Handlers, instruction_status
    from s2connect.session.session import Session, SessionEnd
    from s2connect.store.base import Pairing, PairKey, Pin
    from s2connect.store.files import read_private
    from s2connect.store.home import Home
    from s2connect.supervisor import FailureLog, Supervisor, TaskFailure
    from s2connect.transports.base import Connection, ConnectionInfo, Transport
    from s2connect.transports.mqtt.settings import MqttSettings
    from s2connect.transports.plain import PlainAcceptor, connect_plain, plain_node_id

__version__ = "0.1.0.dev0"
"""Version of the package."""

__all__ = [
    "Endpoint",
    "create_home",
    "read_config",
    "new_certificate_authority",
    "unpair_all",
    "EndpointConfig",
    "NodeConfig",
    "MqttSettings",
    "PageSettings",
    "MetricsSettings",
    "Node",
    "join_nodes",
    "LinkHold",
    "LinkUser",
    "PairingCode",
    "CodeStatus",
    "Pairing",
    "PairKey",
    "Pin",
    "read_private",
    "Home",
    "Session",
    "SessionEnd",
    "Handlers",
    "instruction_status",
    "LATER",
    "RefuseMessage",
    "InvalidMessage",
    "Message",
    "Check",
    "parse",
    "Conversation",
    "ValidationResult",
    "Connection",
    "ConnectionInfo",
    "Transport",
    "PlainAcceptor",
    "connect_plain",
    "plain_node_id",
    "PlainServer",
    "Deployment",
    "EndpointDescription",
    "NodeDescription",
    "NodeId",
    "Role",
    "CommunicationRole",
    "Secret",
    "for_display",
    "fault_sentence",
    "first_fault",
    "BaseUrl",
    "FailureLog",
    "Supervisor",
    "TaskFailure",
    "short_collections",
    "until_signal",
    "S2ConnectError",
    "errors",
    "events",
    "__version__",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s2connect.endpoint.endpoint": "Endpoint",
        "s2connect.endpoint.settings": "read_config",
        "s2connect.endpoint.offline": "create_home new_certificate_authority unpair_all",
        "s2connect.endpoint.config": "EndpointConfig MetricsSettings NodeConfig PageSettings",
        "s2connect.transports.mqtt.settings": "MqttSettings",
        "s2connect.endpoint.node": "Node",
        "s2connect.endpoint.in_process": "join_nodes",
        "s2connect.endpoint.holding": "LinkHold LinkUser",
        "s2connect.endpoint.pairing": "CodeStatus",
        "s2connect.pairing.code": "PairingCode",
        "s2connect.store.base": "Pairing PairKey Pin",
        "s2connect.store.files": "read_private",
        "s2connect.store.home": "Home",
        "s2connect.session.session": "Session SessionEnd",
        "s2connect.session.answers": "LATER RefuseMessage",
        "s2connect.session.handlers": "Handlers instruction_status",
        "s2connect.messages.envelope": "InvalidMessage Message",
        "s2connect.messages.enums": "Check",
        "s2connect.messages.catalogue": "parse",
        "s2connect.messages.conversation": "Conversation ValidationResult",
        "s2connect.transports.base": "Connection ConnectionInfo Transport",
        "s2connect.transports.plain": "PlainAcceptor connect_plain plain_node_id",
        "s2connect.endpoint.plain_server": "PlainServer",
        "s2connect.endpoint.stopping": "until_signal",
        "s2connect.model.common": "Deployment EndpointDescription NodeDescription NodeId Role",
        "s2connect.model.roles": "CommunicationRole",
        "s2connect.model.secret": "Secret",
        "s2connect.model.text": "for_display",
        "s2connect.model.faults": "fault_sentence first_fault",
        "s2connect.model.url": "BaseUrl",
        "s2connect.supervisor": "FailureLog Supervisor TaskFailure",
        "s2connect.collector": "short_collections",
        "s2connect.errors": "S2ConnectError",
        "": "errors events",
    },
)
