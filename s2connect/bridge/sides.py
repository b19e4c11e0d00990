"""Sides: where the sessions of a route come from (``devices``, ``manager``), and the two sides of each of its links."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import ClassVar, Final, Generic, Protocol, TypeVar

from s2connect import Connection, Message, Role, Supervisor
from s2connect.bridge.config import ConfiguredDevice
from s2connect.bridge.devices import Device
from s2connect.errors import UsageError
from s2connect.session import LedTo

NOT_NOW: Final = "The other side of this bridge cannot be reached now; try again later."
"""Refusal of an unknown peer; the exact reason is not for strangers."""


class Initiator(Enum):
    """Party that opens the session on one side of a link."""

    PEER = "peer"
    BRIDGE = "bridge"


class LinkSide(ABC):
    """Base of the sides of a link.

    Attributes:
        title: Name of the peer, for display.
        reaches_all: Whether every instance gets what the peer requests, so that only the holder of the link may answer.
        is_held: Whether the link has a hold: the side is opened also while another instance still has a connection.
        on_details: Called with the first ResourceManagerDetails that the peer sends in a session.
    """

    title: str
    reaches_all: ClassVar[bool] = False
    is_held: bool = False
    on_details: Callable[[Message], None] | None = None

    @property
    @abstractmethod
    def initiator(self) -> Initiator | None:
        """Party that opens the session; None as long as there is no pairing."""

    @property
    def hint(self) -> str | None:
        """Hint for people where the peer does not open its session in time; None for the one about any peer."""
        return None

    async def open(self) -> Connection:
        """Connect to the peer, once. Only where the initiator is BRIDGE; cancel-safe.

        Raises:
            NoLongerPaired, AccessRefused: The peer wants no session any more.
            S2ConnectError: It cannot be reached now.
        """
        raise UsageError(f"{self.title} connects to the bridge.")


class RouteLinks(Protocol):
    """Interface of a route for its two sides.

    Attributes:
        supervisor: Supervisor of the sides' background tasks. It ends them after the sides are closed.
    """

    supervisor: Supervisor

    async def add_device(self, device: Device, side: LinkSide) -> None:
        """Add a device, connected or not, or update its description."""

    async def prepare_devices(self, devices: Sequence[Device]) -> None:
        """Prepare for many devices that will be passed to :meth:`add_device` next."""

    async def remove_device(self, key: str, *, for_good: bool = True) -> None:
        """Remove a device. Not ``for_good`` only its link ends, e.g. because its settings have changed."""

    async def request_session(
        self, key: str, role: Role, s2_version: str, *, may_lead: bool = False
    ) -> str | LedTo | None:
        """Admission hook for the peer on one side of a device's link. Returns None, or a refusal for its user.

        Where the peer ``may_lead`` to another instance, the answer may be that it shall be.
        """

    def hand_over(self, key: str, role: Role, connection: Connection) -> bool:
        """Take over the connection of that peer. False if no link waits for it, which closes it."""

    def can_forget(self, key: str) -> bool:
        """Return whether a device may be forgotten: it was never connected through, is not now, and leaves no state."""

    def pairing_changed(self, key: str) -> None:
        """Update a device's link after one of its sides was paired or unpaired."""


class RouteSide:
    """Base of the two sides of a route."""

    async def start(self, links: RouteLinks) -> None:
        """Start; known devices have been added when this returns.

        Raises:
            ConfigurationError: A setting cannot be used, e.g. an address is taken.
        """
        self._links = links

    async def close(self) -> None:
        """Stop accepting and release everything but the connections that were handed over."""


class DevicesSide(RouteSide):
    """Side of the devices (RMs). The bridge is an energy manager there."""


DeviceT = TypeVar("DeviceT", bound=ConfiguredDevice)


class ConfiguredDevicesSide(DevicesSide, ABC, Generic[DeviceT]):
    """Side whose devices are configured, and can change while it runs."""

    def __init__(self, devices: Iterable[DeviceT]) -> None:
        self._devices = {device.key: device for device in devices}

    async def start(self, links: RouteLinks) -> None:
        await super().start(links)
        await links.prepare_devices([device.device() for device in self._devices.values()])
        for device in self._devices.values():
            await self._add(device)

    async def update(self, devices: Iterable[DeviceT]) -> list[str]:
        """Replace the configuration, and return the keys of the devices of which it differs; the others are untouched.

        Raises ConfigurationError or StorageError, where one of them cannot be used; those before it are in force.
        """
        old, new = self._devices, {device.key: device for device in devices}
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        for key in changed:
            if self._devices.pop(key, None) is not None:
                await self._remove(key)
                await self._links.remove_device(key, for_good=False)
        for key in changed:
            if key in new:
                await self._add(new[key])
                self._devices[key] = new[key]
        return changed

    @abstractmethod
    async def _add(self, device: DeviceT) -> None:
        """Add a device to the route, and admit it."""

    async def _remove(self, key: str) -> None:
        """Admit a device no more; its link ends afterwards."""


class ManagerSide(RouteSide, ABC):
    """Side of the energy manager (CEM). The bridge represents each device there.

    Attributes:
        is_durable: Representing a device stores something.
    """

    is_durable: ClassVar[bool] = False

    def devices_known(self) -> None:
        """Note that the route has started: all devices that were known then are represented."""

    async def prepare(self, devices: Sequence[Device]) -> None:
        """Prepare to represent many devices, with one write instead of one for each; :meth:`represent` follows.

        Raises:
            StorageError: It could not be stored.
        """

    @abstractmethod
    async def represent(self, device: Device) -> LinkSide:
        """Represent a device, or update how it is represented.

        Raises:
            StorageError: It could not be stored.
        """

    async def dismiss(self, key: str) -> None:
        """Represent a device no more."""

    def withdraw(self, key: str) -> None:
        """Note that a device is not in the configuration now; :meth:`represent` follows if it still is, or is again."""
