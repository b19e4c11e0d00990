"""This machine's own addresses."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import ifaddr


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """One address of this machine.

    Attributes:
        interface: Address with its prefix, without a zone.
        index: Number of the network interface, which is the zone of a link-local address.
    """

    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    index: int


def own_addresses() -> frozenset[OwnAddress]:
    """Return all addresses of this machine now, loopback included; takes less than a millisecond."""
    found = set()
    for adapter in ifaddr.get_adapters():
        for address in adapter.ips:
            text = address.ip if isinstance(address.ip, str) else address.ip[0]
            try:
                interface = ipaddress.ip_interface(f"{text.partition('%')[0]}/{address.network_prefix}")
            except ValueError:
                continue  # a point-to-point address without a prefix
            found.add(OwnAddress(interface, adapter.index or 0))
    return frozenset(found)
