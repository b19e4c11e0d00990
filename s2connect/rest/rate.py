"""Rate limit per address, without I/O (SEC-03)."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

BURST = 1000.0
"""Points an address has to begin with: an endpoint may pair hundreds of nodes at once."""
REFILL = 200.0
"""Points an address gains a second."""
REFUSED_COST = 2.0
"""Points of a request that was refused; an accepted one costs one."""
MAX_ADDRESSES = 4096
"""Addresses remembered; the longest unseen goes first."""


def network_of(address: str) -> str:
    """What is limited as one: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((ip, 64), strict=False))
    return str(ip)


class AddressLimiter:
    """A token bucket per network address."""

    def __init__(self, *, burst: float = BURST, refill: float = REFILL, max_addresses: int = MAX_ADDRESSES) -> None:
        self._burst = burst
        self._refill = refill
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def charge(self, address: str, cost: float, *, now: float) -> bool:
        """Take ``cost`` points from an address. False, and nothing is taken, where it has too few."""
        key = network_of(address)
        points, then = self._buckets.pop(key, (self._burst, now))
        points = min(self._burst, points + (now - then) * self._refill)
        allowed = points >= cost
        self._buckets[key] = (points - cost if allowed else points, now)
        if len(self._buckets) > self._max_addresses:
            self._buckets.popitem(last=False)
        return allowed
