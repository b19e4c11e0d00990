"""Ports of S2 Connect: the bridge's own nodes, over WebSocket or MQTT, in either communication role."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from s2connect.bridge.devices import GENERIC, UNKNOWN
from s2connect.bridge.link import NOT_NOW, Side, Way
from s2connect.bridge.sides import Device, DevicePort, ManagerPort, Switchboard
from s2connect.endpoint.config import NodeConfig
from s2connect.endpoint.endpoint import Endpoint
from s2connect.endpoint.node import Node
from s2connect.errors import NotPaired, S2ConnectError
from s2connect.events import Paired, Unpaired
from s2connect.messages.catalogue import BETA
from s2connect.model.common import DEFAULT_S2_VERSION, NodeId, Role
from s2connect.model.roles import CommunicationRole
from s2connect.model.text import for_display
from s2connect.store.base import Pairing
from s2connect.transports.base import GOING_AWAY, Connection

_log = logging.getLogger(__name__)

VERSIONS: Final = (DEFAULT_S2_VERSION, BETA)
"""S2 versions of a bridge's nodes; the relay translates where the sides differ."""


class NodeSide(Side):
    """A peer that is paired with a node of the bridge."""

    def __init__(self, node: Node, title: str) -> None:
        self.node = node
        self.title = title
        self.pairing: Pairing | None = None

    @property
    def way(self) -> Way | None:
        """See :attr:`Side.way`."""
        if self.pairing is None:
            return None
        return Way.OPEN if self.pairing.communication_role is CommunicationRole.CLIENT else Way.ACCEPT

    async def open(self) -> Connection:
        """See :meth:`Side.open`."""
        if self.pairing is None:
            raise NotPaired(f"{self.title} is not paired.")
        return await self.node.open(self.pairing.key.remote)


class NodeDevicePort(DevicePort):
    """Devices pair with one energy manager node of the bridge.

    Args:
        endpoint: The bridge's endpoint.
        node: Its node towards the devices.
    """

    def __init__(self, endpoint: Endpoint, node: Node) -> None:
        self._endpoint = endpoint
        self.node = node
        self._sides: dict[NodeId, NodeSide] = {}

    async def start(self, switchboard: Switchboard) -> None:
        """See :meth:`Port.start`."""
        self._switchboard = switchboard
        events = self._endpoint.events()
        self.node.set_admission_hook(self._gate)
        await self._look()
        switchboard.supervisor.keep(self._accept, "accept")
        switchboard.supervisor.keep(lambda: self._follow(events), "pairings")

    async def close(self) -> None:
        """See :meth:`Port.close`."""
        self.node.set_admission_hook(_shut)

    async def _look(self) -> None:
        """Link the paired devices, and unlink all others."""
        pairings = [pairing for pairing in await self.node.pairings() if pairing.confirmed]
        for gone in self._sides.keys() - {pairing.key.remote for pairing in pairings}:
            await self._gone(gone)
        with _logged("the devices that are paired"):  # one by one it may do
            await self._switchboard.coming([_device(pairing) for pairing in pairings])
        for pairing in pairings:
            await self._known(pairing)

    async def _gone(self, remote: NodeId) -> None:
        if (side := self._sides.pop(remote, None)) is not None:
            side.pairing = None
            with _logged("a device that is gone"):
                await self._switchboard.gone(str(remote))

    async def _known(self, pairing: Pairing) -> None:
        """A device is paired, or presents itself in another way; one that cannot be linked now is tried again later."""
        remote, description = pairing.key.remote, pairing.peer
        side = self._sides.get(remote)
        if side is None:
            side = self._sides[remote] = NodeSide(self.node, for_display(description.title))
        changed = side.pairing is None or side.pairing.key != pairing.key
        side.pairing, side.title = pairing, for_display(description.title)
        try:
            await self._switchboard.found(_device(pairing), side)
        except S2ConnectError as error:
            _log.error("%s cannot be linked: %s", side.title, error)
            self._sides.pop(remote, None)
            return
        if changed:
            self._switchboard.pairing_changed(str(remote))

    async def _gate(self, pairing: Pairing, s2_version: str) -> str | None:
        if pairing.key.remote not in self._sides:
            await self._known(pairing)
        return await self._switchboard.ask(str(pairing.key.remote), Role.RM, s2_version)

    async def _accept(self) -> None:
        async for connection, pairing in self.node.connections(connect=False):
            # Nobody waits here for another: many may come at the same time.
            if not self._switchboard.arrived(str(pairing.key.remote), Role.RM, connection):
                self._switchboard.supervisor.spawn(connection.close(GOING_AWAY, "too late"), "too-late")
            elif (known := self._sides.get(pairing.key.remote)) is not None and (
                known.pairing is None or known.pairing.peer != pairing.peer
            ):
                self._switchboard.supervisor.spawn(self._known(pairing), "describe")

    async def _follow(self, events: Any) -> None:
        await self._look()  # after an error: what was missed
        async for event in events:
            match event:
                case Paired() if event.node == self.node.id:
                    with _logged("a new pairing"):
                        for pairing in await self.node.pairings():
                            if pairing.key.remote == event.peer.id and pairing.confirmed:
                                await self._known(pairing)
                                self._switchboard.pairing_changed(str(event.peer.id))
                case Unpaired() if event.node == self.node.id:
                    await self._gone(event.peer.id)


def _device(pairing: Pairing) -> Device:
    return Device(str(pairing.key.remote), pairing.peer.title, pairing.peer)


def representative_id(bridge: NodeId, key: str) -> NodeId:
    """The id of the node that represents a device: the same for ever, and another one for every bridge."""
    return NodeId(uuid5(uuid5(NAMESPACE_URL, f"urn:uuid:{bridge}"), key))


def representative_alias(name: str, node: NodeId) -> str:
    """A short name for pairing codes, from the device's name and its id (TOK-03)."""
    return f"{re.sub('[^0-9a-zA-Z]+', '', name)[:24] or 'RM'}{node.hex[:6]}"


class NodeManagerPort(ManagerPort):
    """Every device is represented by an RM node of the bridge, which pairs with the energy manager.

    Args:
        endpoint: The bridge's endpoint.
        bridge: What the ids of the representatives are derived from.
        protocols: Communication protocols by preference.
    """

    keeps = True

    def __init__(self, endpoint: Endpoint, bridge: NodeId, protocols: tuple[str, ...]) -> None:
        self._endpoint = endpoint
        self._bridge = bridge
        self._protocols = protocols
        self._sides: dict[str, NodeSide] = {}
        self._keys: dict[NodeId, str] = {}
        self._accepting: dict[str, asyncio.Task[None]] = {}

    async def start(self, switchboard: Switchboard) -> None:
        """See :meth:`Port.start`."""
        self._switchboard, events = switchboard, self._endpoint.events()
        switchboard.supervisor.keep(lambda: self._follow(events), "pairings")

    async def close(self) -> None:
        """See :meth:`Port.close`."""
        for side in self._sides.values():
            side.node.set_admission_hook(_shut)

    async def prepare(self, devices: Sequence[Device]) -> None:
        """See :meth:`ManagerPort.prepare`."""
        wanted = {(config := self._config(device)).id: config for device in devices}
        known = {node.id: node for node in self._endpoint.config.nodes}
        await self._endpoint.create_nodes([config for node, config in wanted.items() if node not in known])
        await self._endpoint.describe_nodes(
            [config for node, config in wanted.items() if node in known and known[node] != config]
        )

    async def represent(self, device: Device) -> Side:
        """See :meth:`ManagerPort.represent`."""
        config = self._config(device)
        side = self._sides.get(device.key)
        if (node := self._endpoint.nodes.get(config.id)) is None:
            node = await self._endpoint.create_node(config)
        elif next((known for known in self._endpoint.config.nodes if known.id == config.id), None) != config:
            await self._endpoint.describe_node(config)
        if side is None:
            side = NodeSide(node, "")
            await self._look(side)
            self._sides[device.key], self._keys[node.id] = side, device.key
            node.set_admission_hook(self._gate)
            accept = partial(self._accept, side, device.key)
            self._accepting[device.key] = self._switchboard.supervisor.keep(accept, "accept", node.id)
        return side

    async def dismiss(self, key: str) -> None:
        """See :meth:`ManagerPort.dismiss`. The energy manager is told, as well as it goes."""
        side = self._sides.pop(key, None)
        if side is None:
            return
        del self._keys[side.node.id]
        side.node.set_admission_hook(_shut)
        self._accepting.pop(key).cancel()
        if side.pairing is not None:
            with contextlib.suppress(S2ConnectError):
                await side.node.unpair(side.pairing.key.remote, forget=True)

    def node_of(self, key: str) -> Node | None:
        """The node that represents a device."""
        side = self._sides.get(key)
        return side.node if side is not None else None

    def _config(self, device: Device) -> NodeConfig:
        node, shown = representative_id(self._bridge, device.key), device.description
        represented = self._endpoint.nodes.get(node)
        known = represented.description if represented is not None else shown
        return NodeConfig(
            id=node,
            role=Role.RM,
            # The description that a device gave of itself stays until it gives another (ConfiguredDevice.introduced).
            brand=_shown(known.brand if shown.brand == UNKNOWN else shown.brand),
            type=_shown(known.type if shown.type == GENERIC else shown.type),
            model_name=_shown(known.model_name if shown.model_name == UNKNOWN else shown.model_name),
            user_defined_name=_shown(shown.user_defined_name) if shown.user_defined_name else None,
            alias=representative_alias(device.name, node),
            communication_protocols=self._protocols,
            s2_versions=VERSIONS,
        )

    async def _look(self, side: NodeSide) -> None:
        confirmed = [pairing for pairing in await side.node.pairings() if pairing.confirmed]
        side.pairing = confirmed[-1] if confirmed else None
        side.title = for_display(confirmed[-1].peer.title) if confirmed else "the energy manager"

    async def _gate(self, pairing: Pairing, s2_version: str) -> str | None:
        key = self._keys.get(pairing.key.local)
        return NOT_NOW if key is None else await self._switchboard.ask(key, Role.CEM, s2_version)

    async def _accept(self, side: NodeSide, key: str) -> None:
        async for connection, _ in side.node.connections(connect=False):
            if not self._switchboard.arrived(key, Role.CEM, connection):
                self._switchboard.supervisor.spawn(connection.close(GOING_AWAY, "too late"), "too-late")

    async def _follow(self, events: Any) -> None:
        for known in list(self._sides):
            await self._changed(known)  # after an error: what was missed
        async for event in events:
            if isinstance(event, (Paired, Unpaired)) and (key := self._keys.get(event.node)) is not None:
                with _logged("a pairing of a representative"):
                    await self._changed(key)

    async def _changed(self, key: str) -> None:
        if (side := self._sides.get(key)) is not None:
            await self._look(side)
            self._switchboard.pairing_changed(key)


async def _shut(pairing: Pairing, s2_version: str) -> str | None:
    """Stands at a node that no port serves any more: nobody would read what comes."""
    return NOT_NOW


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """Keep the follower of events going, whatever one of them leads to."""
    try:
        yield
    except S2ConnectError as error:
        _log.error("%s could not be dealt with: %s", what, error)


def _shown(text: str) -> str:
    """A description from the network as one of our own."""
    return for_display(text, 200) or "unknown"
