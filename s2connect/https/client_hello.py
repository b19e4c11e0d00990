"""The first message of a TLS client, looked at before OpenSSL is: which key exchange would it cost us? Without I/O.

OpenSSL serves groups that the modern profile of TLS does not have, among them ffdhe8192, whose handshake takes a
hundred times as long as one of X25519, for whoever asks. Python's ssl module cannot choose several groups before
version 3.15. So a client that would have one of the others used is refused here.
"""

from __future__ import annotations

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


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("cut off")
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> _Reader:
        return _Reader(self.take(self.number(size)))

    def __bool__(self) -> bool:
        return self.at < len(self.data)


def is_served(record: bytes) -> bool:
    """Return whether a handshake that begins with this record uses a group of ours. False for no client's hello.

    A client in whose first record the message is not whole is refused, too: what follows could not be seen.

    Args:
        record: The first record, with its head, which is all of it.
    """
    try:
        shares, groups = _offers(record)
    except ValueError:
        return False
    if any(_is_foreign(group) for group in shares):
        return False  # OpenSSL takes the first that it knows
    if not GROUPS.isdisjoint(shares):
        return True
    # It asks for another share, of a group it likes best among the client's.
    return not _PREFERRED.isdisjoint(groups) or not any(_is_foreign(group) for group in groups)


def _is_foreign(group: int) -> bool:
    return group < _FIRST_HYBRID and group not in GROUPS


def _offers(record: bytes) -> tuple[list[int], list[int]]:
    """Return the groups of a client's key shares, and all groups that it supports. Raises ValueError."""
    reader = _Reader(record)
    if reader.number(1) != HANDSHAKE_RECORD:
        raise ValueError("no handshake")
    reader.take(2)
    reader = reader.vector(2)
    if reader.number(1) != _CLIENT_HELLO:
        raise ValueError("no client's hello")
    hello = reader.vector(3)
    hello.take(2 + 32)
    hello.vector(1)
    hello.vector(2)
    hello.vector(1)
    shares: list[int] = []
    groups: list[int] = []
    extensions = hello.vector(2) if hello else _Reader(b"")
    while extensions:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _SUPPORTED_GROUPS:
            listed = body.vector(2)
            while listed:
                groups.append(listed.number(2))
        elif kind == _KEY_SHARE:
            listed = body.vector(2)
            while listed:
                shares.append(listed.number(2))
                listed.vector(2)
    return shares, groups
