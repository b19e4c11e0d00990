"""A bridge as several processes on one database, behind a balancer that the test directs; devices and a cloud CEM."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role
from s2connect.bridge import Bridge, load
from s2connect.errors import S2ConnectError
from s2connect.service.commands import Code, Pair, ShowBridge
from s2connect.service.control import connect
from s2connect.store.home import Home
from tests.command import Running
from tests.endpoint.conftest import Wan
from tests.instances.cloud import ENVIRONMENT, Device
from tests.waits import within

Start = Callable[..., Running]

ROUTE = '[[route]]\nname = "customers"\n[route.devices]\ntype = "s2-connect"\n[route.manager]\ntype = "s2-connect"\n'


class Balancer:
    """Hands each connection to one of its targets, by chance, or to that which the name in the TLS handshake is of.

    Attributes:
        names: Names in handshakes, with their targets. Others are those of all.
    """

    def __init__(self) -> None:
        self.targets: list[int] = []
        self.names: dict[str, int] = {}
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[asyncio.StreamWriter, int] = {}

    def cut(self, target: int) -> None:
        """Cut the connections of a target, on both sides."""
        for writer, port in list(self._open.items()):
            if port == target:
                writer.transport.abort()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Balancer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there: asyncio.StreamWriter | None = None
        try:
            hello = await reader.read(65_536)
            named = (port for name, port in self.names.items() if name.encode() in hello)
            target = next(named, None) or random.choice(self.targets)
            back, there = await asyncio.open_connection("127.0.0.1", target)
            self._open[writer] = self._open[there] = target
            there.write(hello)
            ways = [asyncio.ensure_future(_copied(reader, there)), asyncio.ensure_future(_copied(back, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, IndexError):
            pass
        finally:
            for one in (writer, there):
                if one is not None:
                    self._open.pop(one, None)
                    one.transport.abort()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.asynccontextmanager
async def opened(wan: Wan, directory: Path, url: str, name: str, rest: str) -> AsyncIterator[Bridge]:
    """An instance of a bridge in this process, whose file has this ``rest``."""
    wan.config(Role.CEM, "localhost")
    file = directory / f"{name}.toml"
    file.write_text(
        f'home = "home-{name}"\n[page]\nenabled = false\n[endpoint]\ndeployment = "WAN"\nhost = "localhost"\nport = 0\n'
        'bind = "127.0.0.1"\ncertificate = "localhost.pem"\nprivate_key = "localhost.key"\n'
        f'trust_anchors = "{wan.anchors.name}"\nvault = "files"\nstore = "{url}"\ninstance = "{name}"\n{rest}'
    )
    async with Bridge.open((await asyncio.to_thread(load, file))[0]) as bridge:
        yield bridge


def up_at(*bridges: Bridge) -> list[str]:
    """Names of the links that are up at these instances, sorted."""
    found = [link for bridge in bridges for route in bridge.routes.values() for link in route.status()]
    return sorted(link.name for link in found if link.state == "up")


class Instance:
    """One instance of the bridge: a process."""

    def __init__(self, name: str, home: Path, port: int, running: Running) -> None:
        self.name = name
        self.home = home
        self.port = port
        self.running = running

    async def ask(self, command: Any) -> Any:
        """Have it execute a command over its control socket."""
        async with connect(await asyncio.to_thread(Home.open, self.home)) as control:
            assert control is not None, f"{self.name} does not run: {self.running.so_far()} {self.running.errors}"
            return await control.ask(command)

    async def links(self) -> dict[str, dict[str, Any]]:
        """The links of its routes, by the key of the device."""
        found: dict[str, Any] = (await self.ask(ShowBridge())).bridge
        return {link["key"]: link for route in found["routes"] for link in route["links"]}

    async def link(self, key: str, *states: str) -> dict[str, Any]:
        """Wait for the link of a device, in one of these states if there are any; return it."""
        async with within(30):
            while (found := (await self.links()).get(key)) is None or (states and found["state"] not in states):
                await asyncio.sleep(0.05)
        return found


class Cloud:
    """The instances of a bridge, its devices and their energy manager.

    Attributes:
        received: Ids of the messages that the energy manager has received, by device, in their order.
        late: Those that came on a session after the first one of the session that replaced it.
        open: Number of sessions that the program of the energy manager has, by device: two for a moment where one is
            replaced; ``most`` is the most so far.
    """

    def __init__(self, wan: Wan, directory: Path, url: str, start: Start, balancer: Balancer) -> None:
        self.wan = wan
        self.directory = directory
        self.url = url
        self.balancer = balancer
        self.instances: dict[str, Instance] = {}
        self.manager: Endpoint
        self.received: dict[str, list[str]] = {}
        self.newest: dict[str, int] = {}
        self.late: list[str] = []
        self.open: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self._start = start

    async def begin(self, name: str, *arguments: str, routes: str = ROUTE, more: str = "", **options: Any) -> Instance:
        """Start an instance, and wait until it is ready."""
        known = self.instances.get(name)
        port = known.port if known is not None else free_port()
        file = self.directory / f"{name}.toml"
        file.write_text(
            f'home = "home-{name}"\n[endpoint]\ndeployment = "WAN"\nhost = "localhost"\nport = {self.balancer.port}\n'
            f'listen_port = {port}\nbind = "127.0.0.1"\ncertificate = "localhost.pem"\nprivate_key = "localhost.key"\n'
            f'trust_anchors = "{self.wan.anchors.name}"\nallow_private_addresses = true\nvault = "files"\n'
            f'store = "{self.url}"\ninstance = "{name}"\ndrain_wait = 0.2\n{more}[page]\nenabled = false\n{routes}'
        )
        command = ("bridge", "run", str(file))
        running = self._start(file.parent / f"home-{name}", *arguments, command=command, env=ENVIRONMENT, **options)
        made = self.instances[name] = Instance(name, running.home, port, running)
        await asyncio.to_thread(running.event, "bridge_ready")
        if port not in self.balancer.targets:
            self.balancer.targets.append(port)
        return made

    @contextlib.asynccontextmanager
    async def cem(self, config: EndpointConfig | None = None, **options: Any) -> AsyncIterator[Endpoint]:
        """Run the energy manager, which notes what it receives. Without ``config`` it waits for sessions."""
        if config is None:
            node = NodeConfig(role=Role.CEM, brand="Test", type="Thing", model_name="CEM one")
            config = self.wan.config(Role.CEM, "localhost", nodes=[node])
        async with Endpoint.open(config=config, **options) as self.manager:
            task = asyncio.ensure_future(self._manage())
            try:
                yield self.manager
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _manage(self) -> None:
        running: set[asyncio.Task[None]] = set()
        async for session in self.manager.node().sessions():
            task = asyncio.ensure_future(self._follow(session))
            running.add(task)
            task.add_done_callback(running.discard)

    async def _follow(self, session: Any) -> None:
        peer = str(session.peer.id)
        number = self.newest[peer] = self.newest.get(peer, 0) + 1
        self.open[peer] = self.open.get(peer, 0) + 1
        self.most[peer] = max(self.most.get(peer, 0), self.open[peer])
        heard = self.received.setdefault(peer, [])
        with contextlib.suppress(S2ConnectError):
            async for message in session:
                if message.type == "PowerMeasurement":
                    heard.append(message.id)
                    if number != self.newest[peer]:
                        self.late.append(message.id)
        self.open[peer] -= 1

    async def paired(self, device: Device, at: str, manager_at: str | None = None) -> str:
        """Pair a device at one instance, and its representative with the energy manager at another; its key."""
        here, there = self.instances[at], self.instances[manager_at or at]
        targets, self.balancer.targets = self.balancer.targets, [here.port]
        try:
            route = (await here.ask(ShowBridge())).bridge["routes"][0]
            code = (await here.ask(Code(node=route["devices"]["node"]))).code
            await device.node.pair(route["devices"]["pairing_url"], code)
        finally:
            self.balancer.targets = targets
        key = str(device.node.id)
        node = (await there.link(key))["representative"]["node"]
        mine = self.manager.node()
        await there.ask(Pair(node=node, url=str(self.manager.pairing_url), code=str(mine.issue_pairing_code())))
        return key

    async def up_at(self, key: str) -> list[str]:
        """Names of the instances at which a link is up."""
        return [name for name, one in self.instances.items() if (await one.links())[key]["state"] == "up"]


@contextlib.asynccontextmanager
async def cloud(wan: Wan, directory: Path, url: str, start: Start, *names: str) -> AsyncIterator[Cloud]:
    """A bridge of so many instances, and its energy manager."""
    async with Balancer().running() as balancer:
        made = Cloud(wan, directory, url, start, balancer)
        async with made.cem():
            await asyncio.gather(*(made.begin(name) for name in names))
            yield made
