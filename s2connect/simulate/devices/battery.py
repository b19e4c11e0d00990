"""A home battery: Fill Rate Based Control."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final, Unpack

from s2connect.messages import frbc
from s2connect.messages.general import ControlType, RoleType
from s2connect.simulate.controls.base import Control
from s2connect.simulate.controls.modes import Actuator, FrbcControl, Mode, Setting, Storage, Switching
from s2connect.simulate.devices.base import Device, DeviceOptions
from s2connect.simulate.units import Chance, between, clamp

EFFICIENCY: Final = 0.95
"""Part of the energy that gets in, and of what is taken out that arrives."""

RESERVE: Final = 10.0
"""Per cent that its user keeps for a power cut."""

INVERTER: Final = "inverter"
IDLE: Final = Setting(INVERTER, "idle", 0.0)


class Battery(Device):
    """A battery with losses, whose user keeps a reserve.

    Args:
        resource_id: See :class:`Device`.
        chance: Also decides how full it is in the beginning.
        now: The time.
        capacity: Wh.
        max_power: W, in and out.

    Attributes:
        level: Per cent.
    """

    kind: ClassVar = "battery"
    role: ClassVar = RoleType.ENERGY_STORAGE
    control_types: ClassVar = (ControlType.FILL_RATE_BASED_CONTROL,)

    def __init__(
        self,
        resource_id: str,
        chance: Chance,
        *,
        now: datetime,
        capacity: float = 10_000.0,
        max_power: float = 5_000.0,
        **options: Unpack[DeviceOptions],
    ) -> None:
        super().__init__(resource_id, chance, now=now, **options)
        self.capacity = capacity
        self.level = between(chance, 30.0, 70.0)
        per_second = max_power / 3600 / capacity * 100
        modes = (
            Mode("idle", (0.0, 0.0)),
            Mode("charge", (0.0, max_power), (0.0, per_second * EFFICIENCY)),
            Mode("discharge", (0.0, -max_power), (0.0, -per_second / EFFICIENCY)),
        )
        ways = [Switching(a.id, b.id) for a in modes for b in modes if a is not b]
        self._inverter = Actuator(INVERTER, modes, ways, now)
        self._actuators = {INVERTER: self._inverter}
        self.storage = Storage((0.0, 100.0), "%")

    @property
    def power(self) -> float:
        """W; charging is positive."""
        return 0.0 if self._stuck(self._inverter.mode) else self._inverter.power

    def _stuck(self, mode: str) -> bool:
        return (mode == "charge" and self.level >= 100.0) or (mode == "discharge" and self.level <= RESERVE)

    def _step(self, start: datetime, seconds: float) -> None:
        if not self._stuck(self._inverter.mode):
            lowest = min(self.level, RESERVE)
            self.level = clamp(self.level + self._inverter.rate * seconds, lowest, 100.0)

    def wish_against(self, setting: Setting, now: datetime) -> str | None:
        """It charges no more when it is full, and keeps its reserve."""
        if not self._stuck(setting.mode) or setting.factor == 0.0:
            return None
        return "It is full." if setting.mode == "charge" else "What is left is the reserve of its user."

    def corrections(self, now: datetime) -> list[Setting]:
        """It stops when it is full, or down at its reserve."""
        return [IDLE] if self._stuck(self._inverter.mode) else []

    def _alone(self, now: datetime) -> list[Setting]:
        return [IDLE]

    def leakage(self) -> list[frbc.LeakageBehaviourElement]:
        """It loses nothing worth telling."""
        return []

    def usage(self, now: datetime) -> list[frbc.UsageForecastElement]:
        """Nobody takes anything out but the energy manager."""
        return []

    def target(self, now: datetime) -> list[frbc.FillLevelTargetProfileElement]:
        """Its user does not care, beyond the reserve."""
        return []

    def _make_control(self, control_type: ControlType, now: datetime) -> Control:
        return FrbcControl(self, self, now=now)

    def state(self) -> str:
        return f"{self.level:.0f} % full"
