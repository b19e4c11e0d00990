"""The two messages that are sent: a measurement as it comes every few seconds, and a forecast of a day."""

from __future__ import annotations

from typing import Any

_PHASES = [
    {"commodity_quantity": "ELECTRIC.POWER.L1", "value": 1234.5},
    {"commodity_quantity": "ELECTRIC.POWER.L2", "value": 987.25},
    {"commodity_quantity": "ELECTRIC.POWER.L3", "value": -250.75},
]

SMALL: dict[str, Any] = {
    "message_type": "PowerMeasurement",
    "measurement_timestamp": "2026-01-01T12:00:00.000000+00:00",
    "values": _PHASES,
}
"""332 bytes as JSON with its id."""

LARGE: dict[str, Any] = {
    "message_type": "PowerForecast",
    "start_time": "2026-01-01T12:00:00.000000+00:00",
    "elements": [
        {
            "duration": 3_600_000,
            "power_values": [
                {
                    "value_upper_limit": 1000.0 + hour,
                    "value_expected": 500.0 + hour,
                    "value_lower_limit": 100.0,
                    "commodity_quantity": "ELECTRIC.POWER.3_PHASE_SYMMETRIC",
                }
            ],
        }
        for hour in range(15)
    ],
}
"""2.7 KB as JSON with its id."""

SAMPLES = {"small": SMALL, "large": LARGE}
