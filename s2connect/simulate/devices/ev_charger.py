"""A charging station with a car that leaves in the morning: Fill Rate Based or Power Envelope Based Control."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar, Final, Unpack

from s2connect.messages import frbc
from s2connect.messages.general import ControlType, RoleType
from s2connect.messages.pebc import PowerEnvelopeConsequenceType, PowerEnvelopeElement
from s2connect.simulate.controls.base import Control
from s2connect.simulate.controls.envelope import PebcControl
from s2connect.simulate.controls.modes import Actuator, FrbcControl, Mode, Setting, Storage, Switching
from s2connect.simulate.devices.base import Device, DeviceOptions
from s2connect.simulate.units import DAY, Chance, between, hour_of_day, milliseconds, number_range

OUTLET: Final = "outlet"
OFF: Final = Setting(OUTLET, "off", 0.0)
FULL: Final = Setting(OUTLET, "charge", 1.0)

EFFICIENCY: Final = 0.9
WANTED: Final = 80.0
"""Per cent that the car has to have when it leaves."""

MARGIN: Final = timedelta(minutes=30)
"""Time in hand before the departure."""


class EvCharger(Device):
    """A charging station; the car comes in the evening with less than it had and leaves in the morning.

    Args:
        resource_id: See :class:`Device`.
        chance: Also decides when the car comes and goes, and how full it is then.
        now: The time.
        capacity: Wh of the car's battery.
        max_power: W.

    Attributes:
        level: Per cent.
        departures: How full the car was each time it left.
    """

    kind: ClassVar = "ev-charger"
    role: ClassVar = RoleType.ENERGY_CONSUMER
    control_types: ClassVar = (ControlType.FILL_RATE_BASED_CONTROL, ControlType.POWER_ENVELOPE_BASED_CONTROL)
    consequence: ClassVar = PowerEnvelopeConsequenceType.DEFER

    def __init__(
        self,
        resource_id: str,
        chance: Chance,
        *,
        now: datetime,
        capacity: float = 50_000.0,
        max_power: float = 7_400.0,
        **options: Unpack[DeviceOptions],
    ) -> None:
        super().__init__(resource_id, chance, now=now, **options)
        self.capacity = capacity
        self.max_power = max_power
        self.min_power = max_power * 0.1875
        """Least power of a car: 6 A of 32 A."""
        self.arrival = between(chance, 15.0, 19.0)
        self.leaving = between(chance, 6.5, 8.5)
        """Hours of the day, in UTC."""
        self.departures: list[float] = []
        self.level = self._level_on_arrival()
        self._upper: float | None = None
        self._rate = EFFICIENCY / 3600 / capacity * 100
        modes = (
            Mode("off", (0.0, 0.0)),
            Mode("charge", (self.min_power, max_power), (self.min_power * self._rate, max_power * self._rate)),
        )
        self._outlet = Actuator(OUTLET, modes, (Switching("off", "charge"), Switching("charge", "off")), now)
        self._actuators = {OUTLET: self._outlet}
        self.storage = Storage((0.0, 100.0), "%")

    def _level_on_arrival(self) -> float:
        """Return the fill level after the drive, such that the car can be charged until the morning."""
        night = (24 - self.arrival + self.leaving) * 0.6 * self.max_power * EFFICIENCY / self.capacity * 100
        return max(between(self._chance, 20.0, 50.0), WANTED - night)

    # The car

    def connected(self, now: datetime) -> bool:
        """True while the car is there."""
        return not self.leaving <= hour_of_day(now) < self.arrival

    def departure(self, now: datetime) -> datetime:
        """Time of the next departure."""
        return _next(self.leaving, now)

    @property
    def power(self) -> float:
        """W."""
        if not self.connected(self._now) or self.level >= 100.0:
            return 0.0
        if self.control_type is not ControlType.POWER_ENVELOPE_BASED_CONTROL:
            return self._outlet.power
        return self._at_most(self._upper)

    def _at_most(self, limit: float | None) -> float:
        """W that the car takes under a limit: nothing where it is less than it can charge with."""
        power = self.max_power if limit is None else min(self.max_power, limit)
        return power if power >= self.min_power else 0.0

    def _step(self, start: datetime, seconds: float) -> None:
        self.level = min(100.0, self.level + self.power * self._rate * seconds)
        before, after = self.connected(start), self.connected(start + timedelta(seconds=seconds))
        if before and not after:
            self.departures.append(self.level)
            self.outlook += 1
            self.note(f"sees the car leave, {self.level:.0f} % full")
        elif after and not before:
            self.level = self._level_on_arrival()
            self.outlook += 1
            self.note(f"sees the car arrive, {self.level:.0f} % full")

    def _slack(self, now: datetime) -> timedelta:
        """Return the time for which charging may wait before the departure, less the margin."""
        needed = max(0.0, WANTED - self.level) / (self.max_power * self._rate)
        return self.departure(now) - now - timedelta(seconds=needed) - MARGIN

    # Fill Rate Based Control

    def wish_against(self, setting: Setting, now: datetime) -> str | None:
        """The car has to be ready when it leaves."""
        if setting.mode == "charge":
            if not self.connected(now):
                return "No car is connected."
            if self.level >= 100.0:
                return "The car is full."
        slow = setting.mode == "off" or setting.factor < 1.0
        if slow and self.connected(now) and self.level < WANTED and self._slack(now) < timedelta(0):
            return "The car would not be ready at its departure."
        return None

    def corrections(self, now: datetime) -> list[Setting]:
        """Without a car or with a full one it stops; in time before the departure it charges as fast as it can."""
        active = Setting(OUTLET, self._outlet.mode, self._outlet.factor)
        if not self.connected(now) or self.level >= 100.0:
            return [] if active.mode == "off" else [OFF]
        late = self.level < WANTED and self._slack(now) < timedelta(0)
        return [FULL] if late and active != FULL else []

    def _alone(self, now: datetime) -> list[Setting]:
        return [FULL if self.connected(now) and self.level < 100.0 else OFF]

    def leakage(self) -> list[frbc.LeakageBehaviourElement]:
        """It loses nothing."""
        return []

    def usage(self, now: datetime) -> list[frbc.UsageForecastElement]:
        """Nothing is taken out while the car is there."""
        return []

    def target(self, now: datetime) -> list[frbc.FillLevelTargetProfileElement]:
        """Anything until the departure, and then at least what its user wants; without a car no more than there is."""
        whole = number_range(0.0, 100.0)
        if not self.connected(now):
            away = max(1, milliseconds(_next(self.arrival, now) - now))
            unchanged = number_range(0.0, self.level)
            return [frbc.FillLevelTargetProfileElement(duration=away, fill_level_range=unchanged)]
        last = timedelta(minutes=1)
        waiting = self.departure(now) - last - now
        wanted = frbc.FillLevelTargetProfileElement(
            duration=milliseconds(last), fill_level_range=number_range(WANTED, 100.0)
        )
        if waiting <= timedelta(0):
            return [wanted]
        free = frbc.FillLevelTargetProfileElement(duration=milliseconds(waiting), fill_level_range=whole)
        return [free, wanted]

    # Power Envelope Based Control

    @property
    def allowed_limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """It never produces, and may be limited down to nothing."""
        return (0.0, 0.0), (0.0, self.max_power)

    def limit(self, lower: float | None, upper: float | None) -> None:
        """Charge with no more than the upper limit."""
        self._upper = upper

    def limits_objection(self, envelope: list[PowerEnvelopeElement], now: datetime) -> str | None:
        """The car has to be ready when it leaves."""
        if not self.connected(now):
            return None
        rest, level = (self.departure(now) - MARGIN - now).total_seconds(), self.level
        for element in envelope:
            seconds = min(element.duration / 1000, max(0.0, rest))
            level += self._at_most(element.upper_limit) * self._rate * seconds
            rest -= seconds
        level += self.max_power * self._rate * max(0.0, rest)
        freely = self.level + self.max_power * self._rate * max(
            0.0, (self.departure(now) - MARGIN - now).total_seconds()
        )
        late = level < WANTED and level < freely
        return "The car would not be ready at its departure." if late else None

    def energy_need(self, now: datetime) -> tuple[datetime, float, float] | None:
        """Return the average power that the car needs until its departure."""
        if not self.connected(now):
            return None
        departure = self.departure(now)
        hours = (departure - now).total_seconds() / 3600
        per_level = self.capacity / 100 / EFFICIENCY / hours if hours > 0 else 0.0
        if hours <= 0:
            return None
        lowest = min(self.max_power, max(0.0, WANTED - self.level) * per_level)
        return departure, lowest, max(lowest, min(self.max_power, (100.0 - self.level) * per_level))

    def _make_control(self, control_type: ControlType, now: datetime) -> Control:
        if control_type is ControlType.POWER_ENVELOPE_BASED_CONTROL:
            return PebcControl(self, self)
        return FrbcControl(self, self, now=now)

    def state(self) -> str:
        return f"car {self.level:.0f} % full" if self.connected(self._now) else "no car"


def _next(hour: float, now: datetime) -> datetime:
    """Return the next moment of a time of day."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    moment = midnight + timedelta(hours=hour)
    return moment if moment > now else moment + DAY
