"""A whole site from a table: every row is some devices of one kind."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from s2connect.errors import UsageError
from s2connect.simulate.devices.base import Device
from s2connect.simulate.devices.kinds import KINDS, make_device
from s2connect.simulate.units import Chance

MAX_DEVICES: Final = 10_000
MAX_BYTES: Final = 1_000_000
COLUMNS: Final = ("site", "area", "appliance", "resource", "count", "kw", "kwh", "litres")
"""Columns that a table has at least, in any order; the last three may be empty."""


class PlannedDevice(NamedTuple):
    """A device of a site.

    Attributes:
        resource_id: Unique in the table.
        kind: Kind of simulated device.
        name: For its user.
        site: Where it is.
        settings: How it differs from others of its kind.
        number: Its number in the table, from 1.
    """

    resource_id: str
    kind: str
    name: str
    site: str
    settings: Mapping[str, Any]
    number: int

    def make(self, chance: Chance, *, now: datetime, **more: Any) -> Device:
        """Make the device."""
        return make_device(self.kind, self.resource_id, chance, now=now, name=self.name, **self.settings, **more)


class _Size(NamedTuple):
    """W, Wh and litres of a row, where it names them."""

    power: float | None
    energy: float | None
    litres: float | None


def _battery(size: _Size) -> dict[str, float | None]:
    power = size.power or (size.energy / 2 if size.energy else None)
    return {"max_power": power, "capacity": size.energy or (power * 2 if power else None)}


def _pv(size: _Size) -> dict[str, float | None]:
    return {"peak": size.power}


def _charger(size: _Size) -> dict[str, float | None]:
    return {"max_power": size.power, "capacity": size.energy}


def _heat_pump(size: _Size) -> dict[str, float | None]:
    litres = size.litres or (size.power / 6 if size.power else None)
    return {"max_power": size.power, "litres": litres}


def _water_heater(size: _Size) -> dict[str, float | None]:
    power = size.power or (size.litres * 13 if size.litres else None)
    return {"max_power": power, "litres": size.litres}


_RESOURCES: Final[Mapping[str, tuple[str, Callable[[_Size], dict[str, float | None]]]]] = MappingProxyType(
    {
        "BESS": ("battery", _battery),
        "PV": ("pv", _pv),
        "EVSE": ("ev-charger", _charger),
        "HVAC": ("heat-pump", _heat_pump),
        "BOILER": ("water-heater", _water_heater),
    }
)
"""By resource: the kind of device, and its settings from the size; what is missing is as usual for the kind."""

HOME: Final = "HOME"
"""A home with several appliances: each one is a device of another kind, in turn."""


def read_site(path: Path, *, site: str | None = None) -> list[PlannedDevice]:
    """Read a table of devices (CSV with a header; lines that begin with ``#`` are comments). Blocks.

    Args:
        path: The file.
        site: Only the devices of this site, in any case of letters.

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
    count = _number(row["count"], "count", place)
    if count is None or count != int(count) or not 1 <= count <= MAX_DEVICES:
        raise UsageError(f"{place}: count is not a number of devices.")
    power, energy, litres = (_number(row[column], column, place) for column in ("kw", "kwh", "litres"))
    size = _Size(power * 1000 if power else None, energy * 1000 if energy else None, litres)
    kinds = itertools.cycle(KINDS)
    site, area, appliance = ((row[column] or "").strip() for column in ("site", "area", "appliance"))
    devices = []
    for number in range(1, int(count) + 1):
        kind, settings_of = (next(kinds), None) if resource == HOME else _RESOURCES[resource]
        settings = {k: v for k, v in (settings_of(size) if settings_of else {}).items() if v is not None}
        name = f"{area} {appliance}" + (f" {number}" if count > 1 else "")
        total = first + number - 1
        devices.append(PlannedDevice(f"{kind}-{total}", kind, name[:200], site, settings, total))
    return devices


def _number(text: str | None, column: str, place: str) -> float | None:
    if not (text or "").strip():
        return None
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise UsageError(f"{place}: {column} is not a positive number.")
    return value
