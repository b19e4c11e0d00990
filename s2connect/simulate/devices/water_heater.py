"""An electric water heater: Operation Mode Based or Power Profile Based Control."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar, Final

from s2connect.messages.ppbc import PowerProfileDefinition
from s2connect.simulate.controls.modes import Actuator, Machine, Mode, OmbcControl, Setting
from s2connect.simulate.controls.profile import PpbcControl, Working, profile
from s2connect.simulate.devices.base import Basics
from s2connect.simulate.devices.tank import ROOM, Tank, hot_water
from s2connect.simulate.units import DAY, HOUR, hour_of_day

ELEMENT: Final = "element"
COMFORT: Final = (42.0, 65.0)
"""°C that its user wants at least, and at most."""

DISINFECTED: Final = 70.0
"""°C that kill legionella."""

DISINFECT_EVERY: Final = 7 * DAY
OFF: Final = Setting(ELEMENT, "off", 0.0)
HEAT: Final = Setting(ELEMENT, "heat", 0.0)
DISINFECT: Final = Setting(ELEMENT, "disinfect", 0.0)


class WaterHeater(Machine, Working):
    """A tank of hot water for a household, with an element that heats, and once a week disinfects.

    To disinfect is an operation mode for abnormal conditions only: the device does it by itself, and the energy manager
    may have it done earlier when there is more power than anybody can use. Chance decides how warm the water is in the
    beginning, and when it was disinfected.
    """

    kind: ClassVar = "water-heater"
    controls: ClassVar = (OmbcControl, PpbcControl)

    def __init__(self, basics: Basics, *, max_power: float = 2_000.0, litres: float = 150.0) -> None:
        super().__init__(basics)
        self.max_power = max_power
        self.tank = Tank(litres, self._chance.uniform(48.0, 60.0), loss=litres / 100)
        self._draw = min(litres * 6.0, max_power * 3)
        """W that are taken while usual amounts of hot water are."""
        modes = (
            Mode("off", (0.0, 0.0)),
            Mode("heat", (max_power, max_power)),
            Mode("disinfect", (max_power, max_power), abnormal=True),
        )
        self._element = Actuator(ELEMENT, modes, self._now)
        self.actuators = {ELEMENT: self._element}
        self._disinfect_at = self._now + self._chance.uniform(0.1, 1.0) * DISINFECT_EVERY
        self._work: float | None = None

    @property
    def power(self) -> float:
        if self.tank.temperature >= DISINFECTED:
            return 0.0
        return self._element.power if self._work is None else self._work

    def _step(self, start: datetime, seconds: float) -> None:
        self.tank.step(seconds, heat=self.power, draw=self._draw * hot_water(hour_of_day(start)))

    # Operation Mode Based Control

    def user_objection(self, setting: Setting, now: datetime) -> str | None:
        if setting.mode == "off" and self.tank.temperature < COMFORT[0]:
            return "There would be no hot water."
        if setting.mode == "off" and self._element.mode == "disinfect":
            return "It is disinfecting."
        if setting.mode == "heat" and self.tank.temperature > COMFORT[1]:
            return "The water is as hot as it may be."
        return None

    def corrections(self, now: datetime) -> list[Setting]:
        """Heat before the water becomes cold, stop when it is hot, and disinfect once a week."""
        temperature, mode = self.tank.temperature, self._element.mode
        if mode == "disinfect":
            if temperature < DISINFECTED:
                return []
            self._disinfect_at = now + DISINFECT_EVERY
            return [OFF]
        if now >= self._disinfect_at:
            return [DISINFECT]
        if mode == "off" and temperature < COMFORT[0]:
            return [HEAT]
        return [OFF] if mode == "heat" and temperature > COMFORT[1] else []

    def _alone(self, now: datetime) -> list[Setting]:
        cool = self._element.mode == "off" and self.tank.temperature < COMFORT[0] + 8
        return [HEAT] if cool else self.corrections(now)

    # Power Profile Based Control

    def job(self, now: datetime) -> PowerProfileDefinition:
        """To heat the tank once, within half a day: fast, or slowly with half the power."""
        energy = max(0.25 * self.max_power, self.tank.capacity * (60.0 - min(50.0, self.tank.temperature)))
        fast = timedelta(seconds=round(energy / self.max_power * 3600))
        gentle = HOUR / 6
        slow = [(gentle, self.max_power / 4), (2 * fast, self.max_power / 2)]
        return profile(now, now + max(DAY / 2, 3 * fast), {"fast": [(fast, self.max_power)], "slow": slow})

    def work(self, power: float | None) -> None:
        self._work = power

    def state(self) -> str:
        return f"water {max(ROOM, self.tank.temperature):.1f} °C"
