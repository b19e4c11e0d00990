"""Instances that are killed or stand still, and a database that crashes or fails over: nobody is locked out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

import psycopg

from s2connect.endpoint.instances import INSTANCE_VARIABLE
from tests.command import Running, start
from tests.endpoint.conftest import Wan, wan
from tests.instances.cloud import ENVIRONMENT, Device, begin, cloud_home, devices, reserved_port
from tests.postgresql import Cluster
from tests.waits import until, within

__all__ = ["start", "wan"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

Start = Callable[..., Running]


def received(instance: Running) -> list[str]:
    """Ids of the messages that an instance has reported, in their order."""
    return [
        event["message"]["message_id"]
        for event in map(json.loads, instance.so_far())
        if event["event"] == "message" and event["message"]["message_type"] == "PowerMeasurement"
    ]


def events_of(instance: Running, kind: str) -> int:
    return sum(json.loads(line)["event"] == kind for line in instance.so_far())


async def paired(instance: Running, fleet: Sequence[Device]) -> None:
    """Pair devices with the cloud, and wait until all of them send."""
    ready = await asyncio.to_thread(instance.event, "ready")
    code = (await asyncio.to_thread(instance.event, "pairing_code"))["code"]
    for device in fleet:
        await device.node.pair(ready["pairing_url"], code)
        code = (await asyncio.to_thread(instance.command, "code"))["code"]
    await going_on(fleet)


async def going_on(fleet: Sequence[Device], count: int = 3, seconds: float = 30.0) -> None:
    """Wait until all devices have so many more messages acknowledged; those that wait try at once."""
    before = [len(device.acknowledged) for device in fleet]
    asked = asyncio.get_running_loop().time()

    def all_do() -> bool:
        nonlocal asked
        if asyncio.get_running_loop().time() > asked + 1.0:
            asked = asyncio.get_running_loop().time()
            for device in fleet:
                for key in device.endpoint.history():
                    device.endpoint.try_now(key)
        return all(len(one.acknowledged) >= was + count for one, was in zip(fleet, before, strict=True))

    await until(all_do, seconds)


def owners(url: str) -> list[str | None]:
    with psycopg.connect(url, autocommit=True) as connection:
        return [owner for (owner,) in connection.execute("SELECT owner FROM pairing ORDER BY sequence").fetchall()]


async def check(fleet: Sequence[Device], instances: Sequence[Running], *, killed: bool = False) -> None:
    """No message was lost, delivered twice or out of order.

    What an instance has acknowledged is lost with it where it is ``killed`` before its program has read it.
    """

    def reported() -> list[str]:
        return [one for instance in instances for one in received(instance)]

    sent = {one for device in fleet for one in device.acknowledged}
    if not killed:
        await until(lambda: sent <= set(reported()))
    assert len(reported()) == len(set(reported())), "twice"
    for device in fleet:
        for instance in instances:
            got = [one for one in received(instance) if one in set(device.acknowledged)]
            place = {one: number for number, one in enumerate(device.acknowledged)}
            assert [place[one] for one in got] == sorted(place[one] for one in got), "out of order"


async def test_the_devices_of_an_instance_that_is_killed_go_on_at_another_one(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    with reserved_port() as port:
        home = cloud_home(wan, tmp_path / "cloud", postgresql, port)
        first = begin(start, home, "one", port)
        async with within(60), devices(wan, 3) as fleet:
            await paired(first, fleet)
            second = begin(start, home, "two", port)
            await asyncio.to_thread(second.event, "ready")
            first.process.kill()
            await going_on(fleet)
            assert set(owners(postgresql)) == {"two"}
            third = begin(start, home, "one", port)  # its name is free again
            await asyncio.to_thread(third.event, "ready")
            second.process.kill()
            await going_on(fleet)
            assert set(owners(postgresql)) == {"one"}
        await check(fleet, [first, second, third], killed=True)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in bound]


class Switch:
    """Passes connections on to one port, until it is switched to another one, and then cuts them."""

    def __init__(self) -> None:
        self.target = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._open |= {writer, back}
        await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self._open.discard(writer)

    def to(self, port: int) -> None:
        self.target = port
        for writer in list(self._open):
            writer.transport.abort()


async def test_an_instance_that_stood_still_while_its_sessions_were_taken_closes_them(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    switch = Switch()
    server = await asyncio.start_server(switch.accept, "127.0.0.1", 0)
    public = server.sockets[0].getsockname()[1]
    one, two = free_ports(2)
    environment = [{**ENVIRONMENT, INSTANCE_VARIABLE: name} for name in ("one", "two")]
    cases: list[tuple[int, dict[str, object]]] = [(one, {}), (two, {"nodes": ()})]
    homes = [
        cloud_home(wan, tmp_path / str(port), postgresql, public, listen_port=port, **more) for port, more in cases
    ]
    switch.target = one
    first = start(homes[0], env=environment[0])
    async with within(90), devices(wan, 3) as fleet:
        await paired(first, fleet)
        second = start(homes[1], env=environment[1])
        await asyncio.to_thread(second.event, "ready")
        first.process.send_signal(signal.SIGSTOP)
        try:
            switch.to(two)
            await going_on(fleet, seconds=60)
            assert set(owners(postgresql)) == {"two"}
            await asyncio.sleep(30)  # half of that, and it counts as dead
        finally:
            first.process.send_signal(signal.SIGCONT)
        await until(lambda: events_of(first, "session_closed") == 3)
        await going_on(fleet)
        assert events_of(second, "session_closed") == 0, "those that count stay"
        assert set(owners(postgresql)) == {"two"}
    await check(fleet, [first, second])
    server.close()


async def test_a_crash_of_the_database_during_activations_locks_nobody_out(
    wan: Wan, durable: Cluster, tmp_path: Path, start: Start
) -> None:
    url = durable.new_database()
    with reserved_port() as port:
        home = cloud_home(wan, tmp_path / "cloud", url, port)
        instances = [begin(start, home, name, port) for name in ("one", "two")]
        async with within(120), devices(wan, 4) as fleet:
            await asyncio.to_thread(instances[1].event, "ready")
            await paired(instances[0], fleet)
            for _ in range(3):
                for device in fleet:  # all of them begin anew, with new tokens
                    for live in device.endpoint.connected().values():
                        await live.connection.close()
                await asyncio.sleep(0.05)
                await asyncio.to_thread(durable.stop)
                await asyncio.to_thread(durable.start)
                await going_on(fleet, seconds=60)
            assert not [one for device in fleet for one in device.endpoint.history().values() if one.trouble]
        await check(fleet, instances)


async def test_a_failover_to_the_synchronous_standby_during_activations_locks_nobody_out(
    wan: Wan, durable: Cluster, tmp_path: Path, start: Start
) -> None:
    url = durable.new_database()
    standby = await asyncio.to_thread(durable.standby)
    try:
        both = f"{url},{standby.directory}"  # the directories of the sockets are the hosts
        with reserved_port() as port:
            home = cloud_home(wan, tmp_path / "cloud", both, port)
            instances = [begin(start, home, name, port) for name in ("one", "two")]
            async with within(120), devices(wan, 3) as fleet:
                await asyncio.to_thread(instances[1].event, "ready")
                await paired(instances[0], fleet)
                for device in fleet:
                    for live in device.endpoint.connected().values():
                        await live.connection.close()
                await asyncio.sleep(0.05)
                await asyncio.to_thread(durable.stop)
                await asyncio.to_thread(standby.promote)
                await going_on(fleet, seconds=60)
                assert not [one for device in fleet for one in device.endpoint.history().values() if one.trouble]
            await check(fleet, instances)
    finally:
        await asyncio.to_thread(standby.close)
