"""Fill Rate Based Control: messages ``FRBC.…`` and their objects.

A fill level is in the unit that the storage says in its label, rates are in that unit per second, and a factor is from
0 to 1.
"""

from typing import Annotated, Literal

from annotated_types import Len
from pydantic import FailFast, Field

from s2connect.messages.base import Duration, Id, IdentifiedMessage, Maybe, S2Object, Timestamp
from s2connect.messages.general import Commodity, NumberRange, PowerRange, Timer, Transition


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
    power_ranges: Annotated[list[PowerRange], Len(1, 10), FailFast()]
    running_costs: Maybe[NumberRange] = None


class OperationMode(S2Object):
    """A mode, by ranges of the fill level."""

    id: Id
    elements: Annotated[list[OperationModeElement], Len(1, 100), FailFast()]
    abnormal_condition_only: bool
    diagnostic_label: Maybe[str] = None


class ActuatorDescription(S2Object):
    """An actuator: it fills or empties the storage."""

    id: Id
    supported_commodities: Annotated[list[Commodity], Len(1, 4), FailFast()]
    operation_modes: Annotated[list[OperationMode], Len(1, 100), FailFast()]
    transitions: Annotated[list[Transition], Len(0, 1000), FailFast()]
    timers: Annotated[list[Timer], Len(0, 1000), FailFast()]
    diagnostic_label: Maybe[str] = None


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
    diagnostic_label: Maybe[str] = None
    fill_level_label: Maybe[str] = None


class UsageForecastElement(S2Object):
    """Usage rate for ``duration`` milliseconds: positive where the fill level falls.

    The limits hold for sure, the others with a probability of 95 and 68 percent.
    """

    duration: Duration
    usage_rate_expected: float
    usage_rate_upper_limit: Maybe[float] = None
    usage_rate_upper_95ppr: Maybe[float] = Field(None, alias="usage_rate_upper_95PPR")
    usage_rate_upper_68ppr: Maybe[float] = Field(None, alias="usage_rate_upper_68PPR")
    usage_rate_lower_68ppr: Maybe[float] = Field(None, alias="usage_rate_lower_68PPR")
    usage_rate_lower_95ppr: Maybe[float] = Field(None, alias="usage_rate_lower_95PPR")
    usage_rate_lower_limit: Maybe[float] = None


class ActuatorStatus(IdentifiedMessage):
    """Active mode of an actuator.

    The previous one, and when the transition from it began, are left out only where there was none.
    """

    message_type: Literal["FRBC.ActuatorStatus"] = "FRBC.ActuatorStatus"
    actuator_id: Id
    active_operation_mode_id: Id
    operation_mode_factor: float
    previous_operation_mode_id: Maybe[Id] = None
    transition_timestamp: Maybe[Timestamp] = None


class FillLevelTargetProfile(IdentifiedMessage):
    """Target of the fill level over time."""

    message_type: Literal["FRBC.FillLevelTargetProfile"] = "FRBC.FillLevelTargetProfile"
    start_time: Timestamp
    elements: Annotated[list[FillLevelTargetProfileElement], Len(1, 288), FailFast()]


class Instruction(IdentifiedMessage):
    """Instruction of a mode of an actuator and its factor."""

    message_type: Literal["FRBC.Instruction"] = "FRBC.Instruction"
    id: Id
    actuator_id: Id
    operation_mode: Id
    operation_mode_factor: float
    execution_time: Timestamp
    abnormal_condition: bool


class LeakageBehaviour(IdentifiedMessage):
    """Leakage of the storage."""

    message_type: Literal["FRBC.LeakageBehaviour"] = "FRBC.LeakageBehaviour"
    valid_from: Timestamp
    elements: Annotated[list[LeakageBehaviourElement], Len(1, 288), FailFast()]


class StorageStatus(IdentifiedMessage):
    """Fill level of the storage, in the unit of its description."""

    message_type: Literal["FRBC.StorageStatus"] = "FRBC.StorageStatus"
    present_fill_level: float


class SystemDescription(IdentifiedMessage):
    """The storage and its actuators."""

    message_type: Literal["FRBC.SystemDescription"] = "FRBC.SystemDescription"
    valid_from: Timestamp
    actuators: Annotated[list[ActuatorDescription], Len(1, 10), FailFast()]
    storage: StorageDescription


class TimerStatus(IdentifiedMessage):
    """End of a timer of an actuator, past or future."""

    message_type: Literal["FRBC.TimerStatus"] = "FRBC.TimerStatus"
    timer_id: Id
    actuator_id: Id
    finished_at: Timestamp


class UsageForecast(IdentifiedMessage):
    """Forecast of the usage of the storage."""

    message_type: Literal["FRBC.UsageForecast"] = "FRBC.UsageForecast"
    start_time: Timestamp
    elements: Annotated[list[UsageForecastElement], Len(1, 288), FailFast()]
