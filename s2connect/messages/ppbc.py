"""Power Profile Based Control: messages ``PPBC.…`` and their objects."""

from enum import StrEnum
from typing import Annotated

from s2connect.messages.base import Duration, Id, IdentifiedMessage, S2Object, Timestamp, length
from s2connect.messages.general import PowerForecastValue


class _Message(IdentifiedMessage, tag="PPBC.{}".format):
    """A message of this control type."""


class PowerSequenceStatus(StrEnum):
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
    power_values: Annotated[list[PowerForecastValue], length(1, 10)]


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
    elements: Annotated[list[PowerSequenceElement], length(1, 288)]
    is_interruptible: bool
    abnormal_condition_only: bool
    max_pause_before: Duration | None = None


class PowerSequenceContainer(S2Object):
    """Alternatives, of which one is chosen."""

    id: Id
    power_sequences: Annotated[list[PowerSequence], length(1, 288)]


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
    selected_sequence_id: Id | None = None
    progress: Duration | None = None


class SequenceInstruction(_Message):
    """Instruction about one power sequence."""

    id: Id
    power_profile_id: Id
    sequence_container_id: Id
    power_sequence_id: Id
    execution_time: Timestamp
    abnormal_condition: bool


class EndInterruptionInstruction(SequenceInstruction):
    """Instruction to continue an interrupted power sequence."""


class PowerProfileDefinition(_Message):
    """Containers that are executed one after the other, within a time."""

    id: Id
    start_time: Timestamp
    end_time: Timestamp
    power_sequences_containers: Annotated[list[PowerSequenceContainer], length(1, 1000)]


class PowerProfileStatus(_Message):
    """Status of containers."""

    sequence_container_status: Annotated[list[PowerSequenceContainerStatus], length(1, 1000)]


class ScheduleInstruction(SequenceInstruction):
    """Instruction to run a power sequence, and when."""


class StartInterruptionInstruction(SequenceInstruction):
    """Instruction to interrupt a power sequence."""
