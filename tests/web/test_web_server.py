"""Server of the page, with real sockets: who may see it, and what a stranger can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from s2connect.supervisor import Supervisor
from s2connect.web.access import PasswordHash, Session
from s2connect.web.server import PageServer, ServerEvent
from tests.waits import within


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[PageServer]:
    async with Supervisor("test") as supervisor:
        server = PageServer(supervisor=supervisor, port=0, **settings)

        async def page(request: web.Request, session: Session) -> web.Response:
            return web.Response(text=session.csrf)

        async def act(request: web.Request, session: Session, members: Mapping[str, Any]) -> web.Response:
            return web.json_response(dict(members))

        async def news(request: web.Request, session: Session) -> AsyncIterator[ServerEvent]:
            for number in range(1_000_000):
                yield ServerEvent("number", number)
                await asyncio.sleep(0.01)

        server.add_page("/", page)
        server.add_action("/act", act)
        server.add_stream("/news", news)
        await server.start()
        try:
            yield server
        finally:
            await server.close()


async def test_the_user_of_the_service_needs_no_log_in_on_this_machine() -> None:
    async with serving() as server, aiohttp.ClientSession() as http, within(20):
        async with http.get(server.url) as response:
            assert response.status == 200
            token = await response.text()
        async with http.post(f"{server.url}act", json={"csrf": token, "x": 1}) as response:
            assert await response.json() == {"csrf": token, "x": 1}
        async with http.get(f"{server.url}news") as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert await response.content.readuntil(b"\n\n") == b"event: number\ndata: 0\n\n"


async def test_a_log_in_whose_check_fails_is_refused_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Supervisor("test") as supervisor:
        server = PageServer(supervisor=supervisor, port=0)
        await server.set_password("correct horse")
        await server.start()
        try:
            async with aiohttp.ClientSession() as http, within(20):
                with monkeypatch.context() as broken:
                    broken.setattr(PasswordHash, "matches", lambda *_: 1 / 0)
                    async with http.post(f"{server.url}login", data={"password": "correct horse"}) as response:
                        assert response.status == 429
                assert supervisor.failures.counts["log-in"] == 1
                form = {"password": "correct horse"}
                async with http.post(f"{server.url}login", data=form, allow_redirects=False) as response:
                    assert response.status == 303
        finally:
            await server.close()
