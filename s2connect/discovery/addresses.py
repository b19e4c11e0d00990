"""Which of a host's addresses to try first."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from s2connect.discovery.network import OwnAddress

MAX_ADDRESSES = 16
"""Most addresses of one host that are kept."""


def in_order(addresses: Iterable[str], own: Iterable[OwnAddress]) -> list[str]:
    """Sort the addresses of a host, best first, and leave out what cannot be connected to.

    IPv4 comes first, then global and unique-local IPv6, then link-local; among equals those in a subnet of this
    machine. This machine's own addresses come last: others may have the same one, behind a container bridge.
    A link-local IPv6 address without its zone, multicast and the unspecified address are left out.
    """
    networks = [o.interface.network for o in own if not o.interface.is_link_local]
    mine = {o.interface.ip for o in own}
    ranked = []
    for text in dict.fromkeys(addresses):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        zone = getattr(address, "scope_id", None)
        if (
            address.is_multicast
            or address.is_unspecified
            or (address.version == 6 and address.is_link_local and not zone)
        ):
            continue
        plain = ipaddress.ip_address(text.partition("%")[0])
        rank = 2 if address.is_link_local else 0 if address.version == 4 else 1
        ranked.append((plain in mine, rank, not any(plain in network for network in networks), text))
    return [text for *_, text in sorted(ranked)][:MAX_ADDRESSES]
