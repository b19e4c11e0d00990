"""A photovoltaic system: Power Envelope Based Control, which curtails it."""

from __future__ import annotations

import math
from datetime import datetime
from typing import ClassVar, Final

from s2connect.messages.general import RoleType
from s2connect.messages.pebc import PowerEnvelopeConsequenceType
from s2connect.simulate.controls.envelope import Limited, PebcControl
from s2connect.simulate.devices.base import Basics
from s2connect.simulate.units import HOUR, clamp, hour_of_day

SUNRISE: Final = 6.0
SUNSET: Final = 20.0
"""Hours of the day, in UTC."""


def sun(moment: datetime) -> float:
    """Return the relative power of a clear sky: 0 at night, 1 at noon."""
    hour = hour_of_day(moment)
    return math.sin(math.pi * (hour - SUNRISE) / (SUNSET - SUNRISE)) if SUNRISE < hour < SUNSET else 0.0


class PhotoVoltaic(Limited):
    """Panels of peak W under a sky with some clouds, by chance, and an inverter that can be curtailed."""

    kind: ClassVar = "pv"
    role: ClassVar = RoleType.ENERGY_PRODUCER
    controls: ClassVar = (PebcControl,)
    consequence: ClassVar = PowerEnvelopeConsequenceType.VANISH

    def __init__(self, basics: Basics, *, peak: float = 6_000.0) -> None:
        super().__init__(basics)
        self.peak = peak
        self._usual = self._clearness = self._chance.uniform(0.7, 0.95)
        self._most = math.inf

    @property
    def available(self) -> float:
        """W that it could produce now."""
        return self.peak * sun(self._now) * self._clearness

    @property
    def power(self) -> float:
        return -min(self.available, self._most) or 0.0  # and not -0.0

    def _step(self, start: datetime, seconds: float) -> None:
        drift = self._chance.uniform(-0.02, 0.02) * seconds / 60
        self._clearness = clamp(self._clearness + drift, self._usual - 0.15, self._usual + 0.05)

    @property
    def allowed_limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (-self.peak, 0.0), (0.0, 0.0)

    def limit(self, lower: float | None, upper: float | None) -> None:
        """Produce no more than the lower limit says."""
        most = math.inf if lower is None else -lower
        if most < self.peak and most != self._most:
            self.notes.append(f"is curtailed to {most:.0f} W")
        self._most = most

    def _power_elements(self, now: datetime) -> list[float]:
        middles = (now + (hour + 0.5) * HOUR for hour in range(24))
        return [-self.peak * sun(middle) * self._usual for middle in middles]

    def state(self) -> str:
        return f"{self.available:.0f} W of sun"
