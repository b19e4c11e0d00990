"""Facts kept of a session's message history: bounded, and no more than its rules need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Generic, NamedTuple, TypeVar

from s2connect.messages import ddbc, frbc, ombc, pebc, ppbc
from s2connect.messages.general import CommodityQuantity, NumberRange
from s2connect.messages.rules.common import Machine

MAX_REMEMBERED: Final = 1000
"""Identifiers of each kind that are remembered; beyond it the oldest is forgotten, and never missed."""

MAX_OBJECTS: Final = 20
"""Power constraints, and power profiles, whose contents are remembered; beyond it the oldest is forgotten as well."""

MAX_DESCRIPTIONS: Final = 8
"""Present and future system descriptions kept; beyond it the oldest is forgotten, and no finding is based on it."""

MAX_ID_LENGTH: Final = 64
"""Longer identifiers are not remembered (MSG-05), and never missed either."""

ONLY_ACTUATOR: Final = ""
"""Under OMBC a device has no actuators: it is one. No identifier is empty."""

_MILLISECOND: Final = timedelta(milliseconds=1)

K = TypeVar("K", str, tuple[str, str])
V = TypeVar("V")

Description = ombc.SystemDescription | frbc.SystemDescription | ddbc.SystemDescription
"""A description of the device, of any control type with operation modes."""

Limit = tuple[CommodityQuantity, pebc.PowerEnvelopeLimitType]
"""Kind of a limit, and its quantity."""


class Remembered(Generic[K, V]):
    """A bounded mapping, of which the oldest is forgotten.

    Args:
        limit: Entries that are kept.
    """

    __slots__ = ("_complete", "_items", "_limit")

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._items: dict[K, V] = {}
        self._limit = limit
        self._complete = True

    def put(self, key: K, value: V) -> None:
        """Add or replace an entry, as the newest."""
        if (len(key) if isinstance(key, str) else max(map(len, key))) > MAX_ID_LENGTH:
            self._complete = False
            return
        self._items.pop(key, None)
        self._items[key] = value
        if len(self._items) > self._limit:
            del self._items[next(iter(self._items))]
            self._complete = False

    def get(self, key: K) -> V | None:
        """Return the value, or None."""
        return self._items.get(key)

    def drop(self, key: K) -> None:
        """Remove an entry, because its object has ended."""
        self._items.pop(key, None)

    def copy(self) -> Remembered[K, V]:
        """Return another one with the same entries."""
        other: Remembered[K, V] = Remembered(self._limit)
        other._items = self._items.copy()
        other._complete = self._complete
        return other

    def __contains__(self, key: K) -> bool:
        return key in self._items

    def never_had(self, key: K) -> bool:
        """Return whether an entry certainly never existed: it is not remembered, and none was forgotten."""
        return self._complete and key not in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)


class Way(NamedTuple):
    """Facts of a transition that decide on an instruction."""

    abnormal_only: bool
    blocking_timers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Actuator:
    """Facts of an actuator that decide on an instruction."""

    modes: Mapping[str, bool]
    """By mode: whether it is for abnormal conditions only."""
    ways: Mapping[tuple[str, str], Sequence[Way]]
    """By mode from and mode to."""
    timers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Described:
    """Facts of an accepted description."""

    message_id: str
    valid_from: datetime
    actuators: Mapping[str, Actuator]
    fill_level_range: NumberRange | None
    forecasts: frozenset[str]
    """Types of message that it announces."""


@dataclass(slots=True)
class Machines:
    """State of the device under one control type with operation modes."""

    descriptions: tuple[tuple[Described, datetime | None], ...] = ()
    """Present and future descriptions in the order of arrival, each with its start time if known."""
    complete: bool = True
    """True if no description was forgotten."""
    active: Remembered[str, str] = field(default_factory=Remembered)
    """By actuator: the mode of the last status."""
    instructed: Remembered[str, str] = field(default_factory=Remembered)
    """By actuator: the mode of the last instruction."""
    finished: Remembered[tuple[str, str], datetime] = field(default_factory=Remembered)
    """By actuator and timer: when it ends."""

    def known(self, now: datetime | None) -> list[Described]:
        """Return the descriptions that an identifier may come from, the newest first."""
        return [described for described, _ in reversed(self._left(now))]

    def copy(self) -> Machines:
        """Return another one with the same contents."""
        other = Machines(self.descriptions, self.complete)
        other.active, other.instructed = self.active.copy(), self.instructed.copy()
        other.finished = self.finished.copy()
        return other

    def describe(self, description: Described, now: datetime | None) -> None:
        """Add a description, which replaces the earlier ones once it is valid."""
        begins = None if now is None else max(description.valid_from, now)
        left = [*self._left(now), (description, begins)]
        self.complete = self.complete and len(left) <= MAX_DESCRIPTIONS
        self.descriptions = tuple(left[-MAX_DESCRIPTIONS:])

    def revoke(self, message_id: str) -> None:
        """Remove a revoked description."""
        self.descriptions = tuple(one for one in self.descriptions if one[0].message_id != message_id)

    def _left(self, now: datetime | None) -> tuple[tuple[Described, datetime | None], ...]:
        """Return the present and future descriptions: of those that have begun, only the latest."""
        if now is None or len(self.descriptions) < 2:
            return self.descriptions
        begins = [begin or described.valid_from for described, begin in self.descriptions]
        begun = [index for index, begin in enumerate(begins) if begin <= now]
        last = max(begun, key=lambda index: (begins[index], index), default=0)
        return tuple(one for index, one in enumerate(self.descriptions) if index == last or begins[index] > now)


class SequenceFacts(NamedTuple):
    """Facts of a power sequence that decide on an instruction."""

    interruptible: bool
    abnormal_only: bool
    duration: int


@dataclass(frozen=True, slots=True)
class Profile:
    """Facts of an accepted power profile."""

    start_time: datetime
    end_time: datetime
    containers: Mapping[str, Mapping[str, SequenceFacts]]


@dataclass(frozen=True, slots=True)
class Constraints:
    """Facts of accepted power constraints."""

    valid_from: datetime
    valid_until: datetime | None
    allowed: Mapping[Limit, Sequence[tuple[float, float, bool]]]
    """By limit: from, to, and whether for abnormal conditions only."""


def described(message: Description) -> Described:
    """Return the facts of a description."""
    fill_level_range = None
    forecasts = set()
    actuators: dict[str, Actuator]
    if isinstance(message, ombc.SystemDescription):
        actuators = {ONLY_ACTUATOR: _actuator(message)}
    else:
        actuators = {actuator.id: _actuator(actuator) for actuator in message.actuators}
    if isinstance(message, frbc.SystemDescription):
        storage = message.storage
        fill_level_range = storage.fill_level_range
        if storage.provides_leakage_behaviour:
            forecasts.add("FRBC.LeakageBehaviour")
        if storage.provides_fill_level_target_profile:
            forecasts.add("FRBC.FillLevelTargetProfile")
        if storage.provides_usage_forecast:
            forecasts.add("FRBC.UsageForecast")
    elif isinstance(message, ddbc.SystemDescription) and message.provides_average_demand_rate_forecast:
        forecasts.add("DDBC.AverageDemandRateForecast")
    return Described(message.message_id, message.valid_from, actuators, fill_level_range, frozenset(forecasts))


def _actuator(machine: Machine) -> Actuator:
    ways: dict[tuple[str, str], list[Way]] = {}
    for transition in machine.transitions:
        way = Way(transition.abnormal_condition_only, tuple(transition.blocking_timers))
        ways.setdefault((transition.from_, transition.to), []).append(way)
    return Actuator(
        {mode.id: mode.abnormal_condition_only for mode in machine.operation_modes},
        ways,
        frozenset(timer.id for timer in machine.timers),
    )


def profile(message: ppbc.PowerProfileDefinition) -> Profile:
    """Return the facts of a power profile."""
    return Profile(
        message.start_time,
        message.end_time,
        {
            container.id: {
                sequence.id: SequenceFacts(
                    sequence.is_interruptible,
                    sequence.abnormal_condition_only,
                    sum(element.duration for element in sequence.elements),
                )
                for sequence in container.power_sequences
            }
            for container in message.power_sequences_containers
        },
    )


def constraints(message: pebc.PowerConstraints) -> Constraints:
    """Return the facts of power constraints."""
    allowed: dict[Limit, list[tuple[float, float, bool]]] = {}
    for limit in message.allowed_limit_ranges:
        bounds = sorted((limit.range_boundary.start_of_range, limit.range_boundary.end_of_range))
        entry = (bounds[0], bounds[1], limit.abnormal_condition_only)
        allowed.setdefault((limit.commodity_quantity, limit.limit_type), []).append(entry)
    return Constraints(message.valid_from, message.valid_until, allowed)


def milliseconds(start: datetime, end: datetime) -> float:
    """Return the time between two moments."""
    return (end - start) / _MILLISECOND


def has_costs(message: Description) -> bool:
    """Return whether a description states costs. Zero costs need no currency."""
    if isinstance(message, ombc.SystemDescription):
        return _mode_costs(message.operation_modes) or _transition_costs(message)
    if isinstance(message, frbc.SystemDescription):
        elements = (e for actuator in message.actuators for mode in actuator.operation_modes for e in mode.elements)
        return _mode_costs(elements) or any(map(_transition_costs, message.actuators))
    modes = (mode for actuator in message.actuators for mode in actuator.operation_modes)
    return _mode_costs(modes) or any(map(_transition_costs, message.actuators))


def _mode_costs(things: Iterable[ombc.OperationMode | frbc.OperationModeElement | ddbc.OperationMode]) -> bool:
    costs = (thing.running_costs for thing in things)
    return any(c is not None and (c.start_of_range or c.end_of_range) for c in costs)


def _transition_costs(machine: Machine) -> bool:
    return any(transition.transition_costs for transition in machine.transitions)
