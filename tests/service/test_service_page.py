"""The page of a running service, and the commands about it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from s2connect import Endpoint, EndpointConfig, NodeConfig, PageSettings, Role, create_home
from s2connect.errors import ConfigurationError
from s2connect.https.server import free_port
from s2connect.service import commands
from s2connect.service.page import page_of
from s2connect.service.sidecar import Service
from s2connect.store.home import Home
from s2connect.web.observation import Observation
from tests.waits import until, within


@asynccontextmanager
async def service(path: Path, settings: PageSettings | None = None) -> AsyncIterator[Service]:
    config = EndpointConfig(
        host="localhost", bind="127.0.0.1", port=0, nodes=(NodeConfig(role=Role.CEM),), vault="files", advertise=False
    )
    if not path.exists():
        create_home(path, config)
    async with Endpoint.open(path) as endpoint:
        running = Service(endpoint, path, stop=lambda: None)
        async with page_of(running, Home.open(path), settings or PageSettings(port=0)):
            yield running


async def get(url: str, **arguments: Any) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(url, allow_redirects=False, **arguments) as response:
        return response.status, await response.text()


async def test_an_observation_that_fails_begins_anew_and_the_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = Observation.run, list[int]()

    async def run(self: Observation) -> None:
        if not failed:
            failed.append(1)
            raise RuntimeError("broken")
        await real(self)

    monkeypatch.setattr(Observation, "run", run)
    async with service(tmp_path / "home") as running, within(20):
        assert running.page is not None
        assert (await get(running.page.url))[0] == 200
        assert running.endpoint.supervisor.failures.counts["observation"] == 1


async def test_the_page_takes_another_port_only_where_none_was_chosen(tmp_path: Path) -> None:
    one, two = service(tmp_path / "a", PageSettings()), service(tmp_path / "b", PageSettings())
    async with within(30), one as first, two as second:
        assert first.page is not None
        assert second.page is not None
        assert first.page.port != second.page.port
        with pytest.raises(ConfigurationError, match=f"port {second.page.port}"):
            async with service(tmp_path / "c", PageSettings(port=second.page.port)):
                pass


async def test_a_link_and_a_password_by_command(tmp_path: Path) -> None:
    async with within(30), service(tmp_path / "home") as running:
        link = await running.ask(commands.PageLink())
        assert running.page is not None
        assert link.url.startswith(f"{running.page.url}login#")
        assert not (await running.ask(commands.ShowPage())).has_password
        await running.ask(commands.SetPagePassword(password="correct horse"))
        assert (await running.ask(commands.ShowPage())).has_password
        assert "correct horse" not in repr(commands.SetPagePassword(password="correct horse"))
    async with within(30), service(tmp_path / "home", PageSettings(port=free_port())) as running:
        assert (await running.ask(commands.ShowPage())).has_password
        await running.ask(commands.SetPagePassword())
        assert not (await running.ask(commands.ShowPage())).has_password
    kept = tmp_path / "home" / "page-password.json"
    assert kept.stat().st_mode & 0o777 == 0o600


async def test_metrics_and_health_are_on_the_port_of_the_page(tmp_path: Path) -> None:
    async with within(20), service(tmp_path / "home") as running:
        assert running.page is not None
        url = running.page.url
        assert (await get(f"{url}healthz"))[0] == 200
        status, text = await get(f"{url}readyz")
        parts = {part["name"]: part["ready"] for part in json.loads(text)["parts"]}
        assert status == 503
        assert parts == {"endpoint": True, "certificate": True, "sessions": False, "local_network": True}
        running.follow()
        await until(lambda: all(map(running.endpoint.takes_sessions, running.endpoint.nodes)))
        assert (await get(f"{url}readyz"))[0] == 200
        status, text = await get(f"{url}metrics")
        assert status == 200
        assert 's2connect_pairings{role="CEM",state="connected"} 0.0' in text
        assert (await get(f"{url}metrics", headers={"Host": "evil.example"}))[0] == 421
        await running.finish(1.0)
