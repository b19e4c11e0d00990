"""Headers of PROXY protocol 2: what HAProxy 2.6 wrote, what the specification says, and whatever else comes."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s2connect.https.proxy_protocol import HEAD, MAX_HEADER, SIGNATURE, Balancers, size_of, source_of

HAPROXY = {
    "health check": ("0d0a0d0a000d0a515549540a20000000", None),
    "IPv4": (
        "0d0a0d0a000d0a515549540a211100167f0000017f0000019110dfc1030004d52b4e31050000",
        ("127.0.0.1", 37136),
    ),
    "IPv6": (
        "0d0a0d0a000d0a515549540a2121002400000000000000000000000000000001000000000000000000000000000000018894e341",
        ("::1", 34964),
    ),
    "with checksum and id": (
        "0d0a0d0a000d0a515549540a2111003a7f0000017f0000019ac0dfc20300047e7c6de2"
        "05002466306539343533662d656338342d343665362d393337362d613263363639346333313535",
        ("127.0.0.1", 39616),
    ),
    "UNIX socket": ("0d0a0d0a000d0a515549540a2000000a030004826374b8050000", None),
}
"""Headers as HAProxy 2.6 sent them, and the clients that had connected to it."""


def header(command: int, family: int, rest: bytes, *, version: int = 2) -> bytes:
    return SIGNATURE + bytes((version << 4 | command, family)) + len(rest).to_bytes(2) + rest


@pytest.mark.parametrize(("written", "source"), HAPROXY.values(), ids=HAPROXY.keys())
def test_what_haproxy_writes_is_read(written: str, source: tuple[str, int] | None) -> None:
    written_bytes = bytes.fromhex(written)
    assert size_of(written_bytes[:HEAD]) == len(written_bytes)
    assert source_of(written_bytes) == source


INET = bytes((192, 0, 2, 7, 198, 51, 100, 1)) + (4711).to_bytes(2) + (443).to_bytes(2)


@pytest.mark.parametrize(
    ("rest", "source"),
    [
        (header(1, 0x11, INET), ("192.0.2.7", 4711)),
        (header(1, 0x11, INET + b"\x04\x00\x03abc"), ("192.0.2.7", 4711)),  # what follows is not looked at
        (header(1, 0x11, INET + b"\xff"), ("192.0.2.7", 4711)),
        (header(0, 0x11, INET), None),  # LOCAL: its addresses do not count
        (header(0, 0xFF, b"anything"), None),
        (header(1, 0x00, b""), None),  # unspecified
        (header(1, 0x12, INET), None),  # not over TCP
        (header(1, 0x31, bytes(216)), None),  # UNIX sockets
    ],
)
def test_fields_count_as_the_specification_says(rest: bytes, source: tuple[str, int] | None) -> None:
    assert source_of(rest) == source


def test_an_ipv4_address_within_ipv6_is_the_ipv4_address() -> None:
    mapped = ipaddress.IPv6Address("::ffff:192.0.2.7").packed
    assert source_of(header(1, 0x21, mapped + mapped + bytes((0x12, 0x67, 1, 0xBB)))) == ("192.0.2.7", 4711)


@pytest.mark.parametrize(
    "wrong",
    [
        header(1, 0x11, INET[:-1]),  # shorter than its addresses
        header(1, 0x21, INET),
        header(2, 0x11, INET),  # commands, families and protocols that are not defined
        header(1, 0x41, INET),
        header(1, 0x13, INET),
        header(1, 0x11, INET, version=1),
        header(1, 0x11, INET, version=3),
        header(1, 0x11, INET) + b"\x16",  # one byte beyond it
        header(1, 0x11, INET)[:-1],
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
        b"\x16\x03\x01\x02\x00" + bytes(600),
        b"",
        SIGNATURE,
    ],
)
def test_what_is_no_header_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        source_of(wrong)


def test_a_header_is_as_long_as_the_bound_and_no_longer() -> None:
    longest = header(1, 0x11, INET + bytes(MAX_HEADER - HEAD - len(INET)))
    assert source_of(longest) == ("192.0.2.7", 4711)
    with pytest.raises(ValueError, match="too long"):
        size_of(header(1, 0x11, bytes(MAX_HEADER - HEAD + 1))[:HEAD])


@given(
    source=st.ip_addresses(),
    target=st.ip_addresses(),
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    more=st.binary(max_size=300),
)
def test_every_address_comes_through(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    target: ipaddress.IPv4Address | ipaddress.IPv6Address,
    ports: tuple[int, int],
    more: bytes,
) -> None:
    if source.version != target.version:
        target = source
    family = 0x11 if source.version == 4 else 0x21
    rest = source.packed + target.packed + b"".join(port.to_bytes(2) for port in ports) + more
    mapped = getattr(source, "ipv4_mapped", None)
    assert source_of(header(1, family, rest)) == (str(mapped or source), ports[0])


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda rest: SIGNATURE + rest))
@example(SIGNATURE + b"\x21\x11\xff\xff")
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    try:
        size = size_of(data[:HEAD])
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            source_of(data)
        return
    assert HEAD <= size <= MAX_HEADER
    try:
        source = source_of(data)
    except ValueError:
        return
    assert len(data) == size
    if source is not None:
        ipaddress.ip_address(source[0])


@given(st.sampled_from(list(HAPROXY)), st.integers(0, 500), st.integers(0, 255))
def test_a_changed_byte_gives_no_other_error(which: str, at: int, value: int) -> None:
    data = bytearray.fromhex(HAPROXY[which][0])
    data[at % len(data)] = value
    with contextlib.suppress(ValueError):
        source_of(bytes(data))


def test_balancers_are_known_by_their_networks() -> None:
    balancers = Balancers(["192.0.2.0/28", "2001:db8::7", "198.51.100.9"])
    for inside in ("192.0.2.0", "192.0.2.15", "::ffff:192.0.2.3", "2001:db8::7", "198.51.100.9"):
        assert balancers.has(inside)
    for outside in ("192.0.2.16", "2001:db8::8", "198.51.100.8", "127.0.0.1", "fe80::1%eth0", "::1"):
        assert not balancers.has(outside)
    assert not Balancers([]).has("192.0.2.1")


@pytest.mark.parametrize("wrong", ["", "balancer.example", "192.0.2.0/33", "192.0.2.1/28", "192.0.2.*"])
def test_what_is_no_network_is_named(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"192\.0\.2\.0/28"):
        Balancers([wrong])
