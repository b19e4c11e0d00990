"""A bridge as several processes on one PostgreSQL database: each link is at one of them, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

from tests.bridge.instance_fixtures import Cloud, cloud
from tests.command import Running, start
from tests.endpoint.conftest import Wan, wan
from tests.instances.cloud import devices
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
        assert max(made.most.values()) == 1, "never two sessions of a pair"
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
        assert max(made.most.values()) == 1, "never two sessions of a pair"
        for key, device in zip(keys, fleet, strict=True):
            in_order(made, device, links[key]["representative"]["node"])
