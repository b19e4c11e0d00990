"""Rate limit per address, without I/O (SEC-03)."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache

from s2connect.model.url import address_of

BURST = 1000.0
"""Points an address has to begin with: an endpoint may pair hundreds of nodes at once."""
REFILL = 200.0
"""Points an address gains a second."""
READ_COST = 0.1
"""Points of a version index, which is a constant."""
STRANGER_COST = 1.0
"""Points of a request without a bearer."""
REFUSED_COST = 3.0
"""Additional points of a refused request."""
BEARER_COST = 4.0
"""Points of a request with a bearer, from an account of its own; given back once the bearer has proved to be right."""
BEARER_BURST = 4096.0
"""Points of that account to begin with: a thousand paired devices behind one address may come at once."""
BEARER_REFILL = 400.0
"""Points it gains a second: a hundred wrong bearers."""
MAX_BEARER_DELAY = 5.0
"""Seconds that a bearer waits for its check where others of its address were wrong before; beyond it 429."""
MAX_ADDRESSES = 4096
"""Addresses remembered; the longest unseen goes first."""


@lru_cache(MAX_ADDRESSES)
def network_of(address: str) -> str:
    """Return the network that is limited as one: an IPv4 address, or the /64 of an IPv6 address."""
    ip = address_of(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.IPv6Network((ip, 64), strict=False))
    return address if ip is None else str(ip)


ROUNDING = 1e-9
"""Seconds of debt that are the rounding of floating-point numbers."""


class TokenBucket:
    """Token bucket, which may go into debt: ``burst`` at the beginning and at most, ``refill`` gained a second."""

    __slots__ = ("_burst", "_refill", "_then", "_tokens")

    def __init__(self, refill: float, burst: float) -> None:
        self._refill = refill
        self._burst = burst
        self._tokens = burst
        self._then = 0.0

    def tokens(self, now: float) -> float:
        """Return the balance, which is negative in debt."""
        return min(self._burst, self._tokens + (now - self._then) * self._refill)

    def take(self, amount: float, now: float) -> None:
        """Take an amount, or give a negative one back."""
        self._tokens = min(self._burst, self.tokens(now) - amount)
        self._then = now

    def delay(self, now: float) -> float:
        """Return the seconds until no debt is left; 0.0 without a debt."""
        tokens = self.tokens(now)
        return -tokens / self._refill if tokens < -ROUNDING * self._refill else 0.0


class AddressLimiter:
    """Rate limiter: a token bucket per network address."""

    def __init__(self, *, burst: float = BURST, refill: float = REFILL, max_addresses: int = MAX_ADDRESSES) -> None:
        self._burst = burst
        self._refill = refill
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allows(self, address: str, *, now: float) -> bool:
        """Return whether an address may send a request now."""
        return self.points(address, now=now) >= 1.0

    def points(self, address: str, *, now: float) -> float:
        """Return the balance of an address."""
        bucket = self._buckets.get(network_of(address))
        return self._burst if bucket is None else bucket.tokens(now)

    def delay(self, address: str, *, now: float) -> float:
        """Return the seconds until the balance of an address is no longer negative."""
        bucket = self._buckets.get(network_of(address))
        return 0.0 if bucket is None else bucket.delay(now)

    def charge(self, address: str, cost: float, *, now: float) -> None:
        """Take points from an address, or give some back; its balance may become negative."""
        key = network_of(address)
        bucket = self._buckets.pop(key, None) or TokenBucket(self._refill, self._burst)
        bucket.take(cost, now)
        self._buckets[key] = bucket
        if len(self._buckets) > self._max_addresses:
            self._buckets.popitem(last=False)
