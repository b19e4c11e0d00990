"""A simulated energy manager: follow the surplus of the sun, and never blow the fuse."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from s2connect.messages import S2Message, ddbc, frbc, new_id, ombc, pebc, ppbc
from s2connect.messages.general import (
    ControlType,
    ResourceManagerDetails,
    SelectControlType,
)
from s2connect.simulate.picture import Option, Picture
from s2connect.simulate.units import DAY, MINUTE, clamp, milliseconds

FUSE: Final = 17_250.0
"""W that a house with 3 x 25 A can take or give."""

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


class Outgoing(NamedTuple):
    """A message to a device."""

    device: str
    message: S2Message


class EnergyManager:
    """An energy manager without I/O: the time comes as argument, and what is to be sent is returned, in that order.

    Every ``period`` it compares the measurements of the devices: a surplus goes into storages and into what can run
    now, a lack is met by storages that can discharge. Storages with a deadline are filled in time. Where the fuse would
    blow it limits production, and consumption that can wait.

    Args:
        fuse_limit: W that may be taken from the grid or given to it, at most.
        period: Time between two rounds of instructions.
        now: The time, with its zone.

    Attributes:
        devices: State of each device, by the name of its session.
    """

    def __init__(self, *, now: datetime, fuse_limit: float = FUSE, period: timedelta = MINUTE) -> None:
        self.fuse_limit = fuse_limit
        self.devices: dict[str, Picture] = {}
        self._period = period
        self._next = now + period
        self._limits: dict[str, tuple[float, datetime]] = {}

    @property
    def power(self) -> float:
        """W that all devices together take from the grid; negative is given to it."""
        return sum(picture.power for picture in self.devices.values())

    @property
    def next_due(self) -> datetime:
        """Time of the next work of :meth:`advance`."""
        return self._next

    def connected(self, device: str) -> None:
        """Add the device of a new session, up to :data:`MAX_DEVICES`."""
        if len(self.devices) < MAX_DEVICES:
            self.devices[device] = Picture()

    def disconnected(self, device: str) -> None:
        """Remove the device of an ended session."""
        self.devices.pop(device, None)
        self._limits.pop(device, None)

    def received(self, device: str, message: S2Message, now: datetime) -> list[Outgoing]:
        """Take a message of a device.

        Returns:
            The selection of a control type, after its ResourceManagerDetails.
        """
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
        return [Outgoing(device, SelectControlType(control_type=chosen))]

    def advance(self, now: datetime) -> list[Outgoing]:
        """Let time go on to ``now``; past periods count once."""
        if now < self._next:
            return []
        self._next = max(self._next + self._period, now)
        return self._look(now)

    # The policy

    def _look(self, now: datetime) -> list[Outgoing]:
        flexible = {name: p for name, p in self.devices.items() if p.selected is not None}
        movable = {n: p for n, p in flexible.items() if _is_movable(p)}
        fixed = self.power - sum(picture.power for picture in movable.values())
        surplus = -fixed
        said: list[Outgoing] = []
        # Those that can only consume first: what they leave is for the storages that also give.
        for name, picture in sorted(movable.items(), key=lambda item: _gives(item[1], now)):
            room = self.fuse_limit + surplus
            power, messages = self._steer(name, picture, surplus, room, now)
            surplus -= power
            said += [Outgoing(name, message) for message in messages]
        for name, picture in flexible.items():
            if picture.selected is ControlType.POWER_PROFILE_BASED_CONTROL and not _left_alone(picture, now):
                said += [Outgoing(name, message) for message in self._schedule(picture, now)]
        return said + self._protect_fuse(surplus, flexible, now)

    def _steer(
        self, name: str, picture: Picture, surplus: float, room: float, now: datetime
    ) -> tuple[float, list[S2Message]]:
        """Set one device. Returns its expected power, and the messages to it."""
        if _left_alone(picture, now):
            return picture.power, []
        if picture.selected is ControlType.POWER_ENVELOPE_BASED_CONTROL:
            return self._limit_consumption(name, picture, surplus, room, now)
        said: list[S2Message] = []
        total, supplied = 0.0, 0.0
        for actuator in sorted(picture.actuators(), key=lambda a: not _is_electric(picture, a, now)):
            options = picture.options(actuator, now)
            if not options:
                continue
            wanted = _wanted(picture, options, surplus - total, room - total, now)
            if picture.demand is not None:
                option, factor = _supplying(options, picture.demand - supplied, wanted)
                supplied += option.rate_at(factor)
            else:
                option = min(options, key=lambda o: abs(o.power_at(o.factor(wanted)) - wanted))
                factor = option.factor(wanted)
            total += option.power_at(factor)
            if self._differs(picture, option, factor):
                said.append(_instruction(picture, option, factor, now))
                picture.instructions += 1
        return total, said

    def _differs(self, picture: Picture, option: Option, factor: float) -> bool:
        mode, present = picture.active[option.actuator]
        if mode != option.mode:
            return True
        if option.power == (0.0, 0.0):
            scale = abs(option.rate[1] - option.rate[0])
            return scale > 0 and abs(factor - present) > 0.05
        return abs(option.power_at(factor) - option.power_at(present)) > NEGLIGIBLE

    def _limit_consumption(
        self, name: str, picture: Picture, surplus: float, room: float, now: datetime
    ) -> tuple[float, list[S2Message]]:
        """Give consumption that can wait the surplus and its average need, within the limit of the fuse."""
        assert picture.constraints is not None
        low, high = _allowed(picture.constraints, pebc.PowerEnvelopeLimitType.UPPER_LIMIT)
        needed = picture.need.lower_average_power if picture.need and picture.need.valid_until > now else 0.0
        limit = clamp(max(surplus, RESERVE * needed), low, high)
        limit = clamp(min(limit, room), low, high)
        return min(picture.power, limit), self._limited(name, picture, None, limit, now)

    def _protect_fuse(self, surplus: float, flexible: dict[str, Picture], now: datetime) -> list[Outgoing]:
        """Limit production where the fuse would blow.

        Args:
            surplus: W that go to the grid as things are planned, with production as measured.
            flexible: Devices that are controlled.
            now: The time.
        """
        producers = {
            name: picture
            for name, picture in flexible.items()
            if picture.selected is ControlType.POWER_ENVELOPE_BASED_CONTROL and not _is_movable(picture)
        }
        able = {
            n: -_allowed(p.constraints, pebc.PowerEnvelopeLimitType.LOWER_LIMIT)[0]
            for n, p in producers.items()
            if p.constraints is not None and not _left_alone(p, now)
        }
        said: list[Outgoing] = []
        produced = -sum(producers[name].power for name in able)
        allowed = max(0.0, self.fuse_limit - (surplus - produced))
        total = sum(able.values())
        for name, peak in able.items():
            share = peak / total * allowed if total else 0.0
            limiting = share < peak and (name in self._limits or surplus > 0.9 * self.fuse_limit)
            if limiting:
                messages = self._limited(name, producers[name], -share, 0.0, now)
                said += [Outgoing(name, message) for message in messages]
            else:
                self._limits.pop(name, None)  # it ends by itself
        return said

    def _limited(
        self, name: str, picture: Picture, lower: float | None, upper: float, now: datetime
    ) -> list[S2Message]:
        """Set limits, unless nearly the same ones hold long enough."""
        assert picture.constraints is not None
        value = upper if lower is None else lower
        known = self._limits.get(name)
        if known is not None and abs(known[0] - value) <= NEGLIGIBLE and now + 2 * self._period < known[1]:
            return []
        self._limits[name] = value, now + ENVELOPE
        picture.instructions += 1
        quantity = picture.constraints.allowed_limit_ranges[0].commodity_quantity
        if lower is None:
            lower = _allowed(picture.constraints, pebc.PowerEnvelopeLimitType.LOWER_LIMIT)[0]
        element = pebc.PowerEnvelopeElement(duration=milliseconds(ENVELOPE), upper_limit=upper, lower_limit=lower)
        envelope = pebc.PowerEnvelope(id=new_id(), commodity_quantity=quantity, power_envelope_elements=[element])
        return [
            pebc.Instruction(
                id=new_id(),
                execution_time=now,
                abnormal_condition=False,
                power_constraints_id=picture.constraints.id,
                power_envelopes=[envelope],
            )
        ]

    def _schedule(self, picture: Picture, now: datetime) -> list[S2Message]:
        """Let a power profile run when the most sun is expected."""
        profile = picture.profile
        if profile is None or picture.scheduled:
            return []
        picture.scheduled = True
        picture.instructions += 1
        (container, *_) = profile.power_sequences_containers
        best: tuple[float, datetime, str] | None = None
        for sequence in container.power_sequences:
            duration = timedelta(milliseconds=sum(element.duration for element in sequence.elements))
            start = max(now, profile.start_time)
            while start + duration <= profile.end_time:
                sunshine = self._expected_production(start + duration / 2)
                if best is None or sunshine > best[0] + NEGLIGIBLE:
                    best = sunshine, start, sequence.id
                start += 15 * MINUTE
        if best is None:
            return []
        return [
            ppbc.ScheduleInstruction(
                id=new_id(),
                power_profile_id=profile.id,
                sequence_container_id=container.id,
                power_sequence_id=best[2],
                execution_time=best[1],
                abnormal_condition=False,
            )
        ]

    def _expected_production(self, moment: datetime) -> float:
        return -sum(min(0.0, picture.expected_power(moment)) for picture in self.devices.values())


def _left_alone(picture: Picture, now: datetime) -> bool:
    return picture.left_alone_until is not None and now < picture.left_alone_until


def _is_movable(picture: Picture) -> bool:
    """Return whether consumption can be moved: not profiles, and not production, which can only be limited."""
    if picture.selected is ControlType.POWER_PROFILE_BASED_CONTROL:
        return False
    if picture.selected is not ControlType.POWER_ENVELOPE_BASED_CONTROL:
        return True
    constraints = picture.constraints
    return constraints is not None and _allowed(constraints, pebc.PowerEnvelopeLimitType.UPPER_LIMIT)[1] > 0


def _is_electric(picture: Picture, actuator: str, now: datetime) -> bool:
    return any(option.power != (0.0, 0.0) for option in picture.options(actuator, now))


def _gives(picture: Picture, now: datetime) -> bool:
    """Return whether the device can discharge."""
    options = (option for actuator in picture.actuators() for option in picture.options(actuator, now))
    return any(min(option.power) < 0 for option in options)


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
        too_much = option.rate_at(factor) > demand * 1.05 + 1 or option.power_at(factor) > max(wanted, 0.0) + NEGLIGIBLE
        return not too_much, option.rate_at(factor)

    chosen = max(options, key=merit)
    return chosen, factor_for(chosen)


def _allowed(constraints: pebc.PowerConstraints, kind: pebc.PowerEnvelopeLimitType) -> tuple[float, float]:
    """Return the first range of a limit in normal conditions."""
    for allowed in constraints.allowed_limit_ranges:
        if allowed.limit_type is kind and not allowed.abnormal_condition_only:
            return allowed.range_boundary.start_of_range, allowed.range_boundary.end_of_range
    return 0.0, 0.0


def _instruction(picture: Picture, option: Option, factor: float, now: datetime) -> S2Message:
    if picture.selected is ControlType.FILL_RATE_BASED_CONTROL:
        return frbc.Instruction(
            id=new_id(),
            actuator_id=option.actuator,
            operation_mode=option.mode,
            operation_mode_factor=factor,
            execution_time=now,
            abnormal_condition=False,
        )
    if picture.selected is ControlType.DEMAND_DRIVEN_BASED_CONTROL:
        return ddbc.Instruction(
            id=new_id(),
            actuator_id=option.actuator,
            operation_mode_id=option.mode,
            operation_mode_factor=factor,
            execution_time=now,
            abnormal_condition=False,
        )
    return ombc.Instruction(
        id=new_id(),
        operation_mode_id=option.mode,
        operation_mode_factor=factor,
        execution_time=now,
        abnormal_condition=False,
    )
