"""A bridge of several instances: connect-through at one of them, with every request of the device at another one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

pytest.importorskip("psycopg")

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from s2connect import Endpoint, Role
from tests.bridge.instance_fixtures import Cloud, cloud
from tests.command import Running, start
from tests.endpoint.conftest import MEASUREMENT, Wan, wan
from tests.waits import until, within

__all__ = ["start", "wan"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

Start = Callable[..., Running]


VERSIONS = {"supportedS2MessageVersions": ["v1.0.0"], "supportedCommunicationProtocols": ["WebSocket"]}


class Device:
    """A device that makes each request where the test says, over a connection of its own.

    Attributes:
        key: Its key at the bridge.
        tokens: Its access tokens, the last one first.
    """

    def __init__(self, made: Cloud, endpoint: Endpoint) -> None:
        self.node = endpoint.node()
        self.key = ""
        self.tokens: list[str] = []
        self._made = made
        self._endpoint = endpoint
        self._context = ssl.create_default_context(cafile=made.wan.anchors)
        self._ids: dict[str, str] = {}

    async def pair(self, at: str, manager_at: str) -> None:
        """Pair with the bridge, and its representative with the energy manager."""
        self.key = await self._made.paired(SimpleNamespace(node=self.node), at, manager_at)  # type: ignore[arg-type]
        (pairing,) = await self.node.pairings()
        store = self._endpoint._state.store
        self.tokens = [token.reveal() for token in await store.candidate_tokens(pairing)]
        self._ids = {"clientNodeId": str(pairing.key.local), "serverNodeId": str(pairing.key.remote)}

    def address(self, at: str) -> tuple[str, int]:
        """Return the name and the port at which an instance is reached."""
        return "localhost", self._made.instances[at].port

    async def _post(self, at: str, operation: str, token: str, body: Any = None) -> tuple[int, Any]:
        host, port = self.address(at)
        url, headers = f"https://127.0.0.1:{port}/session/v1/{operation}", {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._context)) as http,
            http.post(url, json=body, headers=headers, server_hostname=host) as answered,
        ):
            text = await answered.text()
            return answered.status, json.loads(text) if text else None

    async def ask(self, at: str, token: str) -> tuple[int, Any]:
        """Send initiateSession; return status and body of the answer."""
        return await self._post(at, "initiateSession", token, {**self._ids, **VERSIONS})

    async def initiate(self, at: str) -> str:
        """Return a pending token; one of the tokens that the device has counts."""
        answers = [await self.ask(at, token) for token in self.tokens]
        accepted = [answer["accessToken"] for status, answer in answers if status == 200]
        assert len(accepted) == 1, answers
        return str(accepted[0])

    async def confirm(self, at: str, pending: str) -> tuple[str, str]:
        """Return the token of the connection, and the host that its URL names."""
        self.tokens.append(pending)
        status, answer = await self._post(at, "confirmAccessToken", pending)
        assert status == 200, answer
        self.tokens = [pending]
        return str(answer["websocketToken"]), str(urlsplit(answer["websocketUrl"]).hostname)

    async def come(self, at: str, token: str) -> ClientConnection | int:
        """Return the WebSocket at an instance, or the status of its refusal."""
        host, port = self.address(at)
        try:
            return await connect(
                f"wss://{host}:{port}/session/websocket",
                host="127.0.0.1",
                ssl=self._context,
                additional_headers={"Authorization": f"Bearer {token}"},
                proxy=None,
            )
        except InvalidStatus as refused:
            return refused.response.status_code

    async def session(self, confirmed_at: str, *at: str) -> ClientConnection:
        """Have a session, from initiateSession at one instance on."""
        token, _ = await self.confirm(confirmed_at, await self.initiate(at[0]))
        connection = await self.come(at[-1], token)
        assert isinstance(connection, ClientConnection), connection
        return connection


async def relayed(made: Cloud, device: Device, connection: ClientConnection) -> None:
    """Send a measurement, and wait until the energy manager has received it."""
    message = {**MEASUREMENT, "message_id": str(uuid.uuid4())}
    await connection.send(json.dumps(message))
    async with within(10):
        async for text in connection:
            answer = json.loads(text)
            if answer.get("subject_message_id") == message["message_id"]:
                assert answer["status"] == "OK", answer
                break
    assert message["message_id"] in [one for heard in made.received.values() for one in heard]


@contextlib.asynccontextmanager
async def site(
    wan: Wan, directory: Path, url: str, start: Start, *, named: bool = True
) -> AsyncIterator[tuple[Cloud, Device]]:
    """Two instances with names of their own, an energy manager and a paired device."""
    async with within(150), cloud(wan, directory, url, start) as made:
        leaf = wan.ca.issue_cert("localhost", "a.i.localhost", "b.i.localhost")
        (directory / "localhost.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        (directory / "localhost.key").write_bytes(leaf.private_key_pem.bytes())
        more = f'instance_url = "wss://{{instance}}.i.localhost:{made.balancer.port}"\n' if named else ""
        await asyncio.gather(*(made.begin(name, more=more) for name in ("a", "b")))
        config = wan.config(Role.RM, "127.0.0.1")
        addresses = {"localhost": "127.0.0.1"}
        async with Endpoint.open(config=config, serve=False, addresses=addresses) as endpoint:
            device = Device(made, endpoint)
            await device.pair("a", "b")
            for one in made.instances.values():
                await one.link(device.key)
            yield made, device


async def test_the_device_is_led_to_the_instance_that_has_connected_the_energy_manager(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    async with site(wan, tmp_path, postgresql, start) as (made, device):
        token, host = await device.confirm("b", await device.initiate("a"))
        assert host == "a.i.localhost"
        connection = await device.come("a", token)
        assert isinstance(connection, ClientConnection)
        await relayed(made, device, connection)
        assert await made.up_at(device.key) == ["a"]
        assert await device.come("b", token) == 401
        second = await device.session("a", "b")
        async with within(10):
            await connection.wait_closed()
        await relayed(made, device, second)
        assert await made.up_at(device.key) == ["b"]
        assert max(made.most.values()) == 1, "never two sessions of a pair"
        await second.close()


async def test_where_it_comes_to_the_other_instance_that_one_connects_and_the_first_gives_way(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(wan, tmp_path, postgresql, start, named=False) as (made, device):
        for first, second in (("a", "b"), ("b", "a"), ("a", "b")):
            connection = await device.session(first, first, second)
            await relayed(made, device, connection)
            assert await made.up_at(device.key) == [second]
            await until(lambda: sum(made.open.values()) == 1)
            await connection.close()
        assert "out of date" not in caplog.text, "each instance has the token that another one got"
        # Nobody is let in while the other side cannot be connected.
        token, _ = await device.confirm("b", await device.initiate("a"))
        (pairing,) = await made.manager.pairings()
        await made.manager.node().unpair(pairing.key.remote)
        assert await device.come("b", token) == 503
        status, answer = await device.ask("b", device.tokens[0])
        assert (status, answer["errorMessage"]) == (400, "Other")


async def test_an_instance_that_stood_still_leaves_the_session_to_the_one_that_took_it(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    async with site(wan, tmp_path, postgresql, start) as (made, device):
        token, _ = await device.confirm("b", await device.initiate("a"))
        process = made.instances["a"].running.process
        process.send_signal(signal.SIGSTOP)
        try:
            connection = await device.come("b", token)
            assert isinstance(connection, ClientConnection), connection
            await relayed(made, device, connection)
        finally:
            process.send_signal(signal.SIGCONT)
        await made.instances["a"].link(device.key, "elsewhere", "waiting")
        await relayed(made, device, connection)
        assert await made.up_at(device.key) == ["b"]
        assert sum(made.open.values()) == 1
        await connection.close()


async def test_what_an_instance_has_prepared_that_ends_goes_on_at_another_one(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    async with site(wan, tmp_path, postgresql, start) as (made, device):
        token, _ = await device.confirm("b", await device.initiate("a"))
        ending = made.instances.pop("a").running
        ending.process.terminate()
        connection = await device.come("b", token)
        assert isinstance(connection, ClientConnection), connection
        await relayed(made, device, connection)
        assert await asyncio.to_thread(ending.ended, 60) == 0
        await relayed(made, device, connection)
        await connection.close()


@pytest.mark.rule("SES-04")
async def test_workers_of_one_port_take_every_connection_and_prepare_what_another_one_has(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    """The kernel gives each connection to any of them."""
    async with within(150), cloud(wan, tmp_path, postgresql, start) as made:
        crew = await made.begin("box", "--workers", "3")
        config, addresses = wan.config(Role.RM, "127.0.0.1"), {"localhost": "127.0.0.1"}
        async with Endpoint.open(config=config, serve=False, addresses=addresses) as endpoint:
            device = Device(made, endpoint)
            await device.pair("box", "box")
            at: set[str] = set()
            for number in range(20):
                connection = await device.session("box", "box")
                await relayed(made, device, connection)
                at.add((await crew.link(device.key, "up"))["instance"])
                await connection.close()
                await until(lambda: not sum(made.open.values()))
                if number >= 3 and len(at) > 1:
                    break
            assert len(at) > 1, "chance has led to several of them"


@pytest.mark.rule("SES-03", "SES-04")
async def test_nobody_is_locked_out_where_the_instance_is_killed_that_has_connected_the_energy_manager(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    async with site(wan, tmp_path, postgresql, start) as (made, device):

        async def again() -> None:
            await made.begin("a", more=f'instance_url = "wss://{{instance}}.i.localhost:{made.balancer.port}"\n')

        async def comes(at: str, token: str) -> None:
            connection = await device.come(at, token)
            assert isinstance(connection, ClientConnection), connection
            await relayed(made, device, connection)
            assert await made.instances[at].link(device.key, "up")
            await connection.close()

        # Before the token is confirmed.
        pending = await device.initiate("a")
        made.instances["a"].running.kill()
        token, _ = await device.confirm("b", pending)
        await comes("b", token)
        # Before the connection comes: a balancer leads those of an instance that is down to another one.
        await again()
        token, host = await device.confirm("b", await device.initiate("a"))
        assert host == "a.i.localhost"
        made.instances["a"].running.kill()
        await comes("b", token)
        # The connection comes when the instance has been started again, and has prepared nothing.
        await again()
        token, _ = await device.confirm("b", await device.initiate("a"))
        made.instances["a"].running.kill()
        await again()
        await comes("a", token)
