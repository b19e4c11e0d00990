"""PROXY protocol version 2, without I/O: the header in which a load balancer names the client of a connection.

Source: https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt, sections 2.2 and 4.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
HEAD: Final = 16
"""Bytes of every header: signature, version and command, family and protocol, length of what follows."""

MAX_HEADER: Final = 4096
"""Bytes of a header that are read. Addresses take 36 at most; additional fields (TLV) are read and ignored."""

_VERSION: Final = 2
_LOCAL, _PROXY = 0, 1
_INET, _INET6 = 1, 2
_STREAM: Final = 1
_ADDRESS_BYTES: Final = {_INET: 4, _INET6: 16}
_FIRST_UNKNOWN: Final = 4
"""Families 0 to 3 (unspecified, IPv4, IPv6, UNIX) and protocols 0 to 2 are defined; the others are reserved."""

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Source: TypeAlias = tuple[str, int]
"""Address and port of a client."""


def size_of(head: bytes) -> int:
    """Return the size of a whole header, from its first :data:`HEAD` bytes.

    Raises:
        ValueError: They are not the beginning of a header, or of one beyond :data:`MAX_HEADER`.
    """
    if len(head) < HEAD or not head.startswith(SIGNATURE):
        raise ValueError("no header of PROXY protocol 2")
    size = HEAD + int.from_bytes(head[14:HEAD])
    if size > MAX_HEADER:
        raise ValueError("too long")
    return size


def source_of(header: bytes) -> Source | None:
    """Return the client that a whole header names; None if it names none, so that the connection's own address counts.

    It names none where the balancer itself asks, as its health checks do (command LOCAL), and where the client did not
    come over TCP.

    Raises:
        ValueError: It is no header, or has a field that is not defined.
    """
    if size_of(header) != len(header):
        raise ValueError("another length than it says")
    version, command = divmod(header[12], 16)
    family, protocol = divmod(header[13], 16)
    if version != _VERSION or command not in (_LOCAL, _PROXY):
        raise ValueError("another version or command")
    if command == _LOCAL:
        return None  # what follows is to be ignored
    if family >= _FIRST_UNKNOWN or protocol > _STREAM + 1:
        raise ValueError("an unknown family or protocol")
    size = _ADDRESS_BYTES.get(family)
    if size is None or protocol != _STREAM:
        return None
    at = HEAD + 2 * size  # source, destination, and a port of each
    if len(header) < at + 4:
        raise ValueError("cut off")
    address = ipaddress.ip_address(header[HEAD : HEAD + size])
    return str(_unmapped(address)), int.from_bytes(header[at : at + 2])


class Balancers:
    """Load balancers by their networks, whose headers are believed.

    Args:
        networks: Such as ``192.0.2.0/28``, ``2001:db8::7``.
        only: Whether nobody else may connect.

    Raises:
        ValueError: One is no network.
    """

    def __init__(self, networks: Iterable[str], *, only: bool = False) -> None:
        self.networks: tuple[Network, ...] = tuple(map(network, networks))
        self.only = only
        self._has = lru_cache(1024)(self._found)

    def has(self, address: str) -> bool:
        """Return whether an address, as of ``socket.accept``, is one of theirs."""
        return bool(self.networks) and self._has(address)

    def _found(self, text: str) -> bool:
        address = _unmapped(ipaddress.ip_address(text.partition("%")[0]))
        return any(address.version == known.version and address in known for known in self.networks)


def network(text: str) -> Network:
    """Return a network, or the one of a single address. ValueError if it is none, or has bits beyond its prefix."""
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError:
        raise ValueError("it is an address or a network, such as 192.0.2.10 or 192.0.2.0/28") from None


def _unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address in an IPv6 address that only holds one, as on sockets for both."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
