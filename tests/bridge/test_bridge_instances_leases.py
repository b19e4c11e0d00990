"""Links that nobody asks for, at one of several instances by a lease: their owner is stopped, and ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pytest

pytest.importorskip("psycopg")

from s2connect import NodeDescription, NodeId, PlainAcceptor, PlainServer, Role, Session
from s2connect.endpoint import ownership
from s2connect.errors import S2ConnectError
from s2connect.session import ownership as rules
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from tests.bridge.instance_fixtures import Cloud, cloud, opened, up_at
from tests.command import Running, start
from tests.endpoint.conftest import MEASUREMENT, Wan, wan
from tests.instances.cloud import DETAILS
from tests.postgresql import STORE_KEYS
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
        sessions: Number of sessions of each device with the energy manager so far.
        late: Those that it has received over a session after the first one of the next session of the device.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.acknowledged: dict[str, list[str]] = {name: [] for name in names}
        self.received: dict[str, list[str]] = {name: [] for name in names}
        self.late: list[str] = []
        self.sessions: dict[str, int] = dict.fromkeys(names, 0)
        self._tasks: set[asyncio.Task[None]] = set()
        self.routes = self.manager = ""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextlib.asynccontextmanager
    async def managing(self) -> AsyncIterator[str]:
        """Run the energy manager; its side of the route."""
        manager = PlainAcceptor(role=Role.CEM, local=NodeId(uuid4()), tokens=None, by_path=True)
        async with PlainServer(manager, path="/{id}") as managers:
            self.spawn(self._manager(manager))
            yield f'type = "plain-client"\nurl = "ws://127.0.0.1:{managers.port}/{{id}}"\n'

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        async with self.managing() as self.manager, PlainServer() as devices:
            self.routes = (
                f'[[route]]\nname = "old"\n[route.manager]\n{self.manager}[route.devices]\ntype = "plain-client"\n'
            )
            for name in self.names:
                acceptor = PlainAcceptor(role=Role.RM, local=NodeId(uuid4()), tokens=None)
                devices.add(f"/{name}", acceptor)
                self.routes += f'[[route.devices.device]]\nid = "{name}"\nname = "{name}"\n'
                self.routes += f'url = "ws://127.0.0.1:{devices.port}/{name}"\n'
                self.spawn(self._device(name, acceptor))
            try:
                yield self
            finally:
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _device(self, name: str, acceptor: PlainAcceptor) -> None:
        async for connection in acceptor:
            self.spawn(self._send(name, Session(connection, peer=described(Role.CEM), role=Role.RM)))

    async def _send(self, name: str, session: Session) -> None:
        with contextlib.suppress(S2ConnectError):
            await session.send(DETAILS)
            while True:
                self.acknowledged[name].append(await session.send(MEASUREMENT))
                await asyncio.sleep(0.02)

    async def _manager(self, acceptor: PlainAcceptor) -> None:
        async for connection in acceptor:
            session = Session(connection, peer=described(Role.RM), role=Role.CEM)
            self.spawn(self.receive(connection.name, session))

    async def receive(self, name: str, session: Session) -> None:
        number = self.sessions[name] = self.sessions[name] + 1
        with contextlib.suppress(S2ConnectError):
            async for message in session:
                if message.type == "PowerMeasurement" and message.id is not None:
                    self.received[name].append(message.id)
                    if number != self.sessions[name]:
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
        where = await one_each(made, "a", "b")  # b may have one of them by now, because they even out
        for key, link in (await made.instances["b"].links()).items():
            if where[key] == "a" and link["state"] == "elsewhere":
                assert link["reason"] == "the instance a has it"

        # Stopped for longer than the lease, and continued: what had come to it goes no further.
        os.kill(a.running.process.pid, signal.SIGSTOP)
        assert set((await one_each(made, "b")).values()) == {"b"}
        await old.flows()
        os.kill(a.running.process.pid, signal.SIGCONT)
        for name in names:
            await a.link(name, "elsewhere", "up")
        await old.flows()
        await one_each(made, "a", "b")

        # Ended in order: the other one has the links at once.
        made.instances["b"].running.process.terminate()
        assert await asyncio.to_thread(made.instances["b"].running.ended, 40) == 0
        assert set((await one_each(made, "a")).values()) == {"a"}
        await old.flows()
        old.check()


@pytest.mark.timeout(120)
async def test_links_go_to_an_instance_that_joins_until_both_have_as_many(
    wan: Wan, postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of those that go says goodbye to both peers before, and no message is lost, late or there twice."""
    for name, value in {"CLAIM_EVERY": 0.2, "LINK_RENEWAL": 0.5}.items():
        monkeypatch.setattr(ownership, name, value)
    for name, value in {"RESYNC_EVERY": 0.5, "FRESH_COUNTS": 0.1, "LEFT_ALONE": 0.5, "FIRST_TURN": 0.2}.items():
        monkeypatch.setattr(rules, name, value)
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    names = [f"device-{number}" for number in range(6)]
    async with (
        within(100),
        Old(names).running() as old,
        opened(wan, tmp_path, postgresql, "a", old.routes) as a,
    ):
        await until(lambda: len(up_at(a)) == 6, 30)
        await old.flows()
        async with opened(wan, tmp_path, postgresql, "b", old.routes) as b:
            await until(lambda: (len(up_at(a)), len(up_at(b))) == (3, 3), 40)
            await old.flows()
            assert sum(old.sessions.values()) == 9, "no more than the excess"
            await asyncio.sleep(2.0)  # nothing comes of it
            assert (len(up_at(a)), len(up_at(b)), sum(old.sessions.values())) == (3, 3, 9)
            assert not set(up_at(a)) & set(up_at(b))
        await until(lambda: len(up_at(a)) == 6, 40)
        await old.flows()
        old.check()
        for name in names:
            assert set(old.acknowledged[name]) <= set(old.received[name])
