"""Measured values over the last hour, a few numbers for each step of time. Sans-I/O."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Final

from s2connect.messages.general import CommodityQuantity, PowerMeasurement, PowerValue

STEP: Final = 20.0
"""Seconds of one point."""

POINTS: Final = 180
"""Points of a curve: an hour."""

READ_PER_STEP: Final = 20
"""Measurements of one device that are read within a step. Of further ones only the last is, when the step is over: a
device that measures all the time costs no more."""

MAX_CURVES: Final = 1000
"""Curves of all devices together, some 6 KB each; further devices have none."""

UNITS: Final = {
    CommodityQuantity.NATURAL_GAS_FLOW_RATE: "l/s",
    CommodityQuantity.HYDROGEN_FLOW_RATE: "g/s",
    CommodityQuantity.HEAT_TEMPERATURE: "°C",
    CommodityQuantity.HEAT_FLOW_RATE: "l/s",
    CommodityQuantity.OIL_FLOW_RATE: "l/h",
}
"""Units of the quantities; of all others it is W."""

_FIELDS: Final = 4

Body = Callable[[], PowerMeasurement | dict[str, Any]]
"""Returns a PowerMeasurement, or the members of what may be none; raises ValueError if it cannot be read."""


class Curve:
    """Curve of one quantity: least, greatest and last value of each step."""

    __slots__ = ("_high", "_last", "_low", "_past", "_step")

    def __init__(self) -> None:
        self._past = array("d")  # number of the step, low, high, last; again and again
        self._step = -1  # the present one
        self._low = self._high = self._last = 0.0

    def add(self, step: int, value: float) -> None:
        """Add a value of a step, which is the last one or a later one."""
        if step != self._step:
            self._end_step()
            self._step, self._low, self._high = step, value, value
        elif value < self._low:
            self._low = value
        elif value > self._high:
            self._high = value
        self._last = value

    def _end_step(self) -> None:
        if self._step < 0:
            return
        if len(self._past) >= _FIELDS * (POINTS - 1):
            del self._past[:_FIELDS]
        self._past.extend((self._step, self._low, self._high, self._last))

    def points(self, now: float) -> Iterator[tuple[float, float, float, float]]:
        """Iterate over the steps of the last hour that have a value: begin, low, high and last, oldest first."""
        first, values = _step(now) - POINTS + 1, self._past
        for at in range(0, len(values), _FIELDS):
            if values[at] >= first:
                yield values[at] * STEP, values[at + 1], values[at + 2], values[at + 3]
        if self._step >= max(first, 0):
            yield self._step * STEP, self._low, self._high, self._last


class Curves:
    """Curves of all devices. Times, in seconds of one clock, never go back.

    Attributes:
        left_out: Number of curves that found no room.
    """

    def __init__(self, capacity: int = MAX_CURVES) -> None:
        self.left_out = 0
        self._capacity = capacity
        self._count = 0
        self._devices: dict[str, _Device] = {}

    def add(self, key: str, title: str, body: Body, now: float) -> None:
        """Add a measurement of a device; it is read now or later."""
        device = self._devices.get(key)
        if device is None:
            if self._count >= self._capacity:
                self.left_out += 1
                return
            device = self._devices[key] = _Device(self)
        device.title = title
        device.add(body, _step(now))

    def remove(self, key: str) -> None:
        """Forget a device."""
        device = self._devices.pop(key, None)
        if device is not None:
            self._count -= len(device.curves)

    def devices(self) -> Iterator[tuple[str, str, dict[CommodityQuantity, Curve]]]:
        """Iterate over keys, titles and curves of the devices."""
        for key, device in self._devices.items():
            device.read()
            yield key, device.title, device.curves

    def _room(self) -> bool:
        if self._count >= self._capacity:
            self.left_out += 1
            return False
        self._count += 1
        return True


class _Device:
    """Curves of one device, and what of its measurements is not read yet."""

    __slots__ = ("_curves", "_order", "_reads", "_step", "_waiting", "curves", "title")

    def __init__(self, curves: Curves) -> None:
        self.title = ""
        self.curves: dict[CommodityQuantity, Curve] = {}
        self._curves = curves
        self._order: list[tuple[CommodityQuantity, Curve]] = []  # of the last measurement
        self._step = -1
        self._reads = 0
        self._waiting: Body | None = None

    def add(self, body: Body, step: int) -> None:
        if step != self._step:
            self.read()
            self._step, self._reads = step, 0
        if self._reads >= READ_PER_STEP:
            self._waiting = body
            return
        self._reads += 1
        self._take(body)

    def read(self) -> None:
        """Read what waits."""
        if self._waiting is not None:
            body, self._waiting = self._waiting, None
            self._take(body)

    def _take(self, body: Body) -> None:
        try:
            found = body()
        except ValueError:
            return
        if isinstance(found, PowerMeasurement):
            self._take_read(found.values)
            return
        values = found.get("values")
        for member in values if isinstance(values, list) else ():
            try:
                quantity, value = CommodityQuantity(member["commodity_quantity"]), float(member["value"])
            except (TypeError, KeyError, ValueError, OverflowError):
                continue
            if math.isfinite(value):
                self._note(quantity, value)

    def _take_read(self, values: list[PowerValue]) -> None:
        """Note values. Mostly they are of the quantities of the last measurement, in its order."""
        step, order = self._step, self._order
        if len(order) == len(values):
            for (quantity, curve), measured in zip(order, values, strict=True):
                if measured.commodity_quantity is not quantity:
                    break
                curve.add(step, measured.value)
            else:
                return
        for measured in values:
            self._note(measured.commodity_quantity, measured.value)
        known = ((measured.commodity_quantity, self.curves.get(measured.commodity_quantity)) for measured in values)
        self._order = [(quantity, curve) for quantity, curve in known if curve is not None]

    def _note(self, quantity: CommodityQuantity, value: float) -> None:
        curve = self.curves.get(quantity)
        if curve is None:
            if not self._curves._room():
                return
            curve = self.curves[quantity] = Curve()
        curve.add(self._step, value)


def unit_of(quantity: CommodityQuantity) -> str:
    """Return the unit of a quantity."""
    return UNITS.get(quantity, "W")


def _step(now: float) -> int:
    return int(now / STEP)
