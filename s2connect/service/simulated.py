"""Simulated programs for a set-up: as behaviour of our own node, or as the other side on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from s2connect import Endpoint, EndpointConfig, PairingCode, Role, Session
from s2connect.errors import S2ConnectError, UsageError
from s2connect.model.common import Deployment
from s2connect.service.commands import Code, Pair, Unpair
from s2connect.service.guided_setup import MANAGER_KIND, GuidedSetup
from s2connect.service.objects import PairingEntry
from s2connect.simulate.cem import EnergyManager
from s2connect.simulate.devices.base import Basics
from s2connect.simulate.devices.kinds import make_device
from s2connect.simulate.run import Clock, DeviceRunner, ManagerRunner, Report, node_config
from s2connect.supervisor import Supervisor, process_failures

FUSE_LIMIT: Final = 17_250.0  # W; of the simulated energy manager
CLEAN_UP: Final = 5.0  # seconds to end the pairing of a trial
LOOPBACK: Final = "127.0.0.1"


def _program(kind: str) -> DeviceRunner | ManagerRunner:
    clock = Clock()
    if kind == MANAGER_KIND:
        return ManagerRunner(EnergyManager(now=clock.now(), fuse_limit=FUSE_LIMIT), clock, _discard)
    chance = random.Random(0)  # noqa: S311 - weather and habits
    return DeviceRunner(make_device(kind, Basics(f"{kind}-setup", chance, clock.now())), clock, _discard)


def _discard(report: Report) -> None:
    """Ignore what a simulated program reports."""


@contextlib.asynccontextmanager
async def simulated_program(kind: str) -> AsyncIterator[Callable[[Session], Awaitable[None]]]:
    """Run a simulated device or energy manager; yields the function that gives it a session until that ends."""
    given: asyncio.Queue[Session] = asyncio.Queue()

    async def sessions() -> AsyncIterator[Session]:
        while True:
            yield await given.get()

    async def drive(session: Session) -> None:
        given.put_nowait(session)
        await session.wait_closed()

    async with Supervisor("s2connect-setup", process_failures) as tasks:
        tasks.spawn(_program(kind).run(sessions()), "program")
        yield drive


@contextlib.asynccontextmanager
async def trial(setup: GuidedSetup, own: EndpointConfig, role: Role) -> AsyncIterator[PairingEntry]:
    """Pair our node, which has this role, with a simulated other side on this machine, and end the pairing afterwards.

    Raises:
        UsageError: Our endpoint is one of the internet.
    """
    if own.deployment is not Deployment.LAN:
        raise UsageError("A simulated other side is in the local network; this endpoint is one of the internet.")
    kind = MANAGER_KIND if role is Role.RM else "battery"
    config = EndpointConfig(
        nodes=(node_config(role.other, kind.replace("-", " "), f"Simulated {kind.replace('-', ' ')}"),),
        host="localhost",
        bind=LOOPBACK,
        port=0,
        advertise=False,
        vault="files",
    )
    address = LOOPBACK if own.bind in (None, "0.0.0.0", "::") else own.bind  # noqa: S104 - of our own server
    async with Endpoint.open(config=config, addresses={own.host: address}) as endpoint:
        node = endpoint.node()
        endpoint.supervisor.spawn(_program(kind).run(node.sessions()), "setup-trial")
        made = await _pair(setup, endpoint, role)
        try:
            yield made
        finally:
            with contextlib.suppress(S2ConnectError, TimeoutError):
                async with asyncio.timeout(CLEAN_UP):
                    await setup.reached.ask(Unpair(peer=str(node.id), node=str(setup.node), forget=True))


async def _pair(setup: GuidedSetup, endpoint: Endpoint, role: Role) -> PairingEntry:
    node = endpoint.node()
    if role is Role.RM:
        code = await node.new_pairing_code()
        command = Pair(url=str(endpoint.pairing_url), code=str(code), node=str(setup.node), server_node=node.id)
        return await setup.reached.ask(command)
    issued = await setup.reached.ask(Code(node=str(setup.node)))
    assert issued.pairing_url is not None, "an energy manager has a server"
    await node.pair(issued.pairing_url, PairingCode.parse(issued.code), server_node=setup.node)
    return next(one for one in await setup.pairings() if one.peer.id == node.id)
