"""Demand Driven Based Control: messages ``DDBC.…`` and their objects, of both data models."""

from typing import Annotated

import msgspec

from s2connect.messages.base import Duration, Id, IdentifiedMessage, S2Object, Timestamp, length
from s2connect.messages.general import Commodity, NumberRange, PowerRange, Timer, Transition


class _Message(IdentifiedMessage, tag="DDBC.{}".format):
    """A message of this control type."""


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

    id: Id = msgspec.field(name="Id")
    power_ranges: Annotated[list[PowerRange], length(1, 10)]
    supply_range: NumberRange
    abnormal_condition_only: bool
    diagnostic_label: str | None = None
    running_costs: NumberRange | None = None


class ActuatorDescription(S2Object):
    """An actuator: it meets the demand; spelled ``supported_commodites`` on the wire."""

    id: Id
    supported_commodities: Annotated[list[Commodity], length(1, 4)] = msgspec.field(name="supported_commodites")
    operation_modes: Annotated[list[OperationMode], length(1, 100)]
    transitions: Annotated[list[Transition], length(0, 1000)]
    timers: Annotated[list[Timer], length(0, 1000)]
    diagnostic_label: str | None = None


class AverageDemandRateForecastElement(S2Object):
    """Expected average demand rate for ``duration`` milliseconds.

    The limits hold for sure, the others with a probability of 95 and 68 percent.
    """

    duration: Duration
    demand_rate_expected: float
    demand_rate_upper_limit: float | None = None
    demand_rate_upper_95ppr: float | None = None
    demand_rate_upper_68ppr: float | None = None
    demand_rate_lower_68ppr: float | None = None
    demand_rate_lower_95ppr: float | None = None
    demand_rate_lower_limit: float | None = None


class ActuatorStatus(_Message):
    """Active mode of an actuator."""

    actuator_id: Id
    active_operation_mode_id: Id
    operation_mode_factor: float
    previous_operation_mode_id: Id | None = None
    transition_timestamp: Timestamp | None = None


class AverageDemandRateForecast(_Message):
    """Forecast of the demand rate."""

    start_time: Timestamp
    elements: Annotated[list[AverageDemandRateForecastElement], length(1, 288)]


class Instruction(_Message):
    """Instruction of a mode of an actuator and its factor."""

    id: Id
    execution_time: Timestamp
    abnormal_condition: bool
    actuator_id: Id
    operation_mode_id: Id
    operation_mode_factor: float


class PresentDemandStatus(_Message):
    """Present demand rate, which the actuators together have to meet."""

    present_demand_rate: NumberRange


class SystemDescription(_Message):
    """The actuators that meet the demand."""

    valid_from: Timestamp
    actuators: Annotated[list[ActuatorDescription], length(1, 10)]
    provides_average_demand_rate_forecast: bool


class TimerStatus(_Message):
    """End of a timer of an actuator, past or future."""

    timer_id: Id
    actuator_id: Id
    finished_at: Timestamp


class BetaSystemDescription(SystemDescription, tag="DDBC.SystemDescription"):
    """``DDBC.SystemDescription`` of 0.0.2-beta, with the present demand rate."""

    present_demand_rate: NumberRange
