"""A water tank with heating, losses and usage."""

from __future__ import annotations

from typing import Final

WATER: Final = 4186.0 / 3600  # J, and seconds in an hour
"""Wh that a litre takes to become 1 °C warmer."""

ROOM: Final = 20.0
"""°C around the tank."""

HOT_WATER: Final = ((6.5, 8.5, 2.0), (11.5, 13.0, 0.6), (18.0, 21.0, 1.5))
"""From which hour of the day to which (UTC), how much hot water is taken, relative to what is usual in an hour."""


def hot_water(hour: float) -> float:
    """Return the usage of hot water at a time of day, relative to the average."""
    return sum(amount for start, end, amount in HOT_WATER if start <= hour < end)


class Tank:
    """Litres of water of one temperature in °C, with a loss in W per °C above the room's temperature."""

    def __init__(self, litres: float, temperature: float, *, loss: float) -> None:
        self.capacity = litres * WATER
        """Wh per °C."""
        self.temperature = temperature
        self.loss = loss

    def step(self, seconds: float, *, heat: float, draw: float) -> None:
        """Let time pass with powers in W; water at the temperature of the room gives nothing."""
        hours = seconds / 3600
        above = self.temperature - ROOM
        lost = self.loss * above * hours
        drawn = min(draw * hours, max(0.0, above * self.capacity - lost))
        self.temperature += (heat * hours - lost - drawn) / self.capacity

    def rate(self, power: float) -> float:
        """°C per second that a power in W makes."""
        return power / 3600 / self.capacity
