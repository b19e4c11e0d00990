"""Power Profile Based Control: messages ``PPBC.…`` and their objects."""

from typing import Annotated, Literal

from annotated_types import Len
from pydantic import FailFast

from s2connect.messages.base import Duration, Id, IdentifiedMessage, Maybe, S2Object, Timestamp
from s2connect.messages.enums import WireEnum
from s2connect.messages.general import PowerForecastValue


class PowerSequenceStatus(WireEnum):
    """Progress of a power sequence container."""

    NOT_SCHEDULED = "NOT_SCHEDULED"
    SCHEDULED = "SCHEDULED"
    EXECUTING = "EXECUTING"
    INTERRUPTED = "INTERRUPTED"
    FINISHED = "FINISHED"
    ABORTED = "ABORTED"


class PowerSequenceElement(S2Object):
    """Power for ``duration`` milliseconds."""

    duration: Duration
    power_values: Annotated[list[PowerForecastValue], Len(1, 10), FailFast()]


class PowerSequence(S2Object):
    """One possible course of power.

    Attributes:
        id: Its identifier.
        elements: Its parts, in their order.
        is_interruptible: Whether it can be paused.
        abnormal_condition_only: Whether it is for abnormal conditions only.
        max_pause_before: Longest pause between the sequence before and this one, in milliseconds.
    """

    id: Id
    elements: Annotated[list[PowerSequenceElement], Len(1, 288), FailFast()]
    is_interruptible: bool
    abnormal_condition_only: bool
    max_pause_before: Maybe[Duration] = None


class PowerSequenceContainer(S2Object):
    """Alternatives, of which one is chosen."""

    id: Id
    power_sequences: Annotated[list[PowerSequence], Len(1, 288), FailFast()]


class PowerSequenceContainerStatus(S2Object):
    """Status of one container.

    Attributes:
        power_profile_id: The profile that it belongs to.
        sequence_container_id: The container.
        status: How far the device is.
        selected_sequence_id: What was chosen; None where nothing is yet.
        progress: Milliseconds since the sequence began; None where it has not.
    """

    power_profile_id: Id
    sequence_container_id: Id
    status: PowerSequenceStatus
    selected_sequence_id: Maybe[Id] = None
    progress: Maybe[Duration] = None


class SequenceInstruction(IdentifiedMessage):
    """Instruction about one power sequence."""

    id: Id
    power_profile_id: Id
    sequence_container_id: Id
    power_sequence_id: Id
    execution_time: Timestamp
    abnormal_condition: bool


class EndInterruptionInstruction(SequenceInstruction):
    """Instruction to continue an interrupted power sequence."""

    message_type: Literal["PPBC.EndInterruptionInstruction"] = "PPBC.EndInterruptionInstruction"


class PowerProfileDefinition(IdentifiedMessage):
    """Containers that are executed one after the other, within a time."""

    message_type: Literal["PPBC.PowerProfileDefinition"] = "PPBC.PowerProfileDefinition"
    id: Id
    start_time: Timestamp
    end_time: Timestamp
    power_sequences_containers: Annotated[list[PowerSequenceContainer], Len(1, 1000), FailFast()]


class PowerProfileStatus(IdentifiedMessage):
    """Status of containers."""

    message_type: Literal["PPBC.PowerProfileStatus"] = "PPBC.PowerProfileStatus"
    sequence_container_status: Annotated[list[PowerSequenceContainerStatus], Len(1, 1000), FailFast()]


class ScheduleInstruction(SequenceInstruction):
    """Instruction to run a power sequence, and when."""

    message_type: Literal["PPBC.ScheduleInstruction"] = "PPBC.ScheduleInstruction"


class StartInterruptionInstruction(SequenceInstruction):
    """Instruction to interrupt a power sequence."""

    message_type: Literal["PPBC.StartInterruptionInstruction"] = "PPBC.StartInterruptionInstruction"
