"""A device pays for what it uses: importing the client's path loads no server, no mDNS and no library for X.509."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = "from s2connect import Endpoint, EndpointConfig, NodeConfig"

OPEN = f"""
import asyncio
{IMPORT}

async def run() -> None:
    async with Endpoint.open(config=EndpointConfig(host="localhost", nodes=(NodeConfig(role="RM"),)), serve=False):
        pass

asyncio.run(run())
"""

SERVERS = {
    "aiohttp",
    "s2connect.endpoint.server",
    "s2connect.endpoint.local_network",
    "s2connect.https.server",
    "s2connect.pairing.http_server",
    "s2connect.session.http_server",
}
OTHERS = {
    "zeroconf",
    "paho",
    "prometheus_client",
    "typer",
    "s2connect.bridge",
    "s2connect.cli",
    "s2connect.diagnostics",
    "s2connect.discovery",
    "s2connect.service",
    "s2connect.simulate",
    "s2connect.transports.mqtt.transport",
}
LATER = {
    "cryptography",
    "s2connect.certs.authority",
    "s2connect.certs.chain",
    "s2connect.messages.catalogue",
    "s2connect.messages.conversation",
    "s2connect.pairing.http_client",
}
"""Modules that an endpoint loads when it makes its certificate, pairs, or has its first session."""


@pytest.mark.parametrize(("code", "spared"), [(IMPORT, SERVERS | OTHERS | LATER), (OPEN, SERVERS | OTHERS)])
def test_a_device_that_only_connects_does_not_load_the_rest(code: str, spared: set[str]) -> None:
    code += "\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    loaded = set(done.stdout.split())
    assert "s2connect.endpoint.endpoint" in loaded
    assert not spared & loaded
