"""The time in a simulation, which may run faster than the clock on the wall."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final

from s2connect.errors import UsageError

MAX_SPEED: Final = 100_000.0


class Clock:
    """The simulated time. It agrees in all programs that run with one speed since midnight (UTC), and never goes back.

    Args:
        speed: Simulated seconds in a real one; more than 0.

    Raises:
        UsageError: ``speed`` is none.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if not 0 < speed <= MAX_SPEED:
            raise UsageError(f"The speed of a simulation is more than 0 and at most {MAX_SPEED:.0f}.")
        self.speed = speed
        wall = datetime.now(UTC)
        midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        self._start = midnight + (wall - midnight) * speed
        self._began = time.monotonic()

    def now(self) -> datetime:
        """The simulated time, in UTC."""
        return self._start + timedelta(seconds=(time.monotonic() - self._began) * self.speed)

    def seconds_until(self, moment: datetime) -> float:
        """Real seconds until a simulated moment; 0 when it has passed."""
        return max(0.0, (moment - self.now()).total_seconds() / self.speed)
