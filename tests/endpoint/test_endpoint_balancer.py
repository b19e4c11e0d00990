"""An endpoint behind load balancers: its settings, and TLS that ends at the balancer (VER-05)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from s2connect.endpoint.config import EndpointConfig
from s2connect.endpoint.offline import create_home
from s2connect.errors import ConfigurationError
from s2connect.https.server import free_port
from s2connect.model.common import Deployment, Role
from s2connect.service.settings import changed
from tests.endpoint.conftest import OpenEndpoint, lan_config
from tests.https.test_balanced_server import named
from tests.waits import within

WAN: dict[str, Any] = {"deployment": "WAN", "host": "s2.example.com", "port": 443}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"balancers": ["192.0.2.1/28"]}, "192.0.2.0/28"),
        ({"balancers": ["192.0.2.1"], "deployment": "LAN"}, "balancers need deployment WAN"),
        ({"balancers_only": True}, "balancers_only needs balancers"),
        ({"tls": "balancer"}, "tls at a balancer needs deployment WAN and balancers"),
        ({"tls": "none", "balancers": ["192.0.2.1"]}, "tls"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigurationError, ValueError), match=said):
        EndpointConfig.model_validate({**WAN, **settings})


def test_a_balancer_with_the_certificate_is_enough_for_a_shared_store() -> None:
    more = {"store": "postgresql://s2@db.example/s2", "balancers": ["192.0.2.0/28", "2001:DB8::7"], "tls": "balancer"}
    config = EndpointConfig.model_validate({**WAN, **more})
    assert config.balancers == ("192.0.2.0/28", "2001:db8::7/128")
    assert not config.is_own_ca
    assert not config.has_certificate
    assert EndpointConfig.from_json(config.to_json()) == config


def test_they_are_set_by_name() -> None:
    made = changed(dict(WAN), {"balancers": "192.0.2.10, 192.0.2.32/28", "tls": "balancer", "listen-port": "8443"})
    assert made["balancers"] == ["192.0.2.10", "192.0.2.32/28"]
    assert (made["tls"], made["listen_port"]) == ("balancer", 8443)
    assert changed(made, {"tls": None, "balancers": None, "listen-port": None}) == WAN


async def _answer(port: int, first: bytes) -> bytes:
    async with within(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(first + b"GET /pairing/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.mark.rule("VER-05")
async def test_tls_ends_at_the_balancer_and_nobody_else_comes_in(
    open_endpoint: OpenEndpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, port = tmp_path / "home", free_port()
    config = lan_config(
        Role.CEM,
        deployment=Deployment.WAN,
        host="s2.example.com",
        port=443,
        listen_port=port,
        balancers=("127.0.0.1",),
        tls="balancer",
    )
    create_home(home, config)
    endpoint = await open_endpoint(config, home)
    assert str(endpoint.pairing_url) == "https://s2.example.com:443/pairing/"
    assert b'["v1"]' in await _answer(port, named("192.0.2.7"))
    assert await _answer(port, b"") == b""
    assert endpoint.certificates().leaf is None
    assert not (home / "ca.pem").exists()
    await endpoint.renew_certificate()  # does no harm
    assert "no certificate of a public CA" not in caplog.text
