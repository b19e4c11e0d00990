"""First messages of clients that are served or refused (TRUST-08)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.certs.tls import pinned_client_context
from s2connect.https.client_hello import is_served
from tests.https.test_acceptor import CA, ask, serving
from tests.waits import within

pytestmark = pytest.mark.rule("TRUST-08")

X25519, P256, P384, P521, X448, FFDHE2048, FFDHE8192 = 0x1D, 0x17, 0x18, 0x19, 0x1E, 0x100, 0x104
MLKEM, GREASE, KYBER = 0x11EC, 0x1A1A, 0x6399


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def hello(shares: list[int], groups: list[int]) -> bytes:
    listed = b"".join(group.to_bytes(2) for group in groups)
    shared = b"".join(group.to_bytes(2) + vector(2, b"key") for group in shares)
    extensions = b"\x00\x2b" + vector(2, b"\x02\x03\x04")
    extensions += b"\x00\x0a" + vector(2, vector(2, listed)) + b"\x00\x33" + vector(2, vector(2, shared))
    body = b"\x03\x03" + bytes(32) + vector(1, bytes(32)) + vector(2, b"\x13\x01") + vector(1, b"\x00")
    return b"\x16\x03\x01" + vector(2, b"\x01" + vector(3, body + vector(2, extensions)))


@pytest.mark.parametrize(
    ("shares", "groups", "served"),
    [
        ([X25519], [X25519, P256, X448, P521, P384, FFDHE2048, FFDHE8192], True),
        ([P256], [P256], True),
        ([P384], [P384, P521], True),
        ([MLKEM, X25519], [MLKEM, X25519, P256], True),
        ([GREASE, X25519], [GREASE, X25519], True),
        ([KYBER], [KYBER, X25519], True),
        ([], [P256, FFDHE8192], True),
        ([], [P384], True),
        ([MLKEM], [MLKEM], True),
        ([FFDHE8192], [FFDHE8192], False),
        ([FFDHE8192, X25519], [FFDHE8192, X25519], False),
        ([X25519, FFDHE8192], [FFDHE8192, X25519], False),
        ([P521], [P521, X25519], False),
        ([X448], [X448], False),
        ([], [FFDHE8192], False),
        ([], [P384, FFDHE8192], False),
        ([GREASE], [GREASE, FFDHE2048], False),
    ],
)
def test_the_groups_of_the_modern_profile_are_served(shares: list[int], groups: list[int], served: bool) -> None:
    assert is_served(hello(shares, groups)) is served


@given(st.binary(max_size=300), st.integers(0, 300), st.booleans())
def test_what_is_no_whole_hello_is_not_served(noise: bytes, cut: int, tail: bool) -> None:
    whole = hello([X25519], [X25519])
    is_served(noise)
    is_served(b"\x16\x03\x01" + vector(2, b"\x01" + vector(3, noise)))
    if cut < len(whole):
        assert not is_served(whole[:cut])
    if tail:
        assert not is_served(b"\x16\x03\x01" + vector(2, whole[5:-1])), "the rest is in a record to come"


def with_group(name: str) -> ssl.SSLContext:
    context = pinned_client_context(ssl.PEM_cert_to_DER_cert(CA.to_pem().decode()))
    context.set_ecdh_curve(name)
    return context


@pytest.mark.parametrize("name", ["X25519", "prime256v1", "secp384r1"])
async def test_a_client_of_the_modern_profile_gets_in(name: str) -> None:
    async with serving() as server:
        await ask(server.port, with_group(name))


@pytest.mark.parametrize("name", ["secp521r1", "X448", "ffdhe2048", "ffdhe8192"])
async def test_a_client_of_another_group_is_told_so_at_no_cost(name: str) -> None:
    try:
        context = with_group(name)
    except (ValueError, ssl.SSLError):
        pytest.skip("the OpenSSL of this Python does not know it")
    async with serving() as server:
        before = time.process_time()
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        client = time.process_time() - before
        async with within(5):
            while len(server._acceptor.admission):
                await asyncio.sleep(0.01)
        assert client < 0.2, "only the client has made a key"
        with contextlib.suppress(ConnectionError):
            await ask(server.port, with_group("X25519"))
