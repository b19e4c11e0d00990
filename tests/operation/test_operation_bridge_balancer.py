"""Two instances of a bridge behind HAProxy: the name in the WebSocket URL leads to that which is connected through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from websockets.asyncio.client import ClientConnection

from s2connect import Endpoint, Role
from s2connect.https.server import free_port
from tests.bridge.instance_fixtures import ROUTE, cloud
from tests.bridge.test_bridge_through import Device, relayed
from tests.command import Running, start
from tests.endpoint.conftest import Wan, wan
from tests.haproxy import EXAMPLES, HAProxy
from tests.waits import until, within

__all__ = ["start", "wan"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

Start = Callable[..., Running]

COMMON = ""


class Behind(Device):
    """A device that comes through HAProxy: to any instance, or to one by its name."""

    proxy_port = 0

    def address(self, at: str) -> tuple[str, int]:
        return (f"{at}.i.localhost" if at else "localhost"), self.proxy_port


async def listens(port: int) -> None:
    """Wait until somebody listens on a port."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("file", "tls"), [("haproxy-passthrough.cfg", "own"), ("haproxy-tls.cfg", "balancer")], ids=["own", "balancer"]
)
async def test_the_name_in_the_url_leads_to_the_instance_and_to_another_one_where_that_is_down(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start, file: str, tls: str
) -> None:
    leaf = wan.ca.issue_cert("localhost", "a.i.localhost", "b.i.localhost")
    both = tmp_path / "both.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(both)
    async with within(200), cloud(wan, tmp_path, postgresql, start) as made:
        (tmp_path / "localhost.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        (tmp_path / "localhost.key").write_bytes(leaf.private_key_pem.bytes())
        port = made.balancer.port = Behind.proxy_port = free_port()
        url = f"wss://{{instance}}.i.localhost:{port}"
        more = f'instance_url = "{url}"\nbalancers = ["127.0.0.1"]\nbalancers_only = true\ntls = "{tls}"\n'
        checks = {"a": free_port(), "b": free_port()}

        async def begin(name: str) -> None:
            metrics = f'[metrics]\nport = {checks[name]}\nbind = "127.0.0.1"\n'
            await made.begin(name, more=more, routes=metrics + ROUTE)

        await asyncio.gather(*map(begin, checks))
        replaced = {"0.0.0.0:443": f"127.0.0.1:{port}", "s2.example.com": "localhost"}
        for number, name in ((1, "a"), (2, "b")):
            here = f"127.0.0.1:{made.instances[name].port}"
            replaced[f"192.0.2.1{number}:8443\n"] = f"{here} port {checks[name]}\n"
            replaced[f"192.0.2.1{number}:8443"] = here
        if tls == "balancer":
            replaced["/etc/haproxy/s2.pem"] = str(both)
        proxy = await asyncio.to_thread(HAProxy, EXAMPLES / "balancer" / file, tmp_path, replaced)
        config, addresses = wan.config(Role.RM, "127.0.0.1"), {"localhost": "127.0.0.1"}
        try:
            async with Endpoint.open(config=config, serve=False, addresses=addresses) as endpoint:
                await listens(port)
                device = Behind(made, endpoint)
                await device.pair("a", "b")
                for at in ("a", "b", COMMON):
                    token, host = await device.confirm(COMMON, await device.initiate(at))
                    owner = host.partition(".")[0]
                    assert owner == at or not at
                    connection = await device.come(owner, token)
                    assert isinstance(connection, ClientConnection)
                    await relayed(made, device, connection)
                    assert await made.up_at(device.key) == [owner]
                    await connection.close()
                token, host = await device.confirm("b", await device.initiate("a"))
                assert host == "a.i.localhost"
                made.instances["a"].running.kill()
                await asyncio.to_thread(proxy.wait_for, "instances/a is DOWN")
                connection = await device.come("a", token)
                assert isinstance(connection, ClientConnection), connection
                await relayed(made, device, connection)
                await until(lambda: sum(made.open.values()) == 1)
                await connection.close()
        finally:
            await asyncio.to_thread(proxy.close)
