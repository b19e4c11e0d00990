"""A fleet through one bridge process: none lost, how long each takes, and how long until all are back after a restart.

``S2_FLEET_SECONDS`` says for how long messages pass, 10 seconds otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from s2connect import Endpoint, EndpointConfig, NodeConfig, Role, Session
from s2connect.bridge.config_file import load
from s2connect.bridge.nodes import NodeDevicesSide, NodeManagerSide, representative_id
from s2connect.errors import SessionError
from s2connect.https.server import free_port
from s2connect.messages.envelope import Message
from tests.bridge.bridge_fixtures import introduce
from tests.bridge.fault_setup import CHILD, open_without_listening
from tests.netns import Process
from tests.waits import within

SECONDS = float(os.environ.get("S2_FLEET_SECONDS", "10"))
PILOTS, MANY = 236, 500
BACK = 120.0
"""Seconds within which a whole fleet has to be back: session initiation of 500 on two cores that others use as well."""


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


class Fleet:
    """Devices and an energy manager in this process, and the bridge in another."""

    def __init__(self, directory: Path, devices: Endpoint, manager: Endpoint) -> None:
        self.directory = directory
        self.devices = devices
        self.manager = manager
        self.left: dict[str, float] = {}
        self.took: list[float] = []
        self.seen: Counter[str] = Counter()
        self.acknowledged: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.live: dict[str, Session] = {}
        self.sent = 0
        self.tasks: list[asyncio.Task[None]] = []

    def start_bridge(self) -> None:
        self.process = Process(
            [sys.executable, "-u", CHILD, "bridge", str(self.directory / "bridge.toml"), "quiet"], {}
        )

    def follow(self) -> None:
        """Take sessions on both sides, for ever."""
        for node in self.devices.nodes.values():
            self.tasks.append(asyncio.create_task(self._device(str(node.id), node.sessions())))
        self.tasks.append(asyncio.create_task(self._manager()))

    async def _device(self, name: str, sessions: object) -> None:
        async for session in sessions:  # type: ignore[attr-defined]
            self.live[name] = session
            await session.wait_closed()
            del self.live[name]

    async def _manager(self) -> None:
        held = set()

        async def read(session: Session) -> None:
            async for _ in session:
                pass

        async for session in self.manager.node().sessions(on_message=self._heard):
            task = asyncio.create_task(read(session))
            held.add(task)
            task.add_done_callback(held.discard)

    def _leaves(self, identifier: str, _: Message) -> None:
        self.left[identifier] = time.perf_counter()

    def _heard(self, direction: str, message: Message) -> None:
        if direction == "received" and message.id in self.left:
            self.seen[message.id] += 1
            self.took.append(time.perf_counter() - self.left[message.id])

    async def all_up(self, seconds: float) -> tuple[float, float]:
        """Wait until everybody is connected; returns after how long half were, and all."""
        began, count, half = time.monotonic(), len(self.devices.nodes), 0.0
        async with within(seconds):
            while len(self.live) < count:
                await asyncio.sleep(0.05)
                if not half and len(self.live) >= count / 2:
                    half = time.monotonic() - began
        return half, time.monotonic() - began

    async def exchange(self, seconds: float) -> None:
        """Every device sends a message a second, each at its own moment."""
        end = time.monotonic() + seconds

        async def one(name: str, session: Session) -> None:
            await asyncio.sleep(random.random())
            due = time.monotonic()
            while time.monotonic() < end:
                self.sent += 1
                identifier = f"{name[:8]}-{self.sent}"
                value = {
                    "message_type": "PowerMeasurement",
                    "message_id": identifier,
                    "measurement_timestamp": "2026-01-01T00:00:00Z",
                    "values": [{"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1.0}],
                }
                try:
                    await session.send(value, leaving=partial(self._leaves, identifier))
                    self.acknowledged.add(identifier)
                except SessionError as error:
                    self.refused[error.kind] += 1
                due += 1.0
                await asyncio.sleep(max(0.0, due - time.monotonic()))

        await asyncio.gather(*(one(name, session) for name, session in list(self.live.items())))


async def prepare(directory: Path, fleet: Fleet) -> None:
    """Pair every device with the bridge, and every representative with the energy manager."""
    file = directory / "bridge.toml"
    file.write_text(
        f'home = "bridge"\n[endpoint]\nhost = "127.0.0.1"\nbind = "127.0.0.1"\nport = {free_port()}\n'
        'vault = "files"\nadvertise = false\n[[route]]\nname = "fleet"\ncheck = "rules"\n'
        '[route.devices]\ntype = "s2-connect"\n[route.manager]\ntype = "s2-connect"\n'
    )
    config, _ = load(file)
    async with open_without_listening(config) as bridge:
        route = bridge.routes["fleet"]
        assert isinstance(route.devices, NodeDevicesSide)
        assert isinstance(route.manager, NodeManagerSide)
        own, towards = config.routes[0].id_in(bridge.id), route.devices.node.id
        for device in fleet.devices.nodes.values():
            there = representative_id(own, str(device.id))
            await introduce(fleet.devices, device.id, bridge.endpoint, towards, device.id)
            await introduce(bridge.endpoint, there, fleet.manager, fleet.manager.node().id, there)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [PILOTS, MANY])
async def test_a_fleet_talks_through_one_bridge_and_comes_back_after_it_was_killed(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    nodes = tuple(NodeConfig(role=Role.RM, alias=f"D{number}") for number in range(count))
    settings = {"host": "127.0.0.1", "bind": "127.0.0.1", "port": 0}
    async with (
        Endpoint.open(config=EndpointConfig(**settings, nodes=nodes), serve=False) as devices,
        Endpoint.open(config=EndpointConfig(**settings, nodes=(NodeConfig(role=Role.CEM),))) as manager,
    ):
        fleet = Fleet(tmp_path, devices, manager)
        await prepare(tmp_path, fleet)
        fleet.start_bridge()
        try:
            await asyncio.to_thread(fleet.process.wait_for, "ready", 120)
            fleet.follow()
            first = await fleet.all_up(BACK)
            await fleet.exchange(SECONDS)
            assert not fleet.refused
            assert fleet.sent >= 0.8 * count * (SECONDS - 1)
            assert len(fleet.acknowledged) == fleet.sent
            assert set(fleet.seen.values()) == {1}
            assert len(fleet.seen) == fleet.sent
            fleet.process.kill()
            async with within(20):
                while fleet.live:
                    await asyncio.sleep(0.05)
            fleet.start_bridge()
            back = await fleet.all_up(BACK)
            before = fleet.sent
            await fleet.exchange(2)
            assert len(fleet.acknowledged) == fleet.sent > before
            with capsys.disabled():
                print(
                    f"\n{count} links, {fleet.sent} messages: p50 {percentile(fleet.took, 0.5) * 1e3:.1f} ms, "
                    f"p99 {percentile(fleet.took, 0.99) * 1e3:.1f} ms from the device to the energy manager; "
                    f"up after {first[1]:.1f} s (half: {first[0]:.1f} s), "
                    f"back after a restart within {back[1]:.1f} s (half: {back[0]:.1f} s)"
                )
        finally:
            for task in fleet.tasks:
                task.cancel()
            await asyncio.gather(*fleet.tasks, return_exceptions=True)
            with contextlib.suppress(ProcessLookupError):
                await asyncio.to_thread(fleet.process.stop)
