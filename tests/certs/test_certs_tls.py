from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import ssl
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from s2connect.certs.authority import CertificateAuthority, ServerIdentity
from s2connect.certs.tls import (
    ServerContext,
    describe_tls_error,
    leaf_client_context,
    leaf_fingerprint_of,
    pinned_client_context,
    wan_client_context,
)
from s2connect.errors import (
    CertificateChanged,
    CertificateRefused,
    ConfigurationError,
    ProtocolViolation,
    StorageUnavailable,
)
from tests.certs.example_certificates import (
    DAY,
    Made,
    ask,
    connected,
    leaf_seen,
    make,
    make_leaf,
    make_root,
    now,
    plain_context,
    serving,
    serving_blocking,
)


def own(*names: str) -> tuple[CertificateAuthority, ServerContext]:
    authority = CertificateAuthority.create("Test", now=now())
    return authority, ServerContext(authority.issue(names or ("localhost",), now=now()))


def der(authority: CertificateAuthority) -> bytes:
    return authority.certificate.public_bytes(serialization.Encoding.DER)


def leaf_der(identity: ServerIdentity) -> bytes:
    return ssl.PEM_cert_to_DER_cert(identity.chain_pem.decode().partition("-----END CERTIFICATE-----")[0] + _END)


_END = "-----END CERTIFICATE-----\n"


async def accepted(port: int, context: ssl.SSLContext, name: str = "localhost") -> None:
    async with connected(port, context, name) as streams:
        assert await ask(streams) == b"ping"


async def refusal(port: int, context: ssl.SSLContext, name: str = "localhost") -> Exception:
    """Return the text of the error with which this handshake has to fail."""
    with pytest.raises(ssl.SSLError) as caught:
        await accepted(port, context, name)
    described = describe_tls_error(caught.value, name)
    assert described is not None
    return described


async def reason(port: int, context: ssl.SSLContext, name: str = "localhost") -> str:
    error = await refusal(port, context, name)
    assert isinstance(error, CertificateRefused), error
    return error.reason


# --- server


@pytest.mark.rule("TRUST-01", "HMAC-02", "TRUST-05")
async def test_a_new_leaf_is_shown_without_restart_and_old_connections_keep_theirs() -> None:
    authority, server_context = own()
    first, second = server_context.identity, authority.issue(["localhost"], now=now())
    client = pinned_client_context(der(authority))
    async with serving(server_context.context) as server, connected(server.port, client, "localhost") as old:
        await ask(old)
        server_context.replace(second)
        assert server_context.identity is second
        async with connected(server.port, client, "localhost") as new:
            await ask(new)
            await ask(old)
            seen = [hashlib.sha256(leaf_seen(streams)).digest() for streams in (old, new)]
            known = [leaf_fingerprint_of(ssl_object) for ssl_object in server.ssl_objects]
    assert seen == known == [first.leaf_fingerprint, second.leaf_fingerprint]


@pytest.mark.rule("TRUST-01")
async def test_a_client_that_names_no_server_is_answered_too() -> None:
    authority, server_context = own("127.0.0.1")
    client = pinned_client_context(der(authority))
    async with serving(server_context.context) as server:
        await accepted(server.port, client, "127.0.0.1")  # no server name is sent for an address
        assert leaf_fingerprint_of(server.ssl_objects[0]) == server_context.identity.leaf_fingerprint


async def test_two_servers_do_not_mix_up_their_leaves() -> None:
    (one, one_context), (other, other_context) = own(), own()
    async with serving(one_context.context) as a, serving(other_context.context) as b:
        await accepted(a.port, pinned_client_context(der(one)))
        await accepted(b.port, pinned_client_context(der(other)))
        assert await reason(a.port, pinned_client_context(der(other))) == "pin"
        assert leaf_fingerprint_of(a.ssl_objects[0]) == one_context.identity.leaf_fingerprint
        assert leaf_fingerprint_of(b.ssl_objects[0]) == other_context.identity.leaf_fingerprint


async def test_no_connection_is_resumed_because_it_would_show_no_certificate() -> None:
    authority, server_context = own()
    client = pinned_client_context(der(authority))
    async with serving(server_context.context) as server, connected(server.port, client, "localhost") as streams:
        await ask(streams)
        session = streams[1].get_extra_info("ssl_object").session
        assert session is None or not session.has_ticket


async def test_the_leaf_of_a_foreign_connection_is_not_guessed(tmp_path: Path) -> None:
    root = make_root()
    leaf = make_leaf(root)
    async with serving(plain_context(tmp_path, leaf.chain_pem(), leaf.key_pem)) as server:
        await accepted(server.port, pinned_client_context(root.der))
        with pytest.raises(TypeError):
            leaf_fingerprint_of(server.ssl_objects[0])


async def test_a_bad_replacement_leaves_the_old_certificate() -> None:
    authority, server_context = own()
    good = server_context.identity
    bad = dataclasses.replace(good, key_pem=authority.issue(["localhost"], now=now()).key_pem)
    with pytest.raises(ConfigurationError, match="KEY_VALUES_MISMATCH"):
        server_context.replace(bad)
    assert server_context.identity is good
    async with serving(server_context.context) as server:
        await accepted(server.port, leaf_client_context(leaf_der(good)))


@pytest.mark.rule("SEC-01", "SEC-02")
def test_the_key_is_never_on_a_disk_in_the_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[tuple[str, int]] = []
    load = ssl.SSLContext.load_cert_chain

    def spy(self: ssl.SSLContext, file: Path, **more: Any) -> None:
        seen.append((file.read_text(), file.parent.stat().st_mode & 0o777))
        load(self, file, **more)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    own()
    [(text, mode)] = seen
    assert "BEGIN ENCRYPTED PRIVATE KEY" in text
    assert "BEGIN PRIVATE KEY" not in text
    assert mode == 0o700
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_a_temporary_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, server_context = own()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(StorageUnavailable) as raised:
        server_context.replace(authority.issue(["localhost"], now=now()))
    assert "--tmpfs /tmp" in (raised.value.hint or "")


@pytest.mark.rule("TRUST-08")
async def test_a_client_without_tls_1_3_is_turned_away() -> None:
    authority, server_context = own()
    client = ssl.create_default_context(cadata=der(authority))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(server_context.context) as server:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await accepted(server.port, client)
        client.maximum_version = ssl.TLSVersion.TLSv1_3
        await accepted(server.port, client)


@pytest.mark.rule("VER-05", "TRUST-08")
async def test_http_1_1_and_tls_1_3_are_agreed_upon() -> None:
    authority, server_context = own()
    client = pinned_client_context(der(authority))
    async with serving(server_context.context) as server, connected(server.port, client, "localhost") as streams:
        await ask(streams)
        for ssl_object in (streams[1].get_extra_info("ssl_object"), server.ssl_objects[0]):
            assert ssl_object.selected_alpn_protocol() == "http/1.1"
            assert ssl_object.version() == "TLSv1.3"
            assert ssl_object.compression() is None
            cipher = ssl_object.cipher()
            assert cipher is not None
            assert cipher[0] in {
                "TLS_AES_128_GCM_SHA256",
                "TLS_AES_256_GCM_SHA384",
                "TLS_CHACHA20_POLY1305_SHA256",
            }


# --- clients


def client_contexts(root: Made, leaf: Made, tmp_path: Path) -> list[ssl.SSLContext]:
    """All three kinds, each trusting this server in its own way."""
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(root.pem)
    return [wan_client_context(anchors), pinned_client_context(root.der), leaf_client_context(leaf.der)]


@pytest.mark.rule("TRUST-08")
async def test_a_server_without_tls_1_3_is_refused_by_every_client(tmp_path: Path) -> None:
    root = make_root()
    leaf = make_leaf(root)
    context = plain_context(tmp_path, leaf.chain_pem(), leaf.key_pem)
    clients = client_contexts(root, leaf, tmp_path)
    async with serving_blocking(context) as port:
        for client in clients:
            await accepted(port, client)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving_blocking(context) as port:
        for client in clients:
            error = await refusal(port, client)
            assert isinstance(error, ProtocolViolation)
            assert "TLS 1.3" in error.what


@pytest.mark.rule("TRUST-03", "TRUST-05", "TRUST-06")
@pytest.mark.parametrize(
    ("more", "name", "why"),
    [
        ({"end": -DAY, "start": -2 * DAY}, "localhost", "expired"),
        ({"start": DAY}, "localhost", "not_yet_valid"),
        ({}, "other.local", "name"),
        ({}, "127.0.0.1", "name"),
        ({"key": rsa.generate_private_key(65537, 1024)}, "localhost", "algorithm"),
        ({"usage": ExtendedKeyUsageOID.CLIENT_AUTH}, "localhost", "chain"),
    ],
    ids=["expired", "not yet valid", "other name", "address", "weak key", "not for servers"],
)
async def test_every_client_checks_name_dates_and_algorithms(
    more: dict[str, Any], name: str, why: str, tmp_path: Path
) -> None:
    root = make_root()
    leaf = make_leaf(root, "localhost", **more)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # a server that is careless
    file = tmp_path / "server.pem"
    file.write_bytes(leaf.chain_pem() + leaf.key_pem)
    context.load_cert_chain(file)
    async with serving(context) as server:
        for client in client_contexts(root, leaf, tmp_path):
            error = await refusal(server.port, client, name)
            assert isinstance(error, CertificateRefused), error
            assert error.reason == why
            assert name in error.what
            assert error.hint


@pytest.mark.rule("TRUST-06")
async def test_a_pinned_root_serves_names_and_addresses() -> None:
    authority, server_context = own("localhost", "127.0.0.1")
    client = pinned_client_context(der(authority))
    async with serving(server_context.context) as server:
        await accepted(server.port, client, "localhost")
        await accepted(server.port, client, "127.0.0.1")
        assert await reason(server.port, client, "127.0.0.2") == "name"


@pytest.mark.rule("TRUST-06")
async def test_another_root_of_the_same_name_is_not_the_pinned_one(tmp_path: Path) -> None:
    leaf = make_leaf(make_root())
    async with serving(plain_context(tmp_path, leaf.chain_pem(), leaf.key_pem)) as server:
        assert await reason(server.port, pinned_client_context(make_root().der)) == "pin"


@pytest.mark.rule("TRUST-06")
async def test_a_pin_trusts_nobody_else_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = make_root("A public CA")
    file = tmp_path / "system.pem"
    file.write_bytes(system.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    leaf = make_leaf(system)
    async with serving(plain_context(tmp_path, leaf.chain_pem(), leaf.key_pem)) as server:
        await accepted(server.port, wan_client_context())
        assert await reason(server.port, pinned_client_context(make_root().der)) == "pin"
        error = await refusal(server.port, leaf_client_context(make_leaf(system).der))
        assert isinstance(error, CertificateChanged)


async def test_a_common_name_is_no_name(tmp_path: Path) -> None:
    root = make_root()
    leaf = make("localhost", root, ca=False)
    async with serving(plain_context(tmp_path, leaf.chain_pem(), leaf.key_pem)) as server:
        for client in client_contexts(root, leaf, tmp_path):
            assert await reason(server.port, client) == "name"


@pytest.mark.rule("TRUST-05")
async def test_an_attempt_accepts_exactly_one_leaf() -> None:
    authority, server_context = own("localhost", "127.0.0.1")
    client = leaf_client_context(leaf_der(server_context.identity))
    async with serving(server_context.context) as server:
        await accepted(server.port, client, "localhost")
        await accepted(server.port, client, "127.0.0.1")
        server_context.replace(authority.issue(["localhost"], now=now()))
        assert isinstance(await refusal(server.port, client), CertificateChanged)


@pytest.mark.rule("TRUST-05")
async def test_a_leaf_signed_by_the_expected_one_is_not_the_expected_one(tmp_path: Path) -> None:
    self_signed = make("peer", ca=True, names=["localhost"])
    child = make_leaf(self_signed)
    client = leaf_client_context(self_signed.der)
    async with serving(plain_context(tmp_path, self_signed.pem, self_signed.key_pem)) as server:
        await accepted(server.port, client)
    async with serving(plain_context(tmp_path, child.chain_pem(), child.key_pem)) as server:
        await accepted(server.port, pinned_client_context(self_signed.der))
        assert isinstance(await refusal(server.port, client), CertificateChanged)


def test_rotation_and_pins_work_on_uvloop() -> None:
    authority, server_context = own()
    first, second = server_context.identity, authority.issue(["localhost"], now=now())
    client = leaf_client_context(leaf_der(first))

    async def run() -> None:
        async with serving(server_context.context) as server:
            await accepted(server.port, client)
            assert await reason(server.port, pinned_client_context(make_root().der)) == "pin"
            server_context.replace(second)
            assert isinstance(await refusal(server.port, client), CertificateChanged)
            assert leaf_fingerprint_of(server.ssl_objects[0]) == first.leaf_fingerprint
            await accepted(server.port, pinned_client_context(der(authority)))
            assert leaf_fingerprint_of(server.ssl_objects[-1]) == second.leaf_fingerprint

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.rule("TRUST-03")
async def test_a_wan_client_refuses_self_signed_servers(tmp_path: Path) -> None:
    _, server_context = own()
    single = make("peer", names=["localhost"])
    client = wan_client_context()
    async with serving(server_context.context) as server:
        assert await reason(server.port, client) == "untrusted"
    async with serving(plain_context(tmp_path, single.pem, single.key_pem)) as server:
        assert await reason(server.port, client) == "untrusted"


@pytest.mark.parametrize("content", [None, b"", b"junk"])
def test_unusable_trust_anchors_are_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "anchors.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"anchors\.pem"):
        wan_client_context(file)


def test_an_unusable_pin_is_refused() -> None:
    for build in (pinned_client_context, leaf_client_context):
        for junk in (b"", b"junk", make_root().der[:-1]):
            with pytest.raises(ConfigurationError):
                build(junk)


# --- errors


async def test_errors_of_the_http_client_are_looked_through() -> None:
    _, server_context = own()
    async with serving(server_context.context) as server, aiohttp.ClientSession() as session:
        for context, reason in ((wan_client_context(), "untrusted"), (pinned_client_context(make_root().der), "pin")):
            with pytest.raises(aiohttp.ClientError) as caught:
                await session.get(f"https://localhost:{server.port}/", ssl=context)
            described = describe_tls_error(caught.value, "localhost")
            assert isinstance(described, CertificateRefused)
            assert described.reason == reason


def test_what_is_no_tls_error_is_left_alone() -> None:
    for error in (OSError("x"), TimeoutError(), asyncio.CancelledError(), ValueError()):
        assert describe_tls_error(error, "a.local") is None


def test_a_hint_about_the_clock() -> None:
    for code in (9, 10):
        error = ssl.SSLCertVerificationError()
        error.verify_code = code
        described = describe_tls_error(error, "a.local")
        assert described is not None
        assert "date and time" in described.hint


def test_host_names_in_messages_are_harmless_and_unknown_codes_are_no_surprise() -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code = 4711
    described = describe_tls_error(error, "a\x1b[31m{reason}.local")
    assert isinstance(described, CertificateRefused)
    assert described.reason == "other"
    assert "{reason}" in described.what
    assert described.what.isprintable()
