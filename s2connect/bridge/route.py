"""A route: links each device of one side with the energy manager of the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakValueDictionary

from s2connect import Connection, FailureLog, LinkHold, Role, Supervisor, for_display
from s2connect.bridge.devices import Device
from s2connect.bridge.link import Link
from s2connect.bridge.link_state import LinkStatus
from s2connect.bridge.recording import Record
from s2connect.bridge.relay import Policy
from s2connect.bridge.sides import NOT_NOW, DevicesSide, LinkSide, ManagerSide, RouteLinks
from s2connect.session import LedTo
from s2connect.transports import GOING_AWAY

_log = logging.getLogger(__name__)

MAX_LINKS: Final = 10_000
"""Devices of one route; further ones are refused."""


class Route(RouteLinks):
    """Links every device with the energy manager. Make it, :meth:`start` it, :meth:`close` it.

    Args:
        name: Its name in the configuration.
        devices: Side of the devices.
        manager: Side of the energy manager.
        policy: Policy of its links.
        on_change: Called with a link after every change of its state.
        failures: Reports errors of ours in background tasks.
        record: See :class:`Link`.
        hold: Returns the hold of the link of a device's key; None where this is the only instance.
    """

    def __init__(
        self,
        name: str,
        devices: DevicesSide,
        manager: ManagerSide,
        policy: Policy,
        *,
        on_change: Callable[[Link], None] | None = None,
        failures: FailureLog | None = None,
        record: Record | None = None,
        hold: Callable[[str], LinkHold] | None = None,
    ) -> None:
        self.name = name
        self.supervisor = Supervisor(f"s2connect-bridge-{name}", failures)
        self.devices = devices
        self.manager = manager
        self.links: dict[str, Link] = {}
        self._policy = policy
        self._on_change = on_change
        self._record = record
        self._hold = hold
        self._known: dict[str, Device] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._closed = False
        self._on_link: Callable[[str, Link], None] | None = None

    def watch_links(self, on_link: Callable[[str, Link], None]) -> None:
        """Call ``on_link`` with the key of the device and the link, for every link there is and will be."""
        self._on_link = on_link
        for key, link in self.links.items():
            on_link(key, link)

    async def start(self) -> None:
        """Start; known devices have their links when this returns.

        Raises:
            ConfigurationError: A side cannot be opened; nothing is left open.
        """
        try:
            await self.manager.start(self)
            await self.devices.start(self)
            self.manager.devices_known()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Announce the end to the peers, end all links, then close the sides. Idempotent."""
        self._closed = True
        await self.supervisor.end(self._tasks.values())
        for link in self.links.values():
            if link.hold is not None:
                link.hold.close()
        await self.devices.close()
        await self.manager.close()
        await self.supervisor.close()

    def status(self) -> list[LinkStatus]:
        """Return the status of the links, by name."""
        return sorted((link.status() for link in self.links.values()), key=lambda status: status.name)

    def alive(self) -> bool:
        """Return whether every link still has its task, without which it never comes up again."""
        return not any(task.done() for task in self._tasks.values())

    # RouteLinks, for the sides

    async def add_device(self, device: Device, side: LinkSide) -> None:
        async with self._locks.setdefault(device.key, asyncio.Lock()):
            if self._closed or self._known.get(device.key) == device:
                return
            if device.key not in self.links and len(self.links) >= MAX_LINKS:
                _log.warning("route %s has %d links and takes no more devices", self.name, MAX_LINKS)
                return
            manager = await self.manager.represent(device)
            self._known[device.key] = device
            if device.key in self.links or self._closed:
                return
            name = f"{self.name}/{for_display(device.name, 60)}"
            if any(link.name == name for link in self.links.values()):
                name = f"{name} ({device.key[:8]})"
            link = Link(
                name,
                {Role.RM: side, Role.CEM: manager},
                self._policy,
                on_change=self._on_change,
                failures=self.supervisor.failures,
                record=self._record,
                hold=self._hold(device.key) if self._hold is not None else None,
            )
            self.links[device.key] = link
            if self._on_link is not None:
                self._on_link(device.key, link)
            self._tasks[device.key] = self.supervisor.keep(link.run, "link", name)

    async def prepare_devices(self, devices: Sequence[Device]) -> None:
        await self.manager.prepare(devices[:MAX_LINKS])

    async def remove_device(self, key: str, *, for_good: bool = True) -> None:
        async with self._locks.setdefault(key, asyncio.Lock()):
            self._known.pop(key, None)
            link, task = self.links.pop(key, None), self._tasks.pop(key, None)
            if task is not None:
                await self.supervisor.end([task])
            if link is not None and link.hold is not None:
                link.hold.close()
            if link is not None and for_good:
                await self.manager.dismiss(key)
            elif link is not None:
                self.manager.withdraw(key)

    async def request_session(
        self, key: str, role: Role, s2_version: str, *, may_lead: bool = False
    ) -> str | LedTo | None:
        link = self.links.get(key)
        return NOT_NOW if link is None else await link.request_session(role, s2_version, may_lead=may_lead)

    def hand_over(self, key: str, role: Role, connection: Connection) -> bool:
        link, taken = self.links.get(key), False
        try:
            taken = link is not None and link.hand_over(role, connection)
        except Exception as error:
            self.supervisor.failures.failed("arrival", error, name=key)
        if not taken:
            self.supervisor.spawn(connection.close(GOING_AWAY, "too late"), "too-late")
        return taken

    def can_forget(self, key: str) -> bool:
        link = self.links.get(key)
        return not self.manager.is_durable and (link is None or link.is_unused())

    def pairing_changed(self, key: str) -> None:
        if (link := self.links.get(key)) is not None:
            link.pairing_changed()
