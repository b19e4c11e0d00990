"""Ports of static MQTT: sessions over a broker that both sides know by configuration, without S2 Connect (MQ-19)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s2connect.bridge.devices import ConfiguredDevice, read_secret
from s2connect.bridge.link import Side, Way
from s2connect.bridge.nodes import VERSIONS, representative_id
from s2connect.bridge.sides import ConfiguredDevicePort, Device, ManagerPort, Switchboard
from s2connect.errors import ConfigurationError, S2ConnectError, UsageError
from s2connect.model.common import NodeId, Role
from s2connect.transports.base import GOING_AWAY, Connection
from s2connect.transports.mqtt.details import Protection, SessionToken, StaticSession
from s2connect.transports.mqtt.settings import MqttSettings
from s2connect.transports.mqtt.transport import MqttTransport

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPeer:
    """The program at the other side of the broker.

    Attributes:
        id: Its node id.
        client_id: Its MQTT client id, where it opens the sessions; None where the bridge opens them.
        secret_file: File with the shared secret in Base64, which only its owner may read; None only with ``plain``.
        prefix: Topic prefix; None for that of the bridge's own settings.
        protection: ``sealed`` or ``plain``, the same at both sides.
        versions: S2 JSON versions, best first.
    """

    id: NodeId
    client_id: str | None = None
    secret_file: Path | None = None
    prefix: str | None = None
    protection: Protection = Protection.SEALED
    versions: tuple[str, ...] = VERSIONS


class StaticSide(Side):
    """A peer of static MQTT."""

    def __init__(self, mqtt: MqttTransport, session: StaticSession, title: str, way: Way) -> None:
        self.title = title
        self.session = session
        self._mqtt = mqtt
        self._way = way

    @property
    def way(self) -> Way | None:
        """See :attr:`Side.way`."""
        return self._way

    async def open(self) -> Connection:
        """See :meth:`Side.open`."""
        if self._way is not Way.OPEN:
            raise UsageError(f"{self.title} opens the sessions itself.")
        return await self._mqtt.connect_static(self.session)


class _Peers:
    """Makes the sides of one port.

    Args:
        mqtt: The transport of the bridge.
        settings: Its settings.
        role: Role of the peers.
    """

    def __init__(self, mqtt: MqttTransport, settings: MqttSettings, role: Role) -> None:
        self._mqtt = mqtt
        self._settings = settings
        self._role = role
        self._listening: dict[str, StaticSession] = {}

    def start(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard

    async def side(self, local: NodeId, peer: StaticPeer, title: str) -> StaticSide:
        secret = None
        if peer.secret_file is not None:
            try:
                secret = SessionToken(await read_secret(peer.secret_file, "a secret"))
            except ValueError:
                raise ConfigurationError(f"{peer.secret_file} does not hold 32 random bytes in Base64.") from None
        ours = peer.client_id is None
        session = StaticSession(
            topic_prefix=peer.prefix or self._settings.prefix,
            server=peer.id if ours else local,
            client=local if ours else peer.id,
            mc=self._settings.client_id if peer.client_id is None else peer.client_id,
            client_role=self._role.other if ours else self._role,
            versions=peer.versions,
            secret=secret,
            protection=peer.protection,
        )
        return StaticSide(self._mqtt, session, title, Way.OPEN if ours else Way.ACCEPT)

    def listen(self, key: str, side: StaticSide) -> None:
        """Let the peer come, where it is the one who opens the sessions. The broker may be away for now."""
        if side.way is not Way.ACCEPT or key in self._listening:
            return

        async def gate(s2_version: str) -> bool:
            return await self._switchboard.ask(key, self._role, s2_version) is None

        def take(connection: Connection) -> None:
            if not self._switchboard.arrived(key, self._role, connection):
                self._switchboard.supervisor.spawn(connection.close(GOING_AWAY, "too late"), "too-late")

        async def listen() -> None:
            try:
                await self._mqtt.listen_static(side.session, take, gate=gate)
            except UsageError as error:
                _log.error("%s cannot come over MQTT: %s", side.title, error)
            except S2ConnectError as error:
                _log.warning("%s has to wait until the MQTT broker is there: %s", side.title, error)

        self._listening[key] = side.session
        self._switchboard.supervisor.spawn(listen(), "listen", key[:40])

    def shut(self, key: str) -> None:
        if (session := self._listening.pop(key, None)) is not None:
            self._mqtt.unlisten_static(session)

    async def close(self) -> None:
        for key in list(self._listening):
            self.shut(key)


class StaticDevicePort(ConfiguredDevicePort[tuple[ConfiguredDevice, StaticPeer]]):
    """Devices at a broker.

    Args:
        mqtt: The transport of the bridge, which has settings.
        settings: Those.
        bridge: Node id of the bridge, as the devices have it in their configuration.
        devices: The devices.
    """

    def __init__(
        self,
        mqtt: MqttTransport,
        settings: MqttSettings,
        bridge: NodeId,
        devices: Sequence[tuple[ConfiguredDevice, StaticPeer]],
    ) -> None:
        super().__init__({entry[0].key: entry for entry in devices})
        self._bridge = bridge
        self._peers = _Peers(mqtt, settings, Role.RM)

    async def start(self, switchboard: Switchboard) -> None:
        """See :meth:`Port.start`."""
        self._peers.start(switchboard)
        await super().start(switchboard)

    async def close(self) -> None:
        """See :meth:`Port.close`."""
        await self._peers.close()

    def _device(self, entry: tuple[ConfiguredDevice, StaticPeer]) -> Device:
        return entry[0].device()

    async def _add(self, key: str, entry: tuple[ConfiguredDevice, StaticPeer]) -> None:
        known, peer = entry
        side = await self._peers.side(self._bridge, peer, known.name)
        await self._switchboard.found(known.device(), side)
        self._peers.listen(key, side)

    async def _remove(self, key: str) -> None:
        self._peers.shut(key)


class StaticManagerPort(ManagerPort):
    """An energy manager at a broker; every device is represented by a node id of its own.

    Args:
        mqtt: The transport of the bridge, which has settings.
        settings: Those.
        bridge: What the ids of the representatives are derived from.
        peer: The energy manager.
    """

    def __init__(self, mqtt: MqttTransport, settings: MqttSettings, bridge: NodeId, peer: StaticPeer) -> None:
        self._bridge = bridge
        self._peer = peer
        self._peers = _Peers(mqtt, settings, Role.CEM)
        self._sides: dict[str, StaticSide] = {}

    async def start(self, switchboard: Switchboard) -> None:
        """See :meth:`Port.start`."""
        self._peers.start(switchboard)

    async def close(self) -> None:
        """See :meth:`Port.close`."""
        await self._peers.close()

    async def represent(self, device: Device) -> Side:
        """See :meth:`ManagerPort.represent`.

        Raises:
            ConfigurationError: The secret or another value cannot be used.
            StorageError: Others can read the secret.
        """
        side = self._sides.get(device.key)
        if side is None:
            local = representative_id(self._bridge, device.key)
            side = self._sides[device.key] = await self._peers.side(local, self._peer, "the energy manager")
            self._peers.listen(device.key, side)
        return side

    async def dismiss(self, key: str) -> None:
        """See :meth:`ManagerPort.dismiss`."""
        if self._sides.pop(key, None) is not None:
            self._peers.shut(key)
