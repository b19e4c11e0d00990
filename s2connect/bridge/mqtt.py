"""Sides of static MQTT: sessions over a broker by configuration alone, without S2 Connect (MQ-19)."""

from __future__ import annotations

import asyncio
import logging

from s2connect import Connection, NodeId, Role, for_display
from s2connect.bridge.config import MqttDevice, MqttDevices, MqttManager, MqttPeer
from s2connect.bridge.devices import Device, read_secret
from s2connect.bridge.nodes import representative_id
from s2connect.bridge.sides import ConfiguredDevicesSide, Initiator, LinkSide, ManagerSide, RouteSide
from s2connect.errors import S2ConnectError, UsageError
from s2connect.transports import (
    ListedDevice,
    MqttTransport,
    Protection,
    SessionToken,
    StaticGateway,
    StaticSession,
)

_log = logging.getLogger(__name__)

LIST_AFTER = 0.2
"""Seconds from a change of the devices to the list that says so; others that come meanwhile are in it, too."""


class MqttLinkSide(LinkSide):
    """A peer of static MQTT."""

    reaches_all = True

    def __init__(self, mqtt: MqttTransport, session: StaticSession, title: str, initiator: Initiator) -> None:
        self.title = title
        self.session = session
        self._mqtt = mqtt
        self._initiator = initiator

    @property
    def initiator(self) -> Initiator:
        return self._initiator

    @property
    def hint(self) -> str:
        client = self._mqtt.client
        if client is not None and client.connection is None:
            return f"There is no connection to the broker {client.where} now; it is tried again."
        to_open = f"{self.session.topic_prefix}/s2/0/{self.session.server}/open"
        who, side = ("this bridge", "it") if self._initiator is Initiator.PEER else ("it", "the bridge")
        return (
            f"Is it on, and has it the same ids, client id and secret as {side}? The access list of the broker has to "
            f"let {who} read {for_display(to_open, 250)}."
        )

    async def open(self) -> Connection:
        return await self._mqtt.connect_static(self.session)


class MqttSide(RouteSide):
    """Base of the sides at a broker, whose peers have one role."""

    def __init__(self, mqtt: MqttTransport, bridge: NodeId, role: Role) -> None:
        self._mqtt = mqtt
        self._bridge = bridge
        self._role = role
        self._listening: dict[str, StaticSession] = {}

    async def close(self) -> None:
        for key in list(self._listening):
            await self._remove(key)

    async def _side(self, local: NodeId, peer: MqttPeer, title: str) -> MqttLinkSide:
        secret = None
        if peer.secret_file is not None:
            secret = await read_secret(peer.secret_file, "32 random bytes in Base64", SessionToken)
        remote, ours = NodeId(peer.id), peer.client_id is None
        session = StaticSession(
            topic_prefix=peer.prefix or self._mqtt.prefix,
            server=remote if ours else local,
            client=local if ours else remote,
            mc=self._mqtt.opens_as if peer.client_id is None else peer.client_id,
            client_role=self._role.other if ours else self._role,
            versions=peer.s2_versions,
            secret=secret,
            protection=Protection(peer.protection),
        )
        return MqttLinkSide(self._mqtt, session, title, Initiator.BRIDGE if ours else Initiator.PEER)

    def _listen(self, key: str, side: MqttLinkSide) -> None:
        """Accept sessions that the peer opens. The broker may be away for now."""
        if side.initiator is not Initiator.PEER or key in self._listening:
            return

        async def admit(s2_version: str) -> bool:
            return await self._links.request_session(key, self._role, s2_version) is None

        def take(connection: Connection) -> None:
            self._links.hand_over(key, self._role, connection)

        async def listen() -> None:
            try:
                await self._mqtt.listen_static(side.session, take, admit=admit)
            except UsageError as error:
                _log.error("%s cannot come over MQTT: %s", side.title, error)
            except S2ConnectError as error:
                _log.warning("%s has to wait until the MQTT broker is there: %s", side.title, error)

        self._listening[key] = side.session
        self._links.supervisor.spawn(listen(), "listen", key[:40])

    async def _remove(self, key: str) -> None:
        if (session := self._listening.pop(key, None)) is not None:
            self._mqtt.unlisten_static(session)


class MqttDevicesSide(MqttSide, ConfiguredDevicesSide[MqttDevice]):
    """Devices at a broker; they have the id of the bridge in their configuration."""

    def __init__(self, mqtt: MqttTransport, bridge: NodeId, config: MqttDevices) -> None:
        MqttSide.__init__(self, mqtt, bridge, Role.RM)
        ConfiguredDevicesSide.__init__(self, config.device)

    async def _add(self, device: MqttDevice) -> None:
        side = await self._side(self._bridge, device, device.name)
        await self._links.add_device(device.device(), side)
        self._listen(device.key, side)


class MqttManagerSide(MqttSide, ManagerSide):
    """An energy manager at a broker; every device is represented by a node id of its own."""

    def __init__(self, mqtt: MqttTransport, bridge: NodeId, config: MqttManager) -> None:
        super().__init__(mqtt, bridge, Role.CEM)
        self._config = config
        self._sides: dict[str, MqttLinkSide] = {}
        self._listed: dict[str, ListedDevice] = {}
        self._changed = asyncio.Event()
        self._gateway: StaticGateway | None = None

    def devices_known(self) -> None:
        if self._config.client_id is None:  # the energy manager waits for our sessions, and learns of whom
            self._links.supervisor.keep(self._list, "device-list")

    async def close(self) -> None:
        if self._gateway is not None:  # the list stays: the devices do, while the bridge is away
            await self._mqtt.list_devices(self._gateway, self, None)
        await super().close()

    async def represent(self, device: Device) -> LinkSide:
        side, local = self._sides.get(device.key), representative_id(self._bridge, device.key)
        if side is None:
            side = self._sides[device.key] = await self._side(local, self._config, "the energy manager")
            self._listen(device.key, side)
        shown = device.description
        self._listed[device.key] = ListedDevice(
            id=local, name=device.name, brand=shown.brand, type=shown.type, model_name=shown.model_name
        )
        self._changed.set()
        return side

    async def dismiss(self, key: str) -> None:
        self.withdraw(key)
        if self._sides.pop(key, None) is not None:
            await self._remove(key)

    def withdraw(self, key: str) -> None:
        if self._listed.pop(key, None) is not None:
            self._changed.set()

    async def _list(self) -> None:
        """Publish the devices, whenever they have changed; many changes are one list."""
        self._changed.set()
        while True:
            await self._changed.wait()
            await asyncio.sleep(LIST_AFTER)
            self._changed.clear()
            if self._gateway is None and self._sides:
                self._gateway = StaticGateway.of(next(iter(self._sides.values())).session)
            if self._gateway is not None:
                await self._mqtt.list_devices(self._gateway, self, list(self._listed.values()))
