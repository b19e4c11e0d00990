"""The kinds of simulated devices by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from s2connect.errors import UsageError
from s2connect.messages.general import ControlType
from s2connect.simulate.devices.base import Basics, Device
from s2connect.simulate.devices.battery import Battery
from s2connect.simulate.devices.ev_charger import EvCharger
from s2connect.simulate.devices.heat_pump import HeatPump, HybridHeatPump
from s2connect.simulate.devices.pv import PhotoVoltaic
from s2connect.simulate.devices.water_heater import WaterHeater

KINDS: Final[Mapping[str, tuple[type[Device], ...]]] = {
    "battery": (Battery,),
    "ev-charger": (EvCharger,),
    "pv": (PhotoVoltaic,),
    "heat-pump": (HeatPump, HybridHeatPump),
    "water-heater": (WaterHeater,),
}
"""By kind, the devices; which of several it is depends on how it shall be controlled."""

CONTROL_TYPES: Final[Mapping[str, ControlType]] = {
    "pebc": ControlType.POWER_ENVELOPE_BASED_CONTROL,
    "ppbc": ControlType.POWER_PROFILE_BASED_CONTROL,
    "ombc": ControlType.OPERATION_MODE_BASED_CONTROL,
    "frbc": ControlType.FILL_RATE_BASED_CONTROL,
    "ddbc": ControlType.DEMAND_DRIVEN_BASED_CONTROL,
}
"""Control types as people type them."""


def make_device(kind: str, basics: Basics, **sizes: Any) -> Device:
    """Make a device of one of :data:`KINDS`; its sizes are the other arguments of its class.

    Raises:
        UsageError: There is no such kind, or it cannot be controlled that way.
    """
    if kind not in KINDS:
        raise UsageError(f"There is no simulated device of that kind; there are {', '.join(KINDS)}.")
    known: set[ControlType] = set()
    for device in KINDS[kind]:
        own = {control.control_type for control in device.controls}
        if basics.only in (None, *own):
            return device(basics, **sizes)
        known |= own
    names = [name for name, value in CONTROL_TYPES.items() if value in known]
    raise UsageError(f"A simulated {kind} cannot be controlled that way; it knows {', '.join(names)}.")
