"""The user to whom a connection over loopback belongs, asked of the real kernel."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from s2connect.web.local_user import own_user, user_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux says to which user a connection belongs")

Family = socket.AddressFamily


@contextmanager
def connected(
    family: Family, address: str, ours: str, listening: Family
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client of one family, connected to a server that may be of another one: the client, and the server's side."""
    with socket.create_server((ours, 0), family=listening) as server, socket.socket(family) as client:
        client.connect((address, server.getsockname()[1]))
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


@pytest.mark.parametrize(
    ("family", "address", "ours", "listening"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1", socket.AF_INET),
        (socket.AF_INET, "127.0.0.9", "127.0.0.9", socket.AF_INET),
        (socket.AF_INET6, "::1", "::1", socket.AF_INET6),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1", socket.AF_INET),
    ],
)
def test_a_connection_of_this_process_is_of_its_user(
    family: Family, address: str, ours: str, listening: Family
) -> None:
    with connected(family, address, ours, listening) as (client, accepted):
        peer, here = accepted.getpeername(), accepted.getsockname()
        assert user_of(peer, here) == own_user() == os.geteuid()
        assert user_of((peer[0], peer[1] ^ 1), here) is None, "another connection"
        assert user_of(here, peer) == own_user(), "the server's side, seen from the client"
        client.close()
        assert user_of(peer, here) is None, "nobody's any more"


@pytest.mark.parametrize("place", [None, (), ("192.0.2.1", 1), ("x", 1), ("127.0.0.1",), ("127.0.0.1", "x")])
def test_what_is_not_over_loopback_is_nobodys(place: tuple[object, ...] | None) -> None:
    assert user_of(place, ("127.0.0.1", 8480)) is None
    assert user_of(("127.0.0.1", 8480), place) is None
