"""Rules about the messages that all control types share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from s2connect.messages import general
from s2connect.messages.base import S2Message
from s2connect.messages.rules.base import Findings, error, warning
from s2connect.messages.rules.common import (
    Checker,
    each_once,
    forecast,
    lasts,
    one_per_quantity,
    only_phase_is_l1,
)

ONE_ROLE: Final = warning("COM-17", "ResourceManagerDetails", "The device has one role for each commodity.")
NO_SELECTION: Final = warning(
    "COM-18",
    "ResourceManagerDetails",
    "NO_SELECTION says that nothing is selected; it is no control type that a device offers.",
)
RM_VERSIONS: Final = error(
    "COM-19", "Handshake", "The handshake of a device says which versions of the protocol it supports."
)

_check_value: Final = forecast("value")


def _handshake(message: general.Handshake, found: Findings) -> None:
    if message.role is general.EnergyManagementRole.RM and not message.supported_protocol_versions:
        found.add(RM_VERSIONS, "supported_protocol_versions", "missing in the handshake of a device")


def _details(message: general.ResourceManagerDetails, found: Findings) -> None:
    if len({role.commodity for role in message.roles}) < len(message.roles):
        found.add(ONE_ROLE, "roles", "more than one of them for one commodity")
    if general.ControlType.NO_SELECTION in message.available_control_types:
        found.add(NO_SELECTION, "available_control_types", "offers to select that nothing is selected")
    each_once(message.available_control_types, found, "available_control_types")
    measurements = message.provides_power_measurement_types
    each_once(measurements, found, "provides_power_measurement_types")
    only_phase_is_l1(measurements, found, "provides_power_measurement_types")


def _measurement(message: general.PowerMeasurement, found: Findings) -> None:
    one_per_quantity(message.values, found, "values")


def _forecast(message: general.PowerForecast, found: Findings) -> None:
    for index, element in enumerate(message.elements):
        place = f"elements[{index}]"
        lasts(element.duration, found, place)
        power_values(element.power_values, found, f"{place}.power_values")


def power_values(values: list[general.PowerForecastValue], found: Findings, path: str) -> None:
    """Look at the forecast of the powers of one element."""
    one_per_quantity(values, found, path)
    for index, value in enumerate(values):
        _check_value(value, found, f"{path}[{index}]")


CHECKS: Final[Mapping[type[S2Message], Checker]] = {
    general.Handshake: _handshake,
    general.PowerForecast: _forecast,
    general.PowerMeasurement: _measurement,
    general.ResourceManagerDetails: _details,
}
