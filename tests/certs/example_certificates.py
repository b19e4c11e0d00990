"""Certificates and TLS servers that owe nothing to the code under test."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.waits import within

DAY = timedelta(days=1)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Made:
    """A certificate with its key, and the one it was issued by."""

    certificate: x509.Certificate
    key: Any
    issuer: Made | None

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def chain_pem(self) -> bytes:
        return self.pem + (self.issuer.chain_pem() if self.issuer else b"")


def make(
    name: str,
    issuer: Made | None = None,
    *,
    ca: bool | None = None,
    names: Sequence[str] = (),
    start: timedelta = -DAY,
    end: timedelta = 30 * DAY,
    key: Any = None,
    hash_: Any = None,
    usage: Any = ExtendedKeyUsageOID.SERVER_AUTH,
    sign_with: Any = None,
) -> Made:
    """Make a certificate; without an issuer it is self-signed, without ``ca`` it has no basic constraints."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() + start)
        .not_valid_after(now() + end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
        )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if ca:  # without it Python 3.13 refuses a CA
        builder = builder.add_extension(_signs_certificates(), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_san(n) for n in names]), critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    signing_key = sign_with or (issuer.key if issuer else key)
    hash_ = hash_ if hash_ is not None else hashes.SHA256()
    return Made(builder.sign(signing_key, None if hash_ == "none" else hash_), key, issuer)


def _signs_certificates() -> x509.KeyUsage:
    uses = "content_commitment key_encipherment data_encipherment key_agreement encipher_only"
    others = dict.fromkeys((*uses.split(), "decipher_only"), False)
    return x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **others)


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def make_root(name: str = "Root of a peer", **more: Any) -> Made:
    return make(name, ca=True, **more)


def make_leaf(root: Made, *names: str, **more: Any) -> Made:
    return make("leaf", root, ca=False, names=names or ("localhost",), **more)


def plain_context(tmp_path: Path, chain_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    """A server context of the standard library."""
    file = tmp_path / "plain.pem"
    file.write_bytes(chain_pem + key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@dataclass
class Server:
    port: int
    ssl_objects: list[ssl.SSLObject]
    received: list[bytes]


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext | None, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """An echo server; remembers the TLS side of its connections and what it received."""
    writers: list[asyncio.StreamWriter] = []
    seen = Server(0, [], [])

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        seen.ssl_objects.append(writer.get_extra_info("ssl_object"))
        with contextlib.suppress(OSError):
            while data := await reader.read(100):
                seen.received.append(data)
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, host, 0, ssl=context)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving_blocking(context: ssl.SSLContext) -> AsyncIterator[int]:
    """An echo server without asyncio: servers of asyncio break a handshake off without the alert that says why."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                while data := tls.recv(100):
                    tls.sendall(data)

    thread = asyncio.create_task(asyncio.to_thread(serve))
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        await thread
        listener.close()


@contextlib.asynccontextmanager
async def connected(port: int, context: ssl.SSLContext, name: str, host: str = "127.0.0.1") -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(streams: Streams, text: bytes = b"ping") -> bytes:
    """Send and get the echo, so that the handshake is over on both sides."""
    reader, writer = streams
    writer.write(text)
    async with within(5):
        return await reader.readexactly(len(text))


def leaf_seen(streams: Streams) -> bytes:
    """DER of the leaf as the client saw it."""
    return streams[1].get_extra_info("ssl_object").getpeercert(binary_form=True)
