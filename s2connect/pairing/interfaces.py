"""The network interfaces of this machine as they are now, and whose requests count as local (LAN-02)."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence

import ifaddr
from aiohttp import web

from s2connect.pairing.subnet import Interface, IpInterface, address_text, same_network

KEPT_FOR = 5.0
"""Seconds for which a list of interfaces is believed when it says that a peer is local."""

REFUSED_FOR = 1.0
"""Seconds for which it is believed when it says that a peer is not: a 401 ends long-polling for good (LP-06)."""


def list_interfaces() -> tuple[Interface, ...]:
    """Ask the operating system. Blocks for less than a millisecond; call it in a thread."""
    found = []
    for adapter in ifaddr.get_adapters():
        addresses: list[IpInterface] = []
        for ip in adapter.ips:
            text = ip.ip[0] if isinstance(ip.ip, tuple) else ip.ip
            try:
                addresses.append(ipaddress.ip_interface(f"{text.partition('%')[0]}/{ip.network_prefix}"))
            except ValueError:
                continue  # a point-to-point address without a prefix
        found.append(Interface(adapter.name, adapter.index or 0, tuple(addresses)))
    return tuple(found)


class Neighbourhood:
    """Knows who is in the same network. Share one per endpoint: addresses come and go, and it follows."""

    def __init__(self, interfaces: Callable[[], Sequence[Interface]] = list_interfaces) -> None:
        """Look at ``interfaces``, which is called in a thread."""
        self._list = interfaces
        self._known: Sequence[Interface] = ()
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    async def holds(self, request: web.Request) -> bool:
        """Whether the connection of a request comes from the same network (LAN-02).

        Only the addresses of the TCP connection count; headers are not looked at. False once the connection is gone.
        """
        transport = request.transport
        if transport is None:
            return False
        peer = address_text(transport.get_extra_info("peername"))
        local = address_text(transport.get_extra_info("sockname"))
        return same_network(peer, local, await self._interfaces(KEPT_FOR)) or same_network(
            peer, local, await self._interfaces(REFUSED_FOR)
        )

    async def _interfaces(self, max_age: float) -> Sequence[Interface]:
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._read_at is None or now - self._read_at >= max_age:
                self._known = await asyncio.to_thread(self._list)
                self._read_at = asyncio.get_running_loop().time()
            return self._known
