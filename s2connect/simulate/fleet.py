"""Many simulated devices behind one endpoint: one node for each, paired one after the other, all in one process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

from s2connect import Endpoint, EndpointConfig, NodeConfig, PairingCode, Role
from s2connect.errors import NetworkError, UsageError
from s2connect.simulate.clock import Clock
from s2connect.simulate.run import DeviceRunner, Reporter
from s2connect.simulate.site import PlannedDevice
from s2connect.simulate.units import MINUTE

PAIRING_INTERVAL: Final = 1.1
"""Seconds between two pairings: a node takes one attempt a second."""

ATTEMPTS: Final = 3
"""Attempts at a pairing while the other side is busy."""


def node_config(role: Role, kind: str, name: str | None, *, alias: str | None = None) -> NodeConfig:
    """Return the node of a simulated device or energy manager."""
    return NodeConfig(
        role=role,
        brand="s2connect",
        type=kind,
        model_name=f"Simulated {kind}",
        user_defined_name=name,
        alias=alias,
    )


def alias_of(device: PlannedDevice) -> str:
    """The alias of the node of a device of a site; it stays the same while the table does."""
    return f"D{device.number}"


def fleet_config(plan: Sequence[PlannedDevice], **settings: Any) -> EndpointConfig:
    """Settings of an endpoint with a node for each device.

    Args:
        plan: The devices.
        settings: Other settings of :class:`EndpointConfig`; without any the endpoint has no server.
    """
    nodes = tuple(node_config(Role.RM, device.kind, device.name, alias=alias_of(device)) for device in plan)
    return EndpointConfig.model_validate({"server": False, **settings, "nodes": nodes})


async def pair_fleet(
    endpoint: Endpoint,
    url: str,
    code: PairingCode | str,
    *,
    interval: float = PAIRING_INTERVAL,
    paired: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Pair every node that is not paired yet with one energy manager, whose code counts several times.

    Cancelled or failed, what is paired stays so; called again, it goes on with the rest.

    Args:
        endpoint: The devices.
        url: Pairing URL of the energy manager.
        code: Its code, a static one.
        interval: Seconds between two attempts.
        paired: Told after each pairing how many of how many are paired.

    Raises:
        S2ConnectError: As :meth:`Node.pair <s2connect.endpoint.node.Node.pair>`.
    """
    have = {pairing.key.local for pairing in await endpoint.pairings()}
    nodes = [node for node in endpoint.nodes.values() if node.id not in have]
    for done, node in enumerate(nodes, 1):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await node.pair(url, code)
                break
            except NetworkError:
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(interval)
        paired(len(have) + done, len(endpoint.nodes))
        if done < len(nodes):
            await asyncio.sleep(interval)


async def run_fleet(
    endpoint: Endpoint,
    plan: Sequence[PlannedDevice],
    clock: Clock,
    report: Reporter,
    *,
    seed: int = 0,
    measure_every: timedelta = MINUTE,
) -> None:
    """Run all devices of a plan on the nodes of an endpoint, until it closes. Cancel-safe.

    Args:
        endpoint: With the nodes of :func:`fleet_config`.
        plan: The devices.
        clock: The time.
        report: Told of what happens.
        seed: The same seed makes the same devices.
        measure_every: Simulated time between two measurements of a device.

    Raises:
        UsageError: The endpoint has no node for a device.
    """
    nodes = {node.alias: node for node in endpoint.nodes.values()}
    if missing := [device for device in plan if alias_of(device) not in nodes]:
        raise UsageError(
            f"The endpoint has no node {alias_of(missing[0])} for {missing[0].name}: it is of another site."
        )
    async with asyncio.TaskGroup() as group:
        for planned in plan:
            chance = random.Random(f"{seed}/{planned.resource_id}").random  # noqa: S311 - weather and habits
            device = planned.make(chance, now=clock.now(), measure_every=measure_every)
            runner = DeviceRunner(device, clock, report)
            sessions = nodes[alias_of(planned)].sessions()
            group.create_task(runner.run(sessions), name=f"s2connect-simulate-{planned.resource_id}")
