"""A route: from a port with devices to a port with an energy manager, one link for each device."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakValueDictionary

from s2connect.bridge.link import NOT_NOW, Link, LinkStatus, Side
from s2connect.bridge.recording import Record
from s2connect.bridge.relay import Policy
from s2connect.bridge.sides import Device, DevicePort, ManagerPort
from s2connect.model.common import Role
from s2connect.model.text import for_display
from s2connect.supervisor import FailureLog, Supervisor
from s2connect.transports.base import Connection

_log = logging.getLogger(__name__)

MAX_LINKS: Final = 10_000
"""Devices of one route; what comes beyond is told to come again later."""


class Route:
    """Links every device of one port with the energy manager of another. Make it, :meth:`start` it, :meth:`close` it.

    Args:
        name: Its name in the configuration.
        devices: Where the devices are.
        manager: Where the energy manager is.
        policy: What its links let pass.
        on_change: Called with a link after every change of its state.
        failures: Reports errors of ours in background tasks.
        record: See :class:`Link`.
    """

    def __init__(
        self,
        name: str,
        devices: DevicePort,
        manager: ManagerPort,
        policy: Policy,
        *,
        on_change: Callable[[Link], None] | None = None,
        failures: FailureLog | None = None,
        record: Record | None = None,
    ) -> None:
        self.name = name
        self.supervisor = Supervisor(f"s2connect-bridge-{name}", failures)
        self.devices = devices
        self.manager = manager
        self.links: dict[str, Link] = {}
        self._policy = policy
        self._on_change = on_change
        self._record = record
        self._known: dict[str, Device] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._closed = False

    async def start(self) -> None:
        """Begin; devices that are known already have their links when this returns.

        Raises:
            ConfigurationError: A port cannot be opened; nothing is left open.
        """
        try:
            await self.manager.start(self)
            await self.devices.start(self)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all links, telling the peers, then the ports. Idempotent."""
        self._closed = True
        await self.supervisor.end(self._tasks.values())
        await self.devices.close()
        await self.manager.close()
        await self.supervisor.close()

    def status(self) -> list[LinkStatus]:
        """The links, by name."""
        return sorted((link.status() for link in self.links.values()), key=lambda status: status.name)

    def alive(self) -> bool:
        """Return whether every link still has its task; one that has lost it will never come up again."""
        return not any(task.done() for task in self._tasks.values())

    # Switchboard

    async def found(self, device: Device, side: Side) -> None:
        """See :meth:`Switchboard.found <s2connect.bridge.sides.Switchboard.found>`."""
        async with self._locks.setdefault(device.key, asyncio.Lock()):
            if self._closed or self._known.get(device.key) == device:
                return
            if device.key not in self.links and len(self.links) >= MAX_LINKS:
                _log.warning("route %s has %d links and takes no more devices", self.name, MAX_LINKS)
                return
            towards = await self.manager.represent(device)
            self._known[device.key] = device
            if device.key in self.links or self._closed:
                return
            name = f"{self.name}/{for_display(device.name, 60)}"
            if any(link.name == name for link in self.links.values()):
                name = f"{name} ({device.key[:8]})"
            link = Link(
                name,
                {Role.RM: side, Role.CEM: towards},
                self._policy,
                on_change=self._on_change,
                failures=self.supervisor.failures,
                record=self._record,
            )
            self.links[device.key] = link
            self._tasks[device.key] = self.supervisor.keep(link.run, "link", name)

    async def coming(self, devices: Sequence[Device]) -> None:
        """See :meth:`Switchboard.coming <s2connect.bridge.sides.Switchboard.coming>`."""
        await self.manager.prepare(devices[:MAX_LINKS])

    async def gone(self, key: str, *, for_good: bool = True) -> None:
        """See :meth:`Switchboard.gone <s2connect.bridge.sides.Switchboard.gone>`."""
        async with self._locks.setdefault(key, asyncio.Lock()):
            self._known.pop(key, None)
            link, task = self.links.pop(key, None), self._tasks.pop(key, None)
            if task is not None:
                await self.supervisor.end([task])
            if link is not None and for_good:
                await self.manager.dismiss(key)

    async def ask(self, key: str, role: Role, s2_version: str) -> str | None:
        """See :meth:`Switchboard.ask <s2connect.bridge.sides.Switchboard.ask>`."""
        link = self.links.get(key)
        return NOT_NOW if link is None else await link.ask(role, s2_version)

    def arrived(self, key: str, role: Role, connection: Connection) -> bool:
        """See :meth:`Switchboard.arrived <s2connect.bridge.sides.Switchboard.arrived>`."""
        link = self.links.get(key)
        try:
            return link is not None and link.arrived(role, connection)
        except Exception as error:
            self.supervisor.failures.failed("arrival", error, name=key)
            return False

    def gives_way(self, key: str) -> bool:
        """See :meth:`Switchboard.gives_way <s2connect.bridge.sides.Switchboard.gives_way>`."""
        link = self.links.get(key)
        return not self.manager.keeps and (link is None or link.is_unused())

    def pairing_changed(self, key: str) -> None:
        """See :meth:`Switchboard.pairing_changed <s2connect.bridge.sides.Switchboard.pairing_changed>`."""
        if (link := self.links.get(key)) is not None:
            link.pairing_changed()
