"""Order in which the addresses of a host are tried."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

from s2connect.https.own_addresses import OwnAddress

MAX_ADDRESSES = 16
"""Most addresses of one host that are kept."""


def in_order(addresses: Iterable[str], own: Collection[OwnAddress]) -> list[str]:
    """Sort the addresses of a host, best first, and leave out what cannot be connected to.

    IPv4 comes first, then global and unique-local IPv6, then link-local; among equals those in a subnet of this
    machine. This machine's own addresses come last: others may have the same one, behind a container bridge.
    Multicast and the unspecified address are left out. So is a link-local IPv6 address without its zone, unless this
    machine has but one.
    """
    networks = [o.interface.network for o in own if not o.interface.is_link_local]
    mine = {o.interface.ip for o in own}
    zones = {o.index for o in own if o.interface.version == 6 and o.interface.is_link_local}
    ranked = set()
    for text in addresses:
        bare, _, zone = text.partition("%")
        try:
            address = ipaddress.ip_address(bare)
        except ValueError:
            continue
        if address.version == 6 and address.is_link_local:
            if not zone and len(zones) != 1:
                continue
            text = f"{bare}%{zone or min(zones)}"
        if address.is_multicast or address.is_unspecified:
            continue
        rank = 2 if address.is_link_local else 0 if address.version == 4 else 1
        ranked.add((address in mine, rank, not any(address in network for network in networks), text))
    return [text for *_, text in sorted(ranked)][:MAX_ADDRESSES]
