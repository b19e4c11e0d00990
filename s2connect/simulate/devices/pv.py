"""A photovoltaic system: Power Envelope Based Control, which curtails it."""

from __future__ import annotations

import math
from datetime import datetime
from typing import ClassVar, Final, Unpack

from s2connect.messages.general import ControlType, RoleType
from s2connect.messages.pebc import PowerEnvelopeConsequenceType, PowerEnvelopeElement
from s2connect.simulate.controls.base import Control
from s2connect.simulate.controls.envelope import PebcControl
from s2connect.simulate.devices.base import Device, DeviceOptions
from s2connect.simulate.units import HOUR, Chance, between, clamp, hour_of_day

SUNRISE: Final = 6.0
SUNSET: Final = 20.0
"""Hours of the day, in UTC."""


def sun(moment: datetime) -> float:
    """Return the relative power of a clear sky: 0 at night, 1 at noon."""
    hour = hour_of_day(moment)
    return math.sin(math.pi * (hour - SUNRISE) / (SUNSET - SUNRISE)) if SUNRISE < hour < SUNSET else 0.0


class PhotoVoltaic(Device):
    """Panels under a sky with some clouds, and an inverter that can be curtailed.

    Args:
        resource_id: See :class:`Device`.
        chance: Also decides how cloudy it is.
        now: The time.
        peak: W.
    """

    kind: ClassVar = "pv"
    role: ClassVar = RoleType.ENERGY_PRODUCER
    control_types: ClassVar = (ControlType.POWER_ENVELOPE_BASED_CONTROL,)
    forecasts_power: ClassVar = True
    consequence: ClassVar = PowerEnvelopeConsequenceType.VANISH

    def __init__(
        self,
        resource_id: str,
        chance: Chance,
        *,
        now: datetime,
        peak: float = 6_000.0,
        **options: Unpack[DeviceOptions],
    ) -> None:
        super().__init__(resource_id, chance, now=now, **options)
        self.peak = peak
        self._usual = self._clearness = between(chance, 0.7, 0.95)
        self._most: float | None = None

    @property
    def available(self) -> float:
        """W that it could produce now."""
        return self.peak * sun(self._now) * self._clearness

    @property
    def power(self) -> float:
        """W, negative because it is production."""
        most = self.available if self._most is None else min(self.available, self._most)
        return -most if most else 0.0

    def _step(self, start: datetime, seconds: float) -> None:
        drift = between(self._chance, -0.02, 0.02) * seconds / 60
        self._clearness = clamp(self._clearness + drift, self._usual - 0.15, self._usual + 0.05)

    @property
    def allowed_limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """It may be curtailed down to nothing, and never consumes."""
        return (-self.peak, 0.0), (0.0, 0.0)

    def limit(self, lower: float | None, upper: float | None) -> None:
        """Produce no more than the lower limit says."""
        most = None if lower is None else -lower
        if most is not None and most < self.peak and most != self._most:
            self.note(f"is curtailed to {most:.0f} W")
        self._most = most

    def limits_objection(self, envelope: list[PowerEnvelopeElement], now: datetime) -> str | None:
        """Its user agrees to any limit that it allows."""
        return None

    def energy_need(self, now: datetime) -> None:
        """It needs no energy."""
        return

    def _power_elements(self, now: datetime) -> list[float]:
        middles = (now + (hour + 0.5) * HOUR for hour in range(24))
        return [-self.peak * sun(middle) * self._usual for middle in middles]

    def _make_control(self, control_type: ControlType, now: datetime) -> Control:
        return PebcControl(self, self)

    def state(self) -> str:
        return f"{self.available:.0f} W of sun"
