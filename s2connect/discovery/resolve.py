"""Addresses of ``.local`` names by mDNS, without help of the operating system (DISC-06)."""

from __future__ import annotations

import asyncio

from zeroconf import BadTypeInNameException, DNSQuestionType
from zeroconf.asyncio import AsyncZeroconf

from s2connect.discovery.addresses import in_order
from s2connect.discovery.dns import AddressResolver
from s2connect.discovery.shared import shared_zeroconf
from s2connect.errors import NotReachable
from s2connect.https.own_addresses import own_addresses
from s2connect.model.text import for_display

RESOLVE_TIMEOUT = 3.0
"""Seconds to wait for a device to answer to its name; a healthy one needs less than a second."""

REST_SECONDS = 0.05
"""Seconds to wait for the rest of an answer: addresses come in several packets."""


def is_local_name(host: str) -> bool:
    """Return whether a name is looked up by mDNS (VER-04)."""
    return host.rstrip(".").lower().endswith(".local")


async def resolve(host: str, *, zeroconf: AsyncZeroconf | None = None, timeout: float = RESOLVE_TIMEOUT) -> list[str]:
    """Ask the network for the addresses of a ``.local`` name, A and AAAA; cancel-safe.

    Args:
        host: The name.
        zeroconf: An instance to use instead of this process's own.
        timeout: Seconds to wait.

    Returns:
        Addresses, best first, at least one; a link-local IPv6 address has its zone (``fe80::1%2``).

    Raises:
        NotReachable: Nobody answered, or mDNS cannot be used.
    """
    name = host.rstrip(".")
    try:
        wanted = AddressResolver(f"{name}.")
    except BadTypeInNameException:
        raise _unknown(name) from None
    async with shared_zeroconf(zeroconf) as shared:
        core = shared.zeroconf
        # Asked for by multicast: an answer to this host alone may reach another program that shares the port.
        if not wanted.load_from_cache(core) and await wanted.async_request(core, timeout * 1000, DNSQuestionType.QM):
            await asyncio.sleep(REST_SECONDS)
            wanted.load_from_cache(core)
    found = in_order(wanted.parsed_scoped_addresses(), own_addresses())
    if not found:
        raise _unknown(name)
    return found


def _unknown(name: str) -> NotReachable:
    return NotReachable(
        f"The name {for_display(name, 100)} is not known in this network: no device has it.",
        hint="Check that it is on and in the same network as this machine, and the spelling; or give its address.",
    )
