"""``s2connect simulate``: endpoints for simulated devices and energy managers, and their reports."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

from s2connect import Endpoint, EndpointConfig, Node, NodeDescription, NodeId, Role, Session, create_home, events
from s2connect.cli.show import console
from s2connect.cli.terminal import home_path, line_from_stdin, print_json, prompt
from s2connect.endpoint.config import checked, default_host
from s2connect.errors import NetworkError, PeerError, SessionError, UsageError
from s2connect.https.server import free_port
from s2connect.messages.catalogue import BETA
from s2connect.model.secret import Secret
from s2connect.model.text import for_display
from s2connect.service import setup
from s2connect.simulate.cem import EnergyManager
from s2connect.simulate.clock import Clock
from s2connect.simulate.devices.base import Device
from s2connect.simulate.devices.kinds import CONTROL_TYPES, make_device
from s2connect.simulate.fleet import fleet_config, node_config, pair_fleet, run_fleet
from s2connect.simulate.run import DeviceRunner, ManagerRunner, Report, Reporter
from s2connect.simulate.site import PlannedDevice
from s2connect.store.files import read_private
from s2connect.transports.backoff import Backoff
from s2connect.transports.plain import connect_plain

MAX_TOKEN_BYTES: Final = 4096
"""Longest file with the token of an old device."""

_STYLES = {"connected": "green", "disconnected": "yellow", "refused": "yellow", "failed": "red", "code": "bold"}


class EndpointOptions(NamedTuple):
    """State directory of an endpoint, and its address if there is none or it is new."""

    home: Path | None
    host: str | None
    port: int
    bind: str | None


class DeviceOptions(NamedTuple):
    """Options of a simulated device."""

    kind: str
    name: str | None
    control_type: str | None
    seed: int
    measure_every: float


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


def typed_code() -> str:
    """The pairing code, from the person at the terminal or from standard input; never from the arguments."""
    if sys.stdin.isatty():
        code = prompt("Pairing code: ")
        if not code:
            raise UsageError("No pairing code was typed.")
        return code
    return line_from_stdin("the pairing code")


def plan_lines(plan: Sequence[PlannedDevice]) -> list[str]:
    """Return the number of devices of each kind and site, for people."""
    lines = []
    for name in dict.fromkeys(device.site for device in plan):
        counts = Counter(device.kind for device in plan if device.site == name)
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items()))
        lines.append(f"{for_display(name, 40)}: {kinds}")
    return [*lines, f"Devices in all: {len(plan)}"]


async def device(
    options: EndpointOptions,
    simulation: DeviceOptions,
    url: str | None,
    code: str | None,
    speed: float,
    report: Reporter,
) -> None:
    """Run a simulated device until it is cancelled."""
    clock = Clock(speed)
    simulated = _simulated(simulation, clock)
    async with _endpoint(options, Role.RM, simulation.kind, simulation.name, server=url is None) as endpoint:
        node = endpoint.node()
        if url is not None and code is not None:
            await node.pair(url, code)
        elif not await node.pairings():
            _show_code(endpoint, str(node.issue_pairing_code()), clock, simulated.name, report)
        await DeviceRunner(simulated, clock, report).run(node.sessions())


async def old_device(
    url: str, token_file: Path | None, simulation: DeviceOptions, speed: float, report: Reporter
) -> None:
    """Run a simulated device that speaks plain S2 until it is cancelled; it comes back when it loses its connection.

    Raises:
        UsageError: The URL cannot be used.
        StorageError: The token cannot be read, or others can read it.
    """
    clock = Clock(speed)
    simulated = _simulated(simulation, clock)
    token = None
    if token_file is not None:
        content = await asyncio.to_thread(read_private, token_file, MAX_TOKEN_BYTES)
        if content is None:
            raise UsageError(f"There is no file {token_file} with the token.")
        token = Secret(content.decode("utf-8", "replace").strip())

    async def sessions() -> AsyncIterator[Session]:
        local, backoff = NodeId(uuid4()), Backoff()
        while True:
            try:
                connection = await connect_plain(url, role=Role.RM, local=local, token=token, versions=(BETA,))
            except (NetworkError, PeerError, SessionError) as error:
                delay = backoff.failed(random.random())  # noqa: S311 - spreads load
                text = f"no session: {error} Again in {delay:.0f} s."
                report(Report(clock.now(), simulated.name, "failed", text, {"kind": error.kind}))
                await asyncio.sleep(delay)
                continue
            backoff.established()
            peer = NodeDescription(id=connection.info.remote, brand="plain S2", type="-", model_name="-", role=Role.CEM)
            yield Session(connection, peer=peer, role=Role.RM)
            await asyncio.sleep(1)

    await DeviceRunner(simulated, clock, report).run(sessions())


def _simulated(simulation: DeviceOptions, clock: Clock) -> Device:
    return make_device(
        simulation.kind,
        f"{simulation.kind}-{simulation.seed}",
        random.Random(simulation.seed).random,  # noqa: S311 - weather and habits
        control_type=CONTROL_TYPES[simulation.control_type] if simulation.control_type else None,
        now=clock.now(),
        name=simulation.name,
        measure_every=timedelta(seconds=simulation.measure_every),
    )


async def manager(
    options: EndpointOptions, name: str | None, fuse_limit: float, many: bool, speed: float, report: Reporter
) -> None:
    """Run a simulated energy manager until it is cancelled."""
    clock = Clock(speed)
    async with _endpoint(options, Role.CEM, "energy manager", name, server=True) as endpoint:
        node = endpoint.node()
        shown = name or "cem"
        news = endpoint.events()
        if many:
            _show_code(endpoint, str(await node.set_static_code()), clock, shown, report)
        else:
            _show_code(endpoint, str(node.issue_pairing_code()), clock, shown, report)
            endpoint.supervisor.keep(lambda: _new_codes(endpoint, node, news, clock, shown, report), "simulate-codes")
        simulated = EnergyManager(now=clock.now(), fuse_limit=fuse_limit)
        await ManagerRunner(simulated, clock, report, name=shown).run(node.sessions())


async def site(
    home: Path | None,
    plan: Sequence[PlannedDevice],
    url: str | None,
    code: str | None,
    speed: float,
    seed: int,
    measure_every: float,
    report: Reporter,
) -> None:
    """Run all devices of a site until it is cancelled.

    Raises:
        UsageError: They are not paired, and there is no URL to pair them with.
    """
    clock = Clock(speed)
    path = home_path(home) if home is not None else None
    config = None
    if path is None:
        config = fleet_config(plan, host="localhost")
    elif await asyncio.to_thread(setup.existing, path) is None:
        settings = fleet_config(plan, host=default_host())
        await asyncio.to_thread(create_home, path, settings)
    async with Endpoint.open(path, config=config) as endpoint:
        if url is not None and code is not None:

            def paired(done: int, of: int) -> None:
                report(Report(clock.now(), "site", "paired", f"{done} of {of} devices are paired", {"paired": done}))

            await pair_fleet(endpoint, url, code, paired=paired)
        elif not await endpoint.pairings():
            raise UsageError("The devices are paired with nobody yet.", hint="Add --pair URL.")
        period = timedelta(seconds=measure_every)
        await run_fleet(endpoint, plan, clock, report, seed=seed, measure_every=period)


@contextlib.asynccontextmanager
async def _endpoint(
    options: EndpointOptions, role: Role, kind: str, name: str | None, *, server: bool
) -> AsyncIterator[Endpoint]:
    path = home_path(options.home) if options.home is not None else None
    config = None
    if path is None or await asyncio.to_thread(setup.existing, path) is None:
        settings = {
            "host": options.host or default_host(),
            "port": options.port if path is None else options.port or free_port(options.bind),
            "bind": options.bind,
            "server": server or path is not None,
            "nodes": (node_config(role, kind, name),),
        }
        config = checked(lambda: EndpointConfig.model_validate(settings), "the settings")
        if path is not None:
            await asyncio.to_thread(create_home, path, config)
            config = None
    async with Endpoint.open(path, config=config) as endpoint:
        yield endpoint


def _show_code(endpoint: Endpoint, code: str, clock: Clock, name: str, report: Reporter) -> None:
    url = str(endpoint.pairing_url)
    values = {"pairing_url": url, "code": code}
    report(Report(clock.now(), name, "code", f"pair with {url} and the code {code}", values))


async def _new_codes(
    endpoint: Endpoint, node: Node, news: AsyncIterator[events.Event], clock: Clock, name: str, report: Reporter
) -> None:
    """Show a new code after each pairing: a code is valid once."""
    async for event in news:
        if isinstance(event, events.Paired | events.CodeWithdrawn):
            _show_code(endpoint, str(node.issue_pairing_code()), clock, name, report)
