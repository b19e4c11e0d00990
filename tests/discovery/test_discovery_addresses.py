"""Order of addresses, without I/O."""

from __future__ import annotations

import ipaddress

import pytest

from s2connect.discovery.addresses import MAX_ADDRESSES, in_order
from s2connect.https.own_addresses import OwnAddress


def own(*addresses: str) -> list[OwnAddress]:
    return [OwnAddress(ipaddress.ip_interface(a.partition("@")[0]), int(a.partition("@")[2] or 2)) for a in addresses]


HERE = own("192.168.1.5/24", "fd00::5/64", "fe80::5/64@2", "172.17.0.1/16@3")

CASES = {
    "IPv4, then global, then link-local": (
        ["fe80::9%2", "fd00::9", "192.168.1.9"],
        ["192.168.1.9", "fd00::9", "fe80::9%2"],
    ),
    "our own subnet first": (["10.0.0.1", "192.168.1.9"], ["192.168.1.9", "10.0.0.1"]),
    "our own address last": (["172.17.0.1", "fe80::9%2"], ["fe80::9%2", "172.17.0.1"]),
    "the only zone is meant": (["fe80::9"], ["fe80::9%2"]),
    "both spellings of one": (["fe80::9", "fe80::9%2"], ["fe80::9%2"]),
    "nonsense is left out": (["224.0.0.1", "0.0.0.0", "::", "ff02::1", "x", ""], []),
    "self-assigned IPv4 late": (["169.254.1.1", "fd00::9"], ["fd00::9", "169.254.1.1"]),
}


@pytest.mark.rule("DISC-06")
@pytest.mark.parametrize(("addresses", "wanted"), CASES.values(), ids=CASES)
def test_addresses_are_sorted(addresses: list[str], wanted: list[str]) -> None:
    assert in_order(addresses, HERE) == wanted


def test_without_its_zone_a_link_local_address_is_useless_where_there_are_several() -> None:
    several = own("fe80::5/64@2", "fe80::6/64@3")
    assert in_order(["fe80::9", "fe80::9%3"], several) == ["fe80::9%3"]


@pytest.mark.rule("SEC-03")
def test_a_host_with_very_many_addresses_gets_only_some() -> None:
    assert len(in_order([f"10.0.0.{n}" for n in range(200)], HERE)) == MAX_ADDRESSES
