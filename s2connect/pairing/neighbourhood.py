"""Neighbourhood: decides whether the peer of a request is in the same network as this machine (LAN-02)."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Collection
from typing import Any

from aiohttp import web

from s2connect.https.own_addresses import OwnAddress, own_addresses

KEPT_FOR = 5.0
"""Seconds for which a list of our addresses is believed when it says that a peer is local."""

REFUSED_FOR = 1.0
"""Seconds for which it is believed when it says that a peer is not: a 401 ends long-polling for good (LP-06)."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def same_network(peer: str, local: str, own: Collection[OwnAddress]) -> bool:
    """Return whether ``peer`` is in a subnet of the interface that has the address ``local`` (LAN-02).

    An IPv4 address mapped into IPv6 counts as the IPv4 address. A link-local IPv6 peer has to have the zone of that
    interface (``fe80::1%3``); without a zone it is not believed. What is no address, and an interface that is not in
    ``own``, the addresses of this machine, give False.
    """
    try:
        peer_address, peer_zone = _parse(peer)
        local_address, local_zone = _parse(local)
    except ValueError:
        return False
    if local_address.is_loopback or peer_address.is_loopback:
        # 127.0.0.2 is reachable without being listed, and from loopback nothing comes in from outside.
        return local_address.is_loopback and peer_address.is_loopback
    arrived_on = {each.index for each in own if each.interface.ip == local_address}
    for address, zone in ((local_address, local_zone), (peer_address, peer_zone)):
        if isinstance(address, ipaddress.IPv6Address) and address.is_link_local:
            arrived_on = {index for index in arrived_on if str(index) == zone}
    return any(each.index in arrived_on and peer_address in each.interface.network for each in own)


def address_text(socket_address: Any) -> str:
    """Return the address of a ``getpeername`` or ``getsockname``, with its zone if it has one.

    An empty string for what is no address of a TCP socket.
    """
    if not isinstance(socket_address, tuple) or not socket_address:
        return ""
    host = str(socket_address[0]).partition("%")[0]
    zone = socket_address[3] if len(socket_address) == 4 else 0
    return f"{host}%{zone}" if zone else host


def _parse(text: str) -> tuple[IpAddress, str]:
    address, _, zone = text.partition("%")
    return _plain(ipaddress.ip_address(address)), zone


def _plain(address: IpAddress) -> IpAddress:
    """Return the address without its zone; one of IPv4 mapped into IPv6 as IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


class Neighbourhood:
    """The networks of this machine, as they come and go. Share one per endpoint."""

    def __init__(self, own: Callable[[], Collection[OwnAddress]] = own_addresses) -> None:
        """Look at ``own``, which is called in a thread."""
        self._list = own
        self._known: Collection[OwnAddress] = ()
        self._read_at: float | None = None
        self._lock = asyncio.Lock()

    async def holds(self, request: web.Request) -> bool:
        """Return whether the connection of a request comes from the same network (LAN-02).

        Only the addresses of the TCP connection count; headers are not looked at. False once the connection is gone.
        """
        transport = request.transport
        if transport is None:
            return False
        peer = address_text(transport.get_extra_info("peername"))
        local = address_text(transport.get_extra_info("sockname"))
        return same_network(peer, local, await self._own(KEPT_FOR)) or same_network(
            peer, local, await self._own(REFUSED_FOR)
        )

    async def _own(self, max_age: float) -> Collection[OwnAddress]:
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._read_at is None or now - self._read_at >= max_age:
                self._known = await asyncio.to_thread(self._list)
                self._read_at = asyncio.get_running_loop().time()
            return self._known
