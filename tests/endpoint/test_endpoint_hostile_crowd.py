"""A thousand hostile connections of each kind at once: honest peers are served, memory, descriptors and log bounded."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from s2connect import Endpoint
from s2connect.model.common import Role
from tests.endpoint.conftest import lan_config
from tests.waits import patience

HERE = Path(__file__).parent
KINDS = ("idle_tcp", "idle_tls", "half_http", "dripping", "long_poll", "pairing", "bearer")
EACH = 1000
SOURCES = 20
"""Addresses of each crowd."""
SECONDS = 90.0
"""Longest attack."""
WATCHED = 20.0
"""Seconds in which honest requests are timed, once every attacker has come."""
MAX_WAIT = 1.0
"""Seconds an honest request may take, on two cores that the attackers use as well."""
MAX_LOG = 1_000_000
MAX_MEMORY = 400 * 1024 * 1024
MAX_DESCRIPTORS = 9000


def _start_server(home: Path, log: Path) -> tuple[subprocess.Popen[str], dict[str, Any], str]:
    init = [sys.executable, "-m", "s2connect", "init", "--home", str(home), "--role", "rm", "--vault", "files"]
    local = ["--host", "127.0.0.1", "--bind", "127.0.0.1", "--port", "0"]
    subprocess.run([*init, *local], check=True, capture_output=True, timeout=60)
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "s2connect", "serve", "--home", str(home), "--json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    ready: dict[str, Any] = {}
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            ready = event
        elif event["event"] == "pairing_code":
            return process, ready, event["code"]
    raise AssertionError(log.read_text())


async def _honest_waits(url: str, until: float) -> list[float]:
    """Seconds that the version index took, each on a connection of its own."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    waits = []
    while time.monotonic() < until:
        begun = time.monotonic()
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http,
            http.get(url, timeout=aiohttp.ClientTimeout(total=10)) as answer,
        ):
            assert answer.status == 200
            await answer.read()
        waits.append(time.monotonic() - begun)
        await asyncio.sleep(0.1)
    return waits


async def _pair(url: str, code: str) -> float:
    """Pair an energy manager with the device; the seconds it took."""
    await asyncio.sleep(WATCHED / 2)  # by then each source of the crowd has had its turn
    begun = time.monotonic()
    async with Endpoint.open(config=lan_config(Role.CEM)) as endpoint:
        await endpoint.node().pair(url, code)
    return time.monotonic() - begun


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.rule("SEC-03", "ROLE-07", "PAIR-12")
async def test_honest_peers_are_served_beside_a_thousand_hostile_connections_of_each_kind(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server, ready, code = await asyncio.to_thread(_start_server, tmp_path / "home", log)
    url = ready["pairing_url"]
    port = int(url.split(":")[2].split("/")[0])
    process = psutil.Process(server.pid)
    crowds = []
    try:
        for kind in KINDS:
            arguments = [kind, str(EACH), "127.0.0.1", str(port), str(SECONDS), str(SOURCES)]
            crowds.append(
                subprocess.Popen(
                    [sys.executable, str(HERE / "hostile_crowd.py"), *arguments], stdout=subprocess.PIPE, text=True
                )
            )
        for crowd in crowds:
            assert crowd.stdout is not None
            assert await asyncio.to_thread(crowd.stdout.readline)
        begun = time.monotonic()  # they are all there; on a busy machine that takes a while
        waits, paired_in = await asyncio.gather(_honest_waits(url, begun + WATCHED), _pair(url, code))
        memory, descriptors = process.memory_info().rss, process.num_fds()
        assert [crowd.poll() for crowd in crowds] == [None] * len(KINDS), "the attack ended too early"
    finally:
        for crowd in crowds:
            crowd.terminate()
        for crowd in crowds:
            crowd.communicate(timeout=20)
        server.terminate()
        server.communicate(timeout=20)
    print(
        f"p50 {sorted(waits)[len(waits) // 2]:.3f} max {max(waits):.3f} s of {len(waits)}, paired in {paired_in:.1f} s,"
    )
    print(f"{memory >> 20} MiB, {descriptors} descriptors, log of {log.stat().st_size} bytes")
    assert memory < MAX_MEMORY
    assert descriptors < MAX_DESCRIPTORS
    assert len(waits) > 10
    assert sorted(waits)[int(len(waits) * 0.9)] < patience(MAX_WAIT)
    assert log.stat().st_size < MAX_LOG
