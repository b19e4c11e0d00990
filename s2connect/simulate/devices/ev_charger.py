"""A charging station with a car that leaves in the morning: Fill Rate Based or Power Envelope Based Control."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar, Final

from s2connect.messages import S2Message, frbc, new_id
from s2connect.messages.general import ControlType
from s2connect.messages.pebc import EnergyConstraint, PowerEnvelopeConsequenceType, PowerEnvelopeElement
from s2connect.simulate.controls.envelope import Limited, PebcControl
from s2connect.simulate.controls.modes import Actuator, FrbcControl, Mode, Setting, Storing
from s2connect.simulate.devices.base import Basics
from s2connect.simulate.units import DAY, MINUTE, POWER, clamp, hour_of_day, milliseconds, number_range

OUTLET: Final = "outlet"
OFF: Final = Setting(OUTLET, "off", 0.0)
FULL: Final = Setting(OUTLET, "charge", 1.0)

EFFICIENCY: Final = 0.9
WANTED: Final = 80.0
"""Per cent that the car has to have when it leaves."""

MARGIN: Final = timedelta(minutes=30)
"""Time in hand before the departure."""


class EvCharger(Storing, Limited):
    """A charging station; the car comes in the evening with less than it had and leaves in the morning.

    Chance decides when it comes and goes, and how full it is then. Capacity in Wh, power in W.
    """

    kind: ClassVar = "ev-charger"
    controls: ClassVar = (FrbcControl, PebcControl)
    consequence: ClassVar = PowerEnvelopeConsequenceType.DEFER

    def __init__(self, basics: Basics, *, capacity: float = 50_000.0, max_power: float = 7_400.0) -> None:
        super().__init__(basics)
        self.capacity = capacity
        self.max_power = max_power
        self.min_power = max_power * 0.1875
        """Least power of a car: 6 A of 32 A."""
        self.arrival = self._chance.uniform(15.0, 19.0)
        self.leaving = self._chance.uniform(6.5, 8.5)
        """Hours of the day, in UTC."""
        self.departures: list[float] = []
        """Fill level of the car at each departure."""
        self.level = self._level_on_arrival()
        self._limit = max_power
        self._rate = EFFICIENCY / 3600 / capacity * 100
        rates = (self.min_power * self._rate, max_power * self._rate)
        modes = (Mode("off", (0.0, 0.0)), Mode("charge", (self.min_power, max_power), rates))
        self._outlet = Actuator(OUTLET, modes, self._now)
        self.actuators = {OUTLET: self._outlet}

    def _level_on_arrival(self) -> float:
        """Return the fill level after the drive, such that the car can be charged until the morning."""
        night = (24 - self.arrival + self.leaving) * 0.6 * self.max_power * EFFICIENCY / self.capacity * 100
        return max(self._chance.uniform(20.0, 50.0), WANTED - night)

    # The car

    def connected(self, now: datetime) -> bool:
        """True while the car is there."""
        return not self.leaving <= hour_of_day(now) < self.arrival

    def departure(self, now: datetime) -> datetime:
        """Time of the next departure."""
        return _next(self.leaving, now)

    @property
    def power(self) -> float:
        if not self.connected(self._now) or self.level >= 100.0:
            return 0.0
        if self.control_type is not ControlType.POWER_ENVELOPE_BASED_CONTROL:
            return self._outlet.power
        return self._at_most(self._limit)

    def _at_most(self, limit: float) -> float:
        """W that the car takes under a limit: nothing where it is less than it can charge with."""
        power = min(self.max_power, limit)
        return power if power >= self.min_power else 0.0

    def _step(self, start: datetime, seconds: float) -> None:
        self.level = min(100.0, self.level + self.power * self._rate * seconds)
        before, after = self.connected(start), self.connected(start + timedelta(seconds=seconds))
        if before and not after:
            self.departures.append(self.level)
            self.outlook += 1
            self.notes.append(f"sees the car leave, {self.level:.0f} % full")
        elif after and not before:
            self.level = self._level_on_arrival()
            self.outlook += 1
            self.notes.append(f"sees the car arrive, {self.level:.0f} % full")

    def _late(self, now: datetime) -> bool:
        """Return whether the car has to charge without a break now, to be ready at its departure."""
        if not self.connected(now) or self.level >= WANTED:
            return False
        needed = timedelta(seconds=(WANTED - self.level) / (self.max_power * self._rate))
        return self.departure(now) - now - needed - MARGIN < timedelta(0)

    # Fill Rate Based Control

    def user_objection(self, setting: Setting, now: datetime) -> str | None:
        if setting.mode == "charge":
            if not self.connected(now):
                return "No car is connected."
            if self.level >= 100.0:
                return "The car is full."
        slow = setting.mode == "off" or setting.factor < 1.0
        return "The car would not be ready at its departure." if slow and self._late(now) else None

    def corrections(self, now: datetime) -> list[Setting]:
        """Stop without a car or with a full one; charge as fast as possible in time before the departure."""
        active = Setting(OUTLET, self._outlet.mode, self._outlet.factor)
        if not self.connected(now) or self.level >= 100.0:
            return [] if active.mode == "off" else [OFF]
        return [FULL] if self._late(now) and active != FULL else []

    def _alone(self, now: datetime) -> list[Setting]:
        return [FULL if self.connected(now) and self.level < 100.0 else OFF]

    def forecasts(self, now: datetime) -> list[S2Message]:
        """Return the target of the fill level.

        It may be anything until the departure, and then at least what its user wants; without a car no more than it is.
        """
        if self.connected(now):
            spans = [(MINUTE, WANTED, 100.0)]
            if (waiting := self.departure(now) - MINUTE - now) > timedelta(0):
                spans.insert(0, (waiting, 0.0, 100.0))
        else:
            spans = [(max(timedelta(milliseconds=1), _next(self.arrival, now) - now), 0.0, self.level)]
        elements = [
            frbc.FillLevelTargetProfileElement(duration=milliseconds(span), fill_level_range=number_range(low, high))
            for span, low, high in spans
        ]
        return [frbc.FillLevelTargetProfile(start_time=now, elements=elements)]

    # Power Envelope Based Control

    @property
    def allowed_limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (0.0, 0.0), (0.0, self.max_power)

    def limit(self, lower: float | None, upper: float | None) -> None:
        """Charge with no more than the upper limit."""
        self._limit = self.max_power if upper is None else upper

    def limits_objection(self, envelope: list[PowerEnvelopeElement], now: datetime) -> str | None:
        """Object to limits with which the car is not as full as it can be when it leaves."""
        if not self.connected(now):
            return None
        rest, level = (self.departure(now) - MARGIN - now).total_seconds(), self.level
        freely = level + self.max_power * self._rate * max(0.0, rest)
        for element in envelope:
            seconds = min(element.duration / 1000, max(0.0, rest))
            level += self._at_most(element.upper_limit) * self._rate * seconds
            rest -= seconds
        level += self.max_power * self._rate * max(0.0, rest)
        late = level < WANTED and level < freely
        return "The car would not be ready at its departure." if late else None

    def energy_need(self, now: datetime) -> EnergyConstraint | None:
        """Return the average power that the car needs until its departure."""
        departure = self.departure(now)
        hours = (departure - now).total_seconds() / 3600
        if not self.connected(now) or hours <= 0:
            return None
        per_level = self.capacity / 100 / EFFICIENCY / hours
        lowest = min(self.max_power, max(0.0, WANTED - self.level) * per_level)
        return EnergyConstraint(
            id=new_id(),
            valid_from=now,
            valid_until=departure,
            lower_average_power=lowest,
            upper_average_power=clamp((100.0 - self.level) * per_level, lowest, self.max_power),
            commodity_quantity=POWER,
        )

    def state(self) -> str:
        return f"car {self.level:.0f} % full" if self.connected(self._now) else "no car"


def _next(hour: float, now: datetime) -> datetime:
    """Return the next moment of a time of day."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    moment = midnight + timedelta(hours=hour)
    return moment if moment > now else moment + DAY
