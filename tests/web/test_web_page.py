"""The status page of a bridge: read-only, self-contained, and nobody's text is more than text on it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
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
from s2connect.web.status_page import MAX_ROWS, REFRESH, status_page
from tests.waits import until, within

EVIL = '<img src=x onerror="alert(1)">&\u202e\u200bend'
SHOWN = '<img src=x onerror="alert(1)">& end'
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Page(HTMLParser):
    """The page as a browser reads it: elements with their attributes, and the texts of the cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.style = ""
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self._in == "style":
            self.style += data
        elif self.cells:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in = ""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Bridge, str, int]]:
    """A bridge between plain S2 and nobody, its own place, and the port of its devices."""
    port, file = free_port(), tmp_path / "bridge.toml"
    file.write_text(
        f'home = "home"\n[[route]]\nname = "house"\n[route.devices]\ntype = "plain-server"\nport = {port}\n'
        f"[[route.devices.device]]\nid = \"battery\"\nname = '''{EVIL}'''\n"
        '[route.manager]\ntype = "plain-client"\nurl = "ws://127.0.0.1:9/{id}"\n'
    )
    async with Bridge.open(load(file)[0]) as bridge, Metrics(Observation(bridge.endpoint, bridge), 0) as metrics:
        yield bridge, f"http://127.0.0.1:{metrics.port}", port


async def test_a_browser_gets_a_page_that_only_shows(served: tuple[Bridge, str, int]) -> None:
    bridge, url, port = served
    async with aiohttp.ClientSession() as http, within(20):
        with pytest.raises(S2ConnectError):
            await connect_plain(f"ws://127.0.0.1:{port}/battery", role=Role.RM, local=NodeId(uuid4()))
        await until(lambda: bridge.status()["routes"][0]["links"][0]["reason"])
        async with http.get(f"{url}/") as response:
            assert response.status == 200
            assert response.content_type == "text/html"
            policy, text = response.headers["Content-Security-Policy"], await response.text()
        async with http.get(f"{url}/status.json") as response:
            link = (await response.json())["routes"][0]["links"][0]
        async with http.get(f"{url}/metrics") as response:
            assert 's2connect_bridge_links{route="house"' in await response.text()
        for path, method in (("/", "POST"), ("/status.json", "PUT"), ("/other", "GET")):
            async with http.request(method, url + path) as response:
                assert response.status in (404, 405)
    page = Page(text)
    assert page.cells[0] == SHOWN
    assert page.cells[1].startswith(link["state"])
    assert link["reason"] in page.cells[1]
    assert page.cells[2:6] == ["-", "-", "0/0/0/0/0", "0/0/0/0/0"]
    assert ("meta", {"http-equiv": "refresh", "content": str(REFRESH)}) in page.elements
    assert not {"script", "img", "iframe", "form", "object"} & {tag for tag, _ in page.elements}
    asked = [value for _, found in page.elements for name, value in found.items() if name in ("src", "href")]
    assert asked == ["data:,", "status.json", "metrics"], "nothing comes from elsewhere"
    assert "url(" not in page.style
    assert "default-src 'none'" in policy
    assert f"'sha256-{base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()}'" in policy


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[", "127.0.0.1:x"])
@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics"])
async def test_a_web_page_with_its_own_name_for_this_machine_reads_nothing(
    served: tuple[Bridge, str, int], host: str, path: str
) -> None:
    _, url, _ = served
    async with aiohttp.ClientSession() as http, http.get(url + path, headers={"Host": host}) as response:
        assert response.status == 421
        assert await response.text() == ""


def _link(number: int, state: str) -> dict[str, Any]:
    side = {"connected": state == "up", "protocol": EVIL, "s2_version": EVIL}
    return {
        "name": f"house/device {number}",
        "state": state,
        "for_seconds": 75.0,
        "reason": EVIL,
        "retry_in": 3.0,
        "sides": {"rm": side, "cem": side},
        "messages": {"rm": {"forwarded": 3, "refused": 1}, "cem": {}},
    }


def _status(*links: dict[str, Any]) -> dict[str, Any]:
    ends = {"devices": {"type": "s2-connect"}, "manager": {"type": "mqtt"}}
    routes = [{"name": "house", "links": list(links), **ends}, {"name": "empty", "links": [], **ends}]
    return {"file": EVIL, "running_for": 7200.0, "routes": routes, "failed": [{"name": EVIL, "reason": EVIL}]}


def test_every_text_is_cleaned_and_escaped() -> None:
    text = status_page(_status(_link(1, "up"), _link(2, "failed")), NOW)
    page = Page(text)
    assert not {"img", "script"} & {tag for tag, _ in page.elements}
    assert "\u202e" not in text
    assert page.cells[0:2] == ["device 1", "up 1 min"], "a reason of the past is not shown"
    assert [cell.strip() for cell in page.cells[4:7]] == ["3/0/1/0/0", "0/0/0/0/0", ""]
    assert page.cells[8] == f"failed 1 min{SHOWN}"
    assert page.cells[13].startswith("in 3 s")
    for said in ("1 of 2 links up", "running for 2 h", "No device is paired yet", "2026-01-02 03:04:05 UTC"):
        assert said in text


def test_a_long_list_is_cut_and_begins_with_what_is_not_up() -> None:
    page = status_page(_status(*(_link(n, "up") for n in range(MAX_ROWS + 4)), _link(9999, "refused")), NOW)
    cells = Page(page).cells
    assert cells[0] == "device 9999"
    assert len(cells) == 7 * MAX_ROWS
    assert "and 5 more" in page
    assert f"{MAX_ROWS + 4} of {MAX_ROWS + 5} up" in page
