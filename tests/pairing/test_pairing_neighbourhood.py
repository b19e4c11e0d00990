"""Addresses in the same network and others (LAN-02)."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from s2connect.https.own_addresses import OwnAddress, own_addresses
from s2connect.pairing.neighbourhood import address_text, same_network

LAN = [
    OwnAddress(ip_interface(address), index)
    for index, addresses in {
        1: ("127.0.0.1/8", "::1/128"),
        2: ("192.168.1.10/24", "10.9.0.1/16", "fd00:1::10/64", "fe80::10/64"),
        3: ("192.168.2.10/24", "fd00:2::10/64", "fe80::10/64"),
        4: ("10.8.0.2/32",),  # a tunnel
        5: ("10.7.0.0/31",),
        6: ("fd00:3::2/128", "2001:db8:5::1/127"),
    }.items()
    for address in addresses
]


@pytest.mark.rule("LAN-02")
@pytest.mark.parametrize(
    ("peer", "local", "expected"),
    [
        # IPv4
        ("192.168.1.77", "192.168.1.10", True),
        ("192.168.1.10", "192.168.1.10", True),
        ("192.168.2.77", "192.168.1.10", False),
        ("8.8.8.8", "192.168.1.10", False),
        # several addresses on one interface: any of its subnets
        ("10.9.200.3", "192.168.1.10", True),
        ("192.168.1.77", "10.9.0.1", True),
        ("192.168.1.77", "fd00:1::10", True),
        # several interfaces: the one the request arrived on
        ("192.168.2.77", "192.168.2.10", True),
        ("192.168.1.77", "192.168.2.10", False),
        # IPv6
        ("fd00:1::abcd", "fd00:1::10", True),
        ("fd00:2::abcd", "fd00:1::10", False),
        ("2001:db8::1", "fd00:1::10", False),
        # IPv4 mapped into IPv6, as a socket for both shows it
        ("::ffff:192.168.1.77", "::ffff:192.168.1.10", True),
        ("::ffff:192.168.1.77", "192.168.1.10", True),
        ("::ffff:192.168.2.77", "::ffff:192.168.1.10", False),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        # link-local: the same address is on two interfaces, the zone tells them apart
        ("fe80::77%2", "fe80::10%2", True),
        ("fe80::77%3", "fe80::10%3", True),
        ("fe80::77%3", "fe80::10%2", False),
        ("fe80::77%eth0", "fe80::10%2", False),
        ("fe80::77%9", "fe80::10%9", False),
        ("fe80::77", "fe80::10%2", False),
        ("fe80::77%2", "fe80::10", False),
        ("fe80::77%2", "fd00:1::10", True),
        ("fe80::77%3", "fd00:1::10", False),
        # loopback
        ("127.0.0.1", "127.0.0.1", True),
        ("127.5.5.5", "127.0.0.2", True),
        ("::1", "::1", True),
        ("127.0.0.1", "192.168.1.10", False),
        ("192.168.1.10", "127.0.0.1", False),
        # point-to-point: nobody else
        ("10.8.0.2", "10.8.0.2", True),
        ("10.8.0.1", "10.8.0.2", False),
        ("10.7.0.1", "10.7.0.0", True),
        ("10.7.0.2", "10.7.0.0", False),
        ("fd00:3::2", "fd00:3::2", True),
        ("fd00:3::1", "fd00:3::2", False),
        ("2001:db8:5::", "2001:db8:5::1", True),
        ("2001:db8:5::2", "2001:db8:5::1", False),
        # what cannot be told
        ("192.168.1.77", "192.168.1.11", False),
        ("", "192.168.1.10", False),
        ("192.168.1.77", "", False),
        ("unix", "unix", False),
        ("192.168.1.77, 8.8.8.8", "192.168.1.10", False),
    ],
)
def test_a_peer_is_local_if_it_is_in_a_subnet_of_the_interface(peer: str, local: str, expected: bool) -> None:
    assert same_network(peer, local, LAN) is expected


@pytest.mark.rule("LAN-02")
def test_without_addresses_only_loopback_is_local() -> None:
    assert same_network("127.0.0.1", "127.0.0.1", ())
    assert not same_network("192.168.1.77", "192.168.1.10", ())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("192.168.1.1", 443), "192.168.1.1"),
        (("fd00::1", 443, 0, 0), "fd00::1"),
        (("fe80::1", 443, 0, 3), "fe80::1%3"),
        (("fe80::1%eth0", 443, 0, 3), "fe80::1%3"),
        ("/run/socket", ""),
        (None, ""),
        ((), ""),
    ],
)
def test_the_zone_of_a_socket_address_is_kept(given: object, expected: str) -> None:
    assert address_text(given) == expected


def test_the_addresses_of_this_machine_are_listed() -> None:
    (loopback,) = (own for own in own_addresses() if str(own.interface) == "127.0.0.1/8")
    assert loopback.index > 0
