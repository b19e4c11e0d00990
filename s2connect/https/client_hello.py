"""The first message of a TLS client, looked at before OpenSSL is: which key exchange would it cost us? Without I/O.

OpenSSL serves groups that the modern profile of TLS does not have, among them ffdhe8192, whose handshake takes a
hundred times as long as one of X25519, for whoever asks. Python's ssl module cannot choose several groups before
version 3.15. So a client that would have one of the others used is refused here.
"""

from __future__ import annotations

import struct
from typing import Final

RECORD_HEAD: Final = 5
"""RFC 8446, section 5.1: type, version and length of a record."""

HANDSHAKE_RECORD: Final = 22
_CLIENT_HELLO: Final = 1
_SUPPORTED_GROUPS: Final = 10
_KEY_SHARE: Final = 51

_P256, _P384, _X25519 = 0x0017, 0x0018, 0x001D
GROUPS: Final = frozenset({_X25519, _P256, _P384})
"""Elliptic curves of the modern profile."""

_PREFERRED: Final = frozenset({_X25519, _P256})
"""The groups that OpenSSL prefers to all others."""

_FIRST_HYBRID: Final = 0x0200
"""First post-quantum hybrid group, cheap to serve; below it are elliptic curves and finite fields."""


def is_served(record: bytes) -> bool:
    """Return whether a handshake that begins with this record uses a group of ours. False for no client's hello.

    A client in whose first record, which is all of ``record``, the message is not whole is refused, too.
    """
    try:
        shares, groups = _offers(record)
    except ValueError:
        return False
    if any(_is_foreign(group) for group in shares):
        return False  # OpenSSL takes the first that it supports
    if not GROUPS.isdisjoint(shares):
        return True
    # It asks for another share, of a group it likes best among the client's.
    return not _PREFERRED.isdisjoint(groups) or not any(_is_foreign(group) for group in groups)


def _is_foreign(group: int) -> bool:
    return group < _FIRST_HYBRID and group not in GROUPS


def _offers(record: bytes) -> tuple[list[int], list[int]]:
    """Return the groups of a client's key shares, and all groups that it supports. Raises ValueError."""
    if record[:1] != bytes([HANDSHAKE_RECORD]):
        raise ValueError("no handshake")
    at, end = _vector(record, 3, len(record), 2)
    if record[at:end][:1] != bytes([_CLIENT_HELLO]):
        raise ValueError("no client's hello")
    at, end = _vector(record, at + 1, end, 3)
    at += 2 + 32  # version and random
    for size in (1, 2, 1):  # session, cipher suites, compression
        _, at = _vector(record, at, end, size)
    shares: list[int] = []
    groups: list[int] = []
    if at < end:
        at, end = _vector(record, at, end, 2)
    while at < end:
        body, stop = _vector(record, at + 2, end, 2)
        kind = int.from_bytes(record[at : at + 2])
        if kind == _SUPPORTED_GROUPS:
            body, last = _vector(record, body, stop, 2)
            if (last - body) % 2:
                raise ValueError("cut off")
            groups += struct.unpack_from(f">{(last - body) // 2}H", record, body)
        elif kind == _KEY_SHARE:
            body, last = _vector(record, body, stop, 2)
            while body < last:
                group = int.from_bytes(record[body : body + 2])
                _, body = _vector(record, body + 2, last, 2)
                shares.append(group)
        at = stop
    return shares, groups


def _vector(data: bytes, at: int, end: int, size: int) -> tuple[int, int]:
    """Return where a vector begins and ends whose length stands at ``at`` in ``size`` bytes. Raises ValueError."""
    begin = at + size
    stop = begin + int.from_bytes(data[at:begin])
    if stop > end:
        raise ValueError("cut off")
    return begin, stop
