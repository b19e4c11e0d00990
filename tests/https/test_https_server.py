"""Requests of strangers to the server, and its answers (SEC-03)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest
from aiohttp import web

import s2connect.https.connection as connection_module
from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import ServerContext, pinned_client_context
from s2connect.errors import ConfigurationError, IncompatibleApiVersion, PeerBusy, PeerTimeout, ProtocolViolation
from s2connect.https.client import Destination, HttpsClient
from s2connect.https.rate import AddressLimiter
from s2connect.https.server import HttpsServer, another_port, answer, bearer, read_body
from s2connect.model.secret import AccessToken
from s2connect.model.url import BaseUrl
from tests.waits import within

CA = CertificateAuthority.create("test", now=datetime.now(UTC))
IDENTITY = CA.issue(["127.0.0.1"], now=datetime.now(UTC))


@pytest.fixture
async def server() -> AsyncIterator[HttpsServer]:
    made = HttpsServer(ServerContext(IDENTITY).context, host="127.0.0.1", port=0)

    async def echo(request: web.Request) -> web.Response:
        body = await read_body(request)
        if body == b'{"fail":true}':
            raise RuntimeError("secret detail")
        return web.json_response({"bearer": bearer(request, AccessToken) is not None, "size": len(body)})

    async def leave(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        request.transport.close()
        return answer(401)

    async def refuse(_: web.Request) -> web.Response:
        return answer(401)

    made.add_index("/pairing/")
    made.add_operation("/pairing/", "echo", echo)
    made.add_operation("/pairing/", "refuse", refuse)
    made.add_operation("/pairing/", "leave", leave)
    made.add_operation("/bare/", "echo", echo)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def context() -> ssl.SSLContext:
    return pinned_client_context(ssl.PEM_cert_to_DER_cert(CA.to_pem().decode()))


def url(server: HttpsServer, path: str = "") -> str:
    return f"https://127.0.0.1:{server.port}/pairing/{path}"


async def test_an_unexpected_failure_is_a_500_without_its_text(server: HttpsServer, context: ssl.SSLContext) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(url(server, "v1/echo"), data=b'{"fail":true}', ssl=context) as response:
            assert response.status == 500
            assert await response.text() == ""
        async with session.post(url(server, "v1/echo"), data=b"{}", ssl=context) as response:
            assert response.status == 200
            assert "Server" not in response.headers
            assert response.headers["Cache-Control"] == "no-store"


async def test_a_connection_that_is_closed_while_a_request_is_answered_is_no_error(
    server: HttpsServer, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.post(url(server, "v1/leave"), ssl=context)
    assert not caplog.records


@pytest.mark.rule("SEC-03")
async def test_an_address_that_is_refused_too_often_has_to_wait(server: HttpsServer, context: ssl.SSLContext) -> None:
    server._limiter = AddressLimiter(burst=10.0, refill=0.001)
    async with aiohttp.ClientSession() as session:
        statuses = []
        for _ in range(6):
            async with session.post(url(server, "v1/refuse"), ssl=context) as response:
                statuses.append(response.status)
        assert statuses == [401, 401, 401, 429, 429, 429]
        async with session.get(url(server), ssl=context) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"


@pytest.mark.rule("VER-02")
async def test_a_client_that_leaves_the_version_out_is_served_and_named_once(
    server: HttpsServer, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(url(server, "echo"), data=b"{}", ssl=context) as response:
                assert response.status == 200
                assert await response.json() == {"bearer": False, "size": 2}
    assert caplog.text.count("127.0.0.1 asks for /pairing/echo without the version of the API") == 1
    assert "v1/ before the operation" in caplog.text


@pytest.mark.rule("SEC-03")
async def test_a_connection_that_asks_nothing_is_closed(
    server: HttpsServer, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "FIRST_REQUEST_TIMEOUT", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    writer.write(b"POST /pairing/v1/echo HTTP/1.1\r\n")
    async with within(5):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.transport.abort()


async def test_a_port_that_is_taken_is_named(server: HttpsServer) -> None:
    other = HttpsServer(ServerContext(IDENTITY).context, host="127.0.0.1", port=server.port)
    with pytest.raises(ConfigurationError, match=str(server.port)) as refused:
        await other.start()
    assert f"config set port {another_port(server.port)} " in refused.value.hint


@pytest.mark.parametrize("port", [1, 80, 8443, 9443, 65_535])
def test_another_port_is_advised_than_the_one_that_is_taken(port: int) -> None:
    assert 1024 <= another_port(port) <= 65_535
    assert another_port(port) != port


@pytest.mark.rule("VER-02")
async def test_the_client_fetches_the_index_and_says_when_no_version_fits(
    server: HttpsServer, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HttpsClient(Destination(context)) as http:
        assert await http.api_version(BaseUrl(url(server))) == "v1"
        monkeypatch.setattr("s2connect.https.server.API_VERSIONS", ("v2", "v3"))
        with pytest.raises(IncompatibleApiVersion, match="v2, v3"):
            await http.api_version(BaseUrl(url(server)))


@pytest.mark.rule("VER-08")
async def test_a_server_without_an_index_is_taken_for_v1_and_the_log_says_so(
    server: HttpsServer, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    bare, nothing = (BaseUrl(f"https://127.0.0.1:{server.port}/{path}/") for path in ("bare", "nothing"))
    async with HttpsClient(Destination(context)) as http:
        assert await http.api_version(bare) == "v1"
        assert f"{bare} has no version index (HTTP 404), which the standard demands; trying v1" in caplog.messages
        assert (await http.post(bare, "v1", "echo", b"{}")).status == 200
    async with HttpsClient(Destination(context)) as http:
        assert await http.api_version(nothing) == "v1"
        with pytest.raises(ProtocolViolation, match=r"There is no S2 Connect at .*/nothing/ \(HTTP 404\)"):
            await http.post(nothing, "v1", "echo")


async def test_the_client_bounds_time_and_names_a_busy_server(server: HttpsServer, context: ssl.SSLContext) -> None:
    base = BaseUrl(url(server))
    server._limiter = AddressLimiter(burst=1.5, refill=0.0)
    async with HttpsClient(Destination(context)) as http:
        await http.post(base, "v1", "echo")
        with pytest.raises(PeerBusy) as busy:
            await http.post(base, "v1", "echo")
        assert busy.value.status == 429
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with HttpsClient(Destination(context)) as http:
            with pytest.raises(PeerTimeout):
                await http.post(BaseUrl(f"https://127.0.0.1:{port}/"), "v1", "echo", timeout=0.2)
