"""A server of the page with a page, an action, a stream and an open path, and browsers that ask it."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

from s2connect.certs.authority import CertificateAuthority
from s2connect.certs.tls import ServerContext
from s2connect.supervisor import Supervisor
from s2connect.web.access import Session
from s2connect.web.server import PageServer, ServerEvent

PASSWORD = "correct horse"


@dataclass
class Served:
    """A server that runs; ``acted`` counts what its action has done."""

    server: PageServer
    supervisor: Supervisor
    tls: ServerContext | None = None
    acted: list[Mapping[str, Any]] = field(default_factory=list)
    streams: int = 0
    authority: CertificateAuthority | None = None

    @property
    def url(self) -> str:
        """Address of the page as a browser on this machine types it."""
        return f"{'http' if self.server.is_local else 'https'}://127.0.0.1:{self.server.port}"

    @property
    def origin(self) -> dict[str, str]:
        """Headers that a browser sends with a form of the page."""
        return {"Origin": self.url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"}

    @asynccontextmanager
    async def browser(self, address: str = "127.0.0.1") -> AsyncIterator[aiohttp.ClientSession]:
        """A browser with cookies of its own, at another address of this machine."""
        tls: ssl.SSLContext | bool = True
        if self.authority is not None:
            tls = ssl.create_default_context(cadata=self.authority.to_pem().decode())
        connector = aiohttp.TCPConnector(ssl=tls, local_addr=(address, 0))
        jar = aiohttp.CookieJar(unsafe=True)  # of an address instead of a name
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, base_url=self.url) as http:
            yield http

    async def log_in(self, http: aiohttp.ClientSession, password: str = PASSWORD, **headers: str) -> int:
        """Log in as the form does; return the status."""
        async with http.post(
            "/login", data={"password": password}, headers={**self.origin, **headers}, allow_redirects=False
        ) as response:
            return response.status


@asynccontextmanager
async def serving(*, network: bool = False, names: tuple[str, ...] = (), **settings: Any) -> AsyncIterator[Served]:
    """Serve at loopback, or over TLS at every address as in the network."""
    async with Supervisor("test") as supervisor:
        tls, authority = None, None
        if network:
            authority = CertificateAuthority.create("test", now=datetime.now(UTC))
            identity = authority.issue(["ems.local", "127.0.0.1", *names], now=datetime.now(UTC))
            tls = await asyncio.to_thread(ServerContext, identity)
            settings = {"bind": "*", "host": "ems.local", "tls": tls, **settings}
        server = PageServer(supervisor=supervisor, port=0, **settings)
        served = Served(server, supervisor, tls, authority=authority)

        async def page(request: web.Request, session: Session) -> web.Response:
            return web.Response(text=f"csrf={session.csrf}", content_type="text/html")

        async def act(request: web.Request, session: Session, members: Mapping[str, Any]) -> web.Response:
            served.acted.append(members)
            return web.json_response({"done": True})

        async def news(request: web.Request, session: Session) -> AsyncIterator[ServerEvent]:
            served.streams += 1
            try:
                number = 0
                while True:
                    yield ServerEvent("number", number)
                    number += 1
                    await asyncio.sleep(0.02)
            finally:
                served.streams -= 1

        async def flood(request: web.Request, session: Session) -> AsyncIterator[ServerEvent]:
            served.streams += 1
            try:
                while True:
                    yield ServerEvent("much", "x" * 100_000)
            finally:
                served.streams -= 1

        async def numbers(request: web.Request) -> web.StreamResponse:
            return web.Response(text="numbers")

        server.add_page("/", page)
        server.add_action("/act", act)
        server.add_stream("/news", news)
        server.add_stream("/flood", flood)
        server.add_metrics("/metrics", numbers)
        server.add_open("/healthz", numbers)
        await server.start()
        try:
            yield served
        finally:
            await server.close()


async def csrf_of(http: aiohttp.ClientSession) -> str:
    """Return the token of the forms of a browser that is logged in."""
    async with http.get("/") as response:
        found = re.fullmatch(r"csrf=(\S+)", await response.text())
    assert found is not None, "not logged in"
    return found[1]


async def sees_the_page(http: aiohttp.ClientSession) -> bool:
    """Return whether a browser is shown the page; otherwise it is led to the log-in."""
    async with http.get("/", headers={"Accept": "text/html"}, allow_redirects=False) as response:
        assert response.status in (200, 303)
        return response.status == 200
