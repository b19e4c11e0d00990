"""Links that nobody asks for, at one of several instances by a lease: their owner is stopped, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("psycopg")

from s2connect import NodeDescription, NodeId, PlainAcceptor, PlainServer, Role, Session
from s2connect.errors import S2ConnectError
from tests.bridge.instance_fixtures import Cloud, cloud
from tests.command import Running, start
from tests.endpoint.conftest import MEASUREMENT, Wan, wan
from tests.instances.cloud import DETAILS
from tests.waits import until, within

__all__ = ["start", "wan"]

Start = Callable[..., Running]


def described(role: Role) -> NodeDescription:
    return NodeDescription(id=NodeId(uuid4()), brand="s2connect", type="Generic", model_name="s2connect", role=role)


class Old:
    """Devices and an energy manager with plain S2, which wait for the bridge.

    Attributes:
        acknowledged: Ids of the messages of each device that were.
        received: Those that the energy manager has received, in their order.
        late: Those that it has received over a session after the first one of the next session of the device.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.acknowledged: dict[str, list[str]] = {name: [] for name in names}
        self.received: dict[str, list[str]] = {name: [] for name in names}
        self.late: list[str] = []
        self._newest: dict[str, int] = dict.fromkeys(names, 0)
        self._tasks: set[asyncio.Task[None]] = set()
        self.routes = ""

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Old]:
        manager = PlainAcceptor(role=Role.CEM, local=NodeId(uuid4()), tokens=None, by_path=True)
        async with PlainServer(manager, path="/{id}") as managers, PlainServer() as devices:
            self.routes = '[[route]]\nname = "old"\n[route.manager]\ntype = "plain-client"\n'
            self.routes += f'url = "ws://127.0.0.1:{managers.port}/{{id}}"\n[route.devices]\ntype = "plain-client"\n'
            for name in self.names:
                acceptor = PlainAcceptor(role=Role.RM, local=NodeId(uuid4()), tokens=None)
                devices.add(f"/{name}", acceptor)
                self.routes += f'[[route.devices.device]]\nid = "{name}"\nname = "{name}"\n'
                self.routes += f'url = "ws://127.0.0.1:{devices.port}/{name}"\n'
                self._spawn(self._device(name, acceptor))
            self._spawn(self._manager(manager))
            try:
                yield self
            finally:
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _device(self, name: str, acceptor: PlainAcceptor) -> None:
        async for connection in acceptor:
            self._spawn(self._send(name, Session(connection, peer=described(Role.CEM), role=Role.RM)))

    async def _send(self, name: str, session: Session) -> None:
        with contextlib.suppress(S2ConnectError):
            await session.send(DETAILS)
            while True:
                self.acknowledged[name].append(await session.send(MEASUREMENT))
                await asyncio.sleep(0.02)

    async def _manager(self, acceptor: PlainAcceptor) -> None:
        async for connection in acceptor:
            session = Session(connection, peer=described(Role.RM), role=Role.CEM)
            self._spawn(self._receive(connection.name, session))

    async def _receive(self, name: str, session: Session) -> None:
        number = self._newest[name] = self._newest[name] + 1
        with contextlib.suppress(S2ConnectError):
            async for message in session:
                if message.type == "PowerMeasurement" and message.id is not None:
                    self.received[name].append(message.id)
                    if number != self._newest[name]:
                        self.late.append(message.id)

    async def flows(self) -> None:
        """Wait until every device has had further messages acknowledged."""
        before = {name: len(ids) for name, ids in self.acknowledged.items()}
        await until(lambda: all(len(self.acknowledged[name]) > n + 5 for name, n in before.items()), 40)

    def check(self) -> None:
        """Check that nothing has come late, twice or out of order."""
        assert not self.late
        for name in self.names:
            heard = self.received[name]
            assert len(set(heard)) == len(heard), "nothing twice"
            places = {one: place for place, one in enumerate(heard)}
            got = [places[one] for one in self.acknowledged[name]]
            assert got == sorted(got), "in order"


async def places(made: Cloud, *names: str) -> dict[str, list[str]]:
    """The instances among these at which each link is up."""
    found: dict[str, list[str]] = {}
    for name in names:
        for key, link in (await made.instances[name].links()).items():
            found.setdefault(key, []).extend([name] * (link["state"] == "up"))
    return found


async def one_each(made: Cloud, *names: str) -> dict[str, str]:
    """Wait until each link is up at one of these instances; return where."""
    async with within(60):
        found = await places(made, *names)
        while not all(len(where) == 1 for where in found.values()):
            await asyncio.sleep(0.1)
            found = await places(made, *names)
    return {key: where[0] for key, where in found.items()}


@pytest.mark.long
@pytest.mark.timeout(280)
async def test_a_link_that_nobody_asks_for_goes_on_elsewhere_when_its_lease_is_over_and_never_at_two(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    names = ["one", "two", "three"]
    async with within(200), Old(names).running() as old, cloud(wan, tmp_path, postgresql, start) as made:
        a = await made.begin("a", routes=old.routes)
        await one_each(made, "a")
        await made.begin("b", routes=old.routes)
        await old.flows()
        for link in (await made.instances["b"].links()).values():
            assert (link["state"], link["reason"]) == ("elsewhere", "the instance a has it")

        # Stopped for longer than the lease, and continued: what had come to it goes no further.
        os.kill(a.running.process.pid, signal.SIGSTOP)
        assert set((await one_each(made, "b")).values()) == {"b"}
        await old.flows()
        os.kill(a.running.process.pid, signal.SIGCONT)
        for name in names:
            await a.link(name, "elsewhere")
        await old.flows()
        assert set((await one_each(made, "a", "b")).values()) == {"b"}

        # Ended in order: the other one has the links at once.
        made.instances["b"].running.process.terminate()
        assert await asyncio.to_thread(made.instances["b"].running.ended, 40) == 0
        assert set((await one_each(made, "a")).values()) == {"a"}
        await old.flows()
        old.check()
