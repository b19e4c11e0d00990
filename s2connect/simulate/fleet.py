"""Simulated devices and energy managers behind endpoints, and devices that speak plain S2."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from s2connect import (
    Endpoint,
    EndpointConfig,
    NodeConfig,
    NodeDescription,
    NodeId,
    PairingCode,
    Role,
    Secret,
    Session,
    connect_plain,
    events,
    read_private,
)
from s2connect.errors import NetworkError, PeerError, SessionError, UsageError
from s2connect.messages import BETA
from s2connect.session import Backoff
from s2connect.simulate.cem import EnergyManager
from s2connect.simulate.devices.base import Device
from s2connect.simulate.run import Clock, DeviceRunner, ManagerRunner, Reporter, Runner
from s2connect.simulate.site import PlannedDevice
from s2connect.simulate.units import MINUTE

PAIRING_INTERVAL: Final = 1.1
"""Seconds between two pairings: a node takes one attempt a second."""

ATTEMPTS: Final = 3
"""Attempts at a pairing while the other side is busy."""

MAX_TOKEN_BYTES: Final = 4096
"""Longest file with the token of an old device."""


def node_config(role: Role, kind: str, name: str | None, *, alias: str | None = None) -> NodeConfig:
    """Return the node of a simulated device or energy manager."""
    model = f"Simulated {kind}"
    return NodeConfig(role=role, brand="s2connect", type=kind, model_name=model, user_defined_name=name, alias=alias)


def fleet_config(plan: Sequence[PlannedDevice], **settings: Any) -> EndpointConfig:
    """Return an endpoint with a node for each device; without other ``settings`` it has no server."""
    nodes = tuple(node_config(Role.RM, device.kind, device.name, alias=device.alias) for device in plan)
    return EndpointConfig.model_validate({"server": False, **settings, "nodes": nodes})


async def run_device(
    endpoint: Endpoint, device: Device, clock: Clock, report: Reporter, *, pair_with: tuple[str, str] | None = None
) -> None:
    """Run a device on the only node of an endpoint, until that closes. Cancel-safe.

    It is paired first, with a pairing URL and a code; without those one that is not paired reports its own.
    """
    node, runner = endpoint.node(), DeviceRunner(device, clock, report)
    if pair_with is not None:
        await node.pair(*pair_with)
    elif not await node.pairings():
        _show_code(endpoint, node.issue_pairing_code(), runner)
    await runner.run(node.sessions())


async def run_old_device(url: str, token_file: Path | None, device: Device, clock: Clock, report: Reporter) -> None:
    """Run a device that speaks plain S2 until it is cancelled; it comes back when it loses its connection.

    Raises:
        UsageError: The URL cannot be used.
        StorageError: The token cannot be read, or others can read it.
    """
    token = None
    if token_file is not None:
        content = await asyncio.to_thread(read_private, token_file, MAX_TOKEN_BYTES)
        if content is None:
            raise UsageError(f"There is no file {token_file} with the token.")
        token = Secret(content.decode("utf-8", "replace").strip())
    runner = DeviceRunner(device, clock, report)

    async def sessions() -> AsyncIterator[Session]:
        local, backoff = NodeId(uuid4()), Backoff()
        while True:
            try:
                connection = await connect_plain(url, role=Role.RM, local=local, token=token, versions=(BETA,))
            except (NetworkError, PeerError, SessionError) as error:
                delay = backoff.failed(random.random())  # noqa: S311 - spreads load
                runner.report("failed", f"no session: {error} Again in {delay:.0f} s.", kind=error.kind)
                await asyncio.sleep(delay)
                continue
            backoff.established()
            peer = NodeDescription(id=connection.info.remote, brand="plain S2", type="-", model_name="-", role=Role.CEM)
            yield Session(connection, peer=peer, role=Role.RM)
            await asyncio.sleep(1)

    await runner.run(sessions())


async def run_manager(
    endpoint: Endpoint, fuse_limit: float, clock: Clock, report: Reporter, *, name: str = "cem", many: bool = False
) -> None:
    """Run an energy manager on the only node of an endpoint, until that closes. Cancel-safe.

    It reports a code first: one for ``many`` devices, or a new one after each pairing.
    """
    node, news = endpoint.node(), endpoint.events()
    runner = ManagerRunner(EnergyManager(now=clock.now(), fuse_limit=fuse_limit), clock, report, name=name)

    async def new_codes() -> None:
        async for event in news:
            if isinstance(event, events.Paired | events.CodeWithdrawn):
                _show_code(endpoint, node.issue_pairing_code(), runner)

    _show_code(endpoint, await node.set_static_code() if many else node.issue_pairing_code(), runner)
    if not many:
        endpoint.supervisor.keep(new_codes, "simulate-codes")
    await runner.run(node.sessions())


def _show_code(endpoint: Endpoint, code: PairingCode, runner: Runner) -> None:
    url = str(endpoint.pairing_url)
    runner.report("code", f"pair with {url} and the code {code}", pairing_url=url, code=str(code))


async def pair_fleet(endpoint: Endpoint, url: str, code: PairingCode | str, clock: Clock, report: Reporter) -> None:
    """Pair every node that is not paired yet with one energy manager, whose code counts several times.

    Cancelled or failed, what is paired stays so; called again, it goes on with the rest.

    Raises:
        S2ConnectError: As :meth:`Node.pair <s2connect.endpoint.node.Node.pair>`.
    """
    runner = Runner("site", clock, report)
    paired = {pairing.key.local for pairing in await endpoint.pairings()}
    nodes = [node for node in endpoint.nodes.values() if node.id not in paired]
    for done, node in enumerate(nodes, len(paired) + 1):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await node.pair(url, code)
                break
            except NetworkError:
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(PAIRING_INTERVAL)
        runner.report("paired", f"{done} of {len(endpoint.nodes)} devices are paired", paired=done)
        if node is not nodes[-1]:
            await asyncio.sleep(PAIRING_INTERVAL)


async def run_fleet(
    endpoint: Endpoint,
    plan: Sequence[PlannedDevice],
    clock: Clock,
    report: Reporter,
    *,
    seed: int = 0,
    measure_every: timedelta = MINUTE,
) -> None:
    """Run all devices of a plan on an endpoint of :func:`fleet_config`, until it closes. Cancel-safe.

    Raises:
        UsageError: The endpoint has no node for a device.
    """
    nodes = {node.alias: node for node in endpoint.nodes.values()}
    if missing := [device for device in plan if device.alias not in nodes]:
        raise UsageError(f"The endpoint has no node {missing[0].alias} for {missing[0].name}: it is of another site.")
    async with asyncio.TaskGroup() as group:
        for planned in plan:
            chance = random.Random(f"{seed}/{planned.resource_id}").random  # noqa: S311 - weather and habits
            device = planned.make(chance, now=clock.now(), measure_every=measure_every)
            runner = DeviceRunner(device, clock, report)
            sessions = nodes[planned.alias].sessions()
            group.create_task(runner.run(sessions), name=f"s2connect-simulate-{planned.resource_id}")
