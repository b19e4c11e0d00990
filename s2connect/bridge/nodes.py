"""Sides of S2 Connect: the bridge's own nodes, over WebSocket or MQTT, in either communication role."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from uuid import NAMESPACE_URL, uuid5

from s2connect import CommunicationRole, Connection, Endpoint, Node, NodeConfig, NodeId, Pairing, Role, for_display
from s2connect.bridge.config import VERSIONS
from s2connect.bridge.devices import GENERIC, UNKNOWN, Device
from s2connect.bridge.sides import NOT_NOW, DevicesSide, Initiator, LinkSide, ManagerSide, RouteLinks
from s2connect.errors import NotPaired, S2ConnectError
from s2connect.events import EventStream, Paired, PairingsChanged, Unpaired
from s2connect.session import LedTo

_log = logging.getLogger(__name__)


class NodeLinkSide(LinkSide):
    """A peer that is paired with a node of the bridge."""

    def __init__(self, node: Node, title: str) -> None:
        self.node = node
        self.title = title
        self.pairing: Pairing | None = None

    @property
    def initiator(self) -> Initiator | None:
        if self.pairing is None:
            return None
        return Initiator.BRIDGE if self.pairing.communication_role is CommunicationRole.CLIENT else Initiator.PEER

    async def open(self) -> Connection:
        if self.pairing is None:
            raise NotPaired(f"{self.title} is not paired.")
        return await self.node.open(self.pairing.key.remote, take=self.is_held)


class NodeDevicesSide(DevicesSide):
    """Devices pair with ``node``, an energy manager node of the bridge."""

    def __init__(self, endpoint: Endpoint, node: Node) -> None:
        self._endpoint = endpoint
        self.node = node
        self._sides: dict[NodeId, NodeLinkSide] = {}

    async def start(self, links: RouteLinks) -> None:
        self._links = links
        events = self._endpoint.events()
        self.node.set_preparing_hook(self._admit)
        await self._synchronise()
        links.supervisor.keep(self._accept, "accept")
        links.supervisor.keep(lambda: self._follow(events), "pairings")

    async def close(self) -> None:
        self.node.set_admission_hook(_refuse)

    async def _synchronise(self) -> None:
        """Link the paired devices, and unlink all others."""
        pairings = [pairing for pairing in await self.node.pairings() if pairing.confirmed]
        for gone in self._sides.keys() - {pairing.key.remote for pairing in pairings}:
            await self._remove(gone)
        with _logged("the devices that are paired"):  # one by one it may do
            await self._links.prepare_devices([_device(pairing) for pairing in pairings])
        for pairing in pairings:
            await self._add(pairing)

    async def _remove(self, remote: NodeId) -> None:
        if (side := self._sides.pop(remote, None)) is not None:
            side.pairing = None
            with _logged("a device that is gone"):
                await self._links.remove_device(str(remote))

    async def _add(self, pairing: Pairing) -> None:
        """Add or update a paired device; one that cannot be linked now is tried again later."""
        remote, description = pairing.key.remote, pairing.peer
        side = self._sides.get(remote)
        if side is None:
            side = self._sides[remote] = NodeLinkSide(self.node, for_display(description.title))
        changed = side.pairing is None or side.pairing.key != pairing.key
        side.pairing, side.title = pairing, for_display(description.title)
        try:
            await self._links.add_device(_device(pairing), side)
        except S2ConnectError as error:
            _log.error("%s cannot be linked: %s", side.title, error)
            self._sides.pop(remote, None)
            return
        if changed:
            self._links.pairing_changed(str(remote))

    async def _admit(self, pairing: Pairing, s2_version: str, may_lead: bool) -> str | LedTo | None:
        if pairing.key.remote not in self._sides:
            await self._add(pairing)
        return await self._links.request_session(str(pairing.key.remote), Role.RM, s2_version, may_lead=may_lead)

    async def _accept(self) -> None:
        async for connection, pairing in self.node.connections(connect=False):
            # Without waiting: many connections may arrive at the same time.
            taken = self._links.hand_over(str(pairing.key.remote), Role.RM, connection)
            known = self._sides.get(pairing.key.remote) if taken else None
            if known is not None and (known.pairing is None or known.pairing.peer != pairing.peer):
                self._links.supervisor.spawn(self._add(pairing), "describe")

    async def _follow(self, events: EventStream) -> None:
        await self._synchronise()  # after an error: what was missed
        async for event in events:
            match event:
                case Paired() if event.node == self.node.id:
                    with _logged("a new pairing"):
                        for pairing in await self.node.pairings(event.peer.id):
                            if pairing.confirmed:
                                await self._add(pairing)
                                self._links.pairing_changed(str(event.peer.id))
                case Unpaired() if event.node == self.node.id:
                    await self._remove(event.peer.id)
                case PairingsChanged(peer=peer) if event.node in (None, self.node.id):
                    with _logged("the pairings of another instance"):
                        await (self._synchronise() if peer is None else self._look_at(peer))

    async def _look_at(self, remote: NodeId) -> None:
        """Link or unlink a device whose pairings another instance has changed."""
        found = [pairing for pairing in await self.node.pairings(remote) if pairing.confirmed]
        if not found:
            await self._remove(remote)
        for pairing in found:
            await self._add(pairing)
            self._links.pairing_changed(str(remote))


def _device(pairing: Pairing) -> Device:
    return Device(str(pairing.key.remote), pairing.peer.title, pairing.peer)


def representative_id(bridge: NodeId, key: str) -> NodeId:
    """Return the permanent id of the node that represents a device; every bridge has another one."""
    return NodeId(uuid5(uuid5(NAMESPACE_URL, f"urn:uuid:{bridge}"), key))


async def provide_nodes(endpoint: Endpoint, configs: Sequence[NodeConfig]) -> None:
    """Create the nodes that are missing and describe those anew that differ; the settings are written once for each.

    Each has a short alias for its codes from the beginning, also where it is the only one yet, and keeps it (TOK-03).
    """
    known = {node.id: node for node in endpoint.config.nodes}
    wanted = {
        config.id: config.model_copy(update={"alias": known[config.id].alias}) if config.id in known else config
        for config in configs
    }
    await endpoint.create_nodes([config for node, config in wanted.items() if node not in known], alias_alone=True)
    await endpoint.describe_nodes([config for node, config in wanted.items() if known.get(node, config) != config])


class NodeManagerSide(ManagerSide):
    """Every device is represented by an RM node of the bridge, which pairs with the energy manager."""

    is_durable = True

    def __init__(self, endpoint: Endpoint, bridge: NodeId, protocols: tuple[str, ...]) -> None:
        self._endpoint = endpoint
        self._bridge = bridge
        self._protocols = protocols
        self._sides: dict[str, NodeLinkSide] = {}
        self._keys: dict[NodeId, str] = {}
        self._accepting: dict[str, asyncio.Task[None]] = {}

    async def start(self, links: RouteLinks) -> None:
        self._links, events = links, self._endpoint.events()
        links.supervisor.keep(lambda: self._follow(events), "pairings")

    async def close(self) -> None:
        for side in self._sides.values():
            side.node.set_admission_hook(_refuse)

    async def prepare(self, devices: Sequence[Device]) -> None:
        await provide_nodes(self._endpoint, [self._config(device) for device in devices])

    async def represent(self, device: Device) -> LinkSide:
        await self.prepare([device])
        side = self._sides.get(device.key)
        if side is None:
            node = self._endpoint.node(representative_id(self._bridge, device.key))
            side = NodeLinkSide(node, "")
            await self._refresh(side)
            self._sides[device.key], self._keys[node.id] = side, device.key
            node.set_preparing_hook(self._admit)
            accept = partial(self._accept, side, device.key)
            self._accepting[device.key] = self._links.supervisor.keep(accept, "accept", node.id)
        return side

    async def dismiss(self, key: str) -> None:
        """Represent a device no more, and unpair from the energy manager where it can be reached."""
        side = self._sides.pop(key, None)
        if side is None:
            return
        del self._keys[side.node.id]
        side.node.set_admission_hook(_refuse)
        self._accepting.pop(key).cancel()
        if side.pairing is not None:
            with contextlib.suppress(S2ConnectError):
                await side.node.unpair(side.pairing.key.remote, forget=True)

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
            communication_protocols=self._protocols,
            s2_versions=VERSIONS,
        )

    async def _refresh(self, side: NodeLinkSide) -> None:
        confirmed = [pairing for pairing in await side.node.pairings() if pairing.confirmed]
        side.pairing = confirmed[-1] if confirmed else None
        side.title = for_display(confirmed[-1].peer.title) if confirmed else "the energy manager"

    async def _admit(self, pairing: Pairing, s2_version: str, may_lead: bool) -> str | LedTo | None:
        key = self._keys.get(pairing.key.local)
        if key is None:
            return NOT_NOW
        return await self._links.request_session(key, Role.CEM, s2_version, may_lead=may_lead)

    async def _accept(self, side: NodeLinkSide, key: str) -> None:
        async for connection, _ in side.node.connections(connect=False):
            self._links.hand_over(key, Role.CEM, connection)

    async def _follow(self, events: EventStream) -> None:
        for known in list(self._sides):
            await self._changed(known)  # after an error: what was missed
        async for event in events:
            if isinstance(event, PairingsChanged) and event.node is None:
                with _logged("the pairings of another instance"):
                    await self._compare()
            elif isinstance(event, (Paired, Unpaired, PairingsChanged)) and event.node in self._keys:
                with _logged("a pairing of a representative"):
                    await self._changed(self._keys[event.node])

    async def _compare(self) -> None:
        """Look at the pairings of all representatives: another instance may have changed any."""
        found = {p.key.local: p for p in await self._endpoint.pairings() if p.confirmed}
        for key, side in list(self._sides.items()):
            pairing = found.get(side.node.id)
            if (pairing is None) is not (side.pairing is None) or (
                pairing is not None and side.pairing is not None and not pairing.is_same(side.pairing)
            ):
                await self._changed(key)

    async def _changed(self, key: str) -> None:
        if (side := self._sides.get(key)) is not None:
            await self._refresh(side)
            self._links.pairing_changed(key)


async def _refuse(pairing: Pairing, s2_version: str) -> str | None:
    """Admission hook of a node that no side serves any more."""
    return NOT_NOW


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log an error instead of ending the iteration over events."""
    try:
        yield
    except S2ConnectError as error:
        _log.error("%s could not be handled: %s", what, error)


def _shown(text: str) -> str:
    """Clean a text of a description from the network."""
    return for_display(text, 200) or "unknown"
