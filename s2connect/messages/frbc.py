"""Fill Rate Based Control: messages ``FRBC.…`` and their objects.

A fill level is in the unit that the storage says in its label, rates are in that unit per second, and a factor is from
0 to 1.
"""

from typing import Annotated

from s2connect.messages.base import Duration, Id, IdentifiedMessage, S2Object, Timestamp, length
from s2connect.messages.general import Commodity, NumberRange, PowerRange, Timer, Transition


class _Message(IdentifiedMessage, tag="FRBC.{}".format):
    """A message of this control type."""


class OperationModeElement(S2Object):
    """Behaviour of a mode within a range of the fill level.

    Attributes:
        fill_level_range: Where this holds.
        fill_rate: How fast the fill level rises, from factor 0 to factor 1.
        power_ranges: What it consumes, from factor 0 to factor 1; negative where it produces. At most one per quantity.
        running_costs: What it costs beside the commodity, per second, in the currency of the details. The range is how
            uncertain that is; it has nothing to do with the factor.
    """

    fill_level_range: NumberRange
    fill_rate: NumberRange
    power_ranges: Annotated[list[PowerRange], length(1, 10)]
    running_costs: NumberRange | None = None


class OperationMode(S2Object):
    """A mode, by ranges of the fill level."""

    id: Id
    elements: Annotated[list[OperationModeElement], length(1, 100)]
    abnormal_condition_only: bool
    diagnostic_label: str | None = None


class ActuatorDescription(S2Object):
    """An actuator: it fills or empties the storage."""

    id: Id
    supported_commodities: Annotated[list[Commodity], length(1, 4)]
    operation_modes: Annotated[list[OperationMode], length(1, 100)]
    transitions: Annotated[list[Transition], length(0, 1000)]
    timers: Annotated[list[Timer], length(0, 1000)]
    diagnostic_label: str | None = None


class FillLevelTargetProfileElement(S2Object):
    """Target of the fill level for ``duration`` milliseconds."""

    duration: Duration
    fill_level_range: NumberRange


class LeakageBehaviourElement(S2Object):
    """Leakage rate within a range of the fill level: positive where the level falls."""

    fill_level_range: NumberRange
    leakage_rate: float


class StorageDescription(S2Object):
    """The storage.

    Attributes:
        provides_leakage_behaviour: Whether a LeakageBehaviour may come.
        provides_fill_level_target_profile: Whether a FillLevelTargetProfile may come.
        provides_usage_forecast: Whether a UsageForecast may come.
        fill_level_range: Where the fill level has to stay; outside it the device may ignore instructions.
        diagnostic_label: For finding faults, not for users.
        fill_level_label: Unit of the fill level, in words; for finding faults, not for users.
    """

    provides_leakage_behaviour: bool
    provides_fill_level_target_profile: bool
    provides_usage_forecast: bool
    fill_level_range: NumberRange
    diagnostic_label: str | None = None
    fill_level_label: str | None = None


class UsageForecastElement(S2Object):
    """Usage rate for ``duration`` milliseconds: positive where the fill level falls.

    The limits hold for sure, the others with a probability of 95 and 68 percent.
    """

    duration: Duration
    usage_rate_expected: float
    usage_rate_upper_limit: float | None = None
    usage_rate_upper_95ppr: float | None = None
    usage_rate_upper_68ppr: float | None = None
    usage_rate_lower_68ppr: float | None = None
    usage_rate_lower_95ppr: float | None = None
    usage_rate_lower_limit: float | None = None


class ActuatorStatus(_Message):
    """Active mode of an actuator.

    The previous one, and when the transition from it began, are left out only where there was none.
    """

    actuator_id: Id
    active_operation_mode_id: Id
    operation_mode_factor: float
    previous_operation_mode_id: Id | None = None
    transition_timestamp: Timestamp | None = None


class FillLevelTargetProfile(_Message):
    """Target of the fill level over time."""

    start_time: Timestamp
    elements: Annotated[list[FillLevelTargetProfileElement], length(1, 288)]


class Instruction(_Message):
    """Instruction of a mode of an actuator and its factor."""

    id: Id
    actuator_id: Id
    operation_mode: Id
    operation_mode_factor: float
    execution_time: Timestamp
    abnormal_condition: bool


class LeakageBehaviour(_Message):
    """Leakage of the storage."""

    valid_from: Timestamp
    elements: Annotated[list[LeakageBehaviourElement], length(1, 288)]


class StorageStatus(_Message):
    """Fill level of the storage, in the unit of its description."""

    present_fill_level: float


class SystemDescription(_Message):
    """The storage and its actuators."""

    valid_from: Timestamp
    actuators: Annotated[list[ActuatorDescription], length(1, 10)]
    storage: StorageDescription


class TimerStatus(_Message):
    """End of a timer of an actuator, past or future."""

    timer_id: Id
    actuator_id: Id
    finished_at: Timestamp


class UsageForecast(_Message):
    """Forecast of the usage of the storage."""

    start_time: Timestamp
    elements: Annotated[list[UsageForecastElement], length(1, 288)]
