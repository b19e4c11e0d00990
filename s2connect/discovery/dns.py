"""The DNS records and questions of mDNS, from zeroconf's public names, and the numbers of RFC 1035 and RFC 6762."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from zeroconf import (  # type: ignore[attr-defined]  # zeroconf has these names for users but not in its __all__
    AddressResolver,
    DNSAddress,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSRecord,
    DNSService,
    DNSText,
)

__all__ = [
    "AddressResolver",
    "DNSAddress",
    "DNSOutgoing",
    "DNSPointer",
    "DNSRecord",
    "DNSService",
    "DNSText",
]

A, PTR, TXT, AAAA, SRV = 1, 12, 16, 28, 33
CLASS_IN = 1

_QUERY_FLAGS = 0
_RESPONSE_FLAGS = 0x8400


def query(questions: Iterable[tuple[str, int]]) -> DNSOutgoing:
    """Return a multicast query for records of these names and types."""
    message = DNSOutgoing(_QUERY_FLAGS)
    for name, kind in questions:
        message.add_question(DNSQuestion(name, kind, CLASS_IN))
    return message


def response() -> DNSOutgoing:
    """Return an empty announcement."""
    return DNSOutgoing(_RESPONSE_FLAGS)


def address_text(record: DNSAddress) -> str:
    """Return the address of an A or AAAA record; a link-local IPv6 one with the zone it came from, if that is known."""
    address = ipaddress.ip_address(record.address)
    if address.version == 6 and address.is_link_local and record.scope_id:
        return f"{address}%{record.scope_id}"
    return str(address)
