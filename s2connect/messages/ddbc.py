"""Demand Driven Based Control: messages ``DDBC.…`` and their objects, of both data models."""

from typing import Annotated, Literal

from annotated_types import Len
from pydantic import FailFast, Field

from s2connect.messages.base import Duration, Id, IdentifiedMessage, Maybe, S2Object, Timestamp
from s2connect.messages.general import Commodity, NumberRange, PowerRange, Timer, Transition


class OperationMode(S2Object):
    """A mode.

    Attributes:
        id: Its identifier, spelled ``Id`` on the wire.
        power_ranges: What it consumes, from factor 0 to factor 1; negative where it produces. At most one per quantity.
        supply_range: How much of the demand it meets, from factor 0 to factor 1, in the unit of the demand rate.
        abnormal_condition_only: Whether it is for abnormal conditions only.
        diagnostic_label: For finding faults, not for users.
        running_costs: What it costs beside the commodity, per second, in the currency of the details. The range is how
            uncertain that is; it has nothing to do with the factor.
    """

    id: Id = Field(alias="Id")
    power_ranges: Annotated[list[PowerRange], Len(1, 10), FailFast()]
    supply_range: NumberRange
    abnormal_condition_only: bool
    diagnostic_label: Maybe[str] = None
    running_costs: Maybe[NumberRange] = None


class ActuatorDescription(S2Object):
    """An actuator: it meets the demand; spelled ``supported_commodites`` on the wire."""

    id: Id
    supported_commodities: Annotated[list[Commodity], Len(1, 4), FailFast()] = Field(alias="supported_commodites")
    operation_modes: Annotated[list[OperationMode], Len(1, 100), FailFast()]
    transitions: Annotated[list[Transition], Len(0, 1000), FailFast()]
    timers: Annotated[list[Timer], Len(0, 1000), FailFast()]
    diagnostic_label: Maybe[str] = None


class AverageDemandRateForecastElement(S2Object):
    """Expected average demand rate for ``duration`` milliseconds.

    The limits hold for sure, the others with a probability of 95 and 68 percent.
    """

    duration: Duration
    demand_rate_expected: float
    demand_rate_upper_limit: Maybe[float] = None
    demand_rate_upper_95ppr: Maybe[float] = Field(None, alias="demand_rate_upper_95PPR")
    demand_rate_upper_68ppr: Maybe[float] = Field(None, alias="demand_rate_upper_68PPR")
    demand_rate_lower_68ppr: Maybe[float] = Field(None, alias="demand_rate_lower_68PPR")
    demand_rate_lower_95ppr: Maybe[float] = Field(None, alias="demand_rate_lower_95PPR")
    demand_rate_lower_limit: Maybe[float] = None


class ActuatorStatus(IdentifiedMessage):
    """Active mode of an actuator."""

    message_type: Literal["DDBC.ActuatorStatus"] = "DDBC.ActuatorStatus"
    actuator_id: Id
    active_operation_mode_id: Id
    operation_mode_factor: float
    previous_operation_mode_id: Maybe[Id] = None
    transition_timestamp: Maybe[Timestamp] = None


class AverageDemandRateForecast(IdentifiedMessage):
    """Forecast of the demand rate."""

    message_type: Literal["DDBC.AverageDemandRateForecast"] = "DDBC.AverageDemandRateForecast"
    start_time: Timestamp
    elements: Annotated[list[AverageDemandRateForecastElement], Len(1, 288), FailFast()]


class Instruction(IdentifiedMessage):
    """Instruction of a mode of an actuator and its factor."""

    message_type: Literal["DDBC.Instruction"] = "DDBC.Instruction"
    id: Id
    execution_time: Timestamp
    abnormal_condition: bool
    actuator_id: Id
    operation_mode_id: Id
    operation_mode_factor: float


class PresentDemandStatus(IdentifiedMessage):
    """Present demand rate, which the actuators together have to meet."""

    message_type: Literal["DDBC.PresentDemandStatus"] = "DDBC.PresentDemandStatus"
    present_demand_rate: NumberRange


class SystemDescription(IdentifiedMessage):
    """The actuators that meet the demand."""

    message_type: Literal["DDBC.SystemDescription"] = "DDBC.SystemDescription"
    valid_from: Timestamp
    actuators: Annotated[list[ActuatorDescription], Len(1, 10), FailFast()]
    provides_average_demand_rate_forecast: bool


class TimerStatus(IdentifiedMessage):
    """End of a timer of an actuator, past or future."""

    message_type: Literal["DDBC.TimerStatus"] = "DDBC.TimerStatus"
    timer_id: Id
    actuator_id: Id
    finished_at: Timestamp


class BetaSystemDescription(SystemDescription):
    """``DDBC.SystemDescription`` of 0.0.2-beta, with the present demand rate."""

    present_demand_rate: NumberRange
