"""Heat pumps: with a buffer (Fill Rate Based or Operation Mode Based Control), and hybrid (Demand Driven Based)."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import ClassVar, Final

from s2connect.messages import S2Message, frbc
from s2connect.messages.general import Commodity, CommodityQuantity, PowerValue, ResourceManagerDetails, Role
from s2connect.simulate.controls.modes import (
    Actuator,
    DdbcControl,
    Demanding,
    FrbcControl,
    Mode,
    OmbcControl,
    Setting,
    Storing,
)
from s2connect.simulate.devices.base import Basics
from s2connect.simulate.devices.tank import ROOM, Tank
from s2connect.simulate.units import DAY, HOUR, along, clamp, hour_of_day, milliseconds, number_range

COMPRESSOR: Final = "compressor"
BOILER: Final = "boiler"
COP: Final = 3.5
"""Heat for each unit of electricity."""

HOTTEST: Final = 60.0
COMFORT: Final = (38.0, 55.0)
"""°C of the buffer: what the compressor can stand, and what its user wants."""

MINIMUM_RUN: Final = timedelta(minutes=15)
MINIMUM_PAUSE: Final = timedelta(minutes=10)
OFF: Final = Setting(COMPRESSOR, "off", 0.0)
GAS: Final = CommodityQuantity.NATURAL_GAS_FLOW_RATE
GAS_ENERGY: Final = 9.8
"""Wh of heat in a litre of natural gas, about."""


def heat_demand(moment: datetime) -> float:
    """Return the heat demand of a house on a winter day, relative to the average."""
    return 1.0 + 0.4 * math.cos(math.pi * (hour_of_day(moment) - 6.0) / 12.0)


def compressor(powers: tuple[float, float], rates: tuple[float, float], now: datetime) -> Actuator:
    """Return the compressor, with its W of electricity and its rates; it wears out by switching often."""
    modes = (Mode("off", (0.0, 0.0)), Mode("heat", powers, rates))
    return Actuator(COMPRESSOR, modes, now, holds={"heat": MINIMUM_RUN, "off": MINIMUM_PAUSE})


class HeatPump(Storing):
    """A heat pump of W that heats a buffer, from which the house takes a third of what it can make.

    Chance decides how warm the buffer is in the beginning.
    """

    kind: ClassVar = "heat-pump"
    controls: ClassVar = (FrbcControl, OmbcControl)
    levels: ClassVar = (ROOM, HOTTEST)
    unit: ClassVar = "°C"

    def __init__(self, basics: Basics, *, max_power: float = 3_000.0, litres: float = 500.0) -> None:
        super().__init__(basics)
        self.need = max_power * COP / 3
        self.tank = Tank(litres, self._chance.uniform(42.0, 50.0), loss=litres / 150)
        powers = (max_power * 0.4, max_power)
        rates = (self.tank.rate(powers[0] * COP), self.tank.rate(powers[1] * COP))
        self._compressor = compressor(powers, rates, self._now)
        self.actuators = {COMPRESSOR: self._compressor}

    @property
    def level(self) -> float:
        """°C of the buffer."""
        return clamp(self.tank.temperature, ROOM, HOTTEST)

    @property
    def power(self) -> float:
        return 0.0 if self.tank.temperature >= HOTTEST else self._compressor.power

    def _step(self, start: datetime, seconds: float) -> None:
        self.tank.step(seconds, heat=self.power * COP, draw=self.need * heat_demand(start))

    def user_objection(self, setting: Setting, now: datetime) -> str | None:
        if setting.mode == "off" and self.tank.temperature < COMFORT[0]:
            return "The house would become too cold."
        if setting.mode == "heat" and self.tank.temperature > COMFORT[1]:
            return "The buffer is as warm as it may be."
        return None

    def corrections(self, now: datetime) -> list[Setting]:
        """Heat before the house becomes too cold; stop before the buffer becomes too warm."""
        mode = self._compressor.mode
        if mode == "off" and self.tank.temperature < COMFORT[0]:
            return self._heating(1.0, now)
        if mode == "heat" and self.tank.temperature > COMFORT[1]:
            return [OFF]  # at once: what it may stand counts more than wear
        return []

    def _heating(self, factor: float, now: datetime) -> list[Setting]:
        blocked = self._compressor.objection("heat", factor, False, now)
        return [] if blocked else [Setting(COMPRESSOR, "heat", factor)]

    def _alone(self, now: datetime) -> list[Setting]:
        if self.tank.temperature < COMFORT[0] + 4:
            return self._heating(0.7, now)
        return [OFF] if self.tank.temperature > COMFORT[1] - 4 else []

    def forecasts(self, now: datetime) -> list[S2Message]:
        """Return losses of the buffer in steps of 10 °C, the usage of the next 24 hours, and the comfort range."""
        leakage = [
            frbc.LeakageBehaviourElement(
                fill_level_range=number_range(low, low + 10.0),
                leakage_rate=self.tank.rate(self.tank.loss * (low + 5.0 - ROOM)),
            )
            for low in (20.0, 30.0, 40.0, 50.0)
        ]
        usage = [
            frbc.UsageForecastElement(
                duration=milliseconds(HOUR),
                usage_rate_expected=self.tank.rate(self.need * heat_demand(now + (hour + 0.5) * HOUR)),
            )
            for hour in range(24)
        ]
        comfort = frbc.FillLevelTargetProfileElement(
            duration=milliseconds(DAY), fill_level_range=number_range(*COMFORT)
        )
        return [
            frbc.LeakageBehaviour(valid_from=now, elements=leakage),
            frbc.UsageForecast(start_time=now, elements=usage),
            frbc.FillLevelTargetProfile(start_time=now, elements=[comfort]),
        ]

    def state(self) -> str:
        return f"buffer {self.tank.temperature:.1f} °C"


class HybridHeatPump(Demanding):
    """A heat pump of W and a gas boiler that meet the demand of a house together, without a buffer.

    Chance decides how much heat the house needs; the boiler is as strong as a cold day needs it.
    """

    kind: ClassVar = "heat-pump"
    controls: ClassVar = (DdbcControl,)

    def __init__(self, basics: Basics, *, max_power: float = 2_000.0) -> None:
        super().__init__(basics)
        self._need = max_power * COP * self._chance.uniform(0.5, 0.8)
        powers = (max_power * 0.3, max_power)
        strongest = 2 * self._need
        boiler = (
            Mode("off", (0.0, 0.0), quantity=GAS),
            Mode("heat", (0.0, strongest / 3600 / GAS_ENERGY), (0.0, strongest), quantity=GAS),
        )
        self._pump = compressor(powers, (powers[0] * COP, powers[1] * COP), self._now)
        self._boiler = Actuator(BOILER, boiler, self._now, commodity=Commodity.GAS)
        self.actuators = {COMPRESSOR: self._pump, BOILER: self._boiler}

    def details(self) -> ResourceManagerDetails:
        roles = [Role(role=self.role, commodity=commodity) for commodity in (Commodity.ELECTRICITY, Commodity.GAS)]
        return super().details().replace(roles=roles)

    def demand(self, now: datetime) -> float:
        """Return the W of heat that the house needs."""
        return self._need * heat_demand(now)

    @property
    def power(self) -> float:
        return self._pump.power

    def _values(self) -> list[PowerValue]:
        return [*super()._values(), PowerValue(commodity_quantity=GAS, value=self._boiler.power)]

    def user_objection(self, setting: Setting, now: datetime) -> str | None:
        """Object to a boiler that is off while the heat pump does not meet the demand."""
        if setting.actuator != BOILER:
            return None
        lacking = self.demand(now) - self._pump.rate
        cold = along(self._boiler.modes[setting.mode].rate, setting.factor) < lacking * 0.95
        return "The house would become too cold." if cold else None

    def corrections(self, now: datetime) -> list[Setting]:
        """Adapt the boiler to the demand."""
        lacking = max(0.0, self.demand(now) - self._pump.rate)
        strongest = self._boiler.modes["heat"].rate[1]
        if lacking <= 0.02 * strongest:
            return [Setting(BOILER, "off", 0.0)] if self._boiler.mode == "heat" else []
        if abs(lacking - self._boiler.rate) < 0.02 * strongest:
            return []
        return [Setting(BOILER, "heat", min(1.0, lacking / strongest))]

    def _alone(self, now: datetime) -> list[Setting]:
        strength, (least, most) = self.demand(now), self._pump.modes["heat"].rate
        factor = clamp((strength - least) / (most - least), 0.0, 1.0)
        return [Setting(COMPRESSOR, "heat", factor), *self.corrections(now)]

    def state(self) -> str:
        return f"{self.demand(self._now):.0f} W of heat needed"
