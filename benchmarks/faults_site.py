"""Site of the long run of faults: instances, database, balancer, brokers and devices, and the faults that all have."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.balancer import Balancer
from benchmarks.endpoint_worker import server_pairing
from benchmarks.harness import Task, Worker
from benchmarks.instances_worker import seed
from benchmarks.journals import Checker, Tail

if TYPE_CHECKING:
    from tests.artemis import ArtemisCluster
    from tests.postgresql import Cluster
    from tests.store.postgresql_wire import Wire

DEVICE_PAUSE: Final = 0.5
"""Seconds between two messages of a device."""

INSTANCE_PAUSE: Final = 1.0
"""Seconds between two messages of an instance to a device."""

FRESH: Final = 2.0
"""Seconds for which a session counts as alive after a message of the device that was acknowledged."""

FORGOTTEN_AFTER: Final = 20.0
"""Seconds after the end of a process for which its journal is read on."""

HALF_A_MINUTE: Final = 0.03
"""Share of stops that last half a minute: longer than an instance without a sign of life counts as alive."""


def user_of(number: int) -> str:
    """Return the broker's user of an instance."""
    return f"i{number}"


class Database:
    """A primary, its synchronous standby, and two wires of each instance: one to each of them.

    Attributes:
        servers: The two, in the order of the wires.
    """

    def __init__(self, primary: Cluster, standby: Cluster) -> None:
        self.servers = [primary, standby]
        self.wires: list[list[Wire]] = []
        self._primary = 0

    @property
    def primary(self) -> Cluster:
        return self.servers[self._primary]

    @property
    def standby(self) -> Cluster:
        return self.servers[1 - self._primary]

    async def connect(self, stack: AsyncExitStack, store: str) -> str:
        """Lay the wires of one more instance; return the URL that leads through them."""
        from tests.store.postgresql_wire import wire

        wires = [await stack.enter_async_context(wire(store)) for _ in self.servers]
        for one, server in zip(wires, self.servers, strict=True):
            one.lead_to(server.directory)
        self.wires.append(wires)
        return f"{wires[0].through},{wires[1].directory}"

    async def fail_over(self) -> Awaitable[None]:
        """Crash the primary and promote the standby; a new standby takes its place later."""
        lost, slot = self.primary, self._primary
        await asyncio.to_thread(lost.stop, "immediate")
        self._primary = 1 - slot
        await asyncio.to_thread(self.primary.promote)

        async def replace() -> None:
            self.servers[slot] = await asyncio.to_thread(self.primary.standby)
            for wires in self.wires:
                wires[slot].lead_to(self.servers[slot].directory)
            await asyncio.to_thread(lost.close)

        return asyncio.ensure_future(replace())

    def close(self) -> None:
        for server in self.servers:
            with contextlib.suppress(OSError):
                server.signal(signal.SIGCONT)
            server.close()


@dataclass
class Instance:
    """One instance.

    Attributes:
        worker: Its process.
        journal: The journal of that.
        store: Its way to the database.
        lives: Number of processes so far.
    """

    worker: Worker
    journal: Tail
    store: str
    lives: int = 1

    @property
    def is_killed(self) -> bool:
        """True from its end until another process takes its place."""
        return self.journal.over_at < math.inf


class Site:
    """Instances, database, balancer, brokers and devices.

    Attributes:
        devices: Addresses of the devices at the balancer, by their numbers; the last ones use MQTT.
        over_mqtt: How many those are.
        errors: Errors that instances and devices have logged, with a traceback, and how often.
    """

    def __init__(
        self, directory: Path, database: Database, balancer: Balancer, brokers: ArtemisCluster | None, over_mqtt: int
    ) -> None:
        self.database = database
        self.balancer = balancer
        self.brokers = brokers
        self.over_mqtt = over_mqtt
        self.devices: list[str] = []
        self.instances: list[Instance] = []
        self.checker = Checker()
        self.errors: Counter[str] = Counter()
        self._directory = directory
        self._journals: list[Tail] = []
        self._clients: list[Worker] = []

    def _task(self, devices: int) -> Task:
        """Return the task of a process whose journal is the last one."""
        path = self._directory / f"journal-{len(self._journals)}-{time.monotonic_ns()}"
        self._journals.append(Tail(path))
        task: dict[str, Any] = {"directory": str(self._directory), "journal": str(path), "devices": devices}
        if self.brokers is not None:
            task["brokers"] = [str(self.brokers.url(number)) for number in (0, 1)]
            task["passwords"], task["broker_ca"] = str(self._directory), str(self.brokers.ca_file)
        return task

    async def begin(self, store: str, devices: Sequence[str], instances: int, stack: AsyncExitStack) -> None:
        """Start the instances, then the devices, and wait until all have sent a message."""
        self.devices = list(devices)
        await seed({"store": store}, (server_pairing(number) for number in range(len(devices))))
        for number in range(instances):
            through = await self.database.connect(stack, store)
            worker, journal = await self._start(number, 1, through)
            self.instances.append(Instance(worker, journal, through))
            self.balancer.addresses.append(address_of(number))
        plain = len(devices) - self.over_mqtt
        for first, some in ((0, devices[:plain]), (plain, devices[plain:])):
            task = self._task(len(devices)) | {"pause": DEVICE_PAUSE, "first": first, "addresses": some}
            task["server"] = self.instances[0].worker.ready
            if not first:
                task.pop("brokers", None)
            if some:
                start = partial(Worker.ours, "faults_worker", "clients", **task)
                self._clients.append(await asyncio.to_thread(start))
        async with asyncio.timeout(180):
            while len(self.checker.acknowledged.keys() & set(range(len(devices)))) < len(devices):
                self.read()
                await asyncio.sleep(0.1)

    async def _start(self, number: int, life: int, store: str) -> tuple[Worker, Tail]:
        task = self._task(len(self.devices)) | {
            "home": str(self._directory / f"home-{number}-{life}"),
            "store": store,
            "name": f"i{number}-{life}",
            "broker_user": user_of(number),
            "port": self.balancer.port,
            "address": address_of(number),
            "pause": INSTANCE_PAUSE,
            "service": True,
        }
        journal = self._journals[-1]
        return await asyncio.to_thread(lambda: Worker.ours("faults_worker", "instance", **task)), journal

    def close(self) -> None:
        """End all processes, and read their journals to the end."""
        for worker in self._clients:
            self._kill(worker)
        for one in self.instances:
            if not one.is_killed:
                self._kill(one.worker)
        self.read()
        for tail in self._journals:
            tail.close()

    def _kill(self, worker: Worker) -> None:
        self.errors.update(re.findall(r"(?m)^(?:\w+\.)*\w*(?:Error|Exception)\b.*$", worker.log()))
        worker.kill()

    def _kill_instance(self, one: Instance) -> None:
        one.journal.over_at = time.monotonic() + FORGOTTEN_AFTER
        self._kill(one.worker)

    def read(self) -> None:
        """Read what is new in the journals."""
        now = time.monotonic()
        lines = [line for tail in self._journals for line in tail.lines()]
        self.checker.take(lines, now)
        for tail in [tail for tail in self._journals if tail.over_at < now]:
            self._journals.remove(tail)
            tail.close()

    def ended(self) -> list[str]:
        """Return the processes that have ended by themselves."""
        found = [
            f"instance {number}"
            for number, one in enumerate(self.instances)
            if one.worker.has_ended and not one.is_killed
        ]
        return found + [f"devices {number}" for number, worker in enumerate(self._clients) if worker.has_ended]

    def alive(self) -> list[int]:
        """Return the devices whose session is alive."""
        now = time.monotonic()
        return [
            number for number in range(len(self.devices)) if now - self.checker.acknowledged.get(number, 0.0) < FRESH
        ]

    # Faults

    async def _replace(self, number: int) -> None:
        one = self.instances[number]
        one.lives += 1
        one.worker, one.journal = await self._start(number, one.lives, one.store)

    async def instance_killed(self, chance: random.Random) -> Awaitable[None]:
        """Kill an instance; another process takes its place, for which nobody waits."""
        number = chance.randrange(len(self.instances))
        self._kill_instance(self.instances[number])
        return asyncio.ensure_future(self._replace(number))

    async def instance_drained(self, chance: random.Random) -> None:
        """End an instance as SIGTERM does: its sessions are handed over first; another process takes its place."""
        number = chance.randrange(len(self.instances))
        one = self.instances[number]
        self.balancer.down.add(address_of(number))
        try:
            await asyncio.to_thread(one.worker.ask, drain=True)
            self._kill_instance(one)
            await self._replace(number)
        finally:
            self.balancer.down.discard(address_of(number))

    async def instance_stopped(self, chance: random.Random) -> None:
        """Stop an instance without ending it."""
        pid = chance.choice(self.instances).worker.pid
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(_stop(chance))
        os.kill(pid, signal.SIGCONT)

    async def instance_left_behind(self, chance: random.Random) -> None:
        """Stop an instance while its devices go to another one, so that it wakes up with sessions that are not its."""
        number = chance.randrange(len(self.instances))
        pid = self.instances[number].worker.pid
        os.kill(pid, signal.SIGSTOP)
        self.balancer.take_down(address_of(number))
        await asyncio.sleep(_stop(chance))
        os.kill(pid, signal.SIGCONT)
        self.balancer.down.discard(address_of(number))

    async def database_crashed(self, chance: random.Random) -> None:
        """Crash the database; it starts again."""
        await asyncio.to_thread(self.database.primary.stop, "immediate")
        await asyncio.sleep(chance.uniform(0.0, 2.0))
        await asyncio.to_thread(self.database.primary.start)

    async def database_restarted(self, chance: random.Random) -> None:
        """Stop the database as its operator does; it starts again."""
        await asyncio.to_thread(self.database.primary.stop, "fast")
        await asyncio.sleep(chance.uniform(0.0, 2.0))
        await asyncio.to_thread(self.database.primary.start)

    async def database_failed_over(self, chance: random.Random) -> Awaitable[None]:
        """Crash the primary and promote its synchronous standby."""
        return await self.database.fail_over()

    async def database_stopped(self, chance: random.Random) -> None:
        """Stop all processes of the primary without ending them."""
        self.database.primary.signal(signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.5, 8.0))
        self.database.primary.signal(signal.SIGCONT)

    async def standby_lost(self, chance: random.Random) -> None:
        """Crash the standby, without which nothing is committed; it starts again."""
        await asyncio.to_thread(self.database.standby.stop, "immediate")
        await asyncio.sleep(chance.uniform(0.0, 4.0))
        await asyncio.to_thread(self.database.standby.start)

    async def database_silent(self, chance: random.Random) -> None:
        """Let nothing pass between an instance and the database."""
        wires = chance.choice(self.database.wires)
        for wire in wires:
            wire.silent = True
        await asyncio.sleep(chance.uniform(0.5, 8.0))
        for wire in wires:
            wire.silent = False

    async def database_cut(self, chance: random.Random) -> None:
        """Cut all connections of an instance to the database, and refuse new ones for a while."""
        wires = chance.choice(self.database.wires)
        for wire in wires:
            wire.refuses = True
            wire.cut()
        await asyncio.sleep(chance.choice((0.0, chance.uniform(0.5, 6.0))))
        for wire in wires:
            wire.refuses = False

    async def balancer_cut(self, chance: random.Random) -> None:
        """Cut all connections of the devices, or some."""
        self.balancer.end(self.balancer.some(chance, chance.choice((1.0, 0.3))))

    async def balancer_restarted(self, chance: random.Random) -> None:
        """Cut all connections of the devices, and refuse new ones for a while."""
        self.balancer.is_away = True
        self.balancer.end(self.balancer.ways)
        await asyncio.sleep(chance.uniform(0.2, 3.0))
        self.balancer.is_away = False

    async def balancer_lost(self, chance: random.Random) -> None:
        """Let nothing pass on all connections there are, for good: only pings and deadlines notice it."""
        self.balancer.is_away = True
        for way in self.balancer.ways:
            way.lose()
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        self.balancer.is_away = False

    async def broker_killed(self, chance: random.Random) -> Awaitable[None]:
        """Kill a node of the broker cluster; it starts again, for which nobody waits."""
        assert self.brokers is not None
        await asyncio.to_thread(self.brokers.kill, chance.randrange(2))
        return asyncio.ensure_future(self._brokers_again())

    async def _brokers_again(self) -> None:
        assert self.brokers is not None
        await asyncio.to_thread(self.brokers.start)
        await self.brokers.formed()

    async def broker_stopped(self, chance: random.Random) -> None:
        """Stop a node of the broker cluster without ending it."""
        assert self.brokers is not None
        number = chance.randrange(2)
        self.brokers.signal(number, signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.5, 8.0))
        self.brokers.signal(number, signal.SIGCONT)


def _stop(chance: random.Random) -> float:
    return 30.0 if chance.random() < HALF_A_MINUTE else chance.uniform(0.5, 8.0)


def address_of(number: int) -> str:
    """Return the address of an instance."""
    return f"127.0.0.{number + 2}"


Fault = Callable[[Site, random.Random], Coroutine[Any, Any, Awaitable[None] | None]]

KINDS: Final[dict[str, Fault]] = {
    "instance killed": Site.instance_killed,
    "instance stopped": Site.instance_stopped,
    "instance left behind": Site.instance_left_behind,
    "instance drained": Site.instance_drained,
    "database crashed": Site.database_crashed,
    "database restarted": Site.database_restarted,
    "database failed over": Site.database_failed_over,
    "database stopped": Site.database_stopped,
    "standby lost": Site.standby_lost,
    "database silent": Site.database_silent,
    "database cut": Site.database_cut,
    "balancer cut": Site.balancer_cut,
    "balancer restarted": Site.balancer_restarted,
    "balancer lost": Site.balancer_lost,
    "broker killed": Site.broker_killed,
    "broker stopped": Site.broker_stopped,
}
"""Faults of the whole site. One that has not been cleared up when it is over returns what does that."""

OF_BROKERS: Final = frozenset({"broker killed", "broker stopped"})


@contextlib.asynccontextmanager
async def running(directory: Path, instances: int, devices: int, over_mqtt: int) -> AsyncIterator[Site]:
    """Run a site; RuntimeError where PostgreSQL is not installed, or Artemis, which MQTT needs."""
    from s2connect.https.server import free_port

    async with AsyncExitStack() as stack:
        primary = await asyncio.to_thread(_postgresql)
        try:
            store, standby = primary.new_database(), await asyncio.to_thread(primary.standby)
        except BaseException:
            primary.close()
            raise
        database = Database(primary, standby)
        stack.callback(database.close)
        addresses = [f"127.0.1.{number + 1}" for number in range(devices)]
        balancer = await stack.enter_async_context(Balancer.running(free_port(), addresses))
        brokers = await _brokers(stack, directory, instances, range(devices - over_mqtt, devices))
        site = Site(directory, database, balancer, brokers, over_mqtt)
        stack.callback(site.close)
        await site.begin(store, addresses, instances, stack)
        yield site


def _postgresql() -> Cluster:
    import pytest

    from tests.postgresql import Cluster

    try:
        made = Cluster(durable=True, max_connections="200", shared_buffers="64MB")
    except (pytest.skip.Exception, pytest.fail.Exception) as error:
        raise RuntimeError(error.msg) from None
    made.make_template()
    return made


async def _brokers(stack: AsyncExitStack, directory: Path, instances: int, devices: range) -> ArtemisCluster | None:
    if not devices:
        return None
    import pytest

    from tests.artemis import ArtemisCluster, password

    place = directory / "brokers"
    place.mkdir()
    users = [*map(user_of, range(instances)), *(f"m{number}" for number in devices)]
    try:
        made = await asyncio.to_thread(ArtemisCluster, place, users)
    except pytest.skip.Exception as error:
        raise RuntimeError(error.msg) from None
    stack.callback(made.close)
    for user in users:
        file = directory / user
        file.write_text(password(user).reveal())
        file.chmod(0o600)
    await asyncio.to_thread(made.start)
    await made.formed()
    return made
