"""A real HTTPS server on loopback with whatever a test mounts, and clients that trust it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import ServerContext, pinned_client_context
from s2connect.https.client import Destination, HttpsClient
from s2connect.https.own_addresses import own_addresses
from s2connect.https.server import HttpsServer
from s2connect.model.url import BaseUrl

CA = CertificateAuthority.create("test", now=datetime.now(UTC))
PATH = "/pairing/"


def node_id(number: int) -> UUID:
    return UUID(int=0xC0FFEE << 100 | number)


def outside_address() -> str:
    """An IPv4 address of this machine that is not loopback."""
    for own in own_addresses():
        if own.interface.version == 4 and not own.interface.is_loopback:
            return str(own.interface.ip)
    pytest.skip("this machine has no IPv4 address but loopback")


def trusting() -> ssl.SSLContext:
    return pinned_client_context(ssl.PEM_cert_to_DER_cert(CA.to_pem().decode()))


def base_url(server: HttpsServer, host: str = "127.0.0.1") -> BaseUrl:
    return BaseUrl(f"https://{host}:{server.port}{PATH}")


@contextlib.asynccontextmanager
async def serving(mount: Callable[[HttpsServer], None], host: str = "127.0.0.1") -> AsyncIterator[HttpsServer]:
    identity = CA.issue([host], now=datetime.now(UTC))
    server = HttpsServer(ServerContext(identity).context, host=host, port=0)
    server.add_index(PATH)
    mount(server)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


def https_client() -> HttpsClient:
    return HttpsClient(Destination(trusting()))
