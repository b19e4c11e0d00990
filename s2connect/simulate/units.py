"""Small helpers of the simulation: ranges, durations, times of day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

from s2connect.messages.general import CommodityQuantity, NumberRange, PowerForecastValue

POWER: Final = CommodityQuantity.ELECTRIC_POWER_L1
"""All simulated devices have one phase."""

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)


def number_range(start: float, end: float) -> NumberRange:
    """From one number to another."""
    return NumberRange(start_of_range=start, end_of_range=end)


def expected(power: float) -> PowerForecastValue:
    """Return a forecast of electric power in W, without bounds."""
    return PowerForecastValue(value_expected=power, commodity_quantity=POWER)


class _Lasting(Protocol):
    @property
    def duration(self) -> int: ...


E = TypeVar("E", bound=_Lasting)


def spans(moment: datetime, elements: Iterable[E]) -> Iterator[tuple[datetime, datetime, E]]:
    """Yield when each element begins and ends, where the first begins at a moment."""
    for element in elements:
        end = moment + timedelta(milliseconds=element.duration)
        yield moment, end, element
        moment = end


def lasting(elements: Iterable[_Lasting]) -> timedelta:
    """Return the duration of all elements together."""
    return timedelta(milliseconds=sum(element.duration for element in elements))


def milliseconds(duration: timedelta) -> int:
    """Return a duration in milliseconds, as messages have it."""
    return round(duration / timedelta(milliseconds=1))


def hour_of_day(moment: datetime) -> float:
    """Return the time of day in UTC, from 0 to 24."""
    return moment.hour + moment.minute / 60 + moment.second / 3600


def along(ends: tuple[float, float], factor: float) -> float:
    """Return the value of an operation mode at a factor, between those at 0 and at 1."""
    return ends[0] + (ends[1] - ends[0]) * factor


def clamp(value: float, low: float, high: float) -> float:
    """Return the number from ``low`` to ``high`` that is nearest to a value."""
    return min(max(value, low), high)
