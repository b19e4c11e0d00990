"""Advertiser: publishes this endpoint in the local network (DISC-01, DISC-02, DISC-07).

Registration, announcements and responses are zeroconf's. By hand are the probe and the watch for a rival, because
zeroconf compares shared records only, and the goodbye of one address or role, because it withdraws whole services.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Self

from zeroconf import Error as ZeroconfError
from zeroconf import RecordUpdate, RecordUpdateListener, ServiceInfo, ServiceNameAlreadyRegistered, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from s2connect.discovery.dns import (
    AAAA,
    CLASS_IN,
    SRV,
    TXT,
    A,
    DNSAddress,
    DNSOutgoing,
    DNSRecord,
    DNSService,
    query,
    response,
)
from s2connect.discovery.network import NetworkMonitor
from s2connect.discovery.shared import shared_zeroconf
from s2connect.discovery.txt import SERVICE_TYPE, SUBTYPES, Advertisement, encode_txt
from s2connect.errors import ConfigurationError, NameConflict
from s2connect.https.own_addresses import own_addresses
from s2connect.model.common import Role
from s2connect.model.text import for_display
from s2connect.supervisor import FailureLog, Supervisor

log = logging.getLogger(__name__)

PROBES = 3
"""Questions to the network whether a name is taken (RFC 6762, section 8.1)."""

PROBE_SECONDS = 0.25
"""Seconds to wait for an answer to each probe (RFC 6762, section 8.1)."""

ANSWER_SECONDS = 1.0
"""Seconds in which another device that has our name answers a question for it."""

CLAIM_TTL = 1
"""Seconds for which others remember the records of :func:`claim_name`."""

GOODBYES = 3
"""Times that a goodbye is sent: it is not acknowledged."""

GOODBYE_SECONDS = 0.125
"""Pause between two goodbyes."""


class Advertiser:
    """Publishes one endpoint from ``start`` to ``close``, or as an asynchronous context manager.

    The records are those of DISC-01 and DISC-03, under the service type and one subtype per role, with A and AAAA
    records of the endpoint's own host name. They follow the addresses of this machine (DISC-09).

    Args:
        advertisement: What to publish.
        zeroconf: An instance to use instead of this process's own.
        on_conflict: Called once if another device takes the name after ``start`` (DISC-07), and once more if one does
            after :meth:`is_contested` was false. The endpoint is published on; both devices are then found by chance
            only.
        failures: Reports errors of ours while the addresses of this machine are followed.
    """

    def __init__(
        self,
        advertisement: Advertisement,
        *,
        zeroconf: AsyncZeroconf | None = None,
        on_conflict: Callable[[NameConflict], None] | None = None,
        failures: FailureLog | None = None,
    ) -> None:
        self._advertisement = advertisement
        self._injected = zeroconf
        self._on_conflict = on_conflict
        self._failures = failures
        self._resources = contextlib.AsyncExitStack()
        self._zeroconf: AsyncZeroconf | None = None
        self._infos: dict[Role | None, ServiceInfo] = {}
        self._addresses: list[str] = []
        self._guard: _NameGuard | None = None
        self._conflict: NameConflict | None = None
        self._changed = asyncio.Event()
        self._link_came_up = False
        self._updating = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Ask whether the name is free, then publish; takes about 1.2 seconds. Nothing is published if it fails.

        Raises:
            NameConflict: Another device has this name (DISC-07).
            NotReachable: mDNS cannot be used on this machine now.
        """
        assert self._zeroconf is None, "an Advertiser is started once"
        async with contextlib.AsyncExitStack() as stack:
            self._zeroconf = await stack.enter_async_context(shared_zeroconf(self._injected))
            core = self._zeroconf.zeroconf
            monitor = NetworkMonitor(self._network_changed)  # what changes from here on is followed
            stack.callback(monitor.close)
            monitor.start()
            self._addresses = published_addresses()
            self._guard = _NameGuard(self._advertisement, self._addresses)
            core.async_add_listener(self._guard, None)
            stack.callback(core.async_remove_listener, self._guard)
            await self._probe(core, self._guard)
            self._guard.rival.add_done_callback(self._conflict_came_up)
            stack.push_async_callback(self._withdraw)
            await self._publish(self._advertisement)
            supervisor = await stack.enter_async_context(Supervisor("s2connect", self._failures))
            supervisor.keep(self._follow, "advertiser")
            self._resources = stack.pop_all()

    async def update(self, advertisement: Advertisement) -> None:
        """Publish something else under the same host name: another TXT record, port or roles.

        Raises:
            ConfigurationError: The host name differs; close and start a new Advertiser.
        """
        if advertisement.host.lower() != self._advertisement.host.lower():
            raise ConfigurationError("An advertised host name does not change; start a new advertisement.")
        self._advertisement = advertisement
        async with self._updating:
            if self._infos:
                await self._publish(advertisement)

    async def is_contested(self) -> bool:
        """Return whether another device answers for our name now, or has shown itself since the conflict or last call.

        It takes a second. If none does a conflict is over. Cancel-safe.
        """
        assert self._zeroconf is not None
        assert self._guard is not None
        guard = self._guard
        self._zeroconf.zeroconf.async_send(self._question())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.shield(guard.rival)
        contested = guard.rival.done()
        guard.watch_anew()
        if not contested:
            self._conflict = None
            guard.rival.add_done_callback(self._conflict_came_up)
        return contested

    async def close(self) -> None:
        """Withdraw with a goodbye (DISC-02); idempotent."""
        await self._resources.aclose()

    async def _probe(self, core: Zeroconf, guard: _NameGuard) -> None:
        advertisement = self._advertisement
        if core.registry.async_get_info_name(advertisement.service.lower()) is not None:
            raise _conflict(advertisement)
        probe = self._question()
        # What we mean to publish makes the query a probe, which the owner answers without delay.
        probe.add_authorative_answer(_infos(advertisement, self._addresses)[None].dns_pointer())
        for _ in range(PROBES):
            core.async_send(probe)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_SECONDS):
                    raise await asyncio.shield(guard.rival)

    def _question(self) -> DNSOutgoing:
        service, host = self._advertisement.service, f"{self._advertisement.host}."
        return query([(service, SRV), (service, TXT), (host, A), (host, AAAA)])

    async def _publish(self, advertisement: Advertisement) -> None:
        assert self._zeroconf is not None
        assert self._guard is not None
        core = self._zeroconf.zeroconf
        addresses = published_addresses()
        self._guard.expect(advertisement, addresses)
        wanted = _infos(advertisement, addresses)
        gone = _pointers_and_addresses(self._infos) - _pointers_and_addresses(wanted)
        for role in self._infos.keys() - wanted.keys():
            core.registry.async_remove(self._infos.pop(role))
        announcements = []
        for role, info in wanted.items():
            if role in self._infos:
                announcements.append(await self._zeroconf.async_update_service(info))
            else:
                # The name was probed already, by its unique records and not by its shared ones.
                try:
                    announcements.append(await self._zeroconf.async_register_service(info, cooperating_responders=True))
                except ServiceNameAlreadyRegistered:
                    if role is not None:
                        log.error("This version of zeroconf publishes no subtypes: it does not look at ServiceInfo.key")
                        continue
                    raise _conflict(advertisement) from None
            self._infos[role] = info
        self._addresses = addresses
        await asyncio.gather(*announcements, _say_goodbye(core, gone))

    async def _withdraw(self) -> None:
        assert self._zeroconf is not None
        goodbyes = []
        for info in self._infos.values():
            if self._conflict is None:
                goodbyes.append(await self._zeroconf.async_unregister_service(info))
            else:  # a goodbye would withdraw the other device, too
                self._zeroconf.zeroconf.registry.async_remove(info)
        self._infos = {}
        await asyncio.gather(*goodbyes)

    def _network_changed(self, link_came_up: bool) -> None:
        self._link_came_up |= link_came_up
        self._changed.set()

    async def _follow(self) -> None:
        """Announce again when this machine gets another address or comes back to its network (DISC-09)."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            came_up, self._link_came_up = self._link_came_up, False
            async with self._updating:
                if not came_up and published_addresses() == self._addresses:
                    continue
                try:
                    await self._publish(self._advertisement)
                except (OSError, ZeroconfError, NameConflict) as error:
                    log.warning("The advertisement could not follow a change of the network: %s", error)
                except BaseException:
                    self._network_changed(True)  # for when this task is started again
                    raise

    def _conflict_came_up(self, rival: asyncio.Future[NameConflict]) -> None:
        if rival.cancelled():
            return
        assert self._guard is not None
        self._guard.watch_anew()
        self._conflict = rival.result()
        log.warning("%s", self._conflict.what)
        self._network_changed(True)  # announce once more, so that the other device learns of it, too
        if self._on_conflict is not None:
            self._on_conflict(self._conflict)


async def claim_name(advertisement: Advertisement, zeroconf: AsyncZeroconf | None = None) -> None:
    """Let the device that has our name notice this one: send our records, for a second and beside those of that device.

    Without it only the one that starts second knows: the first answers its question (:meth:`Advertiser.start`), and
    learns nothing by that.

    Raises:
        NotReachable: mDNS cannot be used on this machine now.
    """
    host, claim = f"{advertisement.host}.", response()
    for address in map(ipaddress.ip_address, published_addresses()):
        kind = A if address.version == 4 else AAAA
        claim.add_answer_at_time(DNSAddress(host, kind, CLASS_IN, CLAIM_TTL, address.packed), 0)
    claim.add_answer_at_time(
        DNSService(advertisement.service, SRV, CLASS_IN, CLAIM_TTL, 0, 0, advertisement.port, host), 0
    )
    async with shared_zeroconf(zeroconf) as used:
        used.zeroconf.async_send(claim)


class _NameGuard(RecordUpdateListener):
    """Detects other hosts that claim our names.

    Only what arrives counts, never what zeroconf remembers: that may be from our own past.
    """

    def __init__(self, advertisement: Advertisement, addresses: Collection[str]) -> None:
        self.watch_anew()
        self._own: set[bytes] = set()
        self._ports: set[int] = set()
        self.expect(advertisement, addresses)

    def watch_anew(self) -> None:
        """Forget the rival that was seen; :attr:`rival` is that which is seen next."""
        self.rival: asyncio.Future[NameConflict] = asyncio.get_running_loop().create_future()

    def expect(self, advertisement: Advertisement, addresses: Collection[str]) -> None:
        """From now on these are our own records; those that were stay ours, their echo may still come."""
        self._shown = advertisement
        self._service = advertisement.service.lower()
        self._host = f"{advertisement.host.lower()}."
        self._ports.add(advertisement.port)
        self._own |= {ipaddress.ip_address(address).packed for address in addresses}

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Handle new records of the cache."""
        rivals = [update.new for update in records if self._is_rival(update.new, now)]
        if rivals and not self.rival.done():
            addresses = [ipaddress.ip_address(one.address) for one in rivals if isinstance(one, DNSAddress)]
            ports = [one.port for one in rivals if isinstance(one, DNSService)]
            conflict = _conflict(self._shown)
            # A link-local address of IPv6 needs a zone, which is not in the record.
            conflict.address = next((str(one) for one in sorted(addresses, key=lambda one: one.is_link_local)), "")
            conflict.port = ports[0] if ports else None
            self.rival.set_result(conflict)

    def _is_rival(self, record: DNSRecord, now: float) -> bool:
        if record.is_expired(now):
            return False
        if isinstance(record, DNSService) and record.key == self._service:
            return record.server_key != self._host or record.port not in self._ports
        if isinstance(record, DNSAddress) and record.key == self._host and record.address not in self._own:
            # Another program on this machine may have seen a new address before we did.
            return record.address not in {own.interface.ip.packed for own in own_addresses()}
        return False


def published_addresses() -> list[str]:
    """Addresses of this machine that others can reach, in a stable order; those of loopback if it has no others."""
    found = {own.interface.ip for own in own_addresses()}
    public = {address for address in found if not address.is_loopback}
    return sorted(map(str, public or found))


def _infos(advertisement: Advertisement, addresses: Iterable[str]) -> Mapping[Role | None, ServiceInfo]:
    """Describe the service once under its type and once under each subtype."""

    def info(service_type: str, role: Role | None) -> ServiceInfo:
        made = ServiceInfo(
            service_type,
            advertisement.service,
            port=advertisement.port,
            properties=encode_txt(advertisement),
            server=f"{advertisement.host}.",
            parsed_addresses=list(addresses),
        )
        if role is not None:
            # zeroconf keeps one entry per instance. Under a key of its own a second one adds the subtype's pointer.
            made.key = f"{made.key} {role}"
        return made

    infos: dict[Role | None, ServiceInfo] = {None: info(SERVICE_TYPE, None)}
    try:
        infos |= {role: info(SUBTYPES[role], role) for role in Role if role in advertisement.roles}
    except (AttributeError, TypeError) as error:
        # The attribute is not zeroconf's public API. Whoever looks for all of the type finds us all the same.
        log.error("This version of zeroconf publishes no subtypes (ServiceInfo.key): %s", error)
    return infos


def _pointers_and_addresses(infos: Mapping[Role | None, ServiceInfo]) -> set[DNSRecord]:
    return {record for info in infos.values() for record in (info.dns_pointer(), *info.dns_addresses())}


async def _say_goodbye(core: Zeroconf, records: Iterable[DNSRecord]) -> None:
    goodbye = response()
    for record in records:
        record.ttl = 0
        goodbye.add_answer_at_time(record, 0)
    for _ in range(GOODBYES if goodbye.answers else 0):
        core.async_send(goodbye)
        await asyncio.sleep(GOODBYE_SECONDS)


def _conflict(advertisement: Advertisement) -> NameConflict:
    return NameConflict(f"Another device in this network has the name {for_display(advertisement.host, 100)}.")
