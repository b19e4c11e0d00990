"""Processes that are killed, brokers that die, cables that are cut: both sides know in time, and all comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.bridge.fault_child import PEER_TIMEOUT
from tests.bridge.fault_setup import FaultSetup
from tests.netns import Host, Lan, Process, require_netns
from tests.waits import patience

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

BOTH = ("device", "manager")


@contextlib.asynccontextmanager
async def fault_setup_of(directory: Path, kind: str, **more: object) -> AsyncIterator[FaultSetup]:
    setup = FaultSetup(directory, kind, **more)  # type: ignore[arg-type]
    try:
        await setup.prepare()
        yield setup
    finally:
        await asyncio.to_thread(setup.close)


async def line(process: Process, text: str, timeout: float = 20) -> str:
    return await asyncio.to_thread(process.wait_for, lambda said: said.startswith(text), timeout)


async def up(setup: FaultSetup, timeout: float = 40) -> None:
    """A session at both ends, and a message that was acknowledged."""
    await asyncio.gather(*(line(setup.running[name], "up", timeout) for name in BOTH))
    await line(setup.running["device"], "ok", timeout)


@pytest.mark.parametrize(
    ("kind", "victim"),
    [("wss", "device"), ("wss", "manager"), ("wss", "bridge"), ("mqtt", "manager"), ("mqtt", "bridge")],
)
async def test_a_process_that_is_killed_is_noticed_by_the_others_and_comes_back(
    kind: str, victim: str, tmp_path: Path
) -> None:
    async with fault_setup_of(tmp_path, kind) as setup:
        setup.start("manager", "bridge", "device")
        await up(setup)
        setup.kill(victim)
        began = time.monotonic()
        # Over MQTT the broker may keep the last will of a peer, but it sends it at once where its connection breaks.
        for name in (name for name in BOTH if name != victim):
            await line(setup.running[name], "down", 15)
        assert time.monotonic() - began < PEER_TIMEOUT + patience(4)
        setup.start(victim)
        await up(setup)
        assert not any("not connected" in said for said in setup.running["bridge"].lines)


async def test_the_command_killed_outright_comes_back_with_all_its_links(tmp_path: Path) -> None:
    async with fault_setup_of(tmp_path, "wss", fast=False) as setup:
        setup.start("bridge", command=True)
        setup.start("manager", "device")
        await up(setup)
        setup.kill("bridge")
        began = time.monotonic()
        await asyncio.gather(*(line(setup.running[name], "down", 10) for name in BOTH))
        assert time.monotonic() - began < patience(5)
        setup.start("bridge", command=True)
        await up(setup)


async def test_a_broker_that_is_killed_and_restarted(tmp_path: Path) -> None:
    async with fault_setup_of(tmp_path, "mqtt") as setup:
        setup.start("manager", "bridge", "device")
        await up(setup)
        assert setup.broker is not None
        setup.broker.kill()
        await asyncio.gather(*(line(setup.running[name], "down", 10) for name in BOTH))
        setup.broker.start()
        await up(setup, 60)


CABLES = ["device", "bridge", "manager"]


@pytest.mark.parametrize("cut", CABLES)
async def test_a_cable_that_is_cut_in_silence_is_noticed_by_all_within_the_time_of_silence(
    cut: str, tmp_path: Path
) -> None:
    require_netns()
    with Lan(hosts=3, ipv6=False) as lan:
        hosts: list[Host] = lan.hosts
        addresses = [f"10.77.1.{number}" for number in (1, 2, 3)]
        async with fault_setup_of(tmp_path, "wss", addresses=addresses, hosts=hosts) as setup:
            setup.start("manager", "bridge", "device")
            await up(setup)
            host = hosts[CABLES.index(cut)]
            host.unplug()
            began = time.monotonic()
            await asyncio.gather(*(line(setup.running[name], "down", 30) for name in BOTH))
            # The silence, a tenth of it before the verdict, the farewell in vain, and the close in vain.
            assert time.monotonic() - began < 1.1 * PEER_TIMEOUT + 1 + patience(6)
            host.plug()
            await up(setup)
            assert not any("not connected" in said for said in setup.running["bridge"].lines)
