"""A bridge as several processes on one PostgreSQL database: each link is at one of them, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

from s2connect.service.commands import ShowBridge, Unpair
from tests.bridge.instance_fixtures import Cloud, cloud
from tests.command import Running, start
from tests.endpoint.conftest import Wan, wan
from tests.instances.cloud import Device, devices
from tests.postgresql import Cluster
from tests.waits import until, within

__all__ = ["start", "wan"]

Start = Callable[..., Running]


async def settled(made: Cloud, keys: list[str]) -> dict[str, str]:
    """Wait until every link is up at exactly one instance; return where."""
    async with within(40):
        while True:
            where: dict[str, list[str]] = {key: [] for key in keys}
            for name, one in made.instances.items():
                with contextlib.suppress(AssertionError):
                    for key, link in (await one.links()).items():
                        if link["state"] == "up":
                            where[key].append(name)
            if all(len(names) == 1 for names in where.values()):
                return {key: names[0] for key, names in where.items()}
            await asyncio.sleep(0.1)


def in_order(made: Cloud, device: Any, node: str) -> None:
    """Check that the energy manager has what was acknowledged, each once, in the order in which it was sent."""
    heard = made.received[node]
    assert len(set(heard)) == len(heard), "nothing twice"
    places = {one: place for place, one in enumerate(heard)}
    got = [places[one] for one in device.acknowledged]
    assert got == sorted(got), "in order"


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_each_link_is_up_at_one_instance_and_a_pairing_at_one_is_known_at_the_other(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    async with within(120), cloud(wan, tmp_path, postgresql, start, "a", "b") as made, devices(wan, 4) as fleet:
        keys = [await made.paired(device, "a", "b") for device in fleet]
        where = await settled(made, keys)
        await until(lambda: all(len(device.acknowledged) > 20 for device in fleet))
        for key, link in (await made.instances["a"].links()).items():
            if where[key] == "b":
                assert link["state"] == "elsewhere" or link["state"] == "waiting"
        assert not made.late, "never two sessions of a pair"
        links = await made.instances["a"].links()
        for key, device in zip(keys, fleet, strict=True):
            in_order(made, device, links[key]["representative"]["node"])


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_one_command_runs_several_instances_and_drains_them(
    wan: Wan, postgresql: str, tmp_path: Path, start: Start
) -> None:
    async with within(120), cloud(wan, tmp_path, postgresql, start) as made, devices(wan, 4) as fleet:
        crew = await made.begin("box", "--workers", "2")
        keys = [await made.paired(device, "box") for device in fleet]
        for key in keys:
            await crew.link(key, "up")
        await until(lambda: all(len(device.acknowledged) > 5 for device in fleet))
        links = await crew.links()
        assert {link["instance"] for link in links.values()} <= {"box-1", "box-2"}
        assert all(link["messages"]["rm"]["forwarded"] > 5 for link in links.values())
        other = await made.begin("late")
        made.balancer.targets = [other.port]
        crew.running.process.terminate()
        assert await asyncio.to_thread(crew.running.ended, 40) == 0
        for key in keys:
            await other.link(key, "up")
        before = [len(device.acknowledged) for device in fleet]
        await until(lambda: all(len(d.acknowledged) > n + 5 for d, n in zip(fleet, before, strict=True)))
        assert not made.late, "never two sessions of a pair"
        for key, device in zip(keys, fleet, strict=True):
            in_order(made, device, links[key]["representative"]["node"])


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_link_goes_on_at_another_instance_whatever_happens_to_the_one_that_has_it(
    wan: Wan, postgresql_cluster: Cluster, tmp_path: Path, start: Start
) -> None:
    url = postgresql_cluster.new_database()
    async with within(150), cloud(wan, tmp_path, url, start, "a", "b") as made, devices(wan, 3) as fleet:
        a, b = made.instances["a"], made.instances["b"]
        keys = [await made.paired(device, "a") for device in fleet]
        nodes = {key: link["representative"]["node"] for key, link in (await a.links()).items()}
        await settled(made, keys)

        # Killed: the peers come to the other one.
        made.balancer.targets = [b.port]
        os.kill(a.running.process.pid, signal.SIGKILL)
        for key in keys:
            await b.link(key, "up")
        await flows(fleet)

        # Stopped while the peers go elsewhere, and continued: it has nothing more to say.
        a = await made.begin("a")
        made.balancer.targets = [a.port]
        made.balancer.cut(b.port)
        for key in keys:
            await a.link(key, "up")
        os.kill(a.running.process.pid, signal.SIGSTOP)
        await asyncio.sleep(1)
        made.balancer.targets = [b.port]
        made.balancer.cut(a.port)
        for key in keys:
            await b.link(key, "up")
        await flows(fleet)
        os.kill(a.running.process.pid, signal.SIGCONT)
        for key in keys:
            await a.link(key, "elsewhere", "waiting")
        await flows(fleet)
        assert await settled(made, keys) == dict.fromkeys(keys, "b")

        # Unpaired at one, the link ends at the other within a second.
        mine = (await b.ask(ShowBridge())).bridge["routes"][0]["devices"]["node"]
        await a.ask(Unpair(node=mine, peer=fleet[0].node.id, forget=True))
        async with within(2):
            while keys[0] in await b.links():
                await asyncio.sleep(0.02)
        keys, fleet = keys[1:], fleet[1:]

        # The database is lost for a while: what is up stays up, and all is as before afterwards.
        postgresql_cluster.stop()
        before = [device.sessions for device in fleet]
        await flows(fleet)
        assert [device.sessions for device in fleet] == before
        postgresql_cluster.start()
        await flows(fleet)
        made.balancer.targets = [a.port]
        made.balancer.cut(b.port)
        for key in keys:
            await a.link(key, "up")
        await flows(fleet)
        assert not made.late, "never two sessions of a pair"
        for key, device in zip(keys, fleet, strict=True):
            in_order(made, device, nodes[key])


async def flows(fleet: list[Device]) -> None:
    """Wait until every device has had further messages acknowledged."""
    before = [len(device.acknowledged) for device in fleet]
    await until(lambda: all(len(d.acknowledged) > n + 5 for d, n in zip(fleet, before, strict=True)), 40)
