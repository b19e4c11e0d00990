"""Real endpoints on loopback, and a server that sits in front of one and misbehaves."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from s2connect import Deployment, Endpoint, EndpointConfig, NodeConfig, Role
from s2connect.certs.authority import ServerIdentity
from s2connect.certs.tls import ServerContext

OpenEndpoint = Callable[..., Awaitable[Endpoint]]

MEASUREMENT = {
    "message_type": "PowerMeasurement",
    "measurement_timestamp": "2026-01-01T00:00:00Z",
    "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}],
}


def lan_config(role: Role, **more: object) -> EndpointConfig:
    node = NodeConfig(role=role, brand="Test", type="Thing", model_name=f"{role} one")
    settings: dict[str, object] = {"host": "127.0.0.1", "bind": "127.0.0.1", "port": 0, "nodes": (node,), **more}
    return EndpointConfig.model_validate(settings)


@pytest.fixture
async def open_endpoint() -> AsyncIterator[OpenEndpoint]:
    """Open endpoints that the test does not have to close."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(config: EndpointConfig, home: Path | None = None, **more: object) -> Endpoint:
            return await stack.enter_async_context(Endpoint.open(home, config=config, **more))  # type: ignore[arg-type]

        yield open_one


@pytest.fixture
async def cem(open_endpoint: OpenEndpoint) -> Endpoint:
    return await open_endpoint(lan_config(Role.CEM))


@pytest.fixture
async def rm(open_endpoint: OpenEndpoint) -> Endpoint:
    return await open_endpoint(lan_config(Role.RM))


class Wan:
    """A public CA made for the test, and settings of WAN endpoints that have a certificate of it."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.anchors = directory / "public-ca.pem"
        self.ca.cert_pem.write_to_path(self.anchors)

    def config(self, role: Role, host: str, **more: object) -> EndpointConfig:
        leaf = self.ca.issue_cert(host)
        chain, key = self.directory / f"{host}.pem", self.directory / f"{host}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        return lan_config(
            role,
            **{
                "deployment": Deployment.WAN,
                "host": host,
                "certificate": chain,
                "private_key": key,
                "trust_anchors": self.anchors,
                "allow_private_addresses": True,
                **more,
            },
        )


@pytest.fixture
def wan(tmp_path: Path) -> Wan:
    return Wan(tmp_path)


class Interloper:
    """Stands in front of an endpoint with a certificate of the test's choice and spoils what the test says.

    Attributes:
        spoil: Called with the operation and a function that forwards the request; what it returns is answered. Raising
            ``ConnectionError`` closes the connection.
        seen: Operations in the order of their arrival; ``bodies`` with what was sent to them.
    """

    def __init__(self, upstream: Endpoint, identity: ServerIdentity) -> None:
        self.upstream = upstream
        self.identity = identity
        self.tls = ServerContext(identity)
        self.spoil: Callable[[str, Callable[[], Awaitable[web.Response]]], Awaitable[web.Response]] | None = None
        self.seen: list[str] = []
        self.bodies: list[tuple[str, bytes]] = []
        self.port = 0

    @property
    def pairing_url(self) -> str:
        return f"https://127.0.0.1:{self.port}/pairing/"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Interloper]:
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE  # an attacker does not mind
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as client:
            app = web.Application()

            async def handle(request: web.Request) -> web.StreamResponse:
                body = await request.read()
                operation = request.path.rsplit("/", 1)[-1] or "index"
                self.seen.append(operation)
                self.bodies.append((operation, body))

                async def forward() -> web.Response:
                    url = f"https://127.0.0.1:{self.upstream.pairing_url.port}{request.path}"
                    headers = {k: v for k, v in request.headers.items() if k in ("Authorization", "Content-Type")}
                    async with client.request(request.method, url, data=body, headers=headers) as response:
                        return web.Response(
                            status=response.status, body=await response.read(), content_type=response.content_type
                        )

                try:
                    return await (self.spoil(operation, forward) if self.spoil else forward())
                except ConnectionError:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()

            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self.tls.context)
            await site.start()
            self.port = runner.addresses[0][1]
            try:
                yield self
            finally:
                await runner.cleanup()


def identity_of(endpoint: Endpoint) -> ServerIdentity:
    """The certificate and key of an endpoint, as a thief would have it."""
    assert endpoint._tls is not None
    return endpoint._tls.identity
