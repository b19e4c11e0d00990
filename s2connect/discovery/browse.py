"""Browser: watches which endpoints are in the local network (DISC-04, DISC-08).

Sockets, parsing and answers are zeroconf's. Its ServiceBrowser is not used, because it keeps and resolves as many
services as a stranger invents (SEC-03), and asks nobody whether an endpoint is still there (:meth:`Browser.reconfirm`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from zeroconf import RecordUpdate, RecordUpdateListener, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from s2connect.discovery.addresses import in_order
from s2connect.discovery.dns import (
    AAAA,
    CLASS_IN,
    PTR,
    SRV,
    TXT,
    A,
    DNSAddress,
    DNSPointer,
    DNSRecord,
    DNSService,
    DNSText,
    address_text,
    query,
)
from s2connect.discovery.endpoint_table import EndpointTable, Wanted, in_turn
from s2connect.discovery.network import NetworkMonitor
from s2connect.discovery.shared import shared_zeroconf
from s2connect.discovery.txt import SERVICE_TYPE, SUBTYPES, FoundEndpoint
from s2connect.errors import NotReachable
from s2connect.https.own_addresses import own_addresses
from s2connect.model.common import Role
from s2connect.model.text import for_display
from s2connect.supervisor import process_failures

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
"""Shortest time between two looks at the table: a flood of records costs no more than that."""

MAX_REFUSALS_LOGGED = 20
"""Refused TXT records that are logged one by one; the rest is only counted."""

MAX_KNOWN_ANSWERS = 200
"""Most pointers that are repeated in a search so that others need not send them."""

FIND_TIMEOUT = 5.0
"""Seconds to wait for an endpoint of a name; a healthy one needs less than two."""

_ROLES: dict[str, Role | None] = {SERVICE_TYPE: None} | {name: role for role, name in SUBTYPES.items()}


@dataclass(frozen=True, slots=True)
class _Event:
    endpoint: FoundEndpoint


class Appeared(_Event):
    """An endpoint is there."""


class Changed(_Event):
    """An endpoint has another TXT record or other addresses than before."""


class Vanished(_Event):
    """An endpoint has withdrawn its records or does not answer any more."""


Event = Appeared | Changed | Vanished


class Browser:
    """Watches the network while it is open; iterate over it for events, in one place only.

    ::

        async with Browser() as browser:
            async for event in browser:
                ...

    Whoever reads slowly gets several changes of one endpoint as one event. At most ``MAX_ENDPOINTS`` are kept.

    Args:
        role: Only endpoints that host this role; None for all.
        zeroconf: An instance to use instead of this process's own.

    Attributes:
        refused: How many services were left out because of their TXT record (DISC-03).
    """

    def __init__(self, role: Role | None = None, zeroconf: AsyncZeroconf | None = None) -> None:
        self._role = role
        self._injected = zeroconf
        self._own = own_addresses()
        self._table = EndpointTable(order=lambda addresses: in_order(addresses, self._own))
        self._reported: dict[str, FoundEndpoint] = {}
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._closed = False
        self._zeroconf: Zeroconf | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = 0.0
        self._resources = contextlib.AsyncExitStack()
        self.refused = 0

    async def __aenter__(self) -> Self:
        """Begin to watch.

        Raises:
            NotReachable: mDNS cannot be used on this machine now.
        """
        async with contextlib.AsyncExitStack() as stack:
            zeroconf = await stack.enter_async_context(shared_zeroconf(self._injected))
            self._zeroconf = zeroconf.zeroconf
            listener = _Listener(self)
            self._zeroconf.async_add_listener(listener, None)
            stack.callback(self._zeroconf.async_remove_listener, listener)
            monitor = NetworkMonitor(lambda _: self._network_changed())
            stack.callback(monitor.close)
            monitor.start()
            stack.callback(self._stop)
            self._tick()
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    @property
    def overflow(self) -> int:
        """Return how many pointers were not stored because too many endpoints are in the network."""
        return self._table.overflow

    def found(self) -> list[FoundEndpoint]:
        """Return the endpoints that are there now, in the order of :func:`in_turn`."""
        return in_turn(endpoint for endpoint in self._table.endpoints.values() if self._wanted(endpoint))

    def reconfirm(self) -> None:
        """Query all endpoints anew; those that do not answer within 5 seconds vanish.

        Without it, an endpoint that leaves without a goodbye vanishes within two minutes.
        """
        self._table.reconfirm(self._now())
        self._schedule()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event; cancel-safe. The iteration ends when the browser is closed."""
        while not self._closed:
            while self._changed:
                key = next(iter(self._changed))
                del self._changed[key]
                event = self._event(key)
                if event is not None:
                    return event
            self._wake.clear()
            await self._wake.wait()
        raise StopAsyncIteration

    def _event(self, key: str) -> Event | None:
        before, after = self._reported.pop(key, None), self._table.endpoints.get(key)
        if after is not None and not self._wanted(after):
            after = None
        if after is None:
            return Vanished(before) if before is not None else None
        self._reported[key] = after
        if before is None:
            return Appeared(after)
        return Changed(after) if before != after else None

    def _wanted(self, endpoint: FoundEndpoint) -> bool:
        return self._role is None or self._role in endpoint.roles

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _stop(self) -> None:
        self._closed = True
        self._wake.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _network_changed(self) -> None:
        self._own = own_addresses()
        self._table.network_changed(self._now())
        self._schedule()

    def receive(self, records: list[DNSRecord]) -> None:
        """Take in what one packet brought."""
        now = self._now()
        overflow = self._table.overflow
        hosts: dict[tuple[str, int, bool, bool], list[DNSAddress]] = defaultdict(list)
        for record in sorted(records, key=_reading_order):
            ttl = float(record.ttl)
            if isinstance(record, DNSPointer):
                if record.key in _ROLES:
                    self._table.pointer(record.alias, _ROLES[record.key], ttl, now)
            elif isinstance(record, DNSService):
                self._table.service(record.name, record.server, ttl, now)
            elif isinstance(record, DNSText):
                refusal = self._table.text(record.name, record.text, ttl, now)
                if refusal is not None:
                    self._refuse(record.name, str(refusal))
            elif isinstance(record, DNSAddress):
                hosts[record.key, record.type, ttl > 0, record.unique].append(record)
        for (host, _, _, unique), found in hosts.items():
            self._table.addresses(host, map(address_text, found), float(found[0].ttl), now, whole=unique)
        if overflow == 0 < self._table.overflow:
            log.warning("More endpoints than can be real are in this network; not all of them are listed")
        self._schedule()

    def _refuse(self, name: str, reason: str) -> None:
        self.refused += 1
        if self.refused <= MAX_REFUSALS_LOGGED:
            log.info("The TXT record of %r is not used: %s", for_display(name.partition(".")[0]), reason)

    def _schedule(self) -> None:
        """Look at the table soon, and not before the shortest pause is over."""
        self._arm(max(self._now(), self._ticked_at) + TICK_SECONDS)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._ticked_at = self._now()
        try:
            changed, wanted = self._table.tick(now)
            if changed:
                self._changed |= dict.fromkeys(changed)
                self._wake.set()
            self._send(wanted, now)
        except Exception as error:  # it costs this look, and not all that would follow
            process_failures.failed("browser", error)
        self._arm(max(self._table.next_tick(), now + TICK_SECONDS))

    def _send(self, wanted: Wanted, now: float) -> None:
        assert self._zeroconf is not None
        if wanted.search:
            search = query((name, PTR) for name in _ROLES)
            for name, role, rest in self._table.known_pointers(now)[:MAX_KNOWN_ANSWERS]:
                service_type = SERVICE_TYPE if role is None else SUBTYPES[role]
                search.add_answer_at_time(DNSPointer(service_type, PTR, CLASS_IN, int(rest), name), 0)
            self._zeroconf.async_send(search)
        if wanted.services:
            services = [(name, kind) for name in wanted.services for kind in (SRV, TXT)]
            hosts = [(name, kind) for name in wanted.hosts for kind in (A, AAAA)]
            self._zeroconf.async_send(query(services + hosts))


async def find(
    name: str, role: Role | None = None, *, zeroconf: AsyncZeroconf | None = None, timeout: float = FIND_TIMEOUT
) -> FoundEndpoint:
    """Return the first endpoint of a name that is seen in the local network and has a pairing URL; cancel-safe.

    Names are no proof: anybody can take one. Pairing proves by the code that the endpoint is the one that shows it.

    Args:
        name: Its name for people, its instance name or its host name, in any case.
        role: Only endpoints that host this role; None for all.
        zeroconf: An instance to use instead of this process's own.
        timeout: Seconds to wait.

    Raises:
        NotReachable: None has this name, or mDNS cannot be used.
    """
    async with Browser(role, zeroconf) as browser:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                async for event in browser:
                    found = event.endpoint
                    names = {each.casefold() for each in (found.name, found.instance, found.host)}
                    if found.pairing_url and name.casefold() in names and not isinstance(event, Vanished):
                        return found
        others = ", ".join(each.title for each in browser.found()[:20]) or "none"
    raise NotReachable(
        f"No endpoint named {for_display(name, 100)} was found in this network; found were: {others}.",
        hint="Check that it is on and ready for pairing, and in the same network; or give its pairing URL.",
    )


class _Listener(RecordUpdateListener):
    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Handle new records; a record that only expired in the cache of zeroconf changes nothing."""
        self._browser.receive([update.new for update in records if update.new is not update.old])


def _reading_order(record: DNSRecord) -> int:
    """Return the sort key of a record: services before hosts, because a packet may have them the other way round."""
    kinds = (PTR, SRV, TXT)
    return kinds.index(record.type) if record.type in kinds else len(kinds)
