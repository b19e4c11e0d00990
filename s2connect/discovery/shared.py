"""One zeroconf instance per process, shared by advertisers, browsers and resolvers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from zeroconf.asyncio import AsyncZeroconf

from s2connect.discovery.network import NetworkMonitor
from s2connect.errors import NotReachable
from s2connect.https.own_addresses import own_addresses
from s2connect.supervisor import Supervisor


class _Shared:
    def __init__(self) -> None:
        self.zeroconf = _open()
        self.users = 0
        self._changed = asyncio.Event()
        self._monitor = NetworkMonitor(lambda _: self._changed.set())
        self._monitor.start()
        self._supervisor = Supervisor("s2connect")
        self._supervisor.keep(self._follow, "mdns-interfaces")

    async def close(self) -> None:
        self._monitor.close()
        await self._supervisor.close()
        await self.zeroconf.async_close()

    async def _follow(self) -> None:
        """Open and close sockets as interfaces come and go (DISC-09)."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                if interfaces := _interfaces():
                    await self.zeroconf.async_update_interfaces(interfaces)
            except BaseException:
                self._changed.set()  # for when this task is started again
                raise


_shared: dict[asyncio.AbstractEventLoop, _Shared] = {}


@contextlib.asynccontextmanager
async def shared_zeroconf(injected: AsyncZeroconf | None = None) -> AsyncIterator[AsyncZeroconf]:
    """Lend the zeroconf instance of this process; the first user opens it and the last one closes it.

    It speaks IPv4 and IPv6 on all interfaces, also on those that come later (DISC-09). An ``injected`` instance is used
    instead; it is never closed here, and its owner keeps its interfaces up to date.

    Raises:
        NotReachable: mDNS cannot be used on this machine now.
    """
    if injected is not None:
        await injected.zeroconf.async_wait_for_start()
        yield injected
        return
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None:
        shared = _shared[loop] = _Shared()
    shared.users += 1
    try:
        await shared.zeroconf.zeroconf.async_wait_for_start()
        yield shared.zeroconf
    finally:
        shared.users -= 1
        if shared.users == 0:
            del _shared[loop]
            await _finish(shared)


async def _finish(shared: _Shared) -> None:
    """Close to the end even when cancelled: it takes milliseconds, and sockets would be left open."""
    closing = asyncio.create_task(shared.close(), name="s2connect mDNS close")
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await closing
        raise


def _open() -> AsyncZeroconf:
    interfaces = _interfaces()
    if not interfaces:
        raise NotReachable("This machine has no network address.", hint="Check its network connection.")
    try:
        return AsyncZeroconf(interfaces=interfaces)
    except OSError as error:
        raise NotReachable(
            f"Discovery cannot use mDNS on this machine ({error.strerror or error}).",
            hint="Check that UDP port 5353 may be shared; Avahi must not have disallow-other-stacks set.",
        ) from error


def _interfaces() -> list[str | int]:
    """Return the interfaces for zeroconf: one per interface and family; loopback only if there is nothing else.

    Over IPv6 it speaks from the link-local address, because only then do others learn the zone. Where several
    interfaces have the same one, as container bridges do, the interface is named by its number.
    """
    own = own_addresses()
    chosen = [a for a in own if not a.interface.is_loopback] or [a for a in own if a.interface.version == 4]
    ipv4 = sorted({str(a.interface.ip) for a in chosen if a.interface.version == 4})
    link_local = [a for a in chosen if a.interface.version == 6 and a.interface.is_link_local]
    shared = Counter(a.interface.ip for a in link_local)
    named = {a.index: str(a.interface.ip) for a in link_local if shared[a.interface.ip] == 1}
    return [
        *ipv4,
        *(named.get(index, index) for index in sorted({a.index for a in chosen if a.interface.version == 6})),
    ]
