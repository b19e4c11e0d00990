"""The port for metrics of a bridge: its status for programs, and the way to its page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.errors import S2ConnectError
from s2connect.https.server import free_port
from s2connect.model.common import NodeId, Role
from s2connect.transports.plain import connect_plain
from s2connect.web.metrics import Metrics
from s2connect.web.observation import Observation
from tests.waits import until, within


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Bridge, str, int]]:
    """A bridge between plain S2 and nobody, its own place, and the port of its devices."""
    port, file = free_port(), tmp_path / "bridge.toml"
    file.write_text(
        f'home = "home"\n[[route]]\nname = "house"\n[route.devices]\ntype = "plain-server"\nport = {port}\n'
        '[[route.devices.device]]\nid = "battery"\nname = "Battery"\n'
        '[route.manager]\ntype = "plain-client"\nurl = "ws://127.0.0.1:9/{id}"\n'
    )
    async with (
        Bridge.open(load(file)[0]) as bridge,
        Metrics(Observation(bridge.endpoint, bridge), 0, lambda: "http://127.0.0.1:8480/") as metrics,
    ):
        yield bridge, f"http://127.0.0.1:{metrics.port}", port


async def test_programs_get_the_status_and_browsers_are_led_to_the_page(served: tuple[Bridge, str, int]) -> None:
    bridge, url, port = served
    async with aiohttp.ClientSession() as http, within(20):
        with pytest.raises(S2ConnectError):
            await connect_plain(f"ws://127.0.0.1:{port}/battery", role=Role.RM, local=NodeId(uuid4()))
        await until(lambda: bridge.status()["routes"][0]["links"][0]["reason"])
        async with http.get(f"{url}/", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "http://127.0.0.1:8480/")
        async with http.get(f"{url}/status.json") as response:
            link = (await response.json())["routes"][0]["links"][0]
            assert link["reason"]
        async with http.get(f"{url}/metrics") as response:
            assert 's2connect_bridge_links{route="house"' in await response.text()
        for path, method in (("/", "POST"), ("/status.json", "PUT"), ("/other", "GET")):
            async with http.request(method, url + path) as response:
                assert response.status in (404, 405)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[", "127.0.0.1:x"])
@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics"])
async def test_a_web_page_with_its_own_name_for_this_machine_reads_nothing(
    served: tuple[Bridge, str, int], host: str, path: str
) -> None:
    _, url, _ = served
    async with aiohttp.ClientSession() as http, http.get(url + path, headers={"Host": host}) as response:
        assert response.status == 421
        assert await response.text() == ""


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/readyz", "192.0.2.7:9464", 200),
        ("/readyz", "localhost", 200),
        ("/metrics", "[2001:db8::7]:9464", 200),
        ("/healthz", "10.0.0.3", 200),
        ("/readyz", "evil.example", 421),
        ("/readyz", "192.0.2.7.evil.example", 421),
        ("/", "127.0.0.1", 404),
        ("/status.json", "127.0.0.1", 404),
    ],
)
async def test_beyond_this_machine_it_has_numbers_and_health_and_nothing_else(
    served: tuple[Bridge, str, int], path: str, host: str, status: int
) -> None:
    bridge, _, _ = served
    async with (
        Metrics(Observation(bridge.endpoint, bridge), 0, bind="*") as metrics,
        aiohttp.ClientSession() as http,
        within(20),
        http.get(f"http://127.0.0.1:{metrics.port}{path}", headers={"Host": host}) as response,
    ):
        assert response.status == status
