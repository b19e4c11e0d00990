"""Lists of devices at our broker: those that we publish as a gateway, and those that we follow (MQ-19)."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from s2connect.errors import ConfigurationError, ConnectionClosed, SessionRefused, UsageError
from s2connect.model.common import NodeId
from s2connect.transports.base import Connection
from s2connect.transports.mqtt.device_list import MAX_AT, MAX_LIST_BYTES, ListedDevice, read_list, write_list
from s2connect.transports.mqtt.frames import PACKET_ROOM_BYTES, InvalidFrame, Packet, payload_room
from s2connect.transports.mqtt.parameters import StaticGateway, StaticSession
from s2connect.transports.mqtt.publish import FAILURE
from s2connect.transports.mqtt.receiver import TopicHandler
from s2connect.transports.mqtt.sealing import SALT_BYTES

if TYPE_CHECKING:
    from s2connect.transports.mqtt.broker import BrokerConnection

_log = logging.getLogger(__name__)

LIST_AGAIN = 30.0
"""Seconds until a list is published again in a cluster: what is retained at one node is not at the others, so that who
subscribes there has it that much later."""

LIST_ANEW = 300.0
"""Seconds until each of several instances publishes its list again: what one of them published late, after it stood
still, may be an older one."""

Changed = Callable[[list[ListedDevice], list[ListedDevice]], object]
"""Callback with the devices that a list has more than the one before, and those that it has no more."""


Newest = Callable[[int], object]
"""Callback with the time of the newest list, before it counts; a program that stores it drops older lists after its own
start, too."""

TakeListed = Callable[[Connection, ListedDevice], object]
"""Callback with a connection of a listed device that has opened."""


def accepting(
    gateway: StaticGateway,
    take: TakeListed,
    add: Callable[[StaticSession, tuple[Callable[[Connection], object], None]], object],
    remove: Callable[[StaticSession], object],
    changed: Changed | None,
) -> Changed:
    """Return the callback that adds the sessions of devices that are listed, and removes those that are not any more.

    ``add`` raises UsageError for one that cannot be added.
    """

    def take_of(device: ListedDevice, connection: Connection) -> None:
        take(connection, device)

    def apply(added: list[ListedDevice], removed: list[ListedDevice]) -> None:
        for device in removed:
            remove(gateway.session(device.id))
        for device in added:
            try:
                add(gateway.session(device.id), (partial(take_of, device), None))
            except UsageError as error:
                _log.warning("The device %s of a list is left out: %s", device.id, error)
        if changed is not None:
            changed(added, removed)

    return apply


@dataclass(slots=True)
class _Published:
    gateway: StaticGateway
    devices: dict[Hashable, Sequence[ListedDevice]] = field(default_factory=dict)
    at: int = 0
    packet: Packet | None = None


@dataclass(slots=True)
class _Followed:
    gateway: StaticGateway
    changed: Changed
    newest: int = 0
    on_newest: Newest | None = None
    warned: bool = False
    known: dict[NodeId, ListedDevice] = field(default_factory=dict)


class Gateways:
    """The lists of one MQTT client. After every reconnect they are published and subscribed to anew.

    Args:
        wall_time: Returns the seconds since the epoch. Where several instances publish a list, all have one clock.
    """

    def __init__(self, wall_time: Callable[[], float] = time.time) -> None:
        self._wall_time = wall_time
        self._published: dict[str, _Published] = {}
        self._followed: dict[str, _Followed] = {}

    async def greet(self, broker: BrokerConnection) -> None:
        """Use a new connection. What the broker refuses is logged, and hinders nothing else."""
        for published in list(self._published.values()):
            await self._publish(broker, published)
        for followed in list(self._followed.values()):
            try:
                await self._subscribe(broker, followed)
            except SessionRefused as error:
                _log.warning("The devices of a gateway are not learnt: %s", error)

    async def publish(
        self,
        broker: BrokerConnection | None,
        gateway: StaticGateway,
        part: Hashable,
        devices: Sequence[ListedDevice] | None,
    ) -> None:
        """Set a part of a list, which may have several, and publish all of it, now or with the next connection.

        None forgets the part, and publishes nothing.
        """
        published = self._published.setdefault(gateway.list_topic, _Published(gateway))
        if devices is None:
            published.devices.pop(part, None)
            return
        published.devices[part] = tuple(devices)
        if broker is not None:
            await self._publish(broker, published)

    async def _publish(self, broker: BrokerConnection, published: _Published) -> None:
        if not published.devices:
            return  # nobody sets any for now: the list stays as it was published
        merged = {device.id: device for part in published.devices.values() for device in part}
        published.at = min(max(published.at + 1, int(self._wall_time() * 1000)), MAX_AT)
        try:
            salt = secrets.token_bytes(SALT_BYTES)
            packet = write_list(published.gateway, merged.values(), at=published.at, salt=salt)
            if broker.max_packet is not None and len(packet.payload) > payload_room(packet.topic, broker.max_packet):
                raise ConfigurationError(f"The broker takes no message that is as long as the list of {len(merged)}.")
            published.packet = packet
            if (code := await broker.publish(packet)) >= FAILURE:
                _log.warning("The broker refuses the list of devices for %s (%#x)", published.gateway.server, code)
        except ConfigurationError as error:
            _log.warning("The list of devices for %s is not published: %s", published.gateway.server, error)
        except ConnectionClosed:
            pass  # it is published with the next one

    async def repeat(self, broker: BrokerConnection, *, anew: bool) -> None:
        """Publish all lists once more: as they are, or ``anew`` with the time of now."""
        for published in list(self._published.values()):
            if anew:
                await self._publish(broker, published)
            elif published.packet is not None:
                await broker.publish(published.packet)

    def follow(self, gateway: StaticGateway, changed: Changed, newest: int, on_newest: Newest | None) -> None:
        """Follow a list with every connection from now on; one of the same topic is replaced."""
        self._followed[gateway.list_topic] = _Followed(gateway, changed, newest, on_newest)

    async def subscribe(self, broker: BrokerConnection, gateway: StaticGateway) -> None:
        """Follow a list with this connection.

        Raises:
            SessionRefused: The broker does not allow the subscription.
            ConnectionClosed: The connection is gone; it is followed with the next one.
        """
        await self._subscribe(broker, self._followed[gateway.list_topic])

    async def _subscribe(self, broker: BrokerConnection, followed: _Followed) -> None:
        def handle(packet: Packet) -> str | None:
            return _take(followed, packet)

        topic = followed.gateway.list_topic
        broker.set_handler(topic, TopicHandler(handle, MAX_LIST_BYTES + PACKET_ROOM_BYTES))
        await broker.subscribe(topic, retained=True)


def _take(followed: _Followed, packet: Packet) -> str | None:
    """Handle a list. Returns the reason why it is dropped; None if it is not."""
    try:
        read = read_list(followed.gateway, packet)
    except InvalidFrame:
        return "device_list"
    if read.at < followed.newest:
        if not followed.warned:
            followed.warned = True
            _log.warning(
                "The list of the devices of %s is older than the one before, and is dropped: the broker gives an old "
                "one again, or the clock of the gateway was set back.",
                followed.gateway.mc,
            )
        return "device_list_old"
    if read.at > followed.newest:
        followed.newest, followed.warned = read.at, False
        if followed.on_newest is not None:
            followed.on_newest(read.at)
    listed = {device.id: device for device in read.devices}
    known, followed.known = followed.known, listed
    added = [device for key, device in listed.items() if key not in known]
    removed = [device for key, device in known.items() if key not in listed]
    if added or removed:
        followed.changed(added, removed)
    return None
