"""Operation Mode Based Control: messages ``OMBC.…`` and their objects."""

from typing import Annotated

from s2connect.messages.base import Id, IdentifiedMessage, S2Object, Timestamp, length
from s2connect.messages.general import NumberRange, PowerRange, Timer, Transition


class _Message(IdentifiedMessage, tag="OMBC.{}".format):
    """A message of this control type."""


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
    power_ranges: Annotated[list[PowerRange], length(1, 10)]
    abnormal_condition_only: bool
    diagnostic_label: str | None = None
    running_costs: NumberRange | None = None


class Instruction(_Message):
    """Instruction of a mode and its factor, 0 to 1; a time in the past means at once."""

    id: Id
    execution_time: Timestamp
    operation_mode_id: Id
    operation_mode_factor: float
    abnormal_condition: bool


class Status(_Message):
    """Active mode and its factor, 0 to 1.

    The previous one, and when the transition from it began, are left out only where there was none.
    """

    active_operation_mode_id: Id
    operation_mode_factor: float
    previous_operation_mode_id: Id | None = None
    transition_timestamp: Timestamp | None = None


class SystemDescription(_Message):
    """The modes of the device and how it can change between them."""

    valid_from: Timestamp
    operation_modes: Annotated[list[OperationMode], length(1, 100)]
    transitions: Annotated[list[Transition], length(0, 1000)]
    timers: Annotated[list[Timer], length(0, 1000)]


class TimerStatus(_Message):
    """End of a timer, past or future."""

    timer_id: Id
    finished_at: Timestamp
