"""A broker that is killed at each stage of a link: nobody is left believing, and everything comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from s2connect import Role, Session
from s2connect.bridge.farewell import FAREWELL_TIMEOUT
from s2connect.bridge.link import OPEN_TIMEOUT
from s2connect.bridge.link_state import LinkState
from s2connect.bridge.plain import PlainServerDevicesSide
from s2connect.bridge.sides import NOT_NOW
from s2connect.errors import ConnectionClosed, PeerBusy
from s2connect.transports.base import Connection
from s2connect.transports.plain import connect_plain
from tests.bridge.bridge_fixtures import MQ, PLAIN, BridgeSetup
from tests.bridge.frbc_texts import FROM_RM_FIRST
from tests.waits import until, within

pytestmark = [pytest.mark.long, pytest.mark.timeout(90)]


class Scene:
    """A plain device that the test plays itself, and an energy manager behind a broker."""

    def __init__(self, setup: BridgeSetup) -> None:
        self.setup = setup
        assert setup.broker is not None
        self.broker = setup.broker
        self._managers = setup.sessions(Role.CEM)
        self.taking = self._take()

    def _take(self) -> asyncio.Task[Session]:
        return asyncio.ensure_future(anext(self._managers))

    async def manager(self) -> Session:
        """The next session of the energy manager."""
        session = await self.taking
        self.taking = self._take()
        return session

    async def connect(self) -> Connection:
        assert isinstance(self.setup.devices, PlainServerDevicesSide)
        url = f"ws://127.0.0.1:{self.setup.devices.port}/battery"
        return await connect_plain(url, role=Role.RM, local=self.setup.ids["device"])

    async def meet(self, seconds: float = 40) -> tuple[Connection, Session]:
        """Come again until it is let in; then a message and its answer pass."""
        async with within(seconds):
            while True:
                try:
                    device = await self.connect()
                    break
                except PeerBusy:
                    await asyncio.sleep(0.2)
            manager = await self.manager()
            await device.send(FROM_RM_FIRST)
            assert json.loads(await device.recv())["status"] == "OK"
            assert (await manager.receive()).text == FROM_RM_FIRST
        return device, manager

    async def until(self, *states: LinkState, seconds: float) -> None:
        await until(lambda: self.setup.link.status().state in states, seconds)


async def until_closed(device: Connection) -> list[str]:
    types = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            types.append(json.loads(await device.recv())["message_type"])
    return types


async def waiting(scene: Scene) -> None:
    scene.broker.kill()
    with pytest.raises(PeerBusy):
        await scene.connect()


async def reaching(scene: Scene) -> None:
    scene.broker.freeze()
    connecting = asyncio.create_task(scene.connect())
    await scene.until(LinkState.REACHING, seconds=5)
    scene.broker.kill()
    async with within(OPEN_TIMEOUT + FAREWELL_TIMEOUT):
        with pytest.raises(PeerBusy):
            await connecting


async def admitting(scene: Scene) -> None:
    assert await scene.setup.link.request_session(Role.RM, "") is None  # and does not come
    await scene.until(LinkState.ADMITTING, seconds=1)
    session = await scene.manager()
    scene.broker.kill()
    await scene.until(LinkState.FAILED, seconds=2)
    async with within(2):
        await session.wait_closed()
    assert await scene.setup.link.request_session(Role.RM, "") == NOT_NOW


async def up(scene: Scene) -> None:
    device, manager = await scene.meet()
    await device.send(FROM_RM_FIRST.replace("rm:1", "on-its-way"))
    scene.broker.kill()
    async with within(FAREWELL_TIMEOUT + 2):
        types = await until_closed(device)
        await manager.wait_closed()
    assert types[-1] == "SessionRequest"
    assert "ReceptionStatus" in types, "what was on its way was answered, one way or the other"


async def parting(scene: Scene) -> None:
    device, manager = await scene.meet()
    await manager.close()
    await scene.until(LinkState.PARTING, seconds=1)
    scene.broker.kill()
    async with within(FAREWELL_TIMEOUT + 4):
        await until_closed(device)
    await scene.until(LinkState.WAITING, seconds=1)


@contextlib.asynccontextmanager
async def scene_of(directory: Path) -> AsyncIterator[Scene]:
    async with BridgeSetup(directory, PLAIN, MQ) as setup:
        assert setup.bridge.mqtt is not None
        assert setup.manager.mqtt is not None
        await until(lambda: setup.bridge.mqtt.can_offer() and setup.manager.mqtt.can_offer())  # type: ignore[union-attr]
        await until(lambda: setup.key in setup.route.links)
        scene = Scene(setup)
        try:
            yield scene
        finally:
            scene.taking.cancel()
            await asyncio.gather(scene.taking, return_exceptions=True)


@pytest.mark.parametrize("stage", [waiting, reaching, admitting, up, parting], ids=lambda stage: stage.__name__)
async def test_a_broker_that_is_killed_and_restarted_at_any_stage_of_a_link(
    stage: Callable[[Scene], Awaitable[None]], tmp_path: Path
) -> None:
    async with scene_of(tmp_path) as scene:
        await stage(scene)
        # The device sees its end a moment before the link has closed both.
        await until(lambda: not any(side.connected for side in scene.setup.link.status().sides.values()))
        scene.broker.start()
        device, manager = await scene.meet()
        await asyncio.gather(device.close(), manager.close())
