"""A link to which both peers come, each to whichever of three instances: they meet at one of them, whatever happens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

pytest.importorskip("psycopg")

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from s2connect import Endpoint, Role
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.service.commands import Code, ShowBridge
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from tests.bridge.instance_fixtures import ROUTE, Balancer, Cloud, free_port
from tests.bridge.test_bridge_through import Device
from tests.command import Running, start
from tests.endpoint.conftest import MEASUREMENT, Wan, lan_config, wan
from tests.postgresql import STORE_KEYS
from tests.waits import at_most, until, until_still, within

__all__ = ["start", "wan"]

NAMES = ("a", "b", "c")

Start = Callable[..., Running]


class Peer(Device):
    """A device or an energy manager that makes each request where the test says, over connections of its own.

    Attributes:
        ids: Ids of the messages that it has received, by the number of its connection.
        newest: Number of its newest connection.
        open: The connections that stand.
    """

    def __init__(self, site: Any, endpoint: Endpoint) -> None:
        super().__init__(site, endpoint)
        self.ids: dict[str, list[int]] = {}
        self.newest = 0
        self.open: list[ClientConnection] = []
        self._reading: set[asyncio.Task[None]] = set()

    async def pair_with(self, url: str, code: str) -> None:
        """Pair with a node of the bridge, and go on with what was agreed."""
        pairing = await self.node.pair(url, code)
        tokens = await self._endpoint._state.store.candidate_tokens(pairing)
        self.tokens = [token.reveal() for token in tokens]
        self._ids = {"clientNodeId": str(pairing.key.local), "serverNodeId": str(pairing.key.remote)}

    def copy(self) -> Peer:
        """Return another device with this one's identity and tokens."""
        other = Peer(self._made, self._endpoint)
        other.tokens, other._ids = list(self.tokens), self._ids
        return other

    async def stay(self, *at: str) -> None:
        """Be a client that comes to these instances, then to any, and comes again when its session ends."""
        places = list(at)
        while True:
            connection = None
            with contextlib.suppress(OSError, aiohttp.ClientError, InvalidHandshake):
                async with at_most(35):
                    connection = await self.attempt(places.pop(0) if places else random.choice(NAMES))
            if connection is not None:
                await connection.wait_closed()
            await asyncio.sleep(random.uniform(0, 0.3))

    async def attempt(self, at: str) -> ClientConnection | None:
        """Try once to have a session, with all requests at one instance but for the connection."""
        answers = [await self.ask(at, token) for token in self.tokens]
        accepted = [answer["accessToken"] for status, answer in answers if status == 200]
        if not accepted:
            return None
        pending = str(accepted[0])
        self.tokens = [pending, *self.tokens][:3]
        status, answer = await self._post(at, "confirmAccessToken", pending)
        if status != 200:
            self.tokens = [token for token in self.tokens if token != pending]
            return None
        host = str(urlsplit(answer["websocketUrl"]).hostname).partition(".")[0]
        async with within(4):
            came = await self.come(host if host in NAMES else at, str(answer["websocketToken"]))
        if isinstance(came, int):
            return None
        self.newest += 1
        self.open.append(came)
        task = asyncio.ensure_future(self._read(came, self.newest))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        return came

    async def _read(self, connection: ClientConnection, number: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in connection:
                message = json.loads(text)
                if message["message_type"] == "ReceptionStatus":
                    self.ids.setdefault(message["subject_message_id"], []).append(number)
                    continue
                self.ids.setdefault(message["message_id"], []).append(number)
                answer = {"message_type": "ReceptionStatus", "status": "OK"}
                await connection.send(json.dumps(answer | {"subject_message_id": message["message_id"]}))
        self.open.remove(connection)

    async def close(self) -> None:
        """Hang up."""
        await asyncio.gather(*(one.close() for one in list(self.open)))
        await asyncio.gather(*self._reading)


class Site:
    """The instances by name, each with its port, and the two peers of their one link."""

    def __init__(self, wan: Wan, instances: Mapping[str, Any]) -> None:
        self.wan = wan
        self.instances = instances
        self.rm: Peer
        self.cem: Peer

    @contextlib.asynccontextmanager
    async def peers(self) -> AsyncIterator[None]:
        """Have two peers, which are not paired yet."""
        addresses = {"localhost": "127.0.0.1"}
        rm = self.wan.config(Role.RM, "127.0.0.1")
        cem = lan_config(Role.CEM, trust_anchors=self.wan.anchors, allow_private_addresses=True)
        async with (
            Endpoint.open(config=rm, serve=False, addresses=addresses) as one,
            Endpoint.open(config=cem, serve=False, addresses=addresses) as other,
        ):
            self.rm, self.cem = Peer(self, one), Peer(self, other)
            yield
            await asyncio.gather(self.rm.close(), self.cem.close())

    async def flows(self) -> None:
        """Send messages of the device over its newest connection until one is acknowledged; each comes once at most."""
        sent: list[str] = []

        async def send() -> None:
            while not any(one in self.rm.ids for one in sent):
                sent.append(str(uuid.uuid4()))
                text = json.dumps({**MEASUREMENT, "message_id": sent[-1]})
                for connection in list(self.rm.open):
                    with contextlib.suppress(ConnectionClosed):
                        await connection.send(text)
                await asyncio.sleep(0.05)

        async with within(20):
            await send()
        for one in sent:
            assert len(self.cem.ids.get(one, [])) <= 1, "never two sessions of a link deliver"


@contextlib.asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have clients stay while the block runs."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
        assert not any(task.done() for task in tasks), tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def certificate(wan: Wan, directory: Path) -> None:
    leaf = wan.ca.issue_cert("localhost", *(f"{name}.i.localhost" for name in NAMES))
    (directory / "localhost.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    (directory / "localhost.key").write_bytes(leaf.private_key_pem.bytes())


# In this process


@pytest.fixture
def directory(wan: Wan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    certificate(wan, tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    return tmp_path


@contextlib.asynccontextmanager
async def bridges(wan: Wan, directory: Path, url: str) -> AsyncIterator[tuple[Site, dict[str, Bridge]]]:
    """Three instances of a bridge in this process, with a paired device and energy manager."""
    async with contextlib.AsyncExitStack() as stack:
        made: dict[str, Bridge] = {}
        ports = {name: free_port() for name in NAMES}
        for name, port in ports.items():
            file = directory / f"{name}.toml"
            file.write_text(
                f'home = "home-{name}"\n[page]\nenabled = false\n[endpoint]\ndeployment = "WAN"\nhost = "localhost"\n'
                f'port = {ports["a"]}\nlisten_port = {port}\nbind = "127.0.0.1"\ncertificate = "localhost.pem"\n'
                'private_key = "localhost.key"\ntrust_anchors = "public-ca.pem"\nallow_private_addresses = true\n'
                f'vault = "files"\nstore = "{url}"\ninstance = "{name}"\n'
                f'instance_url = "wss://{{instance}}.i.localhost"\n{ROUTE}'
            )
            made[name] = await stack.enter_async_context(Bridge.open(load(file)[0]))
        site = Site(wan, {name: SimpleNamespace(port=port) for name, port in ports.items()})
        await stack.enter_async_context(site.peers())
        route, endpoint = made["a"].routes["customers"], made["a"].endpoint
        node = route.devices.node  # type: ignore[attr-defined]
        await site.rm.pair_with(str(endpoint.pairing_url), str(await node.new_pairing_code()))
        await until(lambda: all(one.routes["customers"].links for one in made.values()))
        (link,) = route.links.values()
        representative = link.sides[Role.CEM].node  # type: ignore[attr-defined]
        await site.cem.pair_with(str(endpoint.pairing_url), str(await representative.new_pairing_code()))
        await until(lambda: all(state == "waiting" for state in states(made).values()))
        yield site, made


def states(made: Mapping[str, Bridge]) -> dict[str, str]:
    """State of the link at each instance."""
    return {name: next(iter(one.routes["customers"].links.values())).state.value for name, one in made.items()}


@pytest.mark.rule("SES-04")
async def test_the_second_peer_is_led_to_the_instance_at_which_the_first_one_waits(
    wan: Wan, directory: Path, postgresql: str
) -> None:
    async with within(60), bridges(wan, directory, postgresql) as (site, made):
        for first, second, at in (("rm", "cem", "a"), ("cem", "rm", "b")):
            one, other = getattr(site, first), getattr(site, second)
            waiting = asyncio.create_task(one.attempt(at))
            await until(lambda at=at: states(made)[at] == "admitting")  # type: ignore[misc]
            token, host = await other.confirm("b", await other.initiate("c"))
            assert host == f"{at}.i.localhost"
            assert not waiting.done(), "nobody is let in before the other one is there"
            async with within(10):
                came = await other.come(at, token)
            assert isinstance(came, ClientConnection), came
            assert await waiting is not None
            await until(lambda at=at: states(made)[at] == "up")  # type: ignore[misc]
            assert list(states(made).values()).count("up") == 1
            await came.close()
            await one.close()
            await until(lambda: not {"up", "parting"} & set(states(made).values()))


async def test_a_peer_that_does_not_reach_that_instance_gets_in_with_its_next_attempt(
    wan: Wan, directory: Path, postgresql: str
) -> None:
    async with within(60), bridges(wan, directory, postgresql) as (site, made), running(site.rm.stay("a")):
        await until(lambda: states(made)["a"] == "admitting")
        _, host = await site.cem.confirm("b", await site.cem.initiate("c"))
        assert host == "a.i.localhost"
        async with running(site.cem.stay("b")):
            await site.flows()
        assert states(made)["b"] == "up", "it has taken the link, and the device was led to it"
        assert site.cem.newest == 1


@pytest.mark.rule("SES-04")
async def test_a_device_that_initiates_at_two_instances_at_once_has_one_session_in_the_end(
    wan: Wan, directory: Path, postgresql: str
) -> None:
    async with within(100), bridges(wan, directory, postgresql) as (site, made):
        await twice_at_once(site, 4)
        await until(lambda: list(states(made).values()).count("up") == 1)


async def twice_at_once(site: Site, rounds: int) -> None:
    """Cut all connections, and have the device try at two instances at once, so often."""
    async with running(site.rm.stay(), site.cem.stay()):
        for _ in range(rounds):
            await asyncio.gather(*(one.close() for one in [*site.rm.open, *site.cem.open]))
            tries = [site.rm.attempt(name) for name in random.sample(NAMES, 2)]
            await asyncio.gather(*tries, return_exceptions=True)  # one may be refused, or cut
            await site.flows()


async def test_of_two_devices_with_one_id_one_keeps_the_pairing_and_its_session(
    wan: Wan, directory: Path, postgresql: str
) -> None:
    async with within(100), bridges(wan, directory, postgresql) as (site, made):
        both = [site.rm, site.rm.copy()]
        async with running(both[0].stay("a"), both[1].stay("b"), site.cem.stay("c")):
            await until(lambda: any(one.open for one in both), 30)
            await until_still(lambda: [one.newest for one in both], 1.0)
            (site.rm,) = (one for one in both if one.open)
            (other,) = (one for one in both if one is not site.rm)
            before = site.rm.newest, other.newest, site.cem.newest
            for _ in range(5):
                await site.flows()
            assert (site.rm.newest, other.newest, site.cem.newest) == before, "nobody disturbs it"
            assert list(states(made).values()).count("up") == 1
            assert {(await other.ask(name, token))[0] for name in NAMES for token in other.tokens} == {401}
        await other.close()


# As processes


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_the_peers_meet_whatever_happens_to_the_instance_at_which_one_waits(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    async with within(300), Balancer().running() as balancer:
        made = Cloud(wan, tmp_path, postgresql, start, balancer)
        certificate(wan, tmp_path)
        more = 'instance_url = "wss://{instance}.i.localhost"\n'
        await asyncio.gather(*(made.begin(name, more=more) for name in NAMES))
        site, a = Site(wan, made.instances), made.instances["a"]
        async with site.peers():
            route = (await a.ask(ShowBridge())).bridge["routes"][0]["devices"]
            await site.rm.pair_with(route["pairing_url"], (await a.ask(Code(node=route["node"]))).code)
            key = str(site.rm.node.id)
            representative = (await a.link(key))["representative"]["node"]
            await site.cem.pair_with(route["pairing_url"], (await a.ask(Code(node=representative))).code)
            for one in made.instances.values():
                await one.link(key, "waiting")
            await twice_at_once(site, 50)
            for kill in (signal.SIGSTOP, signal.SIGKILL):
                await asyncio.gather(site.rm.close(), site.cem.close())
                await a.link(key, "waiting", "elsewhere", "failed")
                process = made.instances["a"].running.process
                async with running(site.rm.stay("a", "b")):
                    await made.instances["a"].link(key, "admitting")
                    process.send_signal(kill)
                    try:
                        # It is named to the energy manager, because nobody knows yet that it has no answer.
                        pending = await site.cem.initiate("b")
                        _, host = await site.cem.confirm("c", pending)
                        assert host == "a.i.localhost"
                        async with running(site.cem.stay("b")):
                            await site.flows()
                    finally:
                        if kill == signal.SIGSTOP:
                            process.send_signal(signal.SIGCONT)
            assert [(await made.instances[name].links())[key]["state"] for name in "bc"].count("up") == 1
