"""Heat pumps: with a buffer (Fill Rate Based or Operation Mode Based Control), and hybrid (Demand Driven Based)."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import ClassVar, Final, Unpack

from s2connect.messages import frbc
from s2connect.messages.general import Commodity, CommodityQuantity, ControlType, PowerValue, ResourceManagerDetails
from s2connect.messages.general import Role as CommodityRole
from s2connect.simulate.controls.base import Control
from s2connect.simulate.controls.modes import (
    Actuator,
    DdbcControl,
    FrbcControl,
    Mode,
    OmbcControl,
    Setting,
    Storage,
    Switching,
)
from s2connect.simulate.devices.base import Device, DeviceOptions
from s2connect.simulate.devices.tank import ROOM, Tank
from s2connect.simulate.units import HOUR, POWER, Chance, between, hour_of_day, milliseconds, number_range

COMPRESSOR: Final = "compressor"
BOILER: Final = "boiler"
COP: Final = 3.5
"""Heat for each unit of electricity."""

HOTTEST: Final = 60.0
COMFORT: Final = (38.0, 55.0)
"""°C of the buffer: what the compressor can stand, and what its user wants."""

MINIMUM_RUN: Final = timedelta(minutes=15)
MINIMUM_PAUSE: Final = timedelta(minutes=10)

SWITCHING: Final = (Switching("off", "heat", MINIMUM_RUN), Switching("heat", "off", MINIMUM_PAUSE))
OFF: Final = Setting(COMPRESSOR, "off", 0.0)


def heat_demand(moment: datetime) -> float:
    """Return the heat demand of a house on a winter day, relative to the average."""
    return 1.0 + 0.4 * math.cos(math.pi * (hour_of_day(moment) - 6.0) / 12.0)


class HeatPump(Device):
    """A heat pump that heats a buffer, from which the house takes what it needs.

    Args:
        resource_id: See :class:`Device`.
        chance: Also decides how warm the buffer is in the beginning.
        now: The time.
        max_power: W of electricity.
        litres: Of the buffer.
        need: W of heat that the house takes on average; None for a third of what the heat pump can make.
    """

    kind: ClassVar = "heat-pump"
    control_types: ClassVar = (ControlType.FILL_RATE_BASED_CONTROL, ControlType.OPERATION_MODE_BASED_CONTROL)

    def __init__(
        self,
        resource_id: str,
        chance: Chance,
        *,
        now: datetime,
        max_power: float = 3_000.0,
        litres: float = 500.0,
        need: float | None = None,
        **options: Unpack[DeviceOptions],
    ) -> None:
        super().__init__(resource_id, chance, now=now, **options)
        self.need = max_power * COP / 3 if need is None else need
        self.tank = Tank(litres, between(chance, 42.0, 50.0), loss=litres / 150)
        powers = (max_power * 0.4, max_power)
        rates = (self.tank.rate(powers[0] * COP), self.tank.rate(powers[1] * COP))
        modes = (Mode("off", (0.0, 0.0)), Mode("heat", powers, rates))
        self._compressor = Actuator(COMPRESSOR, modes, SWITCHING, now)
        self._actuators = {COMPRESSOR: self._compressor}
        self.storage = Storage((ROOM, HOTTEST), "°C")

    @property
    def level(self) -> float:
        """°C of the buffer."""
        return min(HOTTEST, max(ROOM, self.tank.temperature))

    @property
    def power(self) -> float:
        """W."""
        return 0.0 if self.tank.temperature >= HOTTEST else self._compressor.power

    def _step(self, start: datetime, seconds: float) -> None:
        self.tank.step(seconds, heat=self.power * COP, draw=self.need * heat_demand(start))

    def wish_against(self, setting: Setting, now: datetime) -> str | None:
        """The house stays warm, and the buffer no warmer than it may be."""
        if setting.mode == "off" and self.tank.temperature < COMFORT[0]:
            return "The house would become too cold."
        if setting.mode == "heat" and self.tank.temperature > COMFORT[1]:
            return "The buffer is as warm as it may be."
        return None

    def corrections(self, now: datetime) -> list[Setting]:
        """It heats before the house becomes too cold, and stops before the buffer becomes too warm."""
        mode = self._compressor.mode
        if mode == "off" and self.tank.temperature < COMFORT[0]:
            return [] if self._compressor.objection("heat", 1.0, False, now) else [Setting(COMPRESSOR, "heat", 1.0)]
        if mode == "heat" and self.tank.temperature > COMFORT[1]:
            return [OFF]  # at once: what it may stand counts more than wear
        return []

    def _alone(self, now: datetime) -> list[Setting]:
        if self.tank.temperature < COMFORT[0] + 4:
            blocked = self._compressor.objection("heat", 0.7, False, now)
            return [] if blocked else [Setting(COMPRESSOR, "heat", 0.7)]
        return [OFF] if self.tank.temperature > COMFORT[1] - 4 else []

    def leakage(self) -> list[frbc.LeakageBehaviourElement]:
        """Return the losses of the buffer, in steps of 10 °C."""
        return [
            frbc.LeakageBehaviourElement(
                fill_level_range=number_range(low, low + 10.0),
                leakage_rate=self.tank.rate(self.tank.loss * (low + 5.0 - ROOM)),
            )
            for low in (20.0, 30.0, 40.0, 50.0)
        ]

    def usage(self, now: datetime) -> list[frbc.UsageForecastElement]:
        """Return the usage of the house in each of the next 24 hours."""
        return [
            frbc.UsageForecastElement(
                duration=milliseconds(HOUR),
                usage_rate_expected=self.tank.rate(self.need * heat_demand(now + (hour + 0.5) * HOUR)),
            )
            for hour in range(24)
        ]

    def target(self, now: datetime) -> list[frbc.FillLevelTargetProfileElement]:
        """Return the comfort range of its user, for all times."""
        day = milliseconds(24 * HOUR)
        return [frbc.FillLevelTargetProfileElement(duration=day, fill_level_range=number_range(*COMFORT))]

    def _make_control(self, control_type: ControlType, now: datetime) -> Control:
        if control_type is ControlType.OPERATION_MODE_BASED_CONTROL:
            return OmbcControl(self, self, now=now)
        return FrbcControl(self, self, now=now)

    def state(self) -> str:
        return f"buffer {self.tank.temperature:.1f} °C"


class HybridHeatPump(Device):
    """A heat pump and a gas boiler that meet the demand of a house together, without a buffer.

    Args:
        resource_id: See :class:`Device`.
        chance: Also decides how much heat the house needs.
        now: The time.
        max_power: W of electricity; the boiler is as strong as a cold day needs it.

    Attributes:
        needed: Wh of heat that the house needed, all in all.
        supplied: Wh of heat that it got.
    """

    kind: ClassVar = "heat-pump"
    control_types: ClassVar = (ControlType.DEMAND_DRIVEN_BASED_CONTROL,)
    measured: ClassVar = (POWER, CommodityQuantity.NATURAL_GAS_FLOW_RATE)

    def __init__(
        self,
        resource_id: str,
        chance: Chance,
        *,
        now: datetime,
        max_power: float = 2_000.0,
        **options: Unpack[DeviceOptions],
    ) -> None:
        super().__init__(resource_id, chance, now=now, **options)
        self._need = max_power * COP * between(chance, 0.5, 0.8)
        self.needed = self.supplied = 0.0
        powers = (max_power * 0.3, max_power)
        pump = (Mode("off", (0.0, 0.0)), Mode("heat", powers, (powers[0] * COP, powers[1] * COP)))
        strongest = 2 * self._need
        gas = CommodityQuantity.NATURAL_GAS_FLOW_RATE
        # A litre of natural gas gives about 9.8 Wh.
        boiler = (
            Mode("off", (0.0, 0.0), quantity=gas),
            Mode("heat", (0.0, strongest / 3600 / 9.8), (0.0, strongest), quantity=gas),
        )
        freely = (Switching("off", "heat"), Switching("heat", "off"))
        self._pump = Actuator(COMPRESSOR, pump, SWITCHING, now)
        self._boiler = Actuator(BOILER, boiler, freely, now, commodity=Commodity.GAS)
        self._actuators = {COMPRESSOR: self._pump, BOILER: self._boiler}

    def details(self) -> ResourceManagerDetails:
        """It runs on electricity and on gas."""
        roles = [CommodityRole(role=self.role, commodity=c) for c in (Commodity.ELECTRICITY, Commodity.GAS)]
        return super().details().model_copy(update={"roles": roles})

    def demand(self, now: datetime) -> float:
        """W of heat that the house needs."""
        return self._need * heat_demand(now)

    @property
    def power(self) -> float:
        """W of electricity."""
        return self._pump.power

    def _values(self) -> list[PowerValue]:
        gas = PowerValue(commodity_quantity=CommodityQuantity.NATURAL_GAS_FLOW_RATE, value=self._boiler.power)
        return [*super()._values(), gas]

    def _step(self, start: datetime, seconds: float) -> None:
        self.needed += self.demand(start) * seconds / 3600
        self.supplied += (self._pump.rate + self._boiler.rate) * seconds / 3600

    def wish_against(self, setting: Setting, now: datetime) -> str | None:
        """The boiler makes what the heat pump does not, so it is off only when that is nothing."""
        if setting.actuator != BOILER:
            return None
        lacking = self.demand(now) - self._pump.rate
        if self._boiler.modes[setting.mode].rate_at(setting.factor) < lacking * 0.95:
            return "The house would become too cold."
        return None

    def corrections(self, now: datetime) -> list[Setting]:
        """The boiler follows the demand."""
        lacking = max(0.0, self.demand(now) - self._pump.rate)
        strongest = self._boiler.modes["heat"].rate[1]
        if lacking <= 0.02 * strongest:
            return [Setting(BOILER, "off", 0.0)] if self._boiler.mode == "heat" else []
        if abs(lacking - self._boiler.rate) < 0.02 * strongest:
            return []
        return [Setting(BOILER, "heat", min(1.0, lacking / strongest))]

    def _alone(self, now: datetime) -> list[Setting]:
        strength, (least, most) = self.demand(now), self._pump.modes["heat"].rate
        factor = min(1.0, max(0.0, (strength - least) / (most - least)))
        return [Setting(COMPRESSOR, "heat", factor), *self.corrections(now)]

    def _make_control(self, control_type: ControlType, now: datetime) -> Control:
        return DdbcControl(self, self, now=now)

    def state(self) -> str:
        return f"{self.demand(self._now):.0f} W of heat needed"
