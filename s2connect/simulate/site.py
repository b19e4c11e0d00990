"""A whole site from a table, of which every row is some devices of one kind, and its endpoint with a node for each."""

from __future__ import annotations

import asyncio
import csv
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from s2connect import Endpoint, EndpointConfig, PairingCode, Role
from s2connect.errors import NetworkError, UsageError
from s2connect.simulate.devices.base import Basics, Device
from s2connect.simulate.devices.kinds import KINDS, make_device
from s2connect.simulate.run import Clock, DeviceRunner, Reporter, Runner, node_config
from s2connect.simulate.units import MINUTE

MAX_DEVICES: Final = 10_000
MAX_BYTES: Final = 1_000_000
PAIRING_INTERVAL: Final = 1.1
"""Seconds between two pairings: a node takes one attempt a second."""

ATTEMPTS: Final = 3
"""Attempts at a pairing while the other side is busy."""

COLUMNS: Final = ("site", "area", "appliance", "resource", "count", "kw", "kwh", "litres")
"""Columns that a table has at least, in any order; the last three may be empty."""


class PlannedDevice(NamedTuple):
    """A device of a site: how it differs from others of its kind, and its number in the table, from 1."""

    resource_id: str
    kind: str
    name: str
    site: str
    settings: Mapping[str, Any]
    number: int

    @property
    def alias(self) -> str:
        """Alias of its node; it stays the same while the table does."""
        return f"D{self.number}"

    def make(self, chance: random.Random, *, now: datetime, measure_every: timedelta = MINUTE) -> Device:
        """Make the device."""
        basics = Basics(self.resource_id, chance, now, self.name, measure_every=measure_every)
        return make_device(self.kind, basics, **self.settings)


_Size = Callable[[float, float, float], dict[str, float]]

_RESOURCES: Final[Mapping[str, tuple[str, _Size]]] = {
    "BESS": ("battery", lambda w, wh, _: {"max_power": w or wh / 2, "capacity": wh or w * 2}),
    "PV": ("pv", lambda w, _, __: {"peak": w}),
    "EVSE": ("ev-charger", lambda w, wh, _: {"max_power": w, "capacity": wh}),
    "HVAC": ("heat-pump", lambda w, _, litres: {"max_power": w, "litres": litres or w / 6}),
    "BOILER": ("water-heater", lambda w, _, litres: {"max_power": w or litres * 13, "litres": litres}),
}
"""By resource: the kind of device, and its settings by W, Wh and litres; 0 is as usual for the kind."""

HOME: Final = "HOME"
"""A home with several appliances: each one is a device of another kind, in turn."""


def read_site(path: Path, *, site: str | None = None) -> list[PlannedDevice]:
    """Read the devices of one site or all from a table (CSV with a header; lines with ``#`` are comments). Blocks.

    Raises:
        UsageError: The file cannot be read or is no such table (with the line), or has no device of that site.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text ({type(error).__name__}).") from None
    if len(text) > MAX_BYTES:
        raise UsageError(f"{path} is longer than {MAX_BYTES} characters.")
    lines = enumerate(text.splitlines(), 1)
    wanted = [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]
    rows = csv.DictReader(line for _, line in wanted)
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise UsageError(f"{path} has no column {', '.join(missing)}.", hint=f"It needs {', '.join(COLUMNS)}.")
    devices: list[PlannedDevice] = []
    for (number, _), row in zip(wanted[1:], rows, strict=False):
        devices.extend(_devices(row, f"{path}, line {number}", first=len(devices) + 1))
        if len(devices) > MAX_DEVICES:
            raise UsageError(f"{path} has more than {MAX_DEVICES} devices.")
    chosen = [device for device in devices if site is None or device.site.casefold() == site.casefold()]
    if not chosen:
        sites = ", ".join(dict.fromkeys(device.site for device in devices))
        raise UsageError(f"{path} has no device of that site." if site else f"{path} has no device.", hint=sites)
    return chosen


def _devices(row: Mapping[str, Any], place: str, *, first: int) -> list[PlannedDevice]:
    resource = (row["resource"] or "").strip().upper()
    if resource != HOME and resource not in _RESOURCES:
        raise UsageError(f"{place}: the resource is none of {', '.join([*_RESOURCES, HOME])}.")
    count = _number(row, "count", place)
    if count != int(count) or not 1 <= count <= MAX_DEVICES:
        raise UsageError(f"{place}: count is not a number of devices.")
    kw, kwh, litres = (_number(row, column, place) for column in ("kw", "kwh", "litres"))
    site, area, appliance = ((row[column] or "").strip() for column in ("site", "area", "appliance"))
    kinds: Iterable[str] = itertools.cycle(KINDS)
    settings: dict[str, float] = {}
    if resource != HOME:
        kind, settings_of = _RESOURCES[resource]
        kinds = itertools.repeat(kind)
        settings = {name: value for name, value in settings_of(kw * 1000, kwh * 1000, litres).items() if value}
    devices = []
    for number, kind in enumerate(itertools.islice(kinds, int(count)), first):
        name = f"{area} {appliance}" + (f" {number - first + 1}" if count > 1 else "")
        devices.append(PlannedDevice(f"{kind}-{number}", kind, name[:200], site, settings, number))
    return devices


def _number(row: Mapping[str, Any], column: str, place: str) -> float:
    """Return a positive number of a row, or 0 where its place is empty."""
    text = (row[column] or "").strip()
    if not text:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise UsageError(f"{place}: {column} is not a positive number.")
    return value


def fleet_config(plan: Sequence[PlannedDevice], **settings: Any) -> EndpointConfig:
    """Return an endpoint with a node for each device; without other ``settings`` it has no server."""
    nodes = tuple(node_config(Role.RM, device.kind, device.name, alias=device.alias) for device in plan)
    return EndpointConfig.model_validate({"server": False, **settings, "nodes": nodes})


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
            chance = random.Random(f"{seed}/{planned.resource_id}")  # noqa: S311 - weather and habits
            device = planned.make(chance, now=clock.now(), measure_every=measure_every)
            runner = DeviceRunner(device, clock, report)
            sessions = nodes[planned.alias].sessions()
            group.create_task(runner.run(sessions), name=f"s2connect-simulate-{planned.resource_id}")
