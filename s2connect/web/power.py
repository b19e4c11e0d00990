"""Measured values over the last hour, a few numbers for each step of time. Sans-I/O."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from s2connect.messages.envelope import Message
from s2connect.messages.general import CommodityQuantity, PowerMeasurement

STEP: Final = 20.0
"""Seconds of one point."""

POINTS: Final = 180
"""Points of a curve: an hour."""

MAX_CURVES: Final = 1000
"""Curves of all devices together, some 6 KB each; further devices have none."""

READS_PER_SECOND: Final = 100
"""Measurements of all devices together that are read a second, but for those that have to be (``Readings``)."""

WATCHED: Final = 60.0
"""Seconds for which all measurements of a device are read after somebody has looked at its curves."""

MAX_TEXT: Final = 2000
"""Longest measurement of which the text is read, in characters; all quantities together take half of it."""

UNITS: Final = {
    CommodityQuantity.NATURAL_GAS_FLOW_RATE: "l/s",
    CommodityQuantity.HYDROGEN_FLOW_RATE: "g/s",
    CommodityQuantity.HEAT_TEMPERATURE: "°C",
    CommodityQuantity.HEAT_FLOW_RATE: "l/s",
    CommodityQuantity.OIL_FLOW_RATE: "l/h",
}
"""Units of the quantities; of all others it is W."""

_FIELDS: Final = 4

_NOTHING: Final = (math.inf, -math.inf, 0.0)
_PER_QUANTITY: Final = len(_NOTHING)


class Value(Protocol):
    """Value of a quantity in a measurement."""

    @property
    def commodity_quantity(self) -> CommodityQuantity:
        """The quantity."""

    @property
    def value(self) -> float:
        """The value, in the unit of the quantity."""


class _Value(msgspec.Struct, gc=False):
    commodity_quantity: CommodityQuantity
    value: float


class _Measurement(msgspec.Struct, gc=False):
    values: list[_Value]


_decode: Final = msgspec.json.Decoder(_Measurement).decode


def values_of(message: Message) -> Sequence[Value]:
    """Return the values of a measurement: as they were read already, or from its text; none if that cannot be read."""
    parsed = message.reading.parsed if message.reading is not None else None
    if isinstance(parsed, PowerMeasurement):
        return parsed.values
    if len(message.text) > MAX_TEXT:
        return ()
    try:
        return _decode(message.text).values
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ()


class Curve:
    """Curve of one quantity: least, greatest and last value of each step."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = array("d")  # number of the step, low, high, last; again and again

    def set(self, step: int, low: float, high: float, last: float) -> None:
        """Set the values of a step, which is the last one or a later one."""
        values = self._values
        if values and values[-_FIELDS] == step:
            del values[-_FIELDS:]
        elif len(values) >= _FIELDS * POINTS:
            del values[:_FIELDS]
        values.extend((step, low, high, last))

    def points(self, now: float) -> Iterator[tuple[float, float, float, float]]:
        """Iterate over the steps of the last hour that have a value: begin, low, high and last, oldest first."""
        first, values = _step(now) - POINTS + 1, self._values
        for at in range(0, len(values), _FIELDS):
            if values[at] >= first:
                yield values[at] * STEP, values[at + 1], values[at + 2], values[at + 3]


class Curves:
    """Curves of all devices. Times, in seconds of one clock, never go back.

    Attributes:
        left_out: Number of times that there was no room for a curve.
        left: Measurements that may be read now.
    """

    def __init__(self, capacity: int = MAX_CURVES) -> None:
        self.left_out = 0
        self.left = READS_PER_SECOND
        self._refilled = 0.0
        self._capacity = capacity
        self._count = 0
        self._devices: dict[str, Device] = {}
        self._cleared = -1  # step in which room was made last

    def device(self, key: str, title: str, now: float) -> Device:
        """Return a device, in the step of a time. Keep it until the ``end`` of that: then it may have been removed."""
        found = self._devices.get(key)
        if found is None:
            found = self._devices[key] = Device(self)
        found.title = title
        found.begin_step(_step(now))
        return found

    def refill(self, now: float) -> None:
        """Let as many measurements be read as time has passed for."""
        passed, self._refilled = now - self._refilled, now
        self.left = min(READS_PER_SECOND, max(0, self.left) + round(passed * READS_PER_SECOND))

    def look(self, keys: Iterable[str], now: float) -> None:
        """Note that somebody looks at the curves of these devices."""
        for key in keys:
            if (device := self._devices.get(key)) is not None:
                device.watched_until = now + WATCHED

    def remove(self, key: str) -> None:
        """Forget a device."""
        device = self._devices.pop(key, None)
        if device is not None:
            self._count -= len(device.curves)

    def devices(self) -> Iterator[tuple[str, str, dict[CommodityQuantity, Curve]]]:
        """Iterate over keys, titles and curves of the devices."""
        for key, device in list(self._devices.items()):
            device.settle()
            yield key, device.title, device.curves

    def make_curve(self, step: int) -> Curve | None:
        """Return a new curve; None where there is no room for it."""
        if self._count >= self._capacity and self._cleared != step:
            self._cleared = step
            for key in [key for key, device in self._devices.items() if device.end <= (step - POINTS + 1) * STEP]:
                self.remove(key)  # nothing is shown of it any more
        if self._count >= self._capacity:
            self.left_out += 1
            return None
        self._count += 1
        return Curve()


class Device:
    """Curves of one device. The present step is numbers in one array, because each measurement counts.

    Attributes:
        title: Name of the device.
        curves: By quantity; the present step is in them after :meth:`settle`.
        end: End of the present step.
        watched_until: Until when somebody looks at it.
    """

    __slots__ = ("_order", "_present", "_room", "_step", "curves", "end", "title", "watched_until")

    def __init__(self, room: Curves) -> None:
        self.title = ""
        self.curves: dict[CommodityQuantity, Curve] = {}
        self.end = self.watched_until = 0.0
        self._room = room
        self._step = -1
        self._order: list[CommodityQuantity] = []
        self._present = array("d")  # low, high and last of each quantity in that order

    def add(self, values: Sequence[Value]) -> None:
        """Add the values of a measurement to the present step."""
        order, present, at = self._order, self._present, 0
        if len(values) > len(order):
            self._add_others(values)
            return
        for quantity, one in zip(order, values, strict=False):
            if one.commodity_quantity is not quantity:
                self._add_others(values)
                return
            value = one.value
            if value < present[at]:
                present[at] = value
            if value > present[at + 1]:
                present[at + 1] = value
            present[at + 2] = value
            at += _PER_QUANTITY

    def _add_others(self, values: Sequence[Value]) -> None:
        """Add values that are not of the first quantities in their order."""
        order, present = self._order, self._present
        for one in values:
            quantity, value = one.commodity_quantity, one.value
            if quantity not in order:
                order.append(quantity)
                present.extend(_NOTHING)
            at = _PER_QUANTITY * order.index(quantity)
            present[at], present[at + 1] = min(present[at], value), max(present[at + 1], value)
            present[at + 2] = value

    def begin_step(self, step: int) -> None:
        """Begin a step, if it is another one than the present."""
        if step != self._step:
            self.settle()
            self._step, self.end = step, (step + 1) * STEP
            self._present = array("d", _NOTHING * len(self._order))

    def settle(self) -> None:
        """Put what there is of the present step into the curves."""
        for number, quantity in enumerate(self._order):
            low, high, last = self._present[_PER_QUANTITY * number :][:_PER_QUANTITY]
            if low > high:
                continue
            curve = self.curves.get(quantity) or self._room.make_curve(self._step)
            if curve is not None:
                self.curves[quantity] = curve
                curve.set(self._step, low, high, last)


def unit_of(quantity: CommodityQuantity) -> str:
    """Return the unit of a quantity."""
    return UNITS.get(quantity, "W")


def _step(now: float) -> int:
    return int(now / STEP)
