"""Towards the cloud through an HTTP proxy: pairing, session initiation and WebSocket, encrypted end to end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from s2connect import Endpoint, Role
from s2connect.certs.chain import verify_pki
from s2connect.certs.tls import wan_client_context
from s2connect.endpoint.config import EndpointConfig
from s2connect.errors import CertificateRefused, ConfigurationError, NotReachable
from s2connect.https.client import Destination, HttpsClient
from s2connect.model.proxy import Proxies, Proxy
from s2connect.model.url import BaseUrl
from tests.endpoint.conftest import MEASUREMENT, Wan, lan_config
from tests.waits import within


class ConnectProxy:
    """A CONNECT proxy that knows some hosts by name and keeps what it sees.

    Attributes:
        hosts: Where the hosts are really.
        targets: What it was asked for.
        seen: Every byte of the clients, and of the servers.
    """

    def __init__(self, hosts: dict[str, str], password: str | None = None) -> None:
        self.hosts = hosts
        self.targets: list[str] = []
        self.seen = bytearray()
        self._password = password
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        user = f"{self._password}@" if self._password else ""
        try:
            yield Proxy.parse(f"http://{user}127.0.0.1:{port}")
        finally:
            server.close()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        assert method == "CONNECT"
        self.targets.append(target)
        host, _, port = target.rpartition(":")
        if self._password is not None:
            expected = base64.b64encode(self._password.encode()).decode()
            if f"Proxy-Authorization: Basic {expected}\r\n" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
        if host not in self.hosts:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        there_reader, there_writer = await asyncio.open_connection(self.hosts[host], int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(self._copy(reader, there_writer), self._copy(there_reader, writer))
        finally:
            there_writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            self.seen += chunk
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


@pytest.fixture
def wan(tmp_path: Path) -> Wan:
    return Wan(tmp_path)


@pytest.mark.parametrize("environment", [False, True], ids=["in the settings", "in the environment"])
async def test_a_device_pairs_and_has_a_session_with_a_cloud_behind_a_proxy_that_sees_nothing(
    wan: Wan, environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = ConnectProxy({"cem.example.com": "127.0.0.1"})
    async with watched.running() as proxy:
        settings: dict[str, Any] = {"trust_anchors": wan.anchors}
        if environment:
            monkeypatch.setenv("HTTPS_PROXY", proxy.reveal_url())
        else:
            settings["proxy"] = proxy.reveal_url()
        async with (
            Endpoint.open(config=wan.config(Role.CEM, "cem.example.com")) as cem,
            Endpoint.open(config=lan_config(Role.RM, **settings)) as rm,
            within(30),
        ):
            code = cem.node().issue_pairing_code()
            await rm.node().pair(cem.pairing_url, code)
            (device, _), (manager, _) = await asyncio.gather(
                anext(rm.node().connections()), anext(cem.node().connections())
            )
            text = str(MEASUREMENT)
            await device.send(text)
            assert await manager.recv() == text
            tokens = [
                token.reveal()
                for pairing in await rm.pairings()
                for token in await rm._state.store.candidate_tokens(pairing)
            ]
            await asyncio.gather(device.close(), manager.close())
    assert set(watched.targets) == {f"cem.example.com:{cem.pairing_url.port}"}
    assert len(watched.targets) >= 3, "certificate, pairing, session"
    for secret in (*tokens, code.token.reveal(), "Bearer", "PowerMeasurement", "accessToken"):
        assert secret.encode() not in watched.seen


async def test_what_is_local_never_goes_through_the_proxy() -> None:
    """The proxy would refuse everything."""
    watched = ConnectProxy({})
    async with watched.running() as proxy:
        settings = {"proxy": proxy.reveal_url()}
        async with (
            Endpoint.open(config=lan_config(Role.CEM)) as cem,
            Endpoint.open(config=lan_config(Role.RM, **settings)) as rm,
            within(30),
        ):
            await rm.node().pair(cem.pairing_url, cem.node().issue_pairing_code())
            (device, _), (manager, _) = await asyncio.gather(
                anext(rm.node().connections()), anext(cem.node().connections())
            )
            await asyncio.gather(device.close(), manager.close())
    assert watched.targets == []


@pytest.mark.parametrize(("password", "given", "status"), [("user:right", "user:wrong", "407"), (None, None, "502")])
async def test_a_proxy_that_refuses_is_named(password: str | None, given: str | None, status: str) -> None:
    watched = ConnectProxy({}, password)
    context = wan_client_context()
    async with watched.running() as running:
        proxy = Proxy.parse(f"http://{given}@{running.address}" if given else running.reveal_url())
        with pytest.raises(NotReachable, match=f"proxy 127.0.0.1:{running.port} .*HTTP {status}") as raised:
            await verify_pki("cem.example.com", 443, context, proxy=proxy, timeout=5)
        assert "wrong" not in str(raised.value)
        async with HttpsClient(Destination(context, None, proxy)) as http:
            with pytest.raises(NotReachable, match=f"proxy 127.0.0.1:{running.port} .*HTTP {status}"):
                await http.api_version(BaseUrl("https://cem.example.com/pairing/"))
    with pytest.raises(NotReachable, match="proxy"):
        await verify_pki("cem.example.com", 443, context, proxy=proxy, timeout=5)


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[Proxy]:
    """A proxy that answers its only client so, and does not end the connection."""
    gone = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            while await reader.read(1000):
                pass
        writer.transport.abort()
        gone.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
        await gone.wait()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, "no HTTP"),
        (b"HTTP/1.1 200x\r\n\r\n", "no HTTP"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 403 Forbidden\nServer: x\n\n", "HTTP 403"),
        (b"HTTP/1.0 503\r\n\r\n", "HTTP 503"),
    ],
)
async def test_a_proxy_that_answers_otherwise_is_named(answer: bytes, said: str) -> None:
    context = wan_client_context()
    async with within(10), answering(answer) as proxy, HttpsClient(Destination(context, None, proxy)) as http:
        with pytest.raises(NotReachable, match=rf"proxy {proxy.address} .*\({said}\)"):
            await http.api_version(BaseUrl("https://cem.example.com/pairing/"))


async def test_a_certificate_is_verified_behind_the_proxy(wan: Wan) -> None:
    async with Endpoint.open(config=wan.config(Role.CEM, "cem.example.com")) as cem:
        port = cem.pairing_url.port
        watched = ConnectProxy({"cem.example.com": "127.0.0.1", "other.example.com": "127.0.0.1"}, "user:p%40ss")
        watched._password = "user:p@ss"
        async with watched.running() as running:
            proxy = Proxy.parse(f"http://user:p%40ss@{running.address}")
            context = wan_client_context(wan.anchors)
            await verify_pki("cem.example.com", port, context, proxy=proxy, timeout=5)
            async with HttpsClient(Destination(context, None, proxy)) as http:
                assert await http.api_version(cem.pairing_url)
            with pytest.raises(CertificateRefused, match=r"other\.example\.com"):
                await verify_pki("other.example.com", port, context, proxy=proxy, timeout=5)
            with pytest.raises(CertificateRefused):
                await verify_pki("cem.example.com", port, wan_client_context(), proxy=proxy, timeout=5)


PROXIES = Proxies(Proxy("proxy", 3128), (".internal.example", "api.example.com", "10.0.0.9"))


@pytest.mark.parametrize(
    ("host", "proxied"),
    [
        ("cloud.example.com", True),
        ("Cloud.Example.com.", True),
        ("9.9.9.9", True),
        ("gateway.local", False),
        ("gateway", False),
        ("localhost", False),
        ("127.0.0.1", False),
        ("192.168.1.4", False),
        ("fe80::1", False),
        ("[fd00::1]", False),
        ("api.example.com", False),
        ("v1.api.example.com", False),
        ("notapi.example.com", True),
        ("a.internal.example", False),
    ],
)
def test_a_proxy_is_for_the_internet_but_for_exceptions(host: str, proxied: bool) -> None:
    assert (PROXIES.towards(host) is not None) == proxied


def test_the_environment_counts_where_nothing_is_configured() -> None:
    environment = {"HTTPS_PROXY": "proxy.example", "NO_PROXY": "a.example, .b.example:443,*.c.example"}
    found = Proxies.of(None, (), environment)
    assert found.proxy == Proxy("proxy.example", 80)
    assert [found.towards(f"x.{d}.example") is None for d in "abcd"] == [True, True, True, False]
    assert Proxies.of("http://own:1", (), environment).proxy == Proxy("own", 1)
    assert Proxies.of(None, (), {**environment, "NO_PROXY": "*"}).towards("x.d.example") is None
    assert Proxies.of(None, (), {}).towards("x.example") is None


def test_a_proxy_keeps_its_password_to_itself() -> None:
    proxy = Proxy.parse("http://me:secret@proxy.example:3128/")
    assert "secret" not in repr(proxy)
    assert "secret" not in proxy.address
    for wrong in ("https://proxy:1", "http://", "socks5://me:secret@proxy", "http://me:secret@proxy:port"):
        with pytest.raises(ConfigurationError) as raised:
            Proxy.parse(wrong)
        assert "secret" not in str(raised.value)
    with pytest.raises(ValueError, match="HTTPS_PROXY") as refused:
        EndpointConfig(proxy="http://me:secret@proxy:1")
    assert "secret" not in str(refused.value)
