"""A far side that takes one message a second while a thousand are sent, over real transports."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from s2connect import Node, Role
from s2connect.bridge.outbox import MAX_QUEUED
from s2connect.errors import ConnectionClosed
from s2connect.messages.enums import Check
from s2connect.session.budget import PeerLimits
from s2connect.transports.base import Connection
from tests.bridge.bridge_fixtures import MQ, WSS, BridgeSetup
from tests.bridge.link_fixtures import answer, message
from tests.waits import at_most, within

pytestmark = [pytest.mark.long, pytest.mark.timeout(60)]

FILLER = random.Random(1).randbytes(15_000).hex()
"""So long, and so hard to compress, that the kernel's buffers, which nobody counts, are full within a second or two."""


class Traffic:
    """Messages and answers of a device that does not wait, and messages of a slow energy manager."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.told: dict[str, str] = {}
        self.seen: list[str] = []

    async def flood(self, device: Connection) -> None:
        while True:
            identifier = f"m{len(self.sent)}"
            self.sent.append(identifier)
            await device.send(message(identifier, filler=FILLER))
            await asyncio.sleep(0.001)

    async def listen(self, device: Connection) -> None:
        while True:
            value = json.loads(await device.recv())
            if value["message_type"] == "ReceptionStatus":
                assert value["subject_message_id"] not in self.told
                self.told[value["subject_message_id"]] = value["status"]

    async def take(self, manager: Connection) -> None:
        while True:
            identifier = json.loads(await manager.recv())["message_id"]
            self.seen.append(identifier)
            await manager.send(answer(identifier))
            await asyncio.sleep(1)


async def connections(device: Node, manager: Node) -> tuple[Connection, Connection]:
    (here, _), (there, _) = await asyncio.gather(anext(device.connections()), anext(manager.connections()))
    return here, there


async def test_a_slow_side_slows_the_other_and_nobody_is_told_what_is_not_so(tmp_path: Path) -> None:
    # The budget of a peer would slow this device down before anything waits for the energy manager.
    unlimited = PeerLimits(messages_per_second=0, bytes_per_second=0, busy_share=0)
    async with BridgeSetup(tmp_path, WSS, WSS, check=Check.ENVELOPE, limits=unlimited) as setup:
        device, manager = await connections(setup.device.node(), setup.manager.node())
        traffic, most = Traffic(), 0
        works = (traffic.flood(device), traffic.listen(device), traffic.take(manager))
        tasks = [asyncio.create_task(work) for work in works]
        for _ in range(80):
            await asyncio.sleep(0.1)
            most = max(most, setup.link.status().queued[Role.CEM])
        withdrawn = setup.link.status().counts[Role.RM]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert 0 < most <= MAX_QUEUED
        assert len(traffic.sent) < 6000, "it was slowed down"
        told = {identifier for identifier, status in traffic.told.items() if status == "OK"}
        assert told <= set(traffic.seen), "no OK on another's behalf"
        assert "TEMPORARY_ERROR" in traffic.told.values()
        assert withdrawn["unanswered"] > 0
        # What it has not taken yet is still in order, nothing twice, and nothing that was withdrawn.
        async with at_most(5):
            while True:
                traffic.seen.append(json.loads(await manager.recv()).get("message_id"))
        numbers = [int(identifier[1:]) for identifier in traffic.seen if identifier]
        assert numbers == sorted(set(numbers))
        await asyncio.gather(device.close(), manager.close())


async def test_over_mqtt_where_nobody_can_be_slowed_down_the_session_ends_on_both_sides_and_comes_back(
    tmp_path: Path,
) -> None:
    async with BridgeSetup(tmp_path, WSS, MQ, check=Check.ENVELOPE) as setup:
        devices, managers = setup.device.node().connections(), setup.manager.node().connections()
        (device, _), (manager, _) = await asyncio.gather(anext(devices), anext(managers))
        traffic = Traffic()
        works = (traffic.flood(device), traffic.listen(device), traffic.take(manager))
        tasks = [asyncio.create_task(work) for work in works]
        async with within(30):
            await asyncio.gather(device.wait_closed(), manager.wait_closed())
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, ConnectionClosed) for result in results)
            (device, _), (manager, _) = await asyncio.gather(anext(devices), anext(managers))
            await device.send(message("again"))
            assert await manager.recv() == message("again")
        numbers = [int(identifier[1:]) for identifier in traffic.seen]
        assert numbers == sorted(set(numbers))
        assert {i for i, status in traffic.told.items() if status == "OK"} <= set(traffic.seen)
        await asyncio.gather(device.close(), manager.close())
