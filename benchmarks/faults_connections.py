"""Faults of one connection, injected between a device and the instances. They end by themselves, or the device does it.

Each function injects one, and returns the moment from which on the device has to heal; None where it could not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from benchmarks.balancer import DOWN, UP, Balancer, Plan, Way

INITIATION_WITHIN: Final = 30.0
"""Seconds within which the initiation of the next session has to come to where it is to be cut."""

HELD_WITHIN: Final = 2.0
"""Seconds within which a device sends something."""

MOST_BYTES: Final = 3_000
"""Bytes after which a connection of a session initiation is cut at most."""


async def reset(balancer: Balancer, device: str, chance: random.Random) -> float:
    """Reset both ends."""
    balancer.end(balancer.of(device))
    return time.monotonic()


async def silent_cut(balancer: Balancer, device: str, chance: random.Random) -> float:
    """Let nothing arrive any more in either direction, and close nothing."""
    for way in balancer.of(device):
        way.lose()
    return time.monotonic()


async def deaf_instance(balancer: Balancer, device: str, chance: random.Random) -> float:
    """Let nothing of the device arrive any more."""
    for way in balancer.of(device):
        way.lose(UP)
    return time.monotonic()


async def deaf_device(balancer: Balancer, device: str, chance: random.Random) -> float:
    """Let nothing of the instance arrive any more: it gets messages that the device has no answer to."""
    for way in balancer.of(device):
        way.lose(DOWN)
    return time.monotonic()


async def half_open_at_instance(balancer: Balancer, device: str, chance: random.Random) -> float:
    """Reset the device's end; the instance does not learn of it."""
    return _half(balancer.of(device), DOWN)


async def half_open_at_device(balancer: Balancer, device: str, chance: random.Random) -> float:
    """Reset the instance's end; the device does not learn of it."""
    return _half(balancer.of(device), UP)


def _half(ways: list[Way], side: int) -> float:
    for way in ways:
        way.lose()
        way.end_at(side)
    return time.monotonic()


async def slow_peer(balancer: Balancer, device: str, chance: random.Random) -> float:
    """Hold everything up that passes, on new connections, too."""
    balancer.delays[device] = chance.uniform(0.05, 0.8)
    try:
        await asyncio.sleep(chance.uniform(0.5, 5.0))
    finally:
        del balancer.delays[device]
    return time.monotonic()


async def stalled_reader(balancer: Balancer, device: str, chance: random.Random) -> float:
    """Read nothing from either end for a while; then all of it arrives, even if the session is over by then."""
    ways = balancer.of(device)
    for way in ways:
        way.hold()
    await asyncio.sleep(chance.uniform(0.5, 8.0))
    for way in ways:
        way.release()
    return time.monotonic()


async def late_arrival(balancer: Balancer, device: str, chance: random.Random) -> float:
    """Hold back what the device sends, and reset its end; what was held arrives later, while it has a new session."""
    ways = balancer.of(device)
    for way in ways:
        way.hold()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HELD_WITHIN):
            while not any(way.held[UP] for way in ways):
                await asyncio.sleep(0.02)
    await asyncio.sleep(chance.uniform(0.0, 1.0))
    for way in ways:
        way.end_at(DOWN)
        asyncio.get_running_loop().call_later(chance.uniform(0.0, 4.0), way.release)
    return time.monotonic()


async def cut_initiation(balancer: Balancer, device: str, chance: random.Random) -> float | None:
    """Reset both ends, and cut the initiation of the next session somewhere."""
    plan = Plan(chance.randrange(2), chance.randrange(MOST_BYTES), vanishes=chance.random() < 0.2)
    balancer.plans[device] = plan
    balancer.end(balancer.of(device))
    try:
        async with asyncio.timeout(INITIATION_WITHIN):
            await plan.cut.wait()
    except TimeoutError:
        if balancer.plans.pop(device, None) is None:
            for way in balancer.of(device):
                way.left = None
        return None
    return time.monotonic()


ConnectionFault = Callable[[Balancer, str, random.Random], Awaitable[float | None]]

KINDS: Final[dict[str, ConnectionFault]] = {
    "reset": reset,
    "silent cut": silent_cut,
    "deaf instance": deaf_instance,
    "deaf device": deaf_device,
    "half-open at instance": half_open_at_instance,
    "half-open at device": half_open_at_device,
    "slow peer": slow_peer,
    "stalled reader": stalled_reader,
    "late arrival": late_arrival,
    "initiation cut": cut_initiation,
}
"""Faults of one connection."""
