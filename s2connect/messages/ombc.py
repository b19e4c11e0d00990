"""Operation Mode Based Control: messages ``OMBC.…`` and their objects."""

from typing import Annotated, Literal

from annotated_types import Len
from pydantic import FailFast

from s2connect.messages.base import Id, IdentifiedMessage, Maybe, S2Object, Timestamp
from s2connect.messages.general import NumberRange, PowerRange, Timer, Transition


class OperationMode(S2Object):
    """A mode.

    Attributes:
        id: Its identifier.
        power_ranges: What it consumes, from factor 0 to factor 1; negative where it produces. At most one per quantity.
        abnormal_condition_only: Whether it is for abnormal conditions only.
        diagnostic_label: For finding faults, not for users.
        running_costs: What it costs beside the commodity, per second, in the currency of the details. The range is how
            uncertain that is; it has nothing to do with the factor.
    """

    id: Id
    power_ranges: Annotated[list[PowerRange], Len(1, 10), FailFast()]
    abnormal_condition_only: bool
    diagnostic_label: Maybe[str] = None
    running_costs: Maybe[NumberRange] = None


class Instruction(IdentifiedMessage):
    """Instruction of a mode and its factor, 0 to 1; a time in the past means at once."""

    message_type: Literal["OMBC.Instruction"] = "OMBC.Instruction"
    id: Id
    execution_time: Timestamp
    operation_mode_id: Id
    operation_mode_factor: float
    abnormal_condition: bool


class Status(IdentifiedMessage):
    """Active mode and its factor, 0 to 1.

    The previous one, and when the transition from it began, are left out only where there was none.
    """

    message_type: Literal["OMBC.Status"] = "OMBC.Status"
    active_operation_mode_id: Id
    operation_mode_factor: float
    previous_operation_mode_id: Maybe[Id] = None
    transition_timestamp: Maybe[Timestamp] = None


class SystemDescription(IdentifiedMessage):
    """The modes of the device and how it can change between them."""

    message_type: Literal["OMBC.SystemDescription"] = "OMBC.SystemDescription"
    valid_from: Timestamp
    operation_modes: Annotated[list[OperationMode], Len(1, 100), FailFast()]
    transitions: Annotated[list[Transition], Len(0, 1000), FailFast()]
    timers: Annotated[list[Timer], Len(0, 1000), FailFast()]


class TimerStatus(IdentifiedMessage):
    """End of a timer, past or future."""

    message_type: Literal["OMBC.TimerStatus"] = "OMBC.TimerStatus"
    timer_id: Id
    finished_at: Timestamp
