"""A home battery: Fill Rate Based Control."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final

from s2connect.messages.general import RoleType
from s2connect.simulate.controls.modes import Actuator, FrbcControl, Mode, Setting, Storing
from s2connect.simulate.devices.base import Basics
from s2connect.simulate.units import clamp

EFFICIENCY: Final = 0.95
"""Part of the energy that gets in, and of what is taken out that arrives."""

RESERVE: Final = 10.0
"""Per cent that its user keeps for a power cut."""

INVERTER: Final = "inverter"
IDLE: Final = Setting(INVERTER, "idle", 0.0)


class Battery(Storing):
    """A battery of Wh and W, with losses, whose user keeps a reserve; chance decides how full it is at first."""

    kind: ClassVar = "battery"
    role: ClassVar = RoleType.ENERGY_STORAGE
    controls: ClassVar = (FrbcControl,)

    def __init__(self, basics: Basics, *, capacity: float = 10_000.0, max_power: float = 5_000.0) -> None:
        super().__init__(basics)
        self.capacity = capacity
        self.level = self._chance.uniform(30.0, 70.0)
        per_second = max_power / 3600 / capacity * 100
        modes = (
            Mode("idle", (0.0, 0.0)),
            Mode("charge", (0.0, max_power), (0.0, per_second * EFFICIENCY)),
            Mode("discharge", (0.0, -max_power), (0.0, -per_second / EFFICIENCY)),
        )
        self._inverter = Actuator(INVERTER, modes, self._now)
        self.actuators = {INVERTER: self._inverter}

    @property
    def power(self) -> float:
        return 0.0 if self._stuck(self._inverter.mode) else self._inverter.power

    def _stuck(self, mode: str) -> bool:
        return (mode == "charge" and self.level >= 100.0) or (mode == "discharge" and self.level <= RESERVE)

    def _step(self, start: datetime, seconds: float) -> None:
        if not self._stuck(self._inverter.mode):
            lowest = min(self.level, RESERVE)
            self.level = clamp(self.level + self._inverter.rate * seconds, lowest, 100.0)

    def user_objection(self, setting: Setting, now: datetime) -> str | None:
        if not self._stuck(setting.mode) or setting.factor == 0.0:
            return None
        return "It is full." if setting.mode == "charge" else "What is left is the reserve of its user."

    def corrections(self, now: datetime) -> list[Setting]:
        return [IDLE] if self._stuck(self._inverter.mode) else []

    def _alone(self, now: datetime) -> list[Setting]:
        return [IDLE]

    def state(self) -> str:
        return f"{self.level:.0f} % full"
