"""Facts kept of a session's message history: bounded, and no more than its rules need."""

from __future__ import annotations

import bisect
import copy
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, NamedTuple, TypeVar

from s2connect.messages import ddbc, frbc, ombc, pebc, ppbc
from s2connect.messages.general import CommodityQuantity, NumberRange
from s2connect.messages.rules.checks import Machine

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

    __slots__ = ("_complete", "_items", "_limit", "_shared")

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._items: dict[K, V] = {}
        self._limit = limit
        self._complete = True
        self._shared = False  # True: the items are also those of a fork

    def put(self, key: K, value: V) -> None:
        """Add or replace an entry, as the newest."""
        if (len(key) if isinstance(key, str) else max(map(len, key))) > MAX_ID_LENGTH:
            self._complete = False
            return
        items = self._own()
        items.pop(key, None)
        items[key] = value
        if len(items) > self._limit:
            del items[next(iter(items))]
            self._complete = False

    def get(self, key: K) -> V | None:
        """Return the value, or None."""
        return self._items.get(key)

    def drop(self, key: K) -> None:
        """Remove an entry, because its object has ended."""
        if key in self._items:
            del self._own()[key]

    def fork(self) -> Remembered[K, V]:
        """Return another one with the same entries, which are copied when one of the two changes."""
        self._shared = True
        return copy.copy(self)

    def _own(self) -> dict[K, V]:
        if self._shared:
            self._items, self._shared = self._items.copy(), False
        return self._items

    def __contains__(self, key: K) -> bool:
        return key in self._items

    def never_had(self, key: K) -> bool:
        """Return whether an entry certainly never existed: it is not remembered, and none was forgotten."""
        return self._complete and key not in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)


class SeenIds:
    """Identifiers of messages, of which at least the last ``MAX_REMEMBERED`` are known: 8 bytes each, their hashes."""

    __slots__ = ("_earlier", "_latest")

    def __init__(self) -> None:
        self._latest, self._earlier = array("q"), array("q")  # both in ascending order

    def add(self, name: str) -> None:
        """Add an identifier."""
        key = hash(name)
        place = bisect.bisect_left(self._latest, key)
        if place < len(self._latest) and self._latest[place] == key:
            return
        if len(self._latest) == MAX_REMEMBERED:
            self._earlier, self._latest = self._latest, array("q")
            place = 0
        self._latest.insert(place, key)

    def fork(self) -> SeenIds:
        """Return another one with the same identifiers."""
        other = SeenIds()
        other._latest, other._earlier = self._latest[:], self._earlier
        return other

    def __contains__(self, name: str) -> bool:
        key = hash(name)
        for hashes in (self._latest, self._earlier):
            place = bisect.bisect_left(hashes, key)
            if place < len(hashes) and hashes[place] == key:
                return True
        return False


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

    def fork(self) -> Machines:
        """Return another one with the same contents."""
        forks = self.active.fork(), self.instructed.fork(), self.finished.fork()
        return Machines(self.descriptions, self.complete, *forks)

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


def machines(message: Description) -> dict[str, Machine]:
    """Return the actuators of a description, or the device under OMBC, by identifier."""
    if isinstance(message, ombc.SystemDescription):
        return {ONLY_ACTUATOR: message}
    return {actuator.id: actuator for actuator in message.actuators}


def described(message: Description) -> Described:
    """Return the facts of a description."""
    levels, announced = None, {}
    if isinstance(message, frbc.SystemDescription):
        storage = message.storage
        levels = storage.fill_level_range
        announced = {
            "FRBC.LeakageBehaviour": storage.provides_leakage_behaviour,
            "FRBC.FillLevelTargetProfile": storage.provides_fill_level_target_profile,
            "FRBC.UsageForecast": storage.provides_usage_forecast,
        }
    elif isinstance(message, ddbc.SystemDescription):
        announced = {"DDBC.AverageDemandRateForecast": message.provides_average_demand_rate_forecast}
    actuators = {name: _actuator(machine) for name, machine in machines(message).items()}
    forecasts = frozenset(name for name, provided in announced.items() if provided)
    return Described(message.message_id, message.valid_from, actuators, levels, forecasts)


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


def has_costs(message: Description) -> bool:
    """Return whether a description states costs. Zero costs need no currency."""
    for machine in machines(message).values():
        if any(transition.transition_costs for transition in machine.transitions):
            return True
        for mode in machine.operation_modes:
            for thing in mode.elements if isinstance(mode, frbc.OperationMode) else (mode,):
                costs = thing.running_costs
                if costs is not None and (costs.start_of_range or costs.end_of_range):
                    return True
    return False
