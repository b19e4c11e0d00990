"""Transports of S2 messages: WebSocket as the standard has it, MQTT, plain S2, and memory for one process."""

from typing import TYPE_CHECKING

from s2connect._lazy import lazy_names

if TYPE_CHECKING:
    from s2connect.certs.authority import ServerIdentity
    from s2connect.certs.tls import ServerContext, wan_client_context
    from s2connect.https.server import check_bind
    from s2connect.model.proxy import Proxies
    from s2connect.model.session_init import CommunicationDetails
    from s2connect.model.url import MqttUrl, UnencryptedWebSocketUrl, WebSocketUrl
    from s2connect.transports.base import (
        ABNORMAL_CLOSURE,
        GOING_AWAY,
        MAX_MESSAGE_BYTES,
        NORMAL_CLOSURE,
        Connection,
        ConnectionInfo,
        Offer,
        Receiver,
        Transport,
        Trust,
    )
    from s2connect.transports.memory import MemoryHub, MemoryTransport, memory_pair
    from s2connect.transports.mqtt.device_list import ListedDevice
    from s2connect.transports.mqtt.parameters import (
        MqttPassword,
        Protection,
        SessionToken,
        StaticGateway,
        StaticSession,
    )
    from s2connect.transports.mqtt.settings import MqttSettings
    from s2connect.transports.mqtt.topics import InvalidTopic, check_client_id, check_prefix
    from s2connect.transports.mqtt.transport import MqttTransport
    from s2connect.transports.plain import PlainAcceptor, PlainConnection, connect_plain, is_this_machine, plain_node_id
    from s2connect.transports.websocket import WebSocketTransport

__all__ = [
    "ABNORMAL_CLOSURE",
    "GOING_AWAY",
    "MAX_MESSAGE_BYTES",
    "NORMAL_CLOSURE",
    "CommunicationDetails",
    "Connection",
    "ConnectionInfo",
    "Offer",
    "Receiver",
    "Transport",
    "Trust",
    "MemoryHub",
    "MemoryTransport",
    "memory_pair",
    "WebSocketTransport",
    "PlainConnection",
    "PlainAcceptor",
    "connect_plain",
    "is_this_machine",
    "check_bind",
    "plain_node_id",
    "MqttPassword",
    "Protection",
    "SessionToken",
    "StaticSession",
    "StaticGateway",
    "ListedDevice",
    "MqttSettings",
    "InvalidTopic",
    "check_client_id",
    "check_prefix",
    "MqttTransport",
    "ServerIdentity",
    "ServerContext",
    "wan_client_context",
    "Proxies",
    "MqttUrl",
    "UnencryptedWebSocketUrl",
    "WebSocketUrl",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s2connect.transports.base": "ABNORMAL_CLOSURE GOING_AWAY MAX_MESSAGE_BYTES NORMAL_CLOSURE "
        "Connection ConnectionInfo Offer Receiver Transport Trust",
        "s2connect.transports.memory": "MemoryHub MemoryTransport memory_pair",
        "s2connect.transports.websocket": "WebSocketTransport",
        "s2connect.https.server": "check_bind",
        "s2connect.transports.plain": "PlainConnection PlainAcceptor connect_plain is_this_machine plain_node_id",
        "s2connect.transports.mqtt.device_list": "ListedDevice",
        "s2connect.transports.mqtt.parameters": "MqttPassword Protection SessionToken StaticGateway StaticSession",
        "s2connect.transports.mqtt.settings": "MqttSettings",
        "s2connect.transports.mqtt.topics": "InvalidTopic check_client_id check_prefix",
        "s2connect.transports.mqtt.transport": "MqttTransport",
        "s2connect.certs.authority": "ServerIdentity",
        "s2connect.certs.tls": "ServerContext wan_client_context",
        "s2connect.model.proxy": "Proxies",
        "s2connect.model.session_init": "CommunicationDetails",
        "s2connect.model.url": "MqttUrl UnencryptedWebSocketUrl WebSocketUrl",
    },
)
