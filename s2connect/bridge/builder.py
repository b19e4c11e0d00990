"""From a route of the file to its two ports."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from s2connect.bridge.config import (
    Listening,
    MqttDevices,
    MqttManager,
    MqttPeer,
    NodeDevices,
    NodeManager,
    PlainClientDevice,
    PlainClientDevices,
    PlainClientManager,
    PlainServerDevice,
    PlainServerDevices,
    PlainServerManager,
    RouteConfig,
)
from s2connect.bridge.devices import ConfiguredDevice
from s2connect.bridge.mqtt import StaticDevicePort, StaticManagerPort, StaticPeer
from s2connect.bridge.nodes import VERSIONS, NodeDevicePort, NodeManagerPort, representative_alias
from s2connect.bridge.plain import (
    PlainAccess,
    PlainClientDevicePort,
    PlainClientManagerPort,
    PlainListen,
    PlainServerDevicePort,
    PlainServerEntry,
    PlainServerManagerPort,
    PlainTarget,
    PlainTemplate,
)
from s2connect.bridge.relay import Policy
from s2connect.bridge.sides import DevicePort, ManagerPort
from s2connect.endpoint.config import NodeConfig
from s2connect.endpoint.endpoint import Endpoint
from s2connect.errors import ConfigurationError
from s2connect.model.common import NodeId, Role
from s2connect.model.proxy import Proxies
from s2connect.session.budget import PeerLimits
from s2connect.transports.mqtt.details import Protection
from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.mqtt.transport import MqttTransport


@dataclass(frozen=True, slots=True)
class Builder:
    """Makes the ports of routes.

    Attributes:
        endpoint: The endpoint of the bridge.
        bridge: Id of the bridge.
    """

    endpoint: Endpoint
    bridge: NodeId

    async def devices(self, route: RouteConfig) -> DevicePort:
        """The port at which the devices of a route are.

        Raises:
            ConfigurationError, StorageError: It cannot be made.
        """
        config, own = route.devices, route.id_in(self.bridge)
        match config:
            case NodeDevices():
                return NodeDevicePort(self.endpoint, await self._node(route.name, own, config))
            case PlainClientDevices():
                return PlainClientDevicePort(own, client_entries(config, self.endpoint.proxies))
            case PlainServerDevices():
                return PlainServerDevicePort(own, _listen(config), server_entries(config), _template(config))
            case MqttDevices():
                return StaticDevicePort(*await self._mqtt(), own, mqtt_entries(config))

    async def manager(self, route: RouteConfig) -> ManagerPort:
        """The port at which the energy manager of a route is.

        Raises:
            ConfigurationError, StorageError: It cannot be made.
        """
        config, own = route.manager, route.id_in(self.bridge)
        match config:
            case NodeManager():
                return NodeManagerPort(self.endpoint, own, tuple(config.protocols))
            case PlainClientManager():
                return PlainClientManagerPort(own, _target(config, self.endpoint.proxies))
            case PlainServerManager():
                return PlainServerManagerPort(own, _listen(config), config.path, _access(config))
            case MqttManager():
                return StaticManagerPort(*await self._mqtt(), own, _peer(config))

    async def _node(self, name: str, own: NodeId, config: NodeDevices) -> Any:
        """The node with which the devices of a route pair; it is kept in the home."""
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

    async def _mqtt(self) -> tuple[MqttTransport, MqttSettings]:
        mqtt, config = self.endpoint.mqtt, self.endpoint.config
        if mqtt is None or config.mqtt is None:
            raise ConfigurationError('A route of type "mqtt" needs the broker of [mqtt].')
        return mqtt, await asyncio.to_thread(config.mqtt.settings, config.host)


def policy(route: RouteConfig) -> Policy:
    """Return the policy of a route's links."""
    settings = route.settings
    return Policy(
        check=route.check,
        max_message_bytes=settings.max_message_bytes,
        messages_per_second=settings.messages_per_second,
        burst=settings.burst,
        limits=PeerLimits(
            messages_per_second=settings.slow_beyond_messages,
            bytes_per_second=settings.slow_beyond_bytes,
            busy_share=settings.slow_beyond_share,
        ),
    )


def client_entries(config: PlainClientDevices, proxies: Proxies) -> list[tuple[ConfiguredDevice, PlainTarget]]:
    """What :class:`PlainClientDevicePort` takes."""
    return [(_device(device), _target(device, proxies)) for device in config.device]


def server_entries(config: PlainServerDevices) -> list[PlainServerEntry]:
    """What :class:`PlainServerDevicePort` takes."""
    return [(_device(device), device.at, _access(device)) for device in config.device]


def _template(config: PlainServerDevices) -> PlainTemplate | None:
    if config.path is None:
        return None
    return PlainTemplate(path=config.path, access=_access(config), max_devices=config.max_devices)


def _access(config: PlainServerDevice | PlainServerDevices | PlainServerManager) -> PlainAccess:
    return PlainAccess(token_file=config.token_file, login_file=config.login_file)


def mqtt_entries(config: MqttDevices) -> list[tuple[ConfiguredDevice, StaticPeer]]:
    """What :class:`StaticDevicePort` takes."""
    return [(_device(device), _peer(device)) for device in config.device]


async def update(port: DevicePort, config: Any, proxies: Proxies) -> list[str]:
    """Give a port the devices that it has now, those that stayed the same untouched; see ``ConfiguredDevicePort``."""
    match port, config:
        case PlainClientDevicePort(), PlainClientDevices():
            return await port.update({entry[0].key: entry for entry in client_entries(config, proxies)})
        case PlainServerDevicePort(), PlainServerDevices():
            return await port.update({entry[0].key: entry for entry in server_entries(config)})
        case StaticDevicePort(), MqttDevices():
            return await port.update({entry[0].key: entry for entry in mqtt_entries(config)})
    raise TypeError("the devices of this port are not configured")


def _device(config: Any) -> ConfiguredDevice:
    return ConfiguredDevice(
        key=config.key, name=config.name, brand=config.brand, type=config.type, model_name=config.model
    )


def _target(config: PlainClientDevice | PlainClientManager, proxies: Proxies) -> PlainTarget:
    return PlainTarget(
        url=config.url,
        token_file=config.token_file,
        login_file=config.login_file,
        trust_anchors=config.trust_anchors,
        allow_unencrypted=config.allow_unencrypted,
        proxies=proxies,
    )


def _listen(config: Listening) -> PlainListen:
    return PlainListen(
        host=None if config.host == "*" else config.host,
        port=config.port,
        certificate=config.certificate,
        private_key=config.private_key,
        allow_unencrypted=config.allow_unencrypted,
    )


def _peer(config: MqttPeer) -> StaticPeer:
    return StaticPeer(
        id=NodeId(config.id),
        client_id=config.client_id,
        secret_file=config.secret_file,
        prefix=config.prefix,
        protection=Protection(config.protection),
        versions=config.s2_versions,
    )
