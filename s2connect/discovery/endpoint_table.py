"""Table of the endpoints in the network, made of DNS records; without sockets, tasks or a clock (DISC-08).

Times are seconds of any one clock. Names of services and hosts are full names in lower case where they are keys.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields

from s2connect.discovery.addresses import MAX_ADDRESSES
from s2connect.discovery.txt import SERVICE_TYPE, FoundEndpoint, Txt, TxtRefused, decode_txt
from s2connect.model.common import Role

MAX_ENDPOINTS = 1000
"""Most endpoints that are kept (SEC-03); more is a flood."""

SETTLE_SECONDS = 0.25
"""Seconds for which records of one endpoint are collected before it is reported: they come in several packets."""

ASK_PAUSES = (1.0, 2.0, 4.0)
"""Seconds to wait after each attempt to get records that are missing; after the last the endpoint is dropped."""

ENTRIES_PER_TICK = 32
"""Endpoints whose records are requested at once."""

REFRESH_AT = (0.80, 0.90)
"""Parts of its lifetime after which a record is asked for again (RFC 6762, section 5.2)."""

RECONFIRM_SECONDS = 5.0
"""Seconds for an endpoint to answer when its presence is checked."""

SHORTEST_LIFETIME, LONGEST_LIFETIME = 10.0, 4500.0
"""Bounds for the lifetime of a record, whatever it says: a short one makes a flood of queries, a long one a ghost."""

FIRST_INTERVAL = 1.0
"""Seconds between the first two searches; the interval doubles each time (RFC 6762, section 5.2)."""

LONGEST_INTERVAL = 3600.0
"""Longest interval between two searches (RFC 6762, section 5.2)."""


def in_turn(endpoints: Iterable[FoundEndpoint]) -> list[FoundEndpoint]:
    """Return endpoints in the order of appearance, but the second one of an address after the first ones of all, etc.

    Whoever advertises a hundred of them does not push others out of a list that has an end (SEC-03). Those without an
    address are in turn as those of one address.
    """
    turns: Counter[str] = Counter()

    def turn(one: FoundEndpoint) -> int:
        address = next(iter(one.addresses), "")
        turns[address] += 1
        return turns[address]

    return sorted(endpoints, key=turn)


def _fits_in_query(name: str) -> bool:
    """Return whether a name fits in a query; one that was read with bytes that are no UTF-8 may have grown."""
    return len(name.encode()) < 255 and all(0 < len(label.encode()) < 64 for label in name.removesuffix(".").split("."))


@dataclass(slots=True)
class _Lifetime:
    """Lifetime of a record, and the times of its refreshes."""

    start: float
    expiry: float
    refreshed: int = 0

    @classmethod
    def of(cls, ttl: float, now: float) -> _Lifetime:
        return cls(now, now + min(max(ttl, SHORTEST_LIFETIME), LONGEST_LIFETIME))

    def refresh_at(self) -> float:
        if self.refreshed >= len(REFRESH_AT):
            return math.inf
        return self.start + (self.expiry - self.start) * REFRESH_AT[self.refreshed]


@dataclass(slots=True)
class _Host:
    """A host that services name: those services, and since and until when it has which addresses."""

    services: set[str] = field(default_factory=set)
    addresses: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(slots=True)
class _Entry:
    name: str
    ask_at: float
    settle_at: float  # when it is reported; infinite if nothing is new
    queries: int = 0
    pointers: dict[Role | None, _Lifetime] = field(default_factory=dict)
    txt: Txt | None = None
    refused: bool = False
    host: str = ""
    service: _Lifetime | None = None

    def touch(self, now: float) -> None:
        self.settle_at = min(self.settle_at, now + SETTLE_SECONDS)

    def lacks_records(self) -> bool:
        return not self.refused and (self.txt is None or self.service is None)


@dataclass(slots=True)
class Wanted:
    """Queries to send now: a search for all, SRV and TXT of these services, A and AAAA of these hosts."""

    search: bool = False
    services: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)


class EndpointTable:
    """The table of endpoints in the network; whatever strangers send, it stays bounded (SEC-03).

    ``order`` sorts the addresses of a host, best first, and leaves out useless ones. ``endpoints`` has the usable
    endpoints by service name, ``overflow`` counts the pointers that were not stored because the table was full.
    """

    def __init__(self, capacity: int = MAX_ENDPOINTS, order: Callable[[Iterable[str]], Iterable[str]] = sorted) -> None:
        self._capacity = capacity
        self._order = order
        self._entries: dict[str, _Entry] = {}
        self._unproven: dict[str, None] = {}
        self._hosts: dict[str, _Host] = {}
        self._search_at = self._searched_at = -math.inf
        self._interval = 0.0
        self.overflow = 0
        self.endpoints: dict[str, FoundEndpoint] = {}

    def __len__(self) -> int:
        return len(self._entries)

    # What arrives

    def pointer(self, name: str, role: Role | None, ttl: float, now: float) -> None:
        """Add a service that was named under the service type (``role`` is None) or a subtype."""
        key = name.lower()
        if not key.endswith(f".{SERVICE_TYPE}") or not _fits_in_query(name):
            return
        entry = self._entries.get(key)
        if entry is None:
            if ttl <= 0 or not self._make_room():
                return
            entry = self._entries[key] = _Entry(name, now + SETTLE_SECONDS, now + SETTLE_SECONDS)
            self._unproven[key] = None
        if ttl > 0:
            if role not in entry.pointers:
                entry.touch(now)
            entry.pointers[role] = _Lifetime.of(ttl, now)
        elif role is None:
            entry.pointers.clear()
        elif entry.pointers.pop(role, None):
            entry.touch(now)

    def service(self, name: str, host: str, ttl: float, now: float) -> None:
        """Set the host of a service."""
        entry = self._entries.get(name.lower())
        if entry is None or not _fits_in_query(host):
            return
        if ttl <= 0:
            entry.service = _Lifetime(now, now)
            entry.touch(now)
            return
        if host.lower() != entry.host.lower():
            self._leave_host(entry)
            entry.host = host
            self._hosts.setdefault(host.lower(), _Host()).services.add(name.lower())
            entry.queries, entry.ask_at = 0, now + SETTLE_SECONDS
            entry.touch(now)
        elif entry.service is None:
            entry.touch(now)
        entry.service = _Lifetime.of(ttl, now)

    def text(self, name: str, data: bytes, ttl: float, now: float) -> TxtRefused | None:
        """Set the TXT record of a service; return why it is refused if that is new."""
        entry = self._entries.get(name.lower())
        if entry is None or ttl <= 0:
            return None
        try:
            txt = decode_txt(data)
        except TxtRefused as refusal:
            known, entry.refused = entry.refused, True
            entry.txt = None
            entry.touch(now)
            return None if known else refusal
        if txt != entry.txt:
            entry.txt, entry.refused = txt, False
            entry.touch(now)
        return None

    def addresses(self, host: str, addresses: Iterable[str], ttl: float, now: float, *, whole: bool) -> None:
        """Set addresses of a host, all of one family and, if ``whole``, all it has of it."""
        known_host = self._hosts.get(host.lower())
        if known_host is None:
            return
        known = known_host.addresses
        before = set(known)
        new = list(addresses)[:MAX_ADDRESSES]
        for address in new:
            if ttl > 0:
                known[address] = (now, _Lifetime.of(ttl, now).expiry)
            else:
                known.pop(address, None)
        if whole and new and ttl > 0:
            family = ":" in new[0]
            for address in [a for a, (seen, _) in known.items() if (":" in a) == family and now - seen > 1.0]:
                del known[address]
        while len(known) > MAX_ADDRESSES:
            del known[min(known, key=lambda a: known[a][0])]
        if set(known) != before:
            for name in known_host.services:
                self._entries[name].touch(now)

    def network_changed(self, now: float) -> None:
        """Search anew, because this machine has another address or link."""
        self._search_at, self._interval = max(now, self._searched_at + FIRST_INTERVAL), 0.0

    def reconfirm(self, now: float) -> None:
        """Query all endpoints anew; those that do not answer within ``RECONFIRM_SECONDS`` are removed."""
        for entry in self._entries.values():
            if entry.service is not None:
                entry.service = _Lifetime(
                    now - RECONFIRM_SECONDS * 4, min(entry.service.expiry, now + RECONFIRM_SECONDS)
                )

    # What follows

    def tick(self, now: float) -> tuple[set[str], Wanted]:
        """Apply deadlines; return the keys of endpoints that came, changed or went, and the queries to send now."""
        changed: set[str] = set()
        wanted = Wanted()
        for key, entry in list(self._entries.items()):
            for role in [role for role, lifetime in entry.pointers.items() if lifetime.expiry <= now]:
                del entry.pointers[role]
                entry.settle_at = min(entry.settle_at, now)
            lost = entry.service is not None and entry.service.expiry <= now
            given_up = entry.lacks_records() and entry.queries >= len(ASK_PAUSES) and entry.ask_at <= now
            if not entry.pointers or lost or given_up:
                changed |= self._drop(key)
                if lost:
                    self.network_changed(now)
                continue
            self._expire_addresses(entry, now)
            if entry.settle_at <= now and entry.service is not None:
                entry.settle_at = math.inf
                changed |= self._settle(key, entry)
            if len(wanted.services) < ENTRIES_PER_TICK:
                self._ask(entry, wanted, now)
        if self._search_at <= now:
            wanted.search = True
            self._searched_at = now
            self._interval = min(self._interval * 2 or FIRST_INTERVAL, LONGEST_INTERVAL)
            self._search_at = now + self._interval
        return changed, wanted

    def next_tick(self) -> float:
        """Return the time at which ``tick`` has something to do if nothing arrives before."""
        due = self._search_at
        for entry in self._entries.values():
            if self._lacks(entry):
                due = min(due, entry.ask_at)
            if entry.service is not None:
                due = min(due, entry.settle_at, entry.service.expiry, entry.service.refresh_at())
            for lifetime in entry.pointers.values():
                due = min(due, lifetime.expiry, lifetime.refresh_at())
        return due

    def known_pointers(self, now: float) -> list[tuple[str, Role | None, float]]:
        """Return the pointers that need not be repeated in answer to a search, with their remaining seconds."""
        return [
            (entry.name, role, lifetime.expiry - now)
            for entry in self._entries.values()
            for role, lifetime in entry.pointers.items()
            if lifetime.expiry - now > (lifetime.expiry - lifetime.start) / 2
        ]

    def _make_room(self) -> bool:
        """Return whether one more fits; an endpoint without a usable record yet makes room."""
        if len(self._entries) < self._capacity:
            return True
        self.overflow += 1
        if not self._unproven:
            return False
        self._drop(next(iter(self._unproven)))
        return True

    def _drop(self, key: str) -> set[str]:
        self._leave_host(self._entries.pop(key))
        self._unproven.pop(key, None)
        return {key} if self.endpoints.pop(key, None) else set()

    def _lacks(self, entry: _Entry) -> bool:
        without_address = not entry.refused and not self._addresses(entry)
        return entry.lacks_records() or (without_address and entry.queries < len(ASK_PAUSES))

    def _addresses(self, entry: _Entry) -> dict[str, tuple[float, float]]:
        host = self._hosts.get(entry.host.lower())
        return host.addresses if host else {}

    def _leave_host(self, entry: _Entry) -> None:
        host = self._hosts.get(entry.host.lower())
        if host is not None:
            host.services.discard(entry.name.lower())
            if not host.services:
                del self._hosts[entry.host.lower()]

    def _expire_addresses(self, entry: _Entry, now: float) -> None:
        known = self._addresses(entry)
        for address in [a for a, (_, expiry) in known.items() if expiry <= now]:
            del known[address]
            entry.settle_at = min(entry.settle_at, now)

    def _settle(self, key: str, entry: _Entry) -> set[str]:
        before = self.endpoints.get(key)
        if entry.txt is None:
            if before is not None:
                del self.endpoints[key]
                self._unproven[key] = None
            return {key} if before is not None else set()
        self._unproven.pop(key, None)
        after = FoundEndpoint(
            **{each.name: getattr(entry.txt, each.name) for each in fields(Txt)},
            instance=entry.name[: -len(SERVICE_TYPE) - 1],
            roles=frozenset(role for role in entry.pointers if role is not None),
            host=entry.host.rstrip("."),
            addresses=tuple(self._order(self._addresses(entry))),
        )
        self.endpoints[key] = after
        return {key} if before != after else set()

    def _ask(self, entry: _Entry, wanted: Wanted, now: float) -> None:
        service = entry.service
        if self._lacks(entry) and entry.ask_at <= now:
            entry.ask_at = now + ASK_PAUSES[entry.queries]
            entry.queries += 1
        elif service is not None and service.refresh_at() <= now:
            while service.refresh_at() <= now:
                service.refreshed += 1
        else:
            for lifetime in entry.pointers.values():
                while lifetime.refresh_at() <= now:
                    lifetime.refreshed += 1
                    self._search_at = now
            return
        wanted.services.append(entry.name)
        if entry.host and entry.host not in wanted.hosts:
            wanted.hosts.append(entry.host)
