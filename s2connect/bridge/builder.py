"""Construction of the two sides of a route from its route."""

from __future__ import annotations

from dataclasses import dataclass

from s2connect import Endpoint, Node, NodeConfig, NodeId, Role
from s2connect.bridge.config import (
    VERSIONS,
    MqttDevices,
    MqttManager,
    NodeDevices,
    NodeManager,
    PlainClientDevices,
    PlainClientManager,
    PlainServerDevices,
    PlainServerManager,
    RouteConfig,
)
from s2connect.bridge.mqtt import MqttDevicesSide, MqttManagerSide
from s2connect.bridge.nodes import NodeDevicesSide, NodeManagerSide, representative_alias
from s2connect.bridge.plain import (
    PlainClientDevicesSide,
    PlainClientManagerSide,
    PlainServerDevicesSide,
    PlainServerManagerSide,
)
from s2connect.bridge.relay import Policy
from s2connect.bridge.sides import DevicesSide, ManagerSide
from s2connect.errors import ConfigurationError
from s2connect.session import PeerLimits
from s2connect.transports import MqttTransport


@dataclass(frozen=True, slots=True)
class Builder:
    """Builder of the sides of routes.

    Attributes:
        endpoint: The endpoint of the bridge.
        bridge: Id of the bridge.
    """

    endpoint: Endpoint
    bridge: NodeId

    async def devices(self, route: RouteConfig) -> DevicesSide:
        """Make the devices' side of a route.

        Raises:
            ConfigurationError, StorageError: It cannot be made.
        """
        config, own = route.devices, route.id_in(self.bridge)
        match config:
            case NodeDevices():
                return NodeDevicesSide(self.endpoint, await self._node(route.name, own, config))
            case PlainClientDevices():
                return PlainClientDevicesSide(own, config, self.endpoint.proxies)
            case PlainServerDevices():
                return PlainServerDevicesSide(own, config)
            case MqttDevices():
                return MqttDevicesSide(self._mqtt(), own, config)

    async def manager(self, route: RouteConfig) -> ManagerSide:
        """Make the energy manager's side of a route.

        Raises:
            ConfigurationError, StorageError: It cannot be made.
        """
        config, own = route.manager, route.id_in(self.bridge)
        match config:
            case NodeManager():
                return NodeManagerSide(self.endpoint, own, tuple(config.protocols))
            case PlainClientManager():
                return PlainClientManagerSide(own, config, self.endpoint.proxies)
            case PlainServerManager():
                return PlainServerManagerSide(own, config)
            case MqttManager():
                return MqttManagerSide(self._mqtt(), own, config)

    async def _node(self, name: str, own: NodeId, config: NodeDevices) -> Node:
        """Return the node with which the devices of a route pair; it is stored in the home."""
        wanted = NodeConfig(
            id=own,
            role=Role.CEM,
            brand=config.brand,
            type="Bridge",
            model_name=config.model,
            user_defined_name=config.name,
            alias=representative_alias(name, own),
            communication_protocols=tuple(config.protocols),
            s2_versions=VERSIONS,
        )
        known = next((node for node in self.endpoint.config.nodes if node.id == own), None)
        if known is None:
            return await self.endpoint.create_node(wanted)
        if known != wanted:
            await self.endpoint.describe_node(wanted)
        return self.endpoint.node(own)

    def _mqtt(self) -> MqttTransport:
        mqtt = self.endpoint.mqtt
        if mqtt is None or self.endpoint.config.mqtt is None:
            raise ConfigurationError('A route of type "mqtt" needs the broker of [mqtt].')
        return mqtt


def policy(route: RouteConfig) -> Policy:
    """Return the policy of a route's links."""
    return Policy(
        check=route.check,
        max_message_bytes=route.max_message_bytes,
        messages_per_second=route.messages_per_second,
        burst=route.burst,
        limits=PeerLimits(
            messages_per_second=route.slow_beyond_messages,
            bytes_per_second=route.slow_beyond_bytes,
            busy_share=route.slow_beyond_share,
        ),
    )
