"""Where to connect to for a host name: what is known, what the local network says, or the operating system."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from s2connect.errors import NotReachable

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

_log = logging.getLogger(__name__)


class Addresses:
    """Finds addresses; those of ``.local`` names through one zeroconf instance, which stays open from the first on.

    Args:
        known: Addresses by host name, which are not looked for.
        zeroconf: An instance to ask with, instead of one of our own; it is not closed here.
    """

    def __init__(self, known: Mapping[str, str], zeroconf: AsyncZeroconf | None) -> None:
        self._known = dict(known)
        self._injected = zeroconf
        self._zeroconf: AsyncZeroconf | None = None
        self._resources = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()

    def know(self, host: str, address: str) -> None:
        """From now on a host has this address."""
        self._known[host] = address

    async def of(self, host: str) -> list[str]:
        """Addresses of a host, best first; empty where the operating system shall be asked (DISC-06, VER-04)."""
        if host in self._known:
            return [self._known[host]]
        if not host.endswith(".local"):
            return []
        from s2connect.discovery.resolve import resolve  # loads DNS-SD
        from s2connect.discovery.shared import shared_zeroconf

        try:
            async with self._opening:
                if self._zeroconf is None:
                    self._zeroconf = await self._resources.enter_async_context(shared_zeroconf(self._injected))
            return await resolve(host, zeroconf=self._zeroconf)
        except NotReachable as error:
            # The machine may know what the network does not say: a hosts file, a DNS server of the house.
            _log.info("%s", error)
            return []

    async def close(self) -> None:
        """Release the instance."""
        await self._resources.aclose()
