"""This machine's own addresses."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Links:
    """Network interfaces that carry nothing now, although they may have addresses. Empty where Linux does not say it.

    Attributes:
        unplugged: Without cable or WLAN; an unused container bridge is one of them.
        off: Switched off.
    """

    unplugged: frozenset[str] = frozenset()
    off: frozenset[str] = frozenset()

    @property
    def down(self) -> frozenset[str]:
        """All of them."""
        return self.unplugged | self.off


_INTERFACES = Path("/sys/class/net")
_IS_UP = 1  # IFF_UP of the flags of an interface
_DOWN = ("down", "lowerlayerdown", "notpresent")  # of `operstate`; "unknown" is what virtual interfaces have


def links() -> Links:
    """Return the interfaces of this machine that carry nothing now. Blocks, for less than a millisecond."""
    unplugged, off = set(), set()
    for _, name in socket.if_nameindex():
        flags = _fact(name, "flags")
        if flags and not int(flags, 16) & _IS_UP:
            off.add(name)
        elif _fact(name, "carrier") == "0" or _fact(name, "operstate") in _DOWN:
            unplugged.add(name)
    return Links(frozenset(unplugged), frozenset(off))


def _fact(interface: str, name: str) -> str:
    try:
        return (_INTERFACES / interface / name).read_text("ascii").strip()
    except (OSError, UnicodeError):
        return ""
