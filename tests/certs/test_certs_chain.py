from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.chain import (
    MAX_CHAIN_CERTIFICATES,
    CapturedChain,
    capture_chain,
    verify_pki,
)
from s2connect.certs.tls import ServerContext, pinned_client_context, wan_client_context
from s2connect.errors import CertificateRefused, NotReachable, PeerTimeout, ProtocolViolation
from tests.certs.example_certificates import (
    DAY,
    Made,
    make,
    make_leaf,
    make_root,
    now,
    plain_context,
    serving,
    serving_blocking,
)
from tests.waits import patience, within

HOST = "heatpump-1.local"


def captured(leaf: Made, root: Made | None = None) -> CapturedChain:
    root = root or leaf.issuer
    return CapturedChain(leaf.der, root.der if root else None, "192.168.1.20")


def fault(chain: CapturedChain, host: str = HOST) -> str | None:
    try:
        chain.check_self_signed(host, now())
    except CertificateRefused as error:
        refused = error
    else:
        return None
    assert refused.what.isprintable()
    assert refused.hint
    return refused.reason


# --- capturing


@pytest.mark.rule("TRUST-04", "HMAC-02", "TRUST-06")
@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
async def test_leaf_and_root_are_captured_and_pass(host: str) -> None:
    authority = CertificateAuthority.create("Test", now=now())
    identity = authority.issue([HOST, "127.0.0.1"], now=now())
    async with serving(ServerContext(identity).context) as server:
        chain = await capture_chain(host, server.port, address="127.0.0.1", timeout=5)
        chain.check_self_signed(host, now())
        await asyncio.sleep(0.02)
        assert server.received == []
    assert chain.address == "127.0.0.1"
    assert chain.leaf_fingerprint == identity.leaf_fingerprint
    assert chain.ca_fingerprint == authority.fingerprint
    assert chain.ca_der is not None
    pinned_client_context(chain.ca_der)


@pytest.mark.rule("TRUST-04")
async def test_the_name_is_looked_up_where_no_address_is_given() -> None:
    identity = CertificateAuthority.create("Test", now=now()).issue(["localhost"], now=now())
    async with serving(ServerContext(identity).context) as server:
        chain = await capture_chain("localhost", server.port, timeout=5)
    assert ipaddress.ip_address(chain.address).is_loopback


async def test_an_ipv6_address_is_asked(tmp_path: Path) -> None:
    root = make_root()
    leaf = make_leaf(root, "::1")
    try:
        async with serving(plain_context(tmp_path, leaf.chain_pem(), leaf.key_pem), "::1") as server:
            chain = await capture_chain("::1", server.port, timeout=5)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert fault(chain, "::1") is None
    assert chain.address == "::1"


@pytest.mark.rule("TRUST-05", "HMAC-02")
async def test_a_relay_with_a_certificate_of_its_own_shows_another_leaf() -> None:
    device = CertificateAuthority.create("Heat pump", now=now()).issue([HOST], now=now())
    forged = CertificateAuthority.create("Heat pump", now=now()).issue([HOST], now=now())
    async with serving(ServerContext(device).context) as target:

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                await capture_chain(HOST, target.port, address="127.0.0.1", timeout=5)
                await reader.read()
            writer.transport.abort()

        server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=ServerContext(forged).context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            chain = await capture_chain(HOST, port, address="127.0.0.1", timeout=5)
        await asyncio.sleep(0.05)
    assert fault(chain) is None  # nothing in the certificate gives it away: the challenge has to
    assert chain.leaf_fingerprint != device.leaf_fingerprint
    assert chain.ca_fingerprint != device.ca_fingerprint


@pytest.mark.rule("TRUST-01", "TRUST-04")
async def test_a_server_that_does_not_send_its_root_is_told_so(tmp_path: Path) -> None:
    leaf = make_leaf(make_root(), HOST)
    async with serving(plain_context(tmp_path, leaf.pem, leaf.key_pem)) as server:
        chain = await capture_chain(HOST, server.port, address="127.0.0.1", timeout=5)
    assert chain.ca_der is None
    assert chain.ca_fingerprint is None
    with pytest.raises(CertificateRefused, match="without the root") as caught:
        chain.check_self_signed(HOST, now())
    assert caught.value.reason == "chain"


async def test_one_self_signed_certificate_is_its_own_root(tmp_path: Path) -> None:
    single = make(HOST, names=[HOST])
    async with serving(plain_context(tmp_path, single.pem, single.key_pem)) as server:
        chain = await capture_chain(HOST, server.port, address="127.0.0.1", timeout=5)
    assert fault(chain) is None
    assert chain.ca_der == chain.leaf_der == single.der


async def test_an_absurd_chain_is_refused(tmp_path: Path) -> None:
    leaf = make_leaf(make_root(), HOST)
    assert leaf.issuer is not None
    longest = leaf.pem + leaf.issuer.pem * (MAX_CHAIN_CERTIFICATES - 1)
    async with serving(plain_context(tmp_path, longest, leaf.key_pem)) as server:
        await capture_chain(HOST, server.port, address="127.0.0.1", timeout=5)
    async with serving(plain_context(tmp_path, longest + leaf.issuer.pem, leaf.key_pem)) as server:
        with pytest.raises(CertificateRefused) as caught:
            await capture_chain(HOST, server.port, address="127.0.0.1", timeout=5)
    assert caught.value.reason == "chain"


@pytest.mark.rule("TRUST-08")
async def test_a_server_without_tls_1_3_is_not_captured(tmp_path: Path) -> None:
    leaf = make_leaf(make_root(), HOST)
    context = plain_context(tmp_path, leaf.chain_pem(), leaf.key_pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving_blocking(context) as port:
        with pytest.raises(ProtocolViolation, match=r"TLS 1\.3"):
            await capture_chain(HOST, port, address="127.0.0.1", timeout=5)
    async with serving(context) as server:  # resets the connection instead of saying why
        with pytest.raises(NotReachable) as caught:
            await capture_chain(HOST, server.port, address="127.0.0.1", timeout=5)
    assert "TLS 1.3" in caught.value.hint


@pytest.mark.rule("VER-05")
async def test_a_plain_http_server_is_no_server_for_us() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ProtocolViolation, match="HTTPS"):
            await capture_chain("localhost", server.sockets[0].getsockname()[1], address="127.0.0.1", timeout=5)


async def test_nobody_there_is_said_with_host_and_port() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(NotReachable, match=f"{HOST}:{port} "):
            await capture_chain(HOST, port, address="127.0.0.1", timeout=5)


@pytest.mark.parametrize("host", ["", ".", ".local", "a..local", "x" * 70, "a\x00b", "ö" * 70, "a\x1b[31m.local"])
async def test_a_host_that_cannot_be_is_not_asked(host: str) -> None:
    with pytest.raises(NotReachable, match="neither a host name nor an address") as caught:
        await capture_chain(host, 1, address="127.0.0.1", timeout=5)
    assert caught.value.what.isprintable()


async def test_an_unknown_name_is_not_reachable() -> None:
    with pytest.raises(NotReachable, match=r"nobody\.invalid is not known"):
        await capture_chain("nobody.invalid", 443, timeout=20)


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[int, asyncio.Queue[bytes]]]:
    """Accepts and never says a word; the queue gets what it reads, b"" at the end."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b"?"
        while data:
            try:
                data = await reader.read(10_000)
            except OSError:
                data = b""
            heard.put_nowait(data)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


async def test_a_silent_server_does_not_hold_us_up() -> None:
    async with silent_server() as (port, heard):
        with pytest.raises(PeerTimeout, match=rf"{HOST}:{port}"):
            await capture_chain(HOST, port, address="127.0.0.1", timeout=0.05)
        async with within(5):
            assert await heard.get()  # the hello
            assert await heard.get() == b""


async def test_cancelling_closes_the_connection_at_once() -> None:
    async with silent_server() as (port, heard):
        task = asyncio.create_task(capture_chain(HOST, port, address="127.0.0.1", timeout=60))
        async with within(5):
            assert await heard.get()
        start = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with within(5):
            assert await heard.get() == b""
        assert time.perf_counter() - start < patience(1)


def test_capturing_works_on_uvloop() -> None:
    authority = CertificateAuthority.create("Test", now=now())
    identity = authority.issue(["localhost"], now=now())

    async def run() -> None:
        async with serving(ServerContext(identity).context) as server:
            chain = await capture_chain("localhost", server.port, timeout=5)
            assert chain.leaf_fingerprint == identity.leaf_fingerprint
            assert chain.ca_fingerprint == authority.fingerprint
            assert ipaddress.ip_address(chain.address).is_loopback

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# --- PKI


@pytest.mark.rule("TRUST-03")
async def test_pki_validation_is_normal_validation(tmp_path: Path) -> None:
    root = make_root("Company CA")
    leaf = make_leaf(root, "localhost")
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(root.pem)
    trusting, system = wan_client_context(anchors), wan_client_context()
    async with serving(plain_context(tmp_path, leaf.pem, leaf.key_pem)) as server:
        chain = await verify_pki("localhost", server.port, trusting, timeout=5)
        assert chain.leaf_fingerprint == hashlib.sha256(leaf.der).digest()
        assert chain.ca_der is None
        for host, context, reason in (("localhost", system, "untrusted"), (HOST, trusting, "name")):
            with pytest.raises(CertificateRefused) as caught:
                await verify_pki(host, server.port, context, address="127.0.0.1", timeout=5)
            assert caught.value.reason == reason


@pytest.mark.rule("TRUST-03")
async def test_pki_validation_takes_no_context_that_does_not_validate() -> None:
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careless.check_hostname = False
    with pytest.raises(ValueError, match="verify"):
        await verify_pki("localhost", 1, careless, timeout=5)


# --- checking


@pytest.mark.rule("TRUST-04")
@pytest.mark.parametrize(
    "new_key",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: ec.generate_private_key(ec.SECP521R1()),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "P-521", "RSA 2048"],
)
@pytest.mark.parametrize("hash_", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda h: h.name)
def test_good_algorithms_pass(new_key: Callable[[], Any], hash_: Any) -> None:
    key = new_key()
    root = make_root(key=key, hash_=hash_)
    assert fault(captured(make_leaf(root, HOST, key=key, hash_=hash_))) is None


@pytest.mark.rule("TRUST-04")
def test_ed25519_passes() -> None:
    root = make_root(key=ed25519.Ed25519PrivateKey.generate(), hash_="none")
    leaf = make_leaf(root, HOST, key=ed25519.Ed25519PrivateKey.generate(), hash_="none")
    assert fault(captured(leaf)) is None


@pytest.mark.rule("TRUST-04")
@pytest.mark.parametrize(
    ("new_key", "hash_"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), None),
        (lambda: ec.generate_private_key(ec.SECP256K1()), None),
        (ed448.Ed448PrivateKey.generate, "none"),
        (lambda: dsa.generate_private_key(1024), None),
        (None, hashes.SHA224()),
    ],
    ids=["RSA 1024", "secp256k1", "Ed448", "DSA", "SHA-224"],
)
def test_other_algorithms_are_refused_in_leaf_and_root(new_key: Callable[[], Any] | None, hash_: Any) -> None:
    weak: dict[str, Any] = {}
    if new_key is not None:
        weak["key"] = new_key()
    if hash_ is not None:
        weak["hash_"] = hash_
    in_leaf = {k: v for k, v in weak.items() if v != "none"}
    assert fault(captured(make_leaf(make_root(), HOST, **in_leaf))) == "algorithm"
    more = {"hash_": hashes.SHA256()} if weak.get("hash_") != "none" else {"hash_": "none"}
    assert fault(captured(make_leaf(make_root(**weak), HOST, **more))) == "algorithm"


@pytest.mark.rule("TRUST-04")
@pytest.mark.parametrize("host", [HOST, HOST.upper(), HOST + ".", "192.168.1.20", "FD00:0::20", "fe80::1%eth0"])
def test_names_and_addresses_that_match(host: str) -> None:
    leaf = make_leaf(make_root(), HOST.capitalize(), "192.168.1.20", "fd00::20", "fe80::1")
    assert fault(captured(leaf), host) is None


@pytest.mark.rule("TRUST-04")
@pytest.mark.parametrize("host", ["a.local", f"sub.{HOST}", "local", "192.168.1.2", "fd00::2", "*.local", "", "a\x00b"])
def test_names_and_addresses_that_do_not_match(host: str) -> None:
    leaf = make_leaf(make_root(), HOST, "*.local", "192.168.1.20", "fd00::20")
    assert fault(captured(leaf), host) == "name"


@pytest.mark.rule("TRUST-04")
def test_a_common_name_is_no_name() -> None:
    assert fault(captured(make(HOST, make_root(), ca=False))) == "name"


@pytest.mark.rule("TRUST-04")
def test_an_address_written_as_a_name_is_no_address() -> None:
    root = make_root()
    leaf = make_leaf(root, "192.168.1.20.local")
    assert fault(captured(leaf), "192.168.1.20") == "name"


@pytest.mark.rule("TRUST-04")
def test_dates_of_leaf_and_root_count() -> None:
    old: dict[str, Any] = {"start": -9 * DAY, "end": -timedelta(seconds=2)}
    young: dict[str, Any] = {"start": timedelta(seconds=60)}
    assert fault(captured(make_leaf(make_root(), HOST, **old))) == "expired"
    assert fault(captured(make_leaf(make_root(**old), HOST))) == "expired"
    assert fault(captured(make_leaf(make_root(), HOST, **young))) == "not_yet_valid"
    assert fault(captured(make_leaf(make_root(**young), HOST))) == "not_yet_valid"


@pytest.mark.rule("TRUST-04")
def test_the_time_is_the_callers() -> None:
    chain = captured(make_leaf(make_root(), HOST))
    chain.check_self_signed(HOST, now())
    with pytest.raises(CertificateRefused):
        chain.check_self_signed(HOST, now() + 31 * DAY)


@pytest.mark.rule("TRUST-04")
def test_the_root_must_have_signed_the_leaf() -> None:
    root = make_root()
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert fault(captured(make_leaf(root, HOST, sign_with=stranger))) == "signature"
    assert fault(captured(make_leaf(root, HOST), make_root())) == "signature"  # same name, other key
    assert fault(captured(make_leaf(root, HOST), make_root("Another name"))) == "chain"
    assert fault(captured(make_leaf(make_root(sign_with=stranger), HOST))) == "signature"
    assert fault(captured(make(HOST, names=[HOST], sign_with=stranger), make(HOST))) == "chain"


@pytest.mark.rule("TRUST-04")
def test_the_root_must_be_a_ca() -> None:
    assert fault(captured(make_leaf(make("no constraints"), HOST))) == "chain"
    assert fault(captured(make_leaf(make("no ca", ca=False), HOST))) == "chain"


@pytest.mark.rule("TRUST-04")
def test_a_root_that_is_not_directly_above_the_leaf_is_refused() -> None:
    root = make_root()
    leaf = make_leaf(make("between", root, ca=True), HOST)
    assert fault(captured(leaf, root)) == "chain"


@pytest.mark.rule("TRUST-02")
def test_a_leaf_for_clients_is_refused() -> None:
    root = make_root()
    assert fault(captured(make_leaf(root, HOST, usage=ExtendedKeyUsageOID.CLIENT_AUTH))) == "chain"
    assert fault(captured(make_leaf(root, HOST, usage=None))) is None


LEAF = make_leaf(make_root(), HOST)
GOOD = captured(LEAF)


@pytest.mark.filterwarnings("ignore")  # cryptography warns of odd certificates
@settings(max_examples=150, deadline=None)
@given(in_leaf=st.booleans(), at=st.integers(0, 1000), flip=st.integers(1, 255))
def test_no_changed_byte_gets_past_or_escapes_as_another_error(in_leaf: bool, at: int, flip: int) -> None:
    assert GOOD.ca_der is not None
    der = bytearray(GOOD.leaf_der if in_leaf else GOOD.ca_der)
    der[at % len(der)] ^= flip
    changed: dict[str, Any] = {"leaf_der": bytes(der)} if in_leaf else {"ca_der": bytes(der)}
    if fault(dataclasses.replace(GOOD, **changed)) is None:
        # DER has one spare byte: how many bits of the signature's last byte are padding. It changes no content.
        original = LEAF if in_leaf else LEAF.issuer
        assert original is not None
        certificate = x509.load_der_x509_certificate(bytes(der))
        assert certificate.tbs_certificate_bytes == original.certificate.tbs_certificate_bytes
        assert certificate.signature == original.certificate.signature


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    assert fault(CapturedChain(junk, junk, "10.0.0.1")) == "other"
