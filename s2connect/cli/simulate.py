"""``s2connect simulate``: endpoints for simulated devices and energy managers, and their reports."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

from s2connect import Endpoint, EndpointConfig, NodeConfig, create_home
from s2connect.cli.terminal import console, home_path, line_from_stdin, print_json, prompt
from s2connect.endpoint.config import checked, default_host
from s2connect.errors import UsageError
from s2connect.https.server import free_port
from s2connect.model.text import for_display
from s2connect.service import setup
from s2connect.service.control import control_socket
from s2connect.service.sidecar import Service
from s2connect.simulate.devices.base import Basics, Device
from s2connect.simulate.devices.kinds import CONTROL_TYPES, make_device
from s2connect.simulate.run import Clock, Report, Reporter
from s2connect.simulate.site import PlannedDevice, pair_fleet, run_fleet
from s2connect.store.home import Home

_STYLES = {"connected": "green", "disconnected": "yellow", "refused": "yellow", "failed": "red", "code": "bold"}


def reporter(as_json: bool) -> Reporter:
    """Return what prints reports, a line each, for people or for programs."""
    if as_json:
        return lambda report: print_json(report.to_value())
    out = console()

    def tell(report: Report) -> None:
        name = for_display(report.name, 40)
        line = f"{report.at:%a %H:%M:%S}  {name}: {for_display(report.text, 400)}"
        out.print(line, style=_STYLES.get(report.event, ""), soft_wrap=not out.is_terminal)

    return tell


def with_code(url: str | None) -> tuple[str, str] | None:
    """Return a pairing URL with its code, from the person at the terminal or standard input; never an argument."""
    if url is None:
        return None
    if not sys.stdin.isatty():
        return url, line_from_stdin("the pairing code")
    code = prompt("Pairing code: ")
    if not code:
        raise UsageError("No pairing code was typed.")
    return url, code


def plan_lines(plan: Sequence[PlannedDevice]) -> list[str]:
    """Return the number of devices of each kind and site, for people."""
    lines = []
    for name in dict.fromkeys(device.site for device in plan):
        counts = Counter(device.kind for device in plan if device.site == name)
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items()))
        lines.append(f"{for_display(name, 40)}: {kinds}")
    return [*lines, f"Devices in all: {len(plan)}"]


def simulated(
    kind: str, name: str | None, control_type: str | None, seed: int, measure_every: float, clock: Clock
) -> Device:
    """Return the device of these options."""
    chance = random.Random(seed)  # noqa: S311 - weather and habits
    only = CONTROL_TYPES[control_type] if control_type else None
    period = timedelta(seconds=measure_every)
    return make_device(kind, Basics(f"{kind}-{seed}", chance, clock.now(), name, only, period))


def single(
    node: NodeConfig, home: Path | None, host: str | None, port: int, bind: str | None, *, server: bool
) -> EndpointConfig:
    """Return the settings of an endpoint with one node; one with a state directory always has a server."""
    settings = {
        "host": host or default_host(),
        "port": port if home is None else port or free_port(bind),
        "bind": bind,
        "server": server or home is not None,
        "nodes": (node,),
    }
    return checked(lambda: EndpointConfig.model_validate(settings), "the settings")


async def on_endpoint(
    home: Path | None, settings: Callable[[], EndpointConfig], run: Callable[[Endpoint], Awaitable[None]]
) -> None:
    """Run on the endpoint of a state directory, which is set up if need be; without one nothing is kept.

    While it runs, commands on that directory reach it, as they reach a service.
    """
    if home is None:
        async with Endpoint.open(config=settings()) as endpoint:
            await run(endpoint)
        return
    path = home_path(home)
    if await asyncio.to_thread(setup.existing, path) is None:
        await asyncio.to_thread(create_home, path, settings())
    opened = await asyncio.to_thread(Home.open, path)
    await asyncio.to_thread(setup.refuse_bridge, opened)
    running = asyncio.current_task()
    assert running is not None, "a coroutine runs in a task"
    async with Endpoint.open(path) as endpoint:
        service = Service(endpoint, path, stop=lambda: _cancel(running))
        service.follow(sessions=False)
        async with control_socket(opened, service.answer):
            await run(endpoint)


def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()


async def site(
    endpoint: Endpoint,
    plan: Sequence[PlannedDevice],
    pair_with: tuple[str, str] | None,
    clock: Clock,
    report: Reporter,
    seed: int,
    measure_every: float,
) -> None:
    """Run all devices of a site until it is cancelled.

    Raises:
        UsageError: They are not paired, and there is no URL to pair them with.
    """
    if pair_with is not None:
        await pair_fleet(endpoint, *pair_with, clock, report)
    elif not await endpoint.pairings():
        raise UsageError("The devices are paired with nobody yet.", hint="Add --pair URL.")
    period = timedelta(seconds=measure_every)
    await run_fleet(endpoint, plan, clock, report, seed=seed, measure_every=period)
