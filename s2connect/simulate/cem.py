"""A simulated energy manager: follow the surplus of the sun, and never blow the fuse."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from s2connect.messages import S2Message, ddbc, frbc, new_id, ombc, pebc, ppbc
from s2connect.messages.general import ControlType, ResourceManagerDetails, SelectControlType
from s2connect.simulate.picture import Option, Picture
from s2connect.simulate.units import DAY, MINUTE, along, clamp, lasting, milliseconds

FUSE: Final = 17_250.0
"""W that a house with 3 x 25 A can take or give."""

PERIOD: Final = MINUTE
"""Time between two rounds of instructions."""

NEGLIGIBLE: Final = 100.0
"""Difference in W below which no new instruction is sent."""

ENVELOPE: Final = 5 * MINUTE
"""Duration of a power limit; it is set again before it ends while it is needed."""

HASTE: Final = 40 * MINUTE
"""Time in hand before a storage has to be full."""

RESERVE: Final = 1.3
"""Factor by which a storage is filled faster than just in time."""

MAX_DEVICES: Final = 10_000
"""Devices that are known at a time."""

LOWER, UPPER = pebc.PowerEnvelopeLimitType.LOWER_LIMIT, pebc.PowerEnvelopeLimitType.UPPER_LIMIT

Outgoing = tuple[str, S2Message]
"""The name of a device's session, and a message to it."""


class EnergyManager:
    """An energy manager without I/O: the time comes as argument, and what is to be sent is returned, in that order.

    Every :data:`PERIOD` it compares the measurements of the devices: a surplus goes into storages and into what can run
    now, a lack is met by storages that can discharge. Storages with a deadline are filled in time. Where the fuse would
    blow, which takes or gives ``fuse_limit`` W, it limits production, and consumption that can wait.

    Attributes:
        devices: State of each device, by the name of its session.
        next_due: Time of the next work of :meth:`advance`.
    """

    def __init__(self, *, now: datetime, fuse_limit: float = FUSE) -> None:
        self.fuse_limit = fuse_limit
        self.devices: dict[str, Picture] = {}
        self.next_due = now + PERIOD
        self._limits: dict[str, tuple[float, datetime]] = {}

    @property
    def power(self) -> float:
        """W that all devices together take from the grid; negative is given to it."""
        return sum(picture.power for picture in self.devices.values())

    def connected(self, device: str) -> None:
        """Add the device of a new session, up to :data:`MAX_DEVICES`."""
        if len(self.devices) < MAX_DEVICES:
            self.devices[device] = Picture()

    def disconnected(self, device: str) -> None:
        """Remove the device of an ended session."""
        self.devices.pop(device, None)
        self._limits.pop(device, None)

    def received(self, device: str, message: S2Message, now: datetime) -> list[Outgoing]:
        """Take a message of a device. Returns the selection of a control type, after its ResourceManagerDetails."""
        picture = self.devices.get(device)
        if picture is None:
            return []
        picture.take(message, now)
        if not isinstance(message, ResourceManagerDetails):
            return []
        chosen = picture.preferred()
        if chosen is picture.selected or chosen is ControlType.NO_SELECTION:
            return []
        picture.reselected(chosen)
        return [(device, SelectControlType(control_type=chosen))]

    def advance(self, now: datetime) -> list[Outgoing]:
        """Let time go on to ``now``; past periods count once."""
        if now < self.next_due:
            return []
        self.next_due = max(self.next_due + PERIOD, now)
        flexible = {name: p for name, p in self.devices.items() if p.selected is not None}
        movable = {name: p for name, p in flexible.items() if _is_movable(p)}
        surplus = sum(picture.power for picture in movable.values()) - self.power
        said: list[Outgoing] = []
        # Those that can only consume first: what they leave is for the storages that also give.
        for name, picture in sorted(movable.items(), key=lambda item: _gives(item[1], now)):
            power, messages = self._steer(name, picture, surplus, now)
            surplus -= power
            said += [(name, message) for message in messages]
        for name, picture in flexible.items():
            if picture.selected is ControlType.POWER_PROFILE_BASED_CONTROL and not picture.is_left_alone(now):
                said += [(name, message) for message in self._schedule(picture, now)]
        return said + self._protect_fuse(surplus, flexible, now)

    # The policy

    def _steer(self, name: str, picture: Picture, surplus: float, now: datetime) -> tuple[float, list[S2Message]]:
        """Set one device. Returns its expected power, and the messages to it."""
        if picture.is_left_alone(now):
            return picture.power, []
        room = self.fuse_limit + surplus
        if picture.selected is ControlType.POWER_ENVELOPE_BASED_CONTROL:
            # Consumption that can wait gets the surplus and its average need, within the limit of the fuse.
            low, high = picture.limits(UPPER)
            needed = picture.need.lower_average_power if picture.need and picture.need.valid_until > now else 0.0
            limit = clamp(max(surplus, RESERVE * needed), low, high)
            limit = clamp(min(limit, room), low, high)
            return min(picture.power, limit), self._limited(name, picture, picture.limits(LOWER)[0], limit, limit, now)
        said: list[S2Message] = []
        total, supplied = 0.0, 0.0
        for actuator in sorted(picture.actuators(), key=lambda a: not _is_electric(picture, a, now)):
            options = picture.options(actuator, now)
            if not options:
                continue
            wanted = _wanted(picture, options, surplus - total, room - total, now)
            if picture.demand is not None:
                option, factor = _supplying(options, picture.demand - supplied, wanted)
                supplied += along(option.rate, factor)
            else:
                option = min(options, key=lambda o: abs(along(o.power, o.factor(wanted)) - wanted))
                factor = option.factor(wanted)
            total += along(option.power, factor)
            if _differs(picture, option, factor):
                said.append(_instruction(picture, option, factor, now))
        return total, said

    def _protect_fuse(self, surplus: float, flexible: dict[str, Picture], now: datetime) -> list[Outgoing]:
        """Limit production where the fuse would blow: ``surplus`` W go to the grid as planned, with it as measured."""
        peaks = {
            name: -picture.limits(LOWER)[0]
            for name, picture in flexible.items()
            if picture.selected is ControlType.POWER_ENVELOPE_BASED_CONTROL
            and picture.constraints is not None
            and not (_is_movable(picture) or picture.is_left_alone(now))
        }
        said: list[Outgoing] = []
        produced = -sum(flexible[name].power for name in peaks)
        allowed = max(0.0, self.fuse_limit - (surplus - produced))
        total = sum(peaks.values())
        for name, peak in peaks.items():
            share = peak / total * allowed if total else 0.0
            if share < peak and (name in self._limits or surplus > 0.9 * self.fuse_limit):
                messages = self._limited(name, flexible[name], -share, 0.0, -share, now)
                said += [(name, message) for message in messages]
            else:
                self._limits.pop(name, None)  # it ends by itself
        return said

    def _limited(
        self, name: str, picture: Picture, lower: float, upper: float, value: float, now: datetime
    ) -> list[S2Message]:
        """Set limits, unless nearly the same ``value``, one of them, holds long enough."""
        assert picture.constraints is not None
        known = self._limits.get(name)
        if known is not None and abs(known[0] - value) <= NEGLIGIBLE and now + 2 * PERIOD < known[1]:
            return []
        self._limits[name] = value, now + ENVELOPE
        quantity = picture.constraints.allowed_limit_ranges[0].commodity_quantity
        element = pebc.PowerEnvelopeElement(duration=milliseconds(ENVELOPE), upper_limit=upper, lower_limit=lower)
        envelope = pebc.PowerEnvelope(id=new_id(), commodity_quantity=quantity, power_envelope_elements=[element])
        return [pebc.Instruction(**_at(now), power_constraints_id=picture.constraints.id, power_envelopes=[envelope])]

    def _schedule(self, picture: Picture, now: datetime) -> list[S2Message]:
        """Let a power profile run when the most sun is expected."""
        profile = picture.profile
        if profile is None or picture.scheduled:
            return []
        picture.scheduled = True
        (container, *_) = profile.power_sequences_containers
        best: tuple[float, datetime, str] | None = None
        for sequence in container.power_sequences:
            duration = lasting(sequence.elements)
            start = max(now, profile.start_time)
            while start + duration <= profile.end_time:
                middle = start + duration / 2
                sunshine = -sum(min(0.0, known.expected_power(middle)) for known in self.devices.values())
                if best is None or sunshine > best[0] + NEGLIGIBLE:
                    best = sunshine, start, sequence.id
                start += 15 * MINUTE
        if best is None:
            return []
        _, start, chosen = best
        named: dict[str, Any] = {
            "power_profile_id": profile.id,
            "sequence_container_id": container.id,
            "power_sequence_id": chosen,
        }
        return [ppbc.ScheduleInstruction(**_at(start), **named)]


def _is_movable(picture: Picture) -> bool:
    """Return whether consumption can be moved: not profiles, and not production, which can only be limited."""
    if picture.selected is ControlType.POWER_ENVELOPE_BASED_CONTROL:
        return picture.limits(UPPER)[1] > 0
    return picture.selected is not ControlType.POWER_PROFILE_BASED_CONTROL


def _is_electric(picture: Picture, actuator: str, now: datetime) -> bool:
    return any(option.power != (0.0, 0.0) for option in picture.options(actuator, now))


def _gives(picture: Picture, now: datetime) -> bool:
    """Return whether the device can discharge."""
    options = (option for actuator in picture.actuators() for option in picture.options(actuator, now))
    return any(min(option.power) < 0 for option in options)


def _differs(picture: Picture, option: Option, factor: float) -> bool:
    mode, present = picture.active[option.actuator]
    if mode != option.mode:
        return True
    if option.power == (0.0, 0.0):
        return option.rate[0] != option.rate[1] and abs(factor - present) > 0.05
    return abs(along(option.power, factor) - along(option.power, present)) > NEGLIGIBLE


def _wanted(picture: Picture, options: list[Option], surplus: float, room: float, now: datetime) -> float:
    """Return the W for a device: the surplus, or its need, within the limit of the fuse."""
    most = max(max(option.power) for option in options)
    least = min(min(option.power) for option in options)
    highest = picture.highest(now)
    if picture.level is not None and highest is not None and picture.level >= highest:
        most = min(most, 0.0)
    wanted = clamp(surplus, min(least, most), most)
    missing = picture.lacking(now)
    fastest = max(max(option.rate) for option in options)
    if missing is not None and fastest > 0:
        seconds = min(missing[0] / fastest, DAY.total_seconds())
        left = (missing[1] - HASTE).total_seconds()
        wanted = max(wanted, most * min(1.0, RESERVE * seconds / left) if left > 0 else most)
    return min(wanted, max(room, 0.0)) if wanted > 0 else wanted


def _supplying(options: list[Option], demand: float, wanted: float) -> tuple[Option, float]:
    """Return the option with the most electricity up to ``wanted`` that supplies no more than is needed."""

    def factor_for(option: Option) -> float:
        start, end = option.rate
        needed = 0.0 if start == end else clamp((demand - start) / (end - start), 0.0, 1.0)
        return needed if option.power == (0.0, 0.0) else min(needed, option.factor(wanted))

    def merit(option: Option) -> tuple[bool, float]:
        factor = factor_for(option)
        supply = along(option.rate, factor)
        too_much = supply > demand * 1.05 + 1 or along(option.power, factor) > max(wanted, 0.0) + NEGLIGIBLE
        return not too_much, supply

    chosen = max(options, key=merit)
    return chosen, factor_for(chosen)


def _at(moment: datetime) -> dict[str, Any]:
    """Return the members that all instructions have."""
    return {"id": new_id(), "execution_time": moment, "abnormal_condition": False}


def _instruction(picture: Picture, option: Option, factor: float, now: datetime) -> S2Message:
    members = _at(now) | {"operation_mode_factor": factor}
    if picture.selected is ControlType.FILL_RATE_BASED_CONTROL:
        return frbc.Instruction(**members, actuator_id=option.actuator, operation_mode=option.mode)
    if picture.selected is ControlType.DEMAND_DRIVEN_BASED_CONTROL:
        return ddbc.Instruction(**members, actuator_id=option.actuator, operation_mode_id=option.mode)
    return ombc.Instruction(**members, operation_mode_id=option.mode)
