"""Ports: where the devices of a bridge come from, and where their energy manager is. What all kinds have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from s2connect.bridge.link import Side
from s2connect.model.common import NodeDescription, Role
from s2connect.supervisor import Supervisor
from s2connect.transports.base import Connection


@dataclass(frozen=True, slots=True)
class Device:
    """A device, as a route knows it.

    Attributes:
        key: What it is recognised by for ever: of an S2 Connect node its id, otherwise its name in the configuration.
        name: For people; from the network, clean it before display.
        description: As the device presents itself, or as the configuration describes it.
    """

    key: str
    name: str
    description: NodeDescription


class Switchboard(Protocol):
    """Interface that the ports of a route call; the route implements it."""

    @property
    def supervisor(self) -> Supervisor:
        """Owns the background tasks of the ports, and ends them after the ports were closed."""

    async def found(self, device: Device, side: Side) -> None:
        """Add a device of this port, connected or not; called again when its description has changed."""

    async def coming(self, devices: Sequence[Device]) -> None:
        """Prepare for many devices that will be passed to :meth:`found` next."""

    async def gone(self, key: str, *, for_good: bool = True) -> None:
        """Remove a device from this port.

        Args:
            key: The device.
            for_good: Represent it no more. Otherwise only its link ends, e.g. because its settings have changed.
        """

    async def ask(self, key: str, role: Role, s2_version: str) -> str | None:
        """Admission hook for the peer on one side of a device's link. Returns None, or a refusal for its user."""

    def arrived(self, key: str, role: Role, connection: Connection) -> bool:
        """Take over the connection of that peer. False if no link waits for it: the caller has to close it."""

    def gives_way(self, key: str) -> bool:
        """Return whether a device may be forgotten: it was never connected through, is not now, and leaves no state."""

    def pairing_changed(self, key: str) -> None:
        """One side of a device's link was paired or unpaired."""


class Port(ABC):
    """One end of a route."""

    @abstractmethod
    async def start(self, switchboard: Switchboard) -> None:
        """Begin; returns when devices that are known already have been told.

        Raises:
            ConfigurationError: A setting cannot be used, e.g. an address is taken.
        """

    @abstractmethod
    async def close(self) -> None:
        """Stop accepting and release everything; connections that were handed over are not this port's any more."""


class DevicePort(Port):
    """The end at which the devices (RMs) are. The bridge is an energy manager there."""


Entry = TypeVar("Entry")


class ConfiguredDevicePort(DevicePort, Generic[Entry]):
    """A port whose devices are configured, and can change while it runs.

    Args:
        entries: What the configuration says of each device, by its key.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = dict(entries)

    async def start(self, switchboard: Switchboard) -> None:
        """See :meth:`Port.start`."""
        self._switchboard = switchboard
        await switchboard.coming([self._device(entry) for entry in self._entries.values()])
        for key, entry in self._entries.items():
            await self._add(key, entry)

    async def update(self, entries: Mapping[str, Entry]) -> list[str]:
        """Take over other entries; devices whose entry is the same keep their links untouched.

        Returns:
            The keys of those that were changed, added or taken away.

        Raises:
            ConfigurationError: One of them cannot be used; those before it are in force.
            StorageError: A secret cannot be read.
        """
        old, new = self._entries, dict(entries)
        touched = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        for key in touched:
            if self._entries.pop(key, None) is not None:
                await self._remove(key)
                await self._switchboard.gone(key, for_good=False)
        for key in touched:
            if key in new:
                await self._add(key, new[key])
                self._entries[key] = new[key]
        return touched

    @abstractmethod
    def _device(self, entry: Entry) -> Device:
        """Return the device of an entry."""

    @abstractmethod
    async def _add(self, key: str, entry: Entry) -> None:
        """Tell the switchboard of a device, and let it come."""

    async def _remove(self, key: str) -> None:
        """Let a device come no more; its link ends afterwards."""


class ManagerPort(Port):
    """Port towards the energy manager (CEM). The bridge represents each device there.

    Attributes:
        keeps: Whether something durable is made for each device.
    """

    keeps: ClassVar[bool] = False

    async def prepare(self, devices: Sequence[Device]) -> None:
        """Make ready to represent many devices, with one write instead of one for each; :meth:`represent` follows.

        Raises:
            StorageError: It could not be stored.
        """

    @abstractmethod
    async def represent(self, device: Device) -> Side:
        """Represent a device, or update how it is represented.

        Raises:
            StorageError: It could not be stored.
        """

    @abstractmethod
    async def dismiss(self, key: str) -> None:
        """Represent a device no more."""
