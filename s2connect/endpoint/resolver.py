"""Resolver of host names: from configuration, by mDNS in the local network, or by the operating system."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from s2connect.certs.connect import LOOK_UP_TIMEOUT
from s2connect.errors import NotPublic, NotReachable, PeerTimeout
from s2connect.model.proxy import Proxies
from s2connect.model.text import for_display
from s2connect.model.url import is_public_address

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Resolver:
    """Resolver; ``.local`` names use one zeroconf instance, which stays open after its first use.

    Args:
        known: Addresses by host name, which are not looked for.
        zeroconf: An instance to ask with, instead of one of our own; it is not closed here.
        public_only: Give addresses of the internet only, and always addresses: what was checked is what is connected
            to, so that a name that changes its address between the two (DNS rebinding) gains nothing.
        proxies: A proxy towards a host looks the name up and decides itself.
    """

    def __init__(
        self,
        known: Mapping[str, str],
        zeroconf: AsyncZeroconf | None,
        *,
        public_only: bool = False,
        proxies: Proxies | None = None,
    ) -> None:
        self._public_only = public_only
        self._proxies = proxies or Proxies()
        self._known = dict(known)
        self._injected = zeroconf
        self._zeroconf: AsyncZeroconf | None = None
        self._resources = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()

    def add(self, host: str, address: str) -> None:
        """Use this address for a host from now on."""
        self._known[host] = address

    async def resolve(self, host: str) -> list[str]:
        """Return the addresses of a host, best first; none if the operating system or proxy resolves (DISC-06, VER-04).

        Raises NotPublic if it has only addresses to which this endpoint does not connect.
        """
        if not self._public_only:
            return await self._local_or_system(host)
        if host not in self._known and self._proxies.towards(host) is not None:
            return []
        found = [self._known[host]] if host in self._known else await _look_up(host)
        public = [address for address in found if is_public_address(address)]
        if not public:
            raise NotPublic(f"{for_display(host, 100)} is not on the internet; a WAN endpoint does not connect to it.")
        return public

    async def first_reachable(self, host: str, attempt: Callable[[str | None], Awaitable[T]]) -> T:
        """Make an attempt with one address of a host after the other, until one is reachable; the last error counts.

        ``attempt`` is called with an address; with None if the operating system or the proxy resolves.
        """
        addresses: list[str | None] = [*await self.resolve(host)] or [None]
        for address in addresses[:-1]:
            try:
                return await attempt(address)
            except (NotReachable, PeerTimeout) as error:
                _log.info("%s", error)
        return await attempt(addresses[-1])

    async def _local_or_system(self, host: str) -> list[str]:
        if host in self._known:
            return [self._known[host]]
        if not host.endswith(".local"):
            return []
        from s2connect.discovery.resolve import resolve  # loads zeroconf
        from s2connect.discovery.shared import shared_zeroconf

        try:
            async with self._opening:
                if self._zeroconf is None:
                    self._zeroconf = await self._resources.enter_async_context(shared_zeroconf(self._injected))
            return await resolve(host, zeroconf=self._zeroconf)
        except NotReachable as error:
            # The operating system may resolve it otherwise: by a hosts file, or a DNS server of the house.
            _log.info("%s", error)
            return []

    async def close(self) -> None:
        """Release the instance."""
        await self._resources.aclose()


async def _look_up(host: str) -> list[str]:
    """Resolve a name through the operating system."""
    try:
        async with asyncio.timeout(LOOK_UP_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise NotReachable.not_looked_up(for_display(host, 100), error) from error
    except (OSError, UnicodeError) as error:
        raise NotReachable.because(for_display(host, 100), 0, error) from error
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
