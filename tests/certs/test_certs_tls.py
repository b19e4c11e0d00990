from __future__ import annotations

import hashlib
import ssl

import pytest
from certs_kit import ask, connected, leaf_seen, now, serving
from cryptography.hazmat.primitives import serialization

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import (
    ServerContext,
    describe_tls_error,
    leaf_client_context,
    leaf_fingerprint_of,
    pinned_client_context,
)
from s2connect.errors import CertificateChanged


def own(*names: str) -> tuple[CertificateAuthority, ServerContext]:
    authority = CertificateAuthority.create("Test", now=now())
    return authority, ServerContext(authority.issue(names or ("localhost",), now=now()))


def der(authority: CertificateAuthority) -> bytes:
    return authority.certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.rule("TRUST-01", "HMAC-02", "TRUST-05")
async def test_a_new_leaf_is_shown_without_restart_and_old_connections_keep_theirs() -> None:
    authority, server_context = own()
    first = server_context.identity
    client = pinned_client_context(der(authority))
    async with serving(server_context.context) as server, connected(server.port, client, "localhost") as old:
        await ask(old)
        second = authority.issue(["localhost"], now=now())
        server_context.replace(second)
        async with connected(server.port, client, "localhost") as new:
            await ask(new)
            await ask(old)
            assert hashlib.sha256(leaf_seen(old)).digest() == first.leaf_fingerprint
            assert hashlib.sha256(leaf_seen(new)).digest() == second.leaf_fingerprint
            assert [leaf_fingerprint_of(o) for o in server.ssl_objects] == [
                first.leaf_fingerprint,
                second.leaf_fingerprint,
            ]


async def refused(port: int, context: ssl.SSLContext, name: str) -> ssl.SSLError:
    with pytest.raises(ssl.SSLError) as caught:
        async with connected(port, context, name):
            pass
    return caught.value


@pytest.mark.rule("TRUST-05")
async def test_an_attempt_accepts_exactly_one_leaf() -> None:
    authority, server_context = own()
    async with serving(server_context.context) as server:
        async with connected(server.port, pinned_client_context(der(authority)), "localhost") as streams:
            leaf = leaf_seen(streams)
        client = leaf_client_context(leaf)
        async with connected(server.port, client, "localhost") as streams:
            assert await ask(streams) == b"ping"
        await refused(server.port, client, "other.local")
        server_context.replace(authority.issue(["localhost"], now=now()))
        error = await refused(server.port, client, "localhost")
    assert isinstance(describe_tls_error(error, "localhost", trust="leaf"), CertificateChanged)
