r"""Bridge: links the sessions of devices with those of their energy managers.

:class:`Bridge` runs the routes of a file. A program that makes its own gateway joins two :class:`LinkSide`\ s with a
:class:`Link`, or two :class:`RouteSide`\ s with a :class:`Route`.
"""

from typing import TYPE_CHECKING

from s2connect._lazy import lazy_names

if TYPE_CHECKING:
    from s2connect.bridge.bridge import Bridge, Reloaded
    from s2connect.bridge.config import BridgeConfig, ConfiguredDevice, RouteConfig
    from s2connect.bridge.config_file import load
    from s2connect.bridge.counters import Refusal
    from s2connect.bridge.devices import Device
    from s2connect.bridge.link import Link
    from s2connect.bridge.link_state import LinkEvent, LinkState, LinkStatus, SideStatus
    from s2connect.bridge.problems import BridgeFileError, Problem
    from s2connect.bridge.recording import ObservedConnection
    from s2connect.bridge.relay import Fate, Out, Overdue, Policy, Relay
    from s2connect.bridge.route import Route
    from s2connect.bridge.sides import NOT_NOW, DevicesSide, Initiator, LinkSide, ManagerSide, RouteLinks, RouteSide

__all__ = [
    "Bridge",
    "Reloaded",
    "BridgeConfig",
    "RouteConfig",
    "load",
    "BridgeFileError",
    "Problem",
    "Route",
    "NOT_NOW",
    "DevicesSide",
    "Initiator",
    "LinkSide",
    "ManagerSide",
    "RouteLinks",
    "RouteSide",
    "ConfiguredDevice",
    "Device",
    "Link",
    "LinkEvent",
    "LinkState",
    "LinkStatus",
    "SideStatus",
    "Fate",
    "Out",
    "Overdue",
    "Policy",
    "Relay",
    "Refusal",
    "ObservedConnection",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "s2connect.bridge.bridge": "Bridge Reloaded",
        "s2connect.bridge.config": "BridgeConfig ConfiguredDevice RouteConfig",
        "s2connect.bridge.config_file": "load",
        "s2connect.bridge.problems": "BridgeFileError Problem",
        "s2connect.bridge.route": "Route",
        "s2connect.bridge.sides": "NOT_NOW DevicesSide Initiator LinkSide ManagerSide RouteLinks RouteSide",
        "s2connect.bridge.devices": "Device",
        "s2connect.bridge.link": "Link",
        "s2connect.bridge.link_state": "LinkEvent LinkState LinkStatus SideStatus",
        "s2connect.bridge.relay": "Fate Out Overdue Policy Relay",
        "s2connect.bridge.counters": "Refusal",
        "s2connect.bridge.recording": "ObservedConnection",
    },
)
